"""Clients that watch, many in one thread: each a connection of its own, as `uffdtrack watch` is.

add(session) --watch--> daemon --iteration, memfd--> thread: counted, the memfd closed
"""

from __future__ import annotations

import os
import select
import socket
import threading
from types import TracebackType
from typing import Self

import msgpack

# Descriptors that come with one read: at most one an iteration.
_FDS = 64


class Watchers:
    """path: of the daemon's socket. came: iterations so far. `with` it."""

    def __init__(self, path: str) -> None:
        self.came = 0
        self._path = path
        self._over = threading.Event()
        self._poll = select.epoll()
        self._socks: dict[int, tuple[socket.socket, msgpack.Unpacker]] = {}
        self._thread = threading.Thread(target=self._read, name="watchers")
        self._thread.start()

    def add(self, session: str) -> None:
        """One more, once a second."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._path)
        self._socks[sock.fileno()] = (sock, msgpack.Unpacker(raw=False, strict_map_key=False))
        self._poll.register(sock.fileno(), select.EPOLLIN)
        wish = {"session": session, "interval": 1.0, "deliver": "memfd"}
        sock.sendall(msgpack.packb([0, 1, "watch", [wish]]))

    def _read(self) -> None:
        while not self._over.is_set():
            for ready, _ in self._poll.poll(0.2):
                sock, unpacker = self._socks[ready]
                data, fds, *_ = socket.recv_fds(sock, 1 << 16, _FDS)
                for fd in fds:
                    os.close(fd)
                if not data:
                    self._poll.unregister(ready)
                unpacker.feed(data)
                self.came += sum(frame[:2] == [2, "iteration"] for frame in unpacker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._poll.close()
        for sock, _ in self._socks.values():
            sock.close()
