"""A userfaultfd for another process: the face of c/inject.c.

    inject(pid, proc_fd, pidfd, device_fd) --> ut_inject() --> process --> one thread of the target

The C side chooses a thread, stops it for some hundred microseconds, makes the target create a
userfaultfd for its own address space, brings that descriptor here and puts the thread back.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ._native import ffi, lib
from .error import new_error, raised

# Made by build.py.
HELPER = Path(__file__).with_name("uffd-inject")


class Method(IntEnum):
    """How the userfaultfd is made (api/inject.h)."""

    AUTO = lib.UT_METHOD_AUTO
    CALL = lib.UT_METHOD_CALL
    PARASITE = lib.UT_METHOD_PARASITE


class Point(IntEnum):
    """A step of the sequence in api/inject.h at which a test may strike."""

    NONE = lib.UT_POINT_NONE
    CHOSEN = lib.UT_POINT_CHOSEN
    SEIZED = lib.UT_POINT_SEIZED
    STOPPED = lib.UT_POINT_STOPPED
    MASKED = lib.UT_POINT_MASKED
    MADE = lib.UT_POINT_MADE
    MAPPED = lib.UT_POINT_MAPPED
    WRITTEN = lib.UT_POINT_WRITTEN
    SOCKET = lib.UT_POINT_SOCKET
    SENT = lib.UT_POINT_SENT
    RECEIVED = lib.UT_POINT_RECEIVED
    CLEAN = lib.UT_POINT_CLEAN
    RELEASED = lib.UT_POINT_RELEASED
    REPORTED = lib.UT_POINT_REPORTED


class Action(IntEnum):
    """What a test does there."""

    NONE = lib.UT_ACTION_NONE
    KILL_TRACKER = lib.UT_ACTION_KILL_TRACKER
    KILL_INJECTOR = lib.UT_ACTION_KILL_INJECTOR
    STOP_TARGET = lib.UT_ACTION_STOP_TARGET
    KILL_TARGET = lib.UT_ACTION_KILL_TARGET
    STOP_INJECTOR = lib.UT_ACTION_STOP_INJECTOR


@dataclass(frozen=True, slots=True)
class Calls:
    """System calls of one injection, by who makes them; as a fault: which one fails once."""

    tracer: int = 0
    remote: int = 0
    parasite: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """For tests: `action` at `point`, and the n-th call of each kind fails with EIO (0: none)."""

    point: Point = Point.NONE
    action: Action = Action.NONE
    fail: Calls = Calls()


@dataclass(frozen=True, slots=True)
class Injection:
    """What an injection brought.

    uffd: close-on-exec and non-blocking; UFFDIO_API has not been called on it. The caller owns it.
    tid: the thread that was stopped. stopped_ns: for how long. stops: ptrace stops in that time.
    user_mode_only: it does not see faults from kernel mode (UFFD_USER_MODE_ONLY).
    thread_class: how good the thread was, 0 best (enum ut_choice of c/choose.h).
    """

    uffd: int
    tid: int
    method: Method
    user_mode_only: bool
    stopped_ns: int
    stops: int
    thread_class: int
    calls: Calls


def inject(
    pid: int,
    *,
    proc_fd: int,
    pidfd: int,
    device_fd: int = -1,
    tid: int = 0,
    deadline: float = 10.0,
    kernel_faults: bool = False,
    method: Method = Method.AUTO,
    fault: Fault | None = None,
    helper: Path | None = HELPER,
) -> Injection:
    """Makes a userfaultfd for the process `pid` and brings it here.

    proc_fd: an open directory /proc/PID. pidfd: of the process. Both must be of the process
    meant: they are what guards against a reused pid. device_fd: /dev/userfaultfd, or -1.
    tid: thread to use, 0 chooses. deadline: seconds to wait for a moment in which a thread can
    be stopped without harm. kernel_faults: it must deliver faults from kernel mode, which only a
    handler of synchronous faults needs; for an unprivileged target that takes the device.
    helper: the program that does it; without one, or where it cannot, a fork of this process.

    Raises NativeError. Its step names the kernel call or what was waited for; ESRCH: the
    target ended, or another thread of it ran execve(2) just then. In every case the target is
    as it was before.
    """
    if fault is None:
        fault = Fault()
    args = ffi.new(
        "struct ut_inject_args *",
        {
            "pid": pid,
            "tid": tid,
            "proc_fd": proc_fd,
            "pidfd": pidfd,
            "device_fd": device_fd,
            "method": method,
            "kernel_faults": kernel_faults,
            "deadline_ns": int(deadline * 1e9),
            "point": fault.point,
            "action": fault.action,
            "fail": (fault.fail.tracer, fault.fail.remote, fault.fail.parasite),
        },
    )
    result = ffi.new("struct ut_inject_result *")
    error = new_error()
    program = ffi.NULL if helper is None else ffi.new("char[]", os.fsencode(helper))
    if lib.ut_inject(args, program, result, error) < 0:
        raise raised(error)
    calls = result.calls
    return Injection(
        uffd=result.uffd,
        tid=result.tid,
        method=Method(result.method),
        user_mode_only=bool(result.user_mode_only),
        stopped_ns=result.stopped_ns,
        stops=result.stops,
        thread_class=result.thread_class,
        calls=Calls(calls.tracer, calls.remote, calls.parasite),
    )
