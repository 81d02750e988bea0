"""From a pid to everything that tracking its process needs.

    pid --> identify --> Identity (pidfd, start time, a live thread)
                 |
                 +--> native.inject --> userfaultfd     one thread stopped for a moment
                 +--> /proc/PID/task/TID/pagemap
                 |
                 +--> checked again: did it end, did it run exec() in between? --> Target

The userfaultfd and the pagemap descriptor must be of one and the same address space, or every
scan would be of memory that nobody protects. execve(2) replaces the address space without
changing the pid, so the identity is checked once more after both are open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from ..model.errors import TargetExecuted, TimedOut
from ..native.inject import Fault, Injection, Method, inject
from .failure import translated
from .identify import Identity, identify

DEVICE = "/dev/userfaultfd"


@dataclass(slots=True)
class Target:
    """A process that can be tracked; owns its descriptors.

    identity: who it is; its pidfd is `pidfd`. uffd: a userfaultfd for its address space, close-on-
    exec and non-blocking, on which UFFDIO_API has not been called. pagemap: its pagemap, opened
    for PAGEMAP_SCAN. injection: how that was done; None if another process did it.
    """

    identity: Identity
    uffd: int
    pagemap: int
    injection: Injection | None

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def start_time(self) -> int:
        """Clock ticks after boot; with the pid it names the process for ever."""
        return self.identity.start_time

    @property
    def pidfd(self) -> int:
        return self.identity.pidfd

    @property
    def tid(self) -> int:
        """A thread whose /proc/TID has maps, mem and pagemap; not the leader if that has exited."""
        return self.identity.live_tid

    @property
    def stopped_ns(self) -> int:
        """How long one thread was stopped for the attach."""
        return self.injection.stopped_ns if self.injection else 0

    def close(self) -> None:
        """Gives everything back; the kernel then ends the tracking. Safe to call twice."""
        if self.uffd < 0:
            return
        os.close(self.uffd)
        os.close(self.pagemap)
        self.identity.close()
        self.uffd = self.pagemap = -1


def open_target(
    pid: int,
    *,
    deadline: float = 10.0,
    kernel_faults: bool = False,
    method: Method = Method.AUTO,
    fault: Fault | None = None,
) -> Target:
    """Attaches to the process `pid`; the caller closes the Target.

    deadline: seconds to find a moment in which a thread can be stopped without disturbing it.
    kernel_faults: the userfaultfd must deliver faults from kernel mode: a handler of synchronous
    faults needs that, asynchronous write-protection does not.
    method, fault: see native.inject; for tests.

    Raises UsageError, TargetGone, NotPermitted, BeingTraced, NotSupported, TimedOut (see identify()
    and failure.explain()). A target that cannot be tracked is left as it was.
    """
    how = partial(
        inject, deadline=deadline, kernel_faults=kernel_faults, method=method, fault=fault
    )
    with_device = kernel_faults or method is Method.PARASITE
    until = time.monotonic() + deadline
    while True:
        try:
            return _open(pid, how, with_device)
        except (TargetExecuted, FileNotFoundError):
            # It runs another program now, which is as good a target; or the thread that was
            # looked at has ended in between. Once more from the start.
            if time.monotonic() >= until:
                raise TimedOut(
                    f"process {pid} runs exec() or ends threads faster than we can attach",
                    hint="try again later",
                    pid=pid,
                ) from None


def _open(pid: int, how: Callable[..., Injection], with_device: bool) -> Target:
    with ExitStack() as kept:
        identity = identify(pid)
        kept.callback(identity.close)
        with ExitStack() as opened, translated(identity):
            # The directory is of one process for ever. If the pid is still the one meant after
            # it was opened, then from here on neither can mean another.
            proc_fd = _opened(opened, f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
            identity.check()
            device = _open_device(opened) if with_device else -1
            injection = how(pid, proc_fd=proc_fd, pidfd=identity.pidfd, device_fd=device)
            kept.callback(os.close, injection.uffd)
            name = f"task/{identity.live_tid}/pagemap"
            pagemap = _opened(kept, name, os.O_RDONLY, dir_fd=proc_fd)
            identity.check()
        kept.pop_all()
        return Target(identity, injection.uffd, pagemap, injection)


def _opened(stack: ExitStack, path: str, flags: int, dir_fd: int | None = None) -> int:
    """A descriptor that `stack` closes."""
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=dir_fd)
    stack.callback(os.close, fd)
    return fd


def _open_device(stack: ExitStack) -> int:
    """/dev/userfaultfd (Linux 6.1), or -1 where there is none for us."""
    try:
        return _opened(stack, DEVICE, os.O_RDWR)
    except (FileNotFoundError, PermissionError):
        return -1
