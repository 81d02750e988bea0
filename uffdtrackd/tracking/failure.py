"""The one place that turns a failure of the C floor into an error of the tree.

    NativeError(step, errno, pid) --+
                                    +--> TrackError with a message and a hint
    the process, looked at again ---+

An errno alone says little: ESRCH is "it has gone" or "it ran exec()", EPERM is "a debugger has
it", "Yama" or "it just became a zombie". So the process is looked at again, first of all for
whether it still is.
"""

from __future__ import annotations

import errno
from collections import Counter
from types import TracebackType

from ..model.errors import (
    AlreadyTracked,
    NotPermitted,
    NotSupported,
    TargetExecuted,
    TargetGone,
    TimedOut,
    TrackError,
)
from . import permission, procfs
from .identify import Identity, gone

_REFUSED = frozenset({errno.EPERM, errno.EACCES})
_ABSENT = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY})
_WAITING = {
    "D": "it waits in the kernel for a disk, a network mount, or a vfork() child to run exec()",
    "R": "it does not get to run, or has too many threads for the time given",
}

_UNREADABLE = (
    "there is no page, or one that nobody may read; where PROT_NONE is for debuggers only, boot"
    " with proc_mem.force_override=always"
)


class translated:
    """Within it, an OSError about `identity` comes out as the TrackError that explains it.

    A class, for it is in the way of every iteration: a generator costs several times as much.
    """

    __slots__ = ("_identity",)

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, TrackError):
            raise explain(error, self._identity) from error


def explain(error: OSError, identity: Identity) -> TrackError:
    """The error for `error` (a NativeError, or what reading /proc raised). Never raises."""
    step = str(getattr(error, "step", "reading /proc"))
    try:
        return _explain(error, step, identity)
    except ProcessLookupError:
        return gone(identity.pid)
    except OSError:
        return _plain(error, step, identity.pid)


def _explain(error: OSError, step: str, identity: Identity) -> TrackError:
    pid, code = identity.pid, error.errno or 0
    # Cheap: most processes that get here are still what they were.
    try:
        identity.check()
    except TargetGone as found:  # TargetExecuted is one
        return found

    # No file of the thread in /proc, or none that can be read: it has ended, in an exec() or by
    # itself. procfs raises without an errno.
    if code == errno.ESRCH or isinstance(error, (FileNotFoundError, ProcessLookupError)):
        return _not_there(step, pid)
    if code in _REFUSED:
        return _refused(step, pid)
    if code == errno.ETIMEDOUT:
        return _too_slow(step, pid)
    if code == errno.EBUSY:
        return _busy(step, pid)
    if code in _ABSENT:
        return NotSupported(
            f"process {pid}: {step} is not in this kernel",
            hint="run `uffdtrack check` to see what this kernel can do",
            pid=pid,
        )
    if code == errno.EMFILE and "in the target" in step:
        return TrackError(
            f"process {pid}: {step}: it has no file descriptor left",
            hint=f"raise its limit, which we may not: prlimit --pid {pid} --nofile=...",
            pid=pid,
        )
    if code in (errno.EMFILE, errno.ENFILE):
        return TrackError(
            f"process {pid}: {step}: no file descriptor left",
            hint="raise the limit of open files (ulimit -n, LimitNOFILE=)",
            pid=pid,
        )
    return _plain(error, step, pid)


def _plain(error: OSError, step: str, pid: int) -> TrackError:
    address = int(getattr(error, "address", 0))
    end = address + int(getattr(error, "length", 0))
    thread = int(getattr(error, "pid", 0))
    who = f"process {pid}" if thread in (0, pid) else f"process {pid}, thread {thread}"
    where = f" at {address:#x}" if address else ""
    what = error.strerror or str(error)
    return TrackError(
        f"{who}: {step}{where}: {what}",
        hint=_UNREADABLE if step == "read the target's memory" else None,
        pid=pid,
        start=address if address else None,
        end=end if address else None,
    )


def _not_there(step: str, pid: int) -> TrackError:
    # It lives and shows the same image, yet its memory or thread is not there any more: exec()
    # of a program without address randomisation, or a thread that exited under us.
    if step.startswith(("PTRACE_", "tgkill")):
        return TrackError(
            f"process {pid}: {step}: the thread has exited", hint="try again", pid=pid
        )
    return TargetExecuted(f"process {pid} ran exec(), or a thread of it ended ({step})", pid=pid)


def _refused(step: str, pid: int) -> TrackError:
    if "SECCOMP" in step.upper():
        return NotPermitted(
            f"process {pid} has a seccomp filter, and we may not suspend it",
            hint="run the tracker as root (CAP_SYS_ADMIN) and without a seccomp filter of its own;"
            " for the service that is the drop-in 50-seccomp-targets.conf",
            pid=pid,
        )
    if "userfaultfd" in step.lower() and not permission.tracer_of(pid):
        return NotPermitted(
            f"process {pid}: making a userfaultfd is refused",
            hint="run as root, or let us open /dev/userfaultfd, or set"
            " vm.unprivileged_userfaultfd=1",
            pid=pid,
        )
    return permission.refused(pid, step)


def _too_slow(step: str, pid: int) -> TimedOut:
    states = Counter(stat.state for stat in procfs.thread_stats(pid) if not stat.dead)
    state = next((state for state in _WAITING if states[state]), None)
    why = f": {_WAITING[state]}" if state else ""
    if "io_uring" in step:
        why = ": a request of it is blocked, and a stop would end that with EINTR"
    return TimedOut(
        f"process {pid} could not be stopped in time ({step}){why}",
        hint="it runs on unharmed; try again later or with a longer deadline",
        pid=pid,
    )


def _busy(step: str, pid: int) -> TrackError:
    if step.startswith("UFFDIO_"):
        return AlreadyTracked(
            f"memory of process {pid} belongs to another userfaultfd ({step})", pid=pid
        )
    tracer = permission.tracer_of(pid)
    if tracer:
        return permission.being_traced(pid, tracer)
    return TimedOut(
        f"process {pid} is in a system call that must not be interrupted ({step})",
        hint="it runs on unharmed; try again later or with a longer deadline",
        pid=pid,
    )
