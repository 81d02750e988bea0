"""A client of the daemon's socket that can do everything wrong; knows nothing of uffdtrackd."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack

from tests.victim import PATIENCE


def _connect_as(sock: socket.socket, path: Path, user: int, groups: Sequence[int]) -> None:
    """A connection that somebody else called connect(2) for: that is who the kernel names."""
    child = os.fork()
    if not child:
        code = 1
        try:
            # The folder of a test may not be walked to by others, but they may be in it.
            os.chdir(path.parent)
            os.setgroups(list(groups))
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            sock.connect(path.name)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise PermissionError(f"user {user} cannot connect to {path}")


class RawClient:
    """user, groups: who connects, by ids; needs root. fds: that came and were not taken."""

    def __init__(self, path: Path, user: int | None = None, groups: Sequence[int] = ()) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if user is None:
            self.sock.connect(str(path))
        else:
            _connect_as(self.sock, path, user, groups)
        self.sock.settimeout(PATIENCE)
        self.fds: list[int] = []
        self._unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=1 << 30)
        self._number = 0

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        sent = self.sock.sendmsg([data], rights)
        if data[sent:]:
            self.sock.sendall(data[sent:])

    def request(self, method: str, params: Any = None, fds: Sequence[int] = ()) -> int:
        self._number += 1
        self.send(msgpack.packb([0, self._number, method, [params or {}]]), fds)
        return self._number

    def frame(self) -> list[Any]:
        """The next one. Raises EOFError when the daemon has closed."""
        while True:
            try:
                found: list[Any] = self._unpacker.unpack()
                return found
            except msgpack.OutOfData:
                pass
            try:
                data, ancillary, _, _ = self.sock.recvmsg(1 << 16, socket.CMSG_SPACE(64))
            except ConnectionResetError:
                raise EOFError from None
            for _, _, payload in ancillary:
                self.fds += array("i", payload)
            if not data:
                raise EOFError
            self._unpacker.feed(data)

    def answer(self, number: int) -> tuple[Any, Any]:
        """(error, result) of a request; notifications are passed over."""
        while True:
            frame = self.frame()
            if frame[0] == 1:
                assert frame[1] == number, frame
                return frame[2], frame[3]

    def call(self, method: str, params: Any = None, fds: Sequence[int] = ()) -> Any:
        """The result. Raises AssertionError with the error, if there is one."""
        error, result = self.answer(self.request(method, params, fds))
        assert error is None, error
        return result

    def refused(self, method: str, params: Any = None, fds: Sequence[int] = ()) -> dict[str, Any]:
        """The error."""
        error, result = self.answer(self.request(method, params, fds))
        assert error is not None, result
        found: dict[str, Any] = error
        return found

    def closed(self) -> list[list[Any]]:
        """What still comes until the daemon closes, which it must."""
        found = []
        try:
            while True:
                found.append(self.frame())
        except EOFError:
            return found

    def close(self) -> None:
        self.sock.close()
        while self.fds:
            os.close(self.fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
