"""The kernel's own announcements of births: the process events connector (netlink).

    Connector() --- PROC_CN_MCAST_LISTEN --> kernel
                <-- its acknowledgement ----          none: not allowed, or not the first namespaces
    births()    <-- PROC_EVENT_FORK ...               in order; a child's comes before it runs

A filter in the kernel passes births of processes only, not of threads, exec, exit and the rest:
what does not pass takes no room in the socket's queue. The queue is read when somebody asks, so
it can overflow (ENOBUFS); then some births are lost and that is said.
Sources: include/uapi/linux/cn_proc.h, drivers/connector/cn_proc.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = 1
_CN_VAL_PROC = 1
_LISTEN = 1
_NLMSG_DONE = 3
_EVENT_NONE = 0
_EVENT_FORK = 1

# struct nlmsghdr, struct cn_msg, then struct proc_event: what, cpu, timestamp_ns, the event.
_HEADER = struct.Struct("=IHHII")
_MESSAGE = struct.Struct("=IIIIHH")
_WHAT = _HEADER.size + _MESSAGE.size
_DATA = _WHAT + 16
_ERROR = struct.Struct("=I")
_FORK = struct.Struct("=iiii")  # parent's thread and process, child's thread and process

# Some 8000 births; needs CAP_NET_ADMIN beyond net.core.rmem_max.
_ROOM = 8 << 20
_SO_RCVBUFFORCE = 33
_SO_ATTACH_FILTER = 26

_LOAD, _TO_X, _IF_EQUAL, _IF_EQUAL_X, _RETURN = 0x20, 0x07, 0x15, 0x1D, 0x06


class Connector:
    """Births of processes since it was made; sees the whole machine.

    Raises OSError (PermissionError) where the kernel does not let us listen: it wants
    CAP_NET_ADMIN, and the first user, pid and network namespaces.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_CONNECTOR)
        try:
            self._widen()
            self._filter()
            self._socket.bind((0, _CN_IDX_PROC))
            self._listen()
        except BaseException:
            self._socket.close()
            raise

    def births(self) -> list[tuple[int, int]] | None:
        """(pid of the parent, pid of the child) in the order of birth, since last asked.

        None: some were lost.
        """
        found: list[tuple[int, int]] = []
        lost = False
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return None if lost else found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if len(data) >= _DATA + _FORK.size and _what(data) == _EVENT_FORK:
                _, parent, _, child = _FORK.unpack_from(data, _DATA)
                found.append((parent, child))

    def close(self) -> None:
        self._socket.close()

    def _widen(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)

    def _filter(self) -> None:
        """Passes acknowledgements, and births whose thread and process are the same."""
        what_none, what_fork = (socket.htonl(what) for what in (_EVENT_NONE, _EVENT_FORK))
        program = (
            (_LOAD, 0, 0, _WHAT),
            (_IF_EQUAL, 5, 0, what_none),
            (_IF_EQUAL, 0, 5, what_fork),
            (_LOAD, 0, 0, _DATA + 8),
            (_TO_X, 0, 0, 0),
            (_LOAD, 0, 0, _DATA + 12),
            (_IF_EQUAL_X, 0, 1, 0),
            (_RETURN, 0, 0, 0xFFFFFFFF),
            (_RETURN, 0, 0, 0),
        )
        code = b"".join(struct.pack("=HBBI", *step) for step in program)
        buffer = ctypes.create_string_buffer(code)
        # struct sock_fprog: a count and a pointer.
        fprog = struct.pack("HP", len(program), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)

    def _listen(self) -> None:
        body = _MESSAGE.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0) + struct.pack("=I", _LISTEN)
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, _NLMSG_DONE, 0, 0, os.getpid()) + body)
        # The answer is queued within send(); outside the first namespaces there is none.
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                raise PermissionError(errno.EPERM, "the kernel does not answer") from None
            if _what(data) == _EVENT_NONE:
                (code,) = _ERROR.unpack_from(data, _DATA)
                if code:
                    raise OSError(code, os.strerror(code))
                return


def _what(data: bytes) -> int:
    return int(struct.unpack_from("=I", data, _WHAT)[0])
