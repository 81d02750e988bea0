"""The way out to one client: bytes and the descriptors that go with them, in order, and no wait.

    loop:    put() -----------------------------> queue --writable--> sendmsg --> peer
    worker:  put_now() --if nothing is before it--------------------> sendmsg --> peer
                 what did not go: -------------> queue
    worker:  leave(do) --> loop: do() puts it     what comes after it goes after it

A memfd that was sent is memory for as long as the peer does not read it, and counts as what waits.

What a worker has done it sends itself, for to wake the loop for it costs more than to send it. The
lock keeps the two apart; nobody waits while holding it.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
import threading
from array import array
from collections import deque
from collections.abc import Callable
from functools import partial

from .delivery import Reply

# Queued bytes above which nothing more is read: who does not listen is not listened to.
_HIGH = 256 * 1024
# Seconds between two looks whether memfds were read: nobody tells.
_AGAIN = 0.5
# Memfds after which it is worth a system call to see which were read.
_MANY = 64
# What a message in a socket counts beyond its bytes, at least: struct sk_buff and skb_shared_info.
_OVERHEAD = 512


class Outbox:
    """Made on the event loop; closes no socket.

    most: bytes that may wait for the peer, memfds included.
    drained: told in the loop when the peer has taken so much that more may be read, or all.
    broken: told in the loop when nothing can be sent any more.
    Everything is for the loop's thread, but for `lock` and what says otherwise.
    """

    def __init__(
        self,
        sock: socket.socket,
        most: int,
        drained: Callable[[], None],
        broken: Callable[[OSError], None],
    ) -> None:
        self.lock = threading.RLock()
        # Bytes of memfds that were sent, and may not have been read.
        self.away = 0
        self._sock = sock
        self._most = most
        self._drained = drained
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[memoryview, Reply]] = deque()
        # What workers left to the loop.
        self._left = 0
        self._queued = 0
        # Of these memfds: what went from the first of them to before it, and its bytes.
        self._memfds: deque[tuple[int, int]] = deque()
        self._passed = 0
        self._progress = 0.0
        self._writing = False
        self._closed = False
        self._room: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        """Messages that wait for the peer."""
        return len(self._queue)

    @property
    def queued(self) -> int:
        """Bytes that the peer has not taken yet, memfds included."""
        with self.lock:
            self._settle()
            return self._queued + self.away

    def fits(self, weight: int) -> bool:
        """Whether so much more may wait for the peer; for any thread."""
        with self.lock:
            return self._queued + self.away + weight <= self._most or (
                bool(self.away) and self.queued + weight <= self._most
            )

    @property
    def stalled_seconds(self) -> float:
        """For how long the peer has taken nothing of what waits for it; 0 if nothing waits."""
        return self._loop.time() - self._progress if self._queue else 0.0

    @property
    def full(self) -> bool:
        """Whether so much waits here that nothing more is to be read."""
        return self._queued > _HIGH

    @property
    def crowded(self) -> bool:
        """Whether room() would wait."""
        return self.full or not self.fits(1)

    @property
    def busy(self) -> bool:
        """Whether something goes first; with the lock, for any thread."""
        return bool(self._left or self._queue)

    async def room(self) -> None:
        """Returns when the peer has taken what was queued, or it is closed."""
        while not self._closed and self.crowded:
            if not self.full:
                await asyncio.sleep(_AGAIN)
                continue
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._room.append(waiter)
            await waiter

    def put(self, data: bytes, reply: Reply) -> None:
        """After all that waits. reply: is closed when it went, or never will."""
        with self.lock:
            if not self._queue:
                self._progress = self._loop.time()
            self._append(memoryview(data), reply)
            if not self._writing:
                self._writable()

    def put_now(self, data: bytes, reply: Reply) -> None:
        """From any thread, with the lock and not `busy`; the loop sends what does not go."""
        try:
            sent = self._transmit(data, reply)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            reply.close()
            self.post(partial(self._broken, error))
            return
        if sent < len(data):
            self._progress = self._loop.time()
            self._append(memoryview(data)[sent:], reply)
            self.post(self._writable)

    def leave(self, do: Callable[[], None]) -> bool:
        """Has the loop put something, with the lock; from any thread. False: the loop has ended."""
        with self.lock:
            self._left += 1
        return self.post(partial(self._do_left, do))

    def post(self, do: Callable[[], None]) -> bool:
        """Has the loop do it; from any thread. False: it has ended, and nobody waits any more."""
        try:
            self._loop.call_soon_threadsafe(do)
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """What waits will not go. Before the socket is closed; once."""
        with self.lock:
            self._closed = True
            self._want_writable(False)
            for _, reply in self._queue:
                reply.close()
            self._queue.clear()
            self._memfds.clear()
            self._queued = self.away = 0
        self._wake()

    def _do_left(self, do: Callable[[], None]) -> None:
        with self.lock:
            self._left -= 1
            do()

    def _append(self, data: memoryview, reply: Reply) -> None:
        self._queue.append((data, reply))
        self._queued += reply.weight

    def _transmit(self, data: bytes | memoryview, reply: Reply) -> int:
        """How much of it went. Raises OSError."""
        if not reply.fds:
            sent = self._sock.send(data)
            if self.away:
                self._passed += sent + _OVERHEAD
            return sent
        rights = array("i", reply.fds).tobytes()
        sent = self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        # With the first byte the descriptors have gone.
        reply.close()
        # Who reads in time never lets many wait: they are looked for before they are.
        if len(self._memfds) >= _MANY:
            self._settle()
        self._memfds.append((self._passed, reply.weight))
        self._passed += sent + _OVERHEAD
        self.away += reply.weight
        return sent

    def _settle(self) -> None:
        """Counts no more what the peer has read; with the lock."""
        if not self.away:
            return
        # unix(7): bytes in the socket, with what the kernel needs for them. They are the last.
        unread = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        first = self._passed - int.from_bytes(unread, sys.byteorder)
        while self._memfds and self._memfds[0][0] < first:
            self.away -= self._memfds.popleft()[1]

    def _writable(self) -> None:
        with self.lock:
            if not self._closed:
                self._write()

    def _write(self) -> None:
        while self._queue:
            data, reply = self._queue[0]
            try:
                sent = self._transmit(data, reply)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._broken(error)
                return
            self._progress = self._loop.time()
            if sent < len(data):
                self._queue[0] = (data[sent:], reply)
                continue
            self._queue.popleft()
            self._queued -= reply.weight
        self._want_writable(bool(self._queue))
        if not self.full:
            self._wake()
            self._drained()

    def _want_writable(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self._loop.add_writer(self._sock.fileno(), self._writable)
        elif not wanted and self._writing:
            self._loop.remove_writer(self._sock.fileno())
        self._writing = wanted

    def _wake(self) -> None:
        waiters, self._room = self._room, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
