"""Why the kernel will not let us look into a process, in words that say what to change.

The kernel answers EPERM or EACCES to everything alike. Its check (ptrace(2), "Ptrace access mode
checking"; kernel/ptrace.c __ptrace_may_access, security/yama) is a chain; this walks the same
chain and names the first link that does not hold:

    same uids and gids, or CAP_SYS_PTRACE  -->  dumpable, or CAP_SYS_PTRACE in its user namespace
        -->  its capabilities within ours  -->  Yama's ptrace_scope  -->  other modules, seccomp
"""

from __future__ import annotations

import os
import pwd

from ..model.errors import BeingTraced, NotPermitted
from . import procfs

CAP_SYS_PTRACE = 19
YAMA = "/proc/sys/kernel/yama/ptrace_scope"


def yama_scope() -> int:
    """kernel.yama.ptrace_scope, 0 if Yama is not there."""
    try:
        with open(YAMA) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _user_namespace(pid: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return None


def being_traced(pid: int, tracer: int) -> BeingTraced:
    """The error for a process that `tracer` holds."""
    try:
        name = f"{procfs.read_stat(tracer).name} (pid {tracer})"
    except OSError:
        name = f"pid {tracer}"
    return BeingTraced(f"process {pid} is being traced by {name}", pid=pid)


def tracer_of(pid: int) -> int:
    """Who traces any thread of `pid`, 0 if nobody. Raises ProcessLookupError."""
    for tid in procfs.threads(pid):
        try:
            tracer = procfs.read_status(pid, tid).tracer
        except ProcessLookupError:
            continue
        if tracer:
            return tracer
    return 0


def _reason(pid: int) -> tuple[str, str]:
    """(what forbids it, what to change)."""
    ours = procfs.read_status(os.getpid())
    theirs = procfs.read_status(pid)
    scope = yama_scope()
    capable = bool(ours.effective >> CAP_SYS_PTRACE & 1)
    become = "run as root, or with CAP_SYS_PTRACE"

    if scope == 3:
        return (
            "kernel.yama.ptrace_scope is 3: nobody may attach to anything",
            "only a reboot with another value of kernel.yama.ptrace_scope changes that",
        )
    if capable:
        namespace = _user_namespace(pid)
        if namespace is not None and namespace != _user_namespace("self"):
            return (
                "it is in another user namespace, where our capabilities do not count",
                "run the tracker in the initial user namespace, outside of the container",
            )
        return _module_reason(ours)

    if os.geteuid() == 0:
        become = "give this container or service CAP_SYS_PTRACE (--cap-add=SYS_PTRACE)"
    uid, gid = ours.uids[3], ours.gids[3]
    if set(theirs.uids[:3]) != {uid}:
        return (
            f"it belongs to {_user(theirs.uids[0])}, we are {_user(uid)}",
            f"{become}, or as the user it belongs to",
        )
    if set(theirs.gids[:3]) != {gid}:
        return f"its group is {theirs.gids[0]}, ours is {gid}", become
    if theirs.permitted & ~ours.permitted:
        return "it has capabilities that we have not", become
    if scope == 2:
        return "kernel.yama.ptrace_scope is 2: only CAP_SYS_PTRACE may attach", become
    if not _dumpable(pid, theirs):
        return (
            "it is not dumpable: set-uid, set by prctl(PR_SET_DUMPABLE, 0), or its program file"
            " cannot be read",
            become,
        )
    if scope == 1:
        return (
            "kernel.yama.ptrace_scope is 1: only a parent may attach",
            "sysctl kernel.yama.ptrace_scope=0, or run as root,"
            " or let the target call prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)",
        )
    return _module_reason(ours)


def _dumpable(pid: int, status: procfs.Status) -> bool:
    """Its files in /proc belong to root when the process is not: proc_pid(5)."""
    try:
        return os.stat(f"/proc/{pid}/stat").st_uid == status.uids[1]
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None


def _module_reason(ours: procfs.Status) -> tuple[str, str]:
    if ours.seccomp:
        return (
            "a seccomp filter on the tracker may forbid it",
            "allow ptrace, pidfd_open and pidfd_getfd in the filter of this container or service",
        )
    return (
        "a security module (AppArmor, SELinux, ...) or its user namespace may forbid it",
        "look for a denial in the kernel log, or run the tracker outside of any container",
    )


def refused(pid: int, step: str) -> NotPermitted:
    """The error for EPERM or EACCES on `step`. Raises ProcessLookupError if pid has gone.

    step: what was refused, in words, for the message.
    """
    tracer = tracer_of(pid)
    if tracer:
        return being_traced(pid, tracer)
    reason, hint = _reason(pid)
    return NotPermitted(
        f"no permission to track process {pid}: {reason} ({step} refused)", hint=hint, pid=pid
    )
