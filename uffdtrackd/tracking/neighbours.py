"""Who else can write a shared object: every process that has it open, or maps it.

    for each process of /proc    open: /proc/PID/fd, by stat(2)
                                 mapped: /proc/PID/maps, but for those whose page tables we track
    for a SysV segment           nothing of this: it counts its mappings itself (`sysv`)

One look serves all objects of a session. It costs a pass over /proc; where that is slow or
refused, whoever was not looked at may share everything. But for memory that only fork(2) passes
on: who was there before it was made by one of us is no child of ours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from . import procfs

# A look may take this much of a CPU, however busy the machine is; beyond, we stop trusting. More
# if it is not needed again when it succeeds.
LOOK_NS = 20_000_000
FIRST_LOOK_NS = 500_000_000

_TICKS = os.sysconf("SC_CLK_TCK")

Place = tuple[int, int]
"""st_dev, st_ino."""


class Wanted(NamedTuple):
    """An object to look for. number: (major, minor, inode) in maps.

    made: nothing but fork(2) passes it on, and then: the time that it was made by a process of the
    session, in clock ticks after boot. Who is older than that cannot have it, examined or not.
    by_descriptor: whether it can be written by one.
    """

    number: tuple[int, int, int]
    made: int | None
    by_descriptor: bool = True


def look(
    objects: Mapping[Place, Wanted],
    tracked: Collection[int],
    target: int,
    most_ns: int = LOOK_NS,
    among: Iterable[int] | None = None,
) -> dict[Place, str]:
    """The objects that somebody else can write, or may, with the reason.

    tracked: pids whose mappings are no concern. target: pid of the first of them. among: the only
    processes to look at; None for all, and us. most_ns: of CPU time.
    """
    wanted = dict(objects)
    found: dict[Place, str] = {}
    began = time.thread_time_ns()
    for pid in _everybody() if among is None else among:
        users: dict[Place, str] = {}
        try:
            tid = _thread_of(pid)
            mapped = set() if pid in tracked else _mapped(tid, wanted)
            users |= dict.fromkeys(mapped, f"shared with process {pid}")
            where = "the target" if pid == target else f"process {pid}"
            by_descriptor = {place for place, one in wanted.items() if one.by_descriptor}
            users |= dict.fromkeys(_opened(tid, by_descriptor), f"open in {where}")
        except OSError:
            # Not ours to look at; or one of its files is of a mount whose server has gone.
            why = f"process {pid}, which may share it, may not be examined"
            users = dict.fromkeys(_possible(pid, wanted), why)
        for place in users:
            del wanted[place]
        found |= users
        if not wanted:
            break
        if time.thread_time_ns() - began > most_ns:
            return found | dict.fromkeys(wanted, "too many processes to look for other users")
    return found


def _everybody() -> list[int]:
    return [os.getpid(), *map(int, filter(str.isdigit, os.listdir("/proc")))]


def ticks_after_boot(time_ns: int) -> int:
    """A time in ns since 1970 as start times of processes are counted (proc_pid_stat(5))."""
    # In this order: whoever waits between the two takes it for earlier than it was, not later.
    # More than once, for that is safe, but makes an object look older than its maker.
    clocks = [(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()) for _ in range(3)]
    later = max(booted - now for booted, now in clocks)
    return (time_ns + later) * _TICKS // 1_000_000_000


def _possible(pid: int, wanted: Mapping[Place, Wanted]) -> list[Place]:
    """What a process that may not be examined may share."""
    try:
        start = procfs.read_stat(pid).start_time
    except ProcessLookupError:
        return []
    # A second more, for clocks that are set.
    return [
        place for place, one in wanted.items() if one.made is None or start + _TICKS >= one.made
    ]


def _thread_of(pid: int) -> int:
    """Who shows what a process maps and has open: the first thread, unless that has ended."""
    try:
        # One call for the many that have one thread, or are the kernel's (fs/proc/base.c).
        several = os.stat(f"/proc/{pid}/task").st_nlink > 3
        return procfs.live_thread(pid) if several else pid
    except (FileNotFoundError, ProcessLookupError):
        return pid


def _opened(pid: int, wanted: Collection[Place]) -> set[Place]:
    """Those of the objects that a process has open; none if it has ended."""
    found: set[Place] = set()
    if not wanted:
        return found
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                status = os.stat(f"/proc/{pid}/fd/{fd}")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if (place := (status.st_dev, status.st_ino)) in wanted:
                found.add(place)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def _mapped(pid: int, wanted: Mapping[Place, Wanted]) -> set[Place]:
    """Those of the objects that a process maps, not privately."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            maps = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    found = set()
    for place, one in wanted.items():
        name = b" %02x:%02x %d " % one.number
        # perms are the second word, offset the third, then comes what we look for.
        if name in maps and any(
            name in line and line.split(None, 2)[1].endswith(b"s") for line in maps.splitlines()
        ):
            found.add(place)
    return found
