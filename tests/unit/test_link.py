"""The client's half of a connection, against a daemon that is slow, silent or lies."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from uffdtrackd.errors import ConnectionLost, TimedOut
from uffdtrackd.link import Link
from uffdtrackd.parcel import decode

Serve = Callable[[socket.socket], None]


@contextmanager
def _linked(folder: Path, serve: Serve, timeout: float = 20.0) -> Iterator[Link]:
    """A link to `serve`, which has a thread of its own."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen(1)

        def run() -> None:
            peer, _ = listener.accept()
            with peer:
                serve(peer)

        thread = threading.Thread(target=run)
        thread.start()
        with closing(Link(str(folder / "s"), timeout)) as link:
            yield link
        thread.join()


def _request(peer: socket.socket) -> Any:
    unpacker = msgpack.Unpacker(max_buffer_size=1 << 27)
    while True:
        unpacker.feed(peer.recv(65536))
        for frame in unpacker:
            return frame


def test_an_answer_in_pieces(tmp_path: Path) -> None:
    def serve(peer: socket.socket) -> None:
        for _ in range(2):
            number = _request(peer)[1]
            for byte in msgpack.packb([1, number, None, {"a": 1 << 40, "b": "x" * 300}]):
                peer.sendall(bytes([byte]))

    with _linked(tmp_path, serve) as link:
        for _ in range(2):
            assert link.call("status", {}) == ({"a": 1 << 40, "b": "x" * 300}, [])


def test_several_in_one_go(tmp_path: Path) -> None:
    """What came with an answer is there without another read: the daemon sends no more."""

    def serve(peer: socket.socket) -> None:
        number = _request(peer)[1]
        told = [msgpack.packb([2, "thawed", [{"session": str(i)}]]) for i in range(3)]
        peer.sendall(told[0] + msgpack.packb([1, number, None, 5]) + told[1] + told[2])
        peer.recv(1)

    with _linked(tmp_path, serve) as link:
        assert link.call("status", {}) == (5, [])
        for i in range(3):
            assert link.notification(lambda *_: True, 20.0) == ({"session": str(i)}, [])
        with pytest.raises(TimedOut):
            link.notification(lambda *_: True, 0.01)


def test_a_silent_daemon_is_not_waited_for_longer(tmp_path: Path) -> None:
    def serve(peer: socket.socket) -> None:
        while peer.recv(100):
            pass

    with _linked(tmp_path, serve, 0.05) as link:
        began = time.monotonic()
        with pytest.raises(TimedOut):
            link.call("status", {})
        assert time.monotonic() - began >= 0.05
        with pytest.raises(ConnectionLost, match="closed"):
            link.call("status", {})


def test_a_long_request_to_a_slow_reader_comes_whole(tmp_path: Path) -> None:
    text = "y" * (4 << 20)

    def serve(peer: socket.socket) -> None:
        frame = _request(peer)
        peer.sendall(msgpack.packb([1, frame[1], None, frame[3][0]["text"] == text]))

    with _linked(tmp_path, serve) as link:
        assert link.call("status", {"text": text})[0] is True


def test_a_daemon_that_does_not_read(tmp_path: Path) -> None:
    done = threading.Event()

    def serve(peer: socket.socket) -> None:
        done.wait(20)

    with _linked(tmp_path, serve, 0.05) as link:
        with pytest.raises(ConnectionLost, match="does not read"):
            link.call("status", {"text": "y" * (4 << 20)})
        done.set()


@pytest.mark.parametrize("size", [16 * 100, 16 << 16])
@pytest.mark.parametrize("missing", [0, 16])
def test_a_memfd_of_any_size_and_one_that_is_too_short(size: int, missing: int) -> None:
    runs = b"".join(
        start.to_bytes(8, "little") + (start + 4096).to_bytes(8, "little")
        for start in range(0, size // 16 * 8192, 8192)
    )
    fd = os.memfd_create("runs")
    os.write(fd, runs[: size - missing])
    nothing = {"offset": 0, "count": 0}
    one = {"pid": 1, "dirty": {"offset": 0, "count": size // 16}}
    found = {
        "page_size": 4096,
        "memfd": {"fd": 0, "size": size, "format": "runs"},
        "processes": [one | {"discarded": nothing, "always": nothing}],
    }
    if missing:
        with pytest.raises(ConnectionLost):
            decode(found, [fd])
    else:
        ((_, dirty, discarded, _, _),) = decode(found, [fd]).processes
        assert bytes(dirty.runs) == runs
        assert not discarded
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
