"""Stops all threads of some processes and holds them: the face of c/freeze.c.

    with freeze([pid]) as frozen:      a child of ours, the holder, stops every thread
        ...                            memory does not change
        frozen.check()                 raises if it was let go meanwhile
                                       thawed: each thread goes on as if nothing had been

The target thaws by itself when this process dies, when the lease is over, and when the holder
is killed. So a reader of frozen memory asks `check()` after it has read, not before.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from ._native import ffi, lib
from .error import NativeError, new_error, raised

_NS = 1_000_000_000


class Frozen:
    """Processes whose threads are all stopped.

    pids: as asked for. holder: pid of the child that holds them.
    threads: how many are stopped. rounds: how many looks at the list of threads that took.
    stopped_at_ns: CLOCK_MONOTONIC just before the first thread was asked to stop.
    frozen_at_ns: when the last had stopped. thawed_at_ns: when the last was let go, 0 before.
    """

    def __init__(self, pids: Sequence[int], link: socket.socket, holder: int) -> None:
        self.pids = tuple(pids)
        self.holder = holder
        self._link: socket.socket | None = link
        self.thawed_at_ns = 0
        self._await_halt()

    def _await_halt(self) -> None:
        try:
            report = self._report()
            if report is None:
                raise NativeError("freeze: the holder was killed", errno.ECHILD, self.holder)
            if report.state == lib.UT_FREEZE_LEASE_OVER:
                raise NativeError("freeze: the lease was over", errno.ETIME)
            if report.state != lib.UT_FREEZE_FROZEN:
                raise raised(report.error)
            self.threads = int(report.threads)
            self.rounds = int(report.rounds)
            self.stopped_at_ns = int(report.stopped_ns)
            self.frozen_at_ns = int(report.frozen_ns)
        except BaseException:
            # Also an interrupt from the keyboard: closing the socket makes the holder let go.
            self._close()
            raise

    def add(self, pids: Sequence[int], *, deadline: float = 10.0) -> None:
        """Stops and holds more processes; those that are held already are left out.

        Raises NativeError as freeze() does, with everything let go, those of before too.
        """
        if self._link is None:
            raise NativeError("freeze: thawed", errno.EBADF)
        most = lib.UT_FREEZE_MORE
        for at in range(0, len(pids), most):
            some = list(pids[at : at + most])
            more = ffi.new("struct ut_freeze_more *")
            more.deadline_ns, more.count = int(deadline * _NS), len(some)
            more.pids[0 : len(some)] = some
            size = ffi.offsetof("struct ut_freeze_more", "pids") + 4 * len(some)
            # A holder that has gone says so by the end of file.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._link.send(ffi.buffer(more, size), socket.MSG_NOSIGNAL)
            self._await_halt()
            self.pids += tuple(some)

    @property
    def stopped_ns(self) -> int:
        """How long the target was stopped, in nanoseconds; 0 until it is thawed."""
        return max(0, self.thawed_at_ns - self.stopped_at_ns) if self.thawed_at_ns else 0

    def check(self) -> None:
        """Raises NativeError if the target is not held any more.

        errno ETIME: the lease was over. ECHILD: the holder was killed. EBADF: thaw() was called.
        """
        if self._link is None:
            raise NativeError("freeze: thawed", errno.EBADF)
        try:
            report = self._report(socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return
        if report is None:
            raise NativeError("freeze: the holder was killed", errno.ECHILD, self.holder)
        raise NativeError("freeze: the lease was over", errno.ETIME)

    def thaw(self) -> None:
        """Let all threads go; returns when they run. Harmless if they do already."""
        if self._link is None:
            return
        try:
            report = self._report(socket.MSG_DONTWAIT)
        except BlockingIOError:
            report = None
        finally:
            self._close()
        self.thawed_at_ns = report.thawed_ns if report is not None else time.monotonic_ns()

    def let_go(self) -> None:
        """Let all threads go soon, without waiting; from any thread, whatever others do here.

        thaw() must still be called.
        """
        link = self._link
        if link is not None:
            # The holder takes the end of file for the end of its caller.
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _report(self, flags: int = 0) -> Any:
        """The next struct ut_freeze_report, None at the end of file."""
        link = self._link
        if link is None:  # thawed, by another thread
            raise NativeError("freeze: thawed", errno.EBADF)
        size = ffi.sizeof("struct ut_freeze_report")
        data = link.recv(size, flags)
        if len(data) != size:
            return None
        report = ffi.new("struct ut_freeze_report *")
        ffi.memmove(report, data, size)
        return report

    def _close(self) -> None:
        if self._link is None:
            return
        self._link.close()
        self._link = None
        error = new_error()
        if lib.ut_freeze_reap(self.holder, error) < 0:
            raise raised(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thaw()

    def __del__(self) -> None:
        self._close()


def freeze(
    pids: Sequence[int],
    *,
    deadline: float = 10.0,
    lease: float | None = None,
    follow: bool = False,
) -> Frozen:
    """Stop every thread of the processes `pids` and hold them.

    deadline: seconds that stopping may take; everybody is asked once in any case. lease: seconds
    after which they are let go by themselves, None for never. follow: hold what they fork
    meanwhile, too, from birth: Frozen.add() makes sure that such a process has stopped. Processes
    of the list that have ended are left out.

    Raises NativeError, with everything let go: ESRCH if none of them is there, EPERM for no
    permission or another tracer (.pid is the thread), ETIMEDOUT if one did not stop (a thread
    waits in vfork() or for a disk), ECHILD if the holder was killed.
    """
    if not pids or any(not 0 < pid < 1 << 31 for pid in pids):
        raise NativeError("freeze of no process", errno.EINVAL)
    if deadline < 0 or (lease is not None and lease <= 0):
        raise NativeError("freeze: deadline or lease", errno.EINVAL)
    error = new_error()
    holder = ffi.new("int32_t *")
    fd = lib.ut_freeze_start(
        ffi.new("int32_t[]", list(pids)),
        len(pids),
        int(follow),
        int(deadline * _NS),
        max(1, int(lease * _NS)) if lease is not None else 0,
        holder,
        error,
    )
    if fd < 0:
        raise raised(error)
    return Frozen(pids, socket.socket(fileno=fd), holder[0])
