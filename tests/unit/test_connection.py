"""A connection's answers: from the loop and from workers' threads, in order and whole."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgpack
import pytest

from uffdtrackd.service import wire
from uffdtrackd.service.connection import Connection
from uffdtrackd.service.delivery import Reply, reply
from uffdtrackd.service.fdset import FdSet
from uffdtrackd.service.peer import Peer
from uffdtrackd.service.settings import Limits
from uffdtrackd.service.wire import Call

PEER = Peer(os.getpid(), os.getuid(), frozenset())


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


def _served(
    sock: socket.socket,
    calls: list[Call],
    closed: Callable[[Connection], None] = lambda _: None,
    limits: Limits | None = None,
) -> Connection:
    def serve(connection: Connection, call: Call, fds: FdSet) -> None:
        connection.call_begins()
        calls.append(call)

    return Connection(sock, PEER, limits or Limits(), serve, closed)


def _read(sock: socket.socket, count: int) -> list[list[object]]:
    unpacker = msgpack.Unpacker(max_buffer_size=1 << 27)
    found: list[list[object]] = []
    while len(found) < count:
        data = sock.recv(1 << 20)
        assert data, "closed too early"
        unpacker.feed(data)
        found += list(unpacker)
    return found


def _call(number: int) -> Call:
    return Call(number, "iterate", {})


def test_a_thread_answers_without_the_loop(pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        connection = _served(pair[0], [])
        connection.call_begins()
        thread = threading.Thread(target=connection.finish, args=(_call(7), reply("yes")))
        thread.start()
        thread.join()
        # The loop has not turned since: whatever is there was sent by the thread.
        assert _read(pair[1], 1) == [[1, 7, None, "yes"]]
        assert connection.in_flight == 0
        assert connection.out.queued == 0
        connection.close()

    asyncio.run(main())


def test_a_descriptor_goes_along_and_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        connection = _served(pair[0], [])
        fd = os.memfd_create("answer")
        os.write(fd, b"pages")
        connection.call_begins()
        await asyncio.to_thread(connection.finish, _call(1), Reply(b"\xc0", [fd]))
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
        _, ancillary, _, _ = pair[1].recvmsg(100, 100)
        (got,) = array("i", ancillary[0][2])
        assert os.pread(got, 9, 0) == b"pages"
        os.close(got)
        connection.close()

    asyncio.run(main())


def test_what_was_left_to_the_loop_goes_first(pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        connection = _served(pair[0], [])

        def work() -> None:
            connection.later(partial(connection.answer, _call(1), reply("first")))
            connection.finish(_call(2), reply("second"))

        connection.call_begins()
        connection.call_begins()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        # Both were done before the loop could send the first.
        await asyncio.sleep(0)
        assert [one[3] for one in _read(pair[1], 2)] == ["first", "second"]
        assert connection.in_flight == 0
        connection.close()

    asyncio.run(main())


def test_all_come_whole_and_in_order_to_a_slow_reader(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """More than the socket holds, and errors among them, which the loop sends."""
    count, size = 60, 100_000

    async def main() -> None:
        connection = _served(pair[0], [])

        def work() -> None:
            for number in range(count):
                connection.call_begins()
                if number % 7 == 3:
                    said = partial(connection.answer, _call(number), reply("late"))
                    connection.later(said)
                else:
                    connection.finish(_call(number), reply(bytes([number]) * size))

        with ThreadPoolExecutor() as pool:
            loop = asyncio.get_running_loop()
            worker = loop.run_in_executor(pool, work)
            found = await loop.run_in_executor(pool, _read, pair[1], count)
            await worker
        assert [one[1] for one in found] == list(range(count))
        for number, one in enumerate(found):
            assert one[3] == ("late" if number % 7 == 3 else bytes([number]) * size)
        assert connection.in_flight == 0
        assert connection.out.queued == 0
        connection.close()

    asyncio.run(main())


def test_nothing_is_sent_or_left_open_after_the_end(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        ended: list[Connection] = []
        connection = _served(pair[0], [], ended.append)
        connection.call_begins()
        connection.call_begins()
        connection.close()
        fd = os.memfd_create("answer")
        await asyncio.to_thread(connection.finish, _call(1), Reply(b"\xc0", [fd]))
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
        assert connection.in_flight == 1
        assert ended == [connection]
        assert pair[1].recv(100) == b""

    asyncio.run(main())


def test_a_peer_that_went_away_ends_the_connection(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        ended = asyncio.Event()
        connection = _served(pair[0], [], lambda _: ended.set())
        connection.call_begins()
        pair[1].close()
        fd = os.memfd_create("answer")
        await asyncio.to_thread(connection.finish, _call(1), Reply(b"\xc0", [fd]))
        await asyncio.wait_for(ended.wait(), 20)
        assert not connection.open
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)

    asyncio.run(main())


def test_an_answer_after_the_loop_has_closed_leaves_nothing_open(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> Connection:
        connection = _served(pair[0], [])
        connection.call_begins()
        connection.close()
        return connection

    connection = asyncio.run(main())
    fd = os.memfd_create("answer")
    connection.finish(_call(1), Reply(b"\xc0", [fd]))
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


@pytest.mark.parametrize("by", ["worker", "loop"])
def test_an_answer_that_memory_runs_out_for_is_an_error(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Whoever asked would wait for ever else."""

    def no_memory(msgid: int, result: bytes) -> bytes:
        raise MemoryError

    async def main() -> None:
        connection = _served(pair[0], [])
        connection.call_begins()
        fd = os.memfd_create("answer")
        made = Reply(b"\xc0", [fd])
        if by == "worker":
            await asyncio.to_thread(connection.finish, _call(1), made)
        else:
            connection.answer(_call(1), made)
            connection.call_ends()
        await asyncio.sleep(0)
        ((kind, number, error, result),) = _read(pair[1], 1)
        assert (kind, number, result) == (1, 1, None)
        assert "memory" in str(error)
        assert connection.in_flight == 0
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
        connection.close()

    monkeypatch.setattr(wire, "response", no_memory)
    asyncio.run(main())


def test_an_answer_under_way_is_sent_before_the_end(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it is with the peer already, which could not make anything of that."""
    sending, ending = threading.Event(), threading.Event()
    big = bytes(1 << 22)

    async def main() -> None:
        connection = _served(pair[0], [])
        transmit = connection.out._transmit

        def slowly(data: bytes | memoryview, made: Reply) -> int:
            sent = transmit(data, made)
            sending.set()
            ending.wait(0.2)  # until end() is there too, which waits for us or does not
            return sent

        monkeypatch.setattr(connection.out, "_transmit", slowly)
        connection.call_begins()
        with ThreadPoolExecutor() as pool:
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(pool, connection.finish, _call(1), reply(big))
            assert sending.wait(20)
            monkeypatch.setattr(connection.out, "_transmit", transmit)
            connection.end()
            ending.set()
            assert (await loop.run_in_executor(pool, _read, pair[1], 1))[0][3] == big
            await done
        connection.close()

    asyncio.run(main())


SIZE = 1 << 20


def _memfd() -> Reply:
    """As large as it says it is, but for memory."""
    return Reply(b"\xc0", [os.memfd_create("answer")], SIZE)


def _take(sock: socket.socket, count: int) -> list[object]:
    """The errors of so many answers, None for each that came with a memfd."""
    found: list[object] = []
    unpacker = msgpack.Unpacker()
    while len(found) < count:
        data, ancillary, _, _ = sock.recvmsg(1 << 16, 1024)
        for _, _, rights in ancillary:
            for fd in array("i", rights):
                os.close(fd)
        unpacker.feed(data)
        found += [error["name"] if error else None for _, _, error, _ in unpacker]
    return found


@pytest.mark.parametrize("by", ["worker", "loop"])
def test_memfds_that_nobody_reads_are_limited(
    pair: tuple[socket.socket, socket.socket], by: str
) -> None:
    """The kernel has them, and they are memory all the same."""

    async def main() -> None:
        connection = _served(pair[0], [], limits=Limits(queued_bytes=8 * SIZE))

        async def ask(count: int) -> None:
            for number in range(count):
                connection.call_begins()
                if by == "worker":
                    await asyncio.to_thread(connection.finish, _call(number), _memfd())
                    await asyncio.sleep(0)
                else:
                    connection.answer(_call(number), _memfd())
                    connection.call_ends()

        refused = ["uffdtrack.LimitReached"]
        await ask(12)
        assert connection.out.queued == 8 * SIZE
        assert connection.out.crowded and not connection.out.full
        assert _take(pair[1], 12) == [None] * 8 + refused * 4
        assert connection.out.queued == 0
        assert not connection.out.crowded
        await ask(9)
        assert _take(pair[1], 9) == [None] * 8 + refused
        # Who reads in time can have any number of them: the last few wait, always.
        for _ in range(40):
            await ask(1)
            assert _take(pair[1], 1) == [None]
        await ask(3)
        for _ in range(40):
            await ask(1)
            assert _take(pair[1], 1) == [None]
        assert connection.out.queued >= 3 * SIZE
        assert connection.in_flight == 0
        connection.close()

    asyncio.run(main())


def test_a_watch_waits_until_memfds_were_read(pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        connection = _served(pair[0], [], limits=Limits(queued_bytes=SIZE))
        for _ in range(2):
            connection.notify("iteration", _memfd())
        room = asyncio.ensure_future(connection.out.room())
        done, _ = await asyncio.wait({room}, timeout=0.1)
        assert not done
        while pair[1].recv(1 << 16, socket.MSG_DONTWAIT):
            if connection.out.queued == 0:
                break
        await asyncio.wait_for(room, 20)
        connection.close()

    asyncio.run(main())
