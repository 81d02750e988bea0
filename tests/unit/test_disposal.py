"""Descriptors that strangers sent: nobody but their own user waits until they are closed."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from array import array
from collections.abc import Iterable

import pytest

from uffdtrackd.model.errors import BadRequest
from uffdtrackd.service.connection import Connection
from uffdtrackd.service.disposal import Disposal
from uffdtrackd.service.fdset import FdSet
from uffdtrackd.service.peer import Peer
from uffdtrackd.service.registry import pid_of
from uffdtrackd.service.settings import Limits
from uffdtrackd.service.wire import Call

PEER = Peer(os.getpid(), os.getuid(), frozenset())
_RIGHTS = socket.SCM_RIGHTS


class _Kept(Disposal):
    """Closes nothing; kept: what it was given."""

    def __init__(self, *, full: bool = False) -> None:
        super().__init__()
        self.kept: list[int] = []
        self._full = full

    @property
    def full(self) -> bool:
        return self._full

    def put(self, fds: Iterable[int]) -> None:
        self.kept += fds


def _send(sock: socket.socket, data: bytes, fds: list[int], flags: int = 0) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, _RIGHTS, array("i", fds))], flags)


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_others_go_on_while_one_close_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    closing, go_on = threading.Event(), threading.Event()
    closed: list[int] = []

    def close(fd: int) -> None:
        if fd == 1000:
            closing.set()
            assert go_on.wait(20)
        closed.append(fd)
        if fd in (2000, 1601):
            done.release()

    done = threading.Semaphore(0)
    monkeypatch.setattr("uffdtrackd.service.disposal.os.close", close)
    bad, good = Disposal(), Disposal()
    bad.put([1000])
    assert closing.wait(20)
    good.put([2000])
    assert done.acquire(timeout=20)
    assert closed == [2000]
    bad.put(range(1001, 1602))
    assert bad.full and not good.full
    go_on.set()
    assert done.acquire(timeout=20)
    assert closed == [2000, *range(1000, 1602)]
    assert not bad.full


def test_a_set_gives_away_what_nobody_took() -> None:
    kept = _Kept()
    one = FdSet(kept, 3)
    one.add([10, 11, 12])
    assert (one.find(1), one.take(1)) == (11, 11)
    with pytest.raises(BadRequest, match="twice"):
        one.take(1)
    one.close()
    one.close()
    assert kept.kept == [10, 12]
    one.add([20, 21, 22, 23])
    assert one.overflow and kept.kept == [10, 12, 20, 21, 22, 23]


@pytest.mark.parametrize("flags", [0, socket.MSG_OOB], ids=["in turn", "out of band"])
@pytest.mark.parametrize("count", [1, 253])
def test_a_connection_closes_none_by_itself(flags: int, count: int) -> None:
    """Also those that are too many, and those that it never read."""
    kept = _Kept()
    ours, theirs = socket.socketpair()
    seen: list[Call] = []

    async def main() -> None:
        connection = Connection(
            ours, PEER, Limits(), lambda _, call, __: seen.append(call), lambda _: None, kept
        )
        _send(theirs, b"\x94", [read], flags)
        for _ in range(20):
            await asyncio.sleep(0)
        _send(theirs, b"\x00", [read] * count, flags)
        for _ in range(20):
            await asyncio.sleep(0)
        _send(theirs, b"\x01", [read] * count, flags)
        before = len(kept.kept)
        connection.close()
        assert theirs.recv(9) == b""
        # The last message is in the socket still, which is not closed either.
        assert len(kept.kept) >= before + 1 and kept.kept[-1] > 2
        assert sum(_inode(fd) == _inode(read) for fd in kept.kept) == 1 + count

    read, write = os.pipe()
    with ours, theirs:
        asyncio.run(main())
        inode = _inode(read)
        (sock,) = (fd for fd in kept.kept if _inode(fd) != inode)
        _, ancillary, _, _ = socket.socket(fileno=os.dup(sock)).recvmsg(9, 2000)
        got = array("i", ancillary[0][2])
        assert len(got) == count and {_inode(fd) for fd in got} == {inode}
        for fd in (read, write, *kept.kept, *got):
            os.close(fd)


def test_nothing_more_is_taken_of_who_fills_it() -> None:
    kept = _Kept(full=True)
    ours, theirs = socket.socketpair()

    async def main() -> None:
        closed = asyncio.Event()
        Connection(ours, PEER, Limits(), lambda *_: None, lambda _: closed.set(), kept)
        _send(theirs, b"\x94", [0])
        await asyncio.wait_for(closed.wait(), 20)

    with ours, theirs:
        asyncio.run(main())
        assert b"LimitReached" in theirs.recv(1000)
    for fd in kept.kept:
        os.close(fd)


def test_only_a_pidfd_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    pidfd = os.pidfd_open(os.getpid())
    assert pid_of(pidfd) == os.getpid()
    os.close(pidfd)

    def refuse(path: str) -> None:
        raise AssertionError(path)

    monkeypatch.setattr("builtins.open", refuse)
    read, write = os.pipe()
    try:
        with pytest.raises(BadRequest, match="no pidfd"):
            pid_of(read)
    finally:
        os.close(read)
        os.close(write)
