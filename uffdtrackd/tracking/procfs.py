"""What /proc says of one process or thread, read in one go and typed.

    /proc/PID/task/TID/stat   --> Stat    state, start time, flags, place of the program
    /proc/PID/task/TID/status --> Status  tracer, ids, seccomp, capabilities

These files need no permission on the target (only hidepid= hides them), and reading them never
disturbs it. Everything here may be stale by the time it is looked at: `identify` brackets its
reads with a pidfd, others must check again whatever matters.
Sources: proc_pid_stat(5), proc_pid_status(5), fs/proc/array.c.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

# include/linux/sched.h. A kernel thread has no memory of its own; a user worker (io_uring,
# vhost) is a thread of its process that never runs in user mode.
PF_USER_WORKER = 0x00004000
PF_IO_WORKER = 0x00000010
PF_KTHREAD = 0x00200000

DEAD_STATES = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class Stat:
    """One thread, from proc_pid_stat(5).

    start_time: clock ticks after boot when it started; with the pid it names a process for ever.
    image: (start_code, end_code, start_stack), in bytes; another image means another exec().
    Where we may not look it is a constant.
    """

    tid: int
    name: str
    state: str
    ppid: int
    flags: int
    start_time: int
    image: tuple[int, int, int]

    @property
    def dead(self) -> bool:
        return self.state in DEAD_STATES

    @property
    def kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)

    @property
    def worker(self) -> bool:
        return bool(self.flags & (PF_USER_WORKER | PF_IO_WORKER))


@dataclass(frozen=True, slots=True)
class Status:
    """One thread, from proc_pid_status(5).

    tracer: pid of who traces it, 0 if nobody (or somebody outside our pid namespace).
    uids: real, effective, saved, file system. seccomp: 0 off, 1 strict, 2 filter.
    permitted: capability sets as bit masks.
    """

    tgid: int
    tracer: int
    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    seccomp: int
    permitted: int
    effective: int


def _read(path: str) -> str:
    # comm is any bytes at all; it must not stop us.
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        return file.read()


def folder(pid: int, tid: int | None = None) -> str:
    return f"/proc/{pid}" if tid is None else f"/proc/{pid}/task/{tid}"


def read_stat(pid: int, tid: int | None = None) -> Stat:
    """The thread `tid` of `pid`, or its leader. Raises ProcessLookupError if there is none."""
    try:
        text = _read(f"{folder(pid, tid)}/stat")
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    # The name may hold spaces and parentheses: the last one closes it.
    left, right = text.index("("), text.rindex(")")
    fields = text[right + 2 :].split()
    return Stat(
        tid=int(text[:left]),
        name=text[left + 1 : right],
        state=fields[0],
        ppid=int(fields[1]),
        flags=int(fields[6]),
        start_time=int(fields[19]),
        image=(int(fields[23]), int(fields[24]), int(fields[25])),
    )


def _four(text: str) -> tuple[int, int, int, int]:
    a, b, c, d = (int(word) for word in text.split())
    return a, b, c, d


def read_status(pid: int, tid: int | None = None) -> Status:
    """The thread `tid` of `pid`, or its leader. Raises ProcessLookupError if there is none."""
    try:
        text = _read(f"{folder(pid, tid)}/status")
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return Status(
        tgid=int(fields["Tgid"]),
        tracer=int(fields["TracerPid"]),
        uids=_four(fields["Uid"]),
        gids=_four(fields["Gid"]),
        # Absent on kernels built without CONFIG_SECCOMP.
        seccomp=int(fields.get("Seccomp", "0")),
        permitted=int(fields["CapPrm"], 16),
        effective=int(fields["CapEff"], 16),
    )


def threads(pid: int) -> list[int]:
    """Its thread ids, ascending, the dead leader included. Raises ProcessLookupError."""
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None


def thread_stats(pid: int) -> list[Stat]:
    """All threads that still exist while we look, by id. Raises ProcessLookupError."""
    stats = []
    for tid in threads(pid):
        try:
            stats.append(read_stat(pid, tid))
        except ProcessLookupError:
            continue
    return stats


def live_thread(pid: int) -> int:
    """A thread that lives, the leader if it does: a dead one shows neither memory nor files.

    Raises ProcessLookupError.
    """
    if not read_stat(pid).dead:
        return pid
    for stat in thread_stats(pid):
        if not stat.dead:
            return stat.tid
    raise ProcessLookupError(f"no thread of process {pid} is left")


def same_process(pid: int, start_time: int) -> Stat | None:
    """The leader's Stat if `pid` is still the process that started then, else None."""
    try:
        stat = read_stat(pid)
    except ProcessLookupError:
        return None
    return stat if stat.start_time == start_time else None
