"""One connection to the daemon: requests out, answers in, descriptors both ways; blocking.

    call() --[0, id, method, [params]]--> daemon
           <--[1, id, error, result]----- answer, with the descriptors that came along
           <--[2, method, [params]]------ kept until somebody asks for notifications

A connection that broke, or on which an answer did not come in time, is of no use any more: the
answer to come would be taken for that of the next request.
"""

from __future__ import annotations

import os
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from .model.errors import ConnectionLost, NoDaemon, NotPermitted, TimedOut, from_map

SOCKET = "/run/uffdtrackd/control.sock"
VARIABLE = "UFFDTRACKD_SOCKET"

_CHUNK = 1 << 18
_RIGHTS = socket.CMSG_SPACE(16 * array("i").itemsize)
# Longer than any answer the daemon gives: a stranger on the socket must not fill our memory.
_LONGEST = 1 << 30
# Notifications that nobody asked for; the oldest goes first.
_KEPT = 1024


def socket_path(path: str | os.PathLike[str] | None = None) -> str:
    """The socket that is meant: as given, by $UFFDTRACKD_SOCKET, or the system's."""
    return os.fspath(path) if path is not None else os.environ.get(VARIABLE) or SOCKET


class Link:
    """Raises NoDaemon if nobody listens on path, NotPermitted if we may not connect."""

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self._number = 0
        self._sock: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout)
        try:
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            if isinstance(error, PermissionError):
                raise NotPermitted(
                    f"no permission to connect to {path}",
                    hint="become root or a member of the group uffdtrackd",
                ) from error
            raise NoDaemon(f"no daemon listens on {path}: {error.strerror or error}") from error
        # Waited for by poll(): a timeout of the socket's own is two system calls more each time.
        self._sock.setblocking(False)
        self._readable = select.poll()
        self._readable.register(self._sock, select.POLLIN)
        self._buffer = memoryview(bytearray(_CHUNK))
        self._fed = 0
        self._unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=False, max_buffer_size=_LONGEST, read_size=4096
        )
        self._fds: deque[int] = deque()
        self._notifications: deque[tuple[str, dict[str, Any], list[int]]] = deque()

    def call(
        self,
        method: str,
        params: dict[str, Any],
        fds: Sequence[int] = (),
        *,
        extra_seconds: float = 0.0,
    ) -> tuple[Any, list[int]]:
        """(result, descriptors that came with it, which are the caller's to close).

        params: None values are left out. fds: sent along. extra_seconds: that this answer may take
        beyond the timeout. Raises the error that the daemon answers, ConnectionLost, TimedOut.
        """
        self._number = self._number + 1 & 0xFFFFFFFF
        number = self._number
        given = {name: value for name, value in params.items() if value is not None}
        self._send(msgpack.packb([0, number, method, [given]]), fds)
        until = time.monotonic() + self.timeout + extra_seconds
        while True:
            frame = self._frame(until)
            if frame[0] == 2:
                self._keep(frame)
                continue
            if frame[1] != number:
                raise self._broken(f"the daemon answered request {frame[1]}, not {number}")
            if frame[2] is not None:
                raise from_map(frame[2])
            return frame[3], self._take(frame[3])

    def notification(
        self, wanted: Callable[[str, dict[str, Any]], bool], timeout: float | None = None
    ) -> tuple[dict[str, Any], list[int]]:
        """The next one that is wanted, and its descriptors. Raises TimedOut, ConnectionLost.

        timeout: seconds; None waits for ever. The connection stays good if nothing comes.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            for kept in list(self._notifications):
                if wanted(kept[0], kept[1]):
                    self._notifications.remove(kept)
                    return kept[1], kept[2]
            self._keep(self._frame(until, fatal=False))

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        for _, _, fds in self._notifications:
            for fd in fds:
                os.close(fd)
        self._notifications.clear()

    def _keep(self, frame: list[Any]) -> None:
        params = frame[2][0] if frame[2] else {}
        if frame[1] == "error":
            # It belongs to no request, so it is about the connection.
            error = from_map(params)
            self.close()
            raise error
        self._notifications.append((frame[1], params, self._take(params)))
        if len(self._notifications) > _KEPT:
            for fd in self._notifications.popleft()[2]:
                os.close(fd)

    def _take(self, result: Any) -> list[int]:
        """The descriptors of an answer: it says itself that one comes with it."""
        if not isinstance(result, dict) or "memfd" not in result:
            return []
        if not self._fds:
            raise self._broken("the daemon sent an answer without its memfd")
        return [self._fds.popleft()]

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        sock = self._open()
        rest: bytes | memoryview = data
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            while rest:
                try:
                    sent = sock.sendmsg([rest], rights) if rights else sock.send(rest)
                except BlockingIOError:
                    self._wait_for_room(sock)
                    continue
                if sent == len(rest):
                    return
                rest = memoryview(rest)[sent:]
                # They went with the first byte.
                rights = []
        except TimeoutError:
            raise self._broken("the daemon does not read what is sent to it") from None
        except OSError as error:
            # It may have said why before it closed.
            self._last_words()
            raise self._broken(error.strerror or str(error)) from error

    def _wait_for_room(self, sock: socket.socket) -> None:
        writable = select.poll()
        writable.register(sock, select.POLLOUT)
        if not _polled(writable, self.timeout):
            raise TimeoutError

    def _last_words(self) -> None:
        try:
            while True:
                frame = self._frame(time.monotonic() + 1.0)
                if frame[0] == 2:
                    self._keep(frame)
                elif frame[2] is not None:
                    raise from_map(frame[2])
        except (ConnectionLost, TimedOut):
            return

    def _frame(self, until: float | None, *, fatal: bool = True) -> list[Any]:
        sock = self._open()
        while True:
            # To be told by an exception that there is nothing costs as much as an answer.
            if self._unpacker.tell() >= self._fed:
                self._receive(sock, until, fatal)
            try:
                frame = self._unpacker.unpack()
            except msgpack.OutOfData:
                self._receive(sock, until, fatal)
                continue
            except (ValueError, TypeError) as error:
                raise self._broken(f"what the daemon sent is no MessagePack: {error}") from error
            if not _is_answer(frame):
                raise self._broken("what the daemon sent is no answer")
            return list(frame)

    def _receive(self, sock: socket.socket, until: float | None, fatal: bool) -> None:
        left = None if until is None else until - time.monotonic()
        try:
            if left is not None and left <= 0:
                raise TimeoutError
            if not _polled(self._readable, left):
                raise TimeoutError
            count, ancillary, _, _ = sock.recvmsg_into(
                [self._buffer], _RIGHTS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except TimeoutError:
            if fatal:
                self.close()
            raise TimedOut(
                f"the daemon on {self.path} did not answer in time",
                hint="see `systemctl status uffdtrackd`, or give it a longer timeout",
            ) from None
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array("i")
                fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
                self._fds.extend(fds)
        if not count:
            raise self._broken("the daemon closed the connection")
        self._unpacker.feed(self._buffer[:count])
        self._fed += count

    def _open(self) -> socket.socket:
        if self._sock is None:
            raise ConnectionLost(f"the connection to {self.path} is closed")
        return self._sock

    def _broken(self, why: str) -> ConnectionLost:
        self.close()
        return ConnectionLost(f"connection to {self.path}: {why}")


def _polled(poll: select.poll, seconds: float | None) -> bool:
    """Whether it found something. poll(2) takes milliseconds in an int."""
    return bool(poll.poll(None if seconds is None else min(seconds * 1000, 0x7FFFFFFF)))


def _is_answer(frame: Any) -> bool:
    match frame:
        case [1, int(), None | dict(), _]:
            return True
        case [2, str(), [] | [dict()]]:
            return True
    return False
