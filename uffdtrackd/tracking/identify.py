"""Which process a pid means, and whether it can be tracked at all.

    pid --> pidfd_open --> /proc reads ----------------> pidfd still alive? --> Identity
            (from here on the pid      state, tracer, ids,   (then what was read
             cannot mean another        word size, rights     was its own)
             process unnoticed)

Nothing of the target is stopped, changed or even woken here, so whatever is refused here is
refused for free. What can only be known with a stopped thread (code segment, x32 system calls)
is the injector's to check.
"""

from __future__ import annotations

import os
import select
import struct
from dataclasses import dataclass, field

from ..model.errors import (
    NotPermitted,
    NotSupported,
    TargetExecuted,
    TargetGone,
    TrackError,
    UsageError,
)
from . import permission, procfs

# The kernel never gives a higher pid: PID_MAX_LIMIT, include/linux/threads.h.
PID_MAX_LIMIT = 4 * 1024 * 1024

# getauxval(3). AT_SYSINFO is the entry of the i386 vdso: x32 programs have none.
AT_NULL, AT_PHENT, AT_SYSINFO = 0, 4, 32
PHENT_32, PHENT_64 = 32, 56


@dataclass(frozen=True)
class Identity:
    """One process, for as long as it lives; owns `pidfd`.

    start_time: clock ticks after boot, field 22 of proc_pid_stat(5).
    pidfd: pidfd_open(2), close-on-exec; `close()` closes it.
    live_tid: a thread that has not exited: the leader, unless it has.
    name: comm. uid: real user id. seccomp: 0 off, 1 strict, 2 filter.
    image: see procfs.Stat.
    """

    pid: int
    start_time: int
    pidfd: int
    live_tid: int
    name: str
    uid: int
    seccomp: int
    image: tuple[int, int, int] = field(repr=False)

    def ended(self) -> bool:
        """Whether its last thread has exited."""
        return has_ended(self.pidfd)

    def check(self) -> None:
        """Raises TargetGone if it ended, TargetExecuted if it runs another program by now."""
        stats = [] if self.ended() else _live(self.pid)
        if not stats or self.ended():
            raise gone(self.pid)
        # No stack to be seen: it became undumpable, and we may not look any more.
        if stats[0].image[2] and stats[0].image != self.image:
            raise TargetExecuted(f"process {self.pid} ran exec()", pid=self.pid)

    def close(self) -> None:
        os.close(self.pidfd)


def gone(pid: int) -> TargetGone:
    return TargetGone(f"process {pid} has ended", pid=pid)


def identify(pid: int) -> Identity:
    """The process `pid` means now, checked to be one that can be tracked.

    Raises UsageError (not a pid, a thread id, ourselves), TargetGone (no such process, a
    zombie), NotSupported (kernel thread, 32-bit or x32 program), BeingTraced, NotPermitted.
    """
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise UsageError(f"a pid is a number, not {pid!r}")
    if not 0 < pid <= PID_MAX_LIMIT:
        raise UsageError(f"{pid} is not a pid", hint=f"pids are numbers from 1 to {PID_MAX_LIMIT}")
    if os.readlink("/proc/self") != str(os.getpid()):
        raise NotSupported(
            "/proc shows another pid namespace than ours", hint="mount a fresh /proc"
        )
    _refuse_self_and_threads(pid)
    pidfd = pidfd_open(pid)
    try:
        return _identify(pid, pidfd)
    except BaseException as error:
        # In this order: what is not there any more has ended by the time that is asked. What is
        # there, and yet could not be found a moment ago, is about to end.
        there = os.path.exists(procfs.folder(pid))
        ended = Identity(pid, 0, pidfd, pid, "", 0, 0, (0, 0, 0)).ended()
        os.close(pidfd)
        if isinstance(error, ProcessLookupError) and not isinstance(error, TrackError):
            if not there and not ended:
                raise NotPermitted(
                    f"process {pid} exists but /proc/{pid} is hidden from us",
                    hint="run as root, or remount /proc without hidepid=",
                    pid=pid,
                ) from None
            raise gone(pid) from None
        raise


def _refuse_self_and_threads(pid: int) -> None:
    try:
        leader = procfs.read_status(pid).tgid
    except ProcessLookupError:
        return
    if not leader:
        return  # being reaped: it has no ids any more (fs/proc/array.c), and the pidfd will say so
    if leader == os.getpid():
        raise UsageError(
            "a process cannot track itself", hint="run the tracker in another process", pid=pid
        )
    if leader != pid:
        raise UsageError(
            f"{pid} is a thread, not a process", hint=f"its process is {leader}", pid=leader
        )


def has_ended(pidfd: int) -> bool:
    """Whether the last thread of its process has exited: it polls readable then (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def pidfd_open(pid: int) -> int:
    """pidfd_open(2). Raises TargetGone, NotPermitted, TrackError."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise TargetGone(f"no process with pid {pid}", pid=pid) from None
    except PermissionError:
        raise NotPermitted(
            "pidfd_open is refused to the tracker",
            hint="allow pidfd_open in the seccomp filter of this container or service",
            pid=pid,
        ) from None
    except OSError as error:
        # EINVAL, or ENOENT since Linux 6.13: a thread id that became one since we looked.
        if error.errno in (22, 2):
            raise TargetGone(f"no process with pid {pid}", pid=pid) from None
        raise TrackError(f"pidfd_open of process {pid}: {error.strerror}", pid=pid) from error


def _live(pid: int) -> list[procfs.Stat]:
    """Threads that have not exited and do run in user mode, the leader first if it lives.

    Looks no further than the leader if that is one: a target may have thousands.
    """
    leader = procfs.read_stat(pid)
    if not leader.dead:
        return [leader]
    return [stat for stat in procfs.thread_stats(pid) if not (stat.dead or stat.worker)]


def _identify(pid: int, pidfd: int) -> Identity:
    live = _live(pid)
    if not live:
        leader = procfs.read_stat(pid)
        raise TargetGone(
            f"process {pid} ({leader.name}) has ended: it is a zombie",
            hint=f"its parent, process {leader.ppid}, has not yet waited for it",
            pid=pid,
        )
    stat = live[0]
    if stat.kernel_thread:
        raise NotSupported(
            f"process {pid} ({stat.name}) is a kernel thread: it has no memory of its own",
            hint="choose a process that runs a program",
            pid=pid,
        )
    status = procfs.read_status(pid, stat.tid)
    if status.tracer:
        raise permission.being_traced(pid, status.tracer)
    _check_rights(pid, stat.tid)
    _check_word_size(pid, stat)
    identity = Identity(
        pid=pid,
        start_time=stat.start_time if stat.tid == pid else procfs.read_stat(pid).start_time,
        pidfd=pidfd,
        live_tid=stat.tid,
        name=stat.name,
        uid=status.uids[0],
        seccomp=status.seccomp,
        image=stat.image,
    )
    if identity.ended():
        raise gone(pid)
    return identity


def _check_rights(pid: int, tid: int) -> None:
    # Opening mem asks the kernel the same question as PTRACE_SEIZE will (proc_pid_mem(5):
    # PTRACE_MODE_ATTACH), and does nothing else.
    try:
        os.close(os.open(f"/proc/{pid}/task/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        raise permission.refused(pid, "attaching") from None


def _check_word_size(pid: int, stat: procfs.Stat) -> None:
    # The auxiliary vector, not the ELF header of the program file: that may be on a dead
    # network mount, or readable to its owner only.
    with open(f"/proc/{pid}/task/{stat.tid}/auxv", "rb") as file:
        vector = file.read()
    if _entry(vector, "=QQ", AT_PHENT) == PHENT_64 or not vector:
        return
    if _entry(vector, "=II", AT_PHENT) == PHENT_32:
        kind = "a 32-bit" if _entry(vector, "=II", AT_SYSINFO) else "an x32"
        raise NotSupported(
            f"process {pid} ({stat.name}) is {kind} program",
            hint="only 64-bit programs can be tracked",
            pid=pid,
        )


def _entry(vector: bytes, shape: str, key: int) -> int | None:
    """One value of an auxiliary vector of pairs like `shape`, None if it is not there."""
    size = struct.calcsize(shape)
    for found, value in struct.iter_unpack(shape, vector[: len(vector) // size * size]):
        if found == AT_NULL:
            break
        if found == key:
            return int(value)
    return None
