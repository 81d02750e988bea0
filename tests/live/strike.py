"""Strikes at an injection: kills who does it, at a step, and finds what is left of it.

pytest --fork--> tracker --clone--> minder, injector    (tracker: dies by the fault)
  |                                    |
  '-- subreaper: gets the orphans -----'   waits for their end, so that nothing is polled for
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.live.footprint import footprint, tracer
from tests.victim import Victim
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.inject import HELPER, Fault, Injection, Method, inject

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_WALL = 0x40000000  # linux/wait.h

_libc = ctypes.CDLL(None, use_errno=True)


class Watched:
    """The victim `registers`, which knows what its registers must hold, and its footprint."""

    def __init__(self, spawn: Callable[..., Victim], kind: str) -> None:
        self.victim = spawn("registers", kind)
        self.endless = kind == "read"
        self.pid = self.victim.pid
        self.tid = int(self.victim.ask("where"))
        self.before = footprint(self.pid)

    def goes_on(self) -> None:
        """Its thread has looked at all its registers twice from now on."""
        rounds = int(self.victim.ask("rounds"))
        while not self.endless and int(self.victim.ask("rounds")) < rounds + 2:
            os.sched_yield()

    def unharmed(self) -> None:
        """All is as before, nobody traces it, and it goes on."""
        assert tracer(self.pid) == 0
        assert self.before.differences(footprint(self.pid)) == []
        self.goes_on()


def bring(
    pid: int,
    tid: int = 0,
    method: Method = Method.AUTO,
    fault: Fault | None = None,
    *,
    kernel_faults: bool = False,
    deadline: float = 10.0,
    helper: Path | None = HELPER,
) -> Injection:
    """One injection in this process; the caller closes its userfaultfd. Raises NativeError."""
    with ExitStack() as stack:
        proc_fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, proc_fd)
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        device_fd = os.open("/dev/userfaultfd", os.O_RDWR)
        stack.callback(os.close, device_fd)
        return inject(
            pid,
            proc_fd=proc_fd,
            pidfd=pidfd,
            device_fd=device_fd,
            tid=tid,
            deadline=deadline,
            kernel_faults=kernel_faults,
            method=method,
            fault=fault,
            helper=helper,
        )


def injected(
    pid: int,
    tid: int = 0,
    method: Method = Method.AUTO,
    fault: Fault | None = None,
    *,
    kernel_faults: bool = False,
    deadline: float = 10.0,
    helper: Path | None = HELPER,
) -> Injection:
    """The same, its userfaultfd closed at once."""
    found = bring(
        pid, tid, method, fault, kernel_faults=kernel_faults, deadline=deadline, helper=helper
    )
    os.close(found.uffd)
    return found


def strike(pid: int, tid: int, method: Method, fault: Fault, helper: Path | None = HELPER) -> int:
    """An injection in a process of its own; returns its wait status.

    Returns when that process and the injector that it started have ended.
    """
    before = _children()
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = os.fork()
        if not child:
            code = 2
            try:
                injected(pid, tid, method, fault, helper=helper)
                code = 0
            except NativeError:
                code = 1
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        for orphan in _children() - before:
            assert Path(f"/proc/{orphan}/comm").read_text() in ("uffd-inject\n", "pytest\n")
            os.waitpid(orphan, _WALL)
        return status
    finally:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def killed(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _children() -> set[int]:
    return {
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }
