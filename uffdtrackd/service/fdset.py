"""Descriptors that came through a socket: somebody takes them, or they are closed.

recvmsg --> FdSet --take(i)--> whoever asked for it, who closes it
              +-- close() ---> all that nobody took --> Disposal
"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Iterable

from ..model.errors import BadRequest
from .disposal import Disposal


class FdSet:
    """The descriptors of one request, by their place in it.

    most: how many there may be. disposal: where they are closed. overflow: whether there were
    more; then none is kept.
    """

    def __init__(self, disposal: Disposal, most: int = 0) -> None:
        self.overflow = False
        self._disposal = disposal
        self._most = most
        self._fds: list[int | None] = []

    def __len__(self) -> int:
        return len(self._fds)

    def add(self, fds: Iterable[int | None], *, cut: bool = False) -> None:
        """cut: the kernel says that there were more than we had room for."""
        self._fds += fds
        if cut or self.overflow or len(self._fds) > self._most:
            self.close()
            self.overflow = True

    def merge(self, other: FdSet) -> None:
        """Takes over what the other holds."""
        self._most = max(self._most, other._most)
        fds, other._fds = other._fds, []
        if fds or other.overflow:
            self.add(fds, cut=other.overflow)

    def find(self, index: int) -> int:
        """The descriptor, which stays here. Raises BadRequest if there is none."""
        if not 0 <= index < len(self._fds):
            raise BadRequest(
                f"descriptor {index} was not sent: {len(self._fds)} came with this request",
                hint="send it by SCM_RIGHTS with the first byte of the request",
            )
        fd = self._fds[index]
        if fd is None:
            raise BadRequest(f"descriptor {index} is used twice")
        return fd

    def take(self, index: int) -> int:
        """As find(), but the descriptor is the caller's now: one whose close() cannot wait."""
        fd = self.find(index)
        self._fds[index] = None
        return fd

    def close(self) -> None:
        """Those that nobody took. May be called twice."""
        if self._fds:
            self._disposal.put([fd for fd in self._fds if fd is not None])
            self._fds.clear()


def rights(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what recvmsg(2) gave beside the data."""
    fds = array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            # What was cut off ends anywhere.
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    return fds.tolist()
