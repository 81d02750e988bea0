"""SysV segments keep books on their users: /proc/sysvipc/shm (sysvipc(7)).

Anybody who knows its id can attach to a segment, write, and detach. But each mapping, made by
shmat(2), fork(2) or mremap(2), and the end of each is counted and leaves its time (ipc/shm.c:
shm_open(), shm_close()): who came and went between two looks has moved `dtime`, and who is there
now makes `nattch` more than we know of.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from .backing import CLOCK_REALTIME_COARSE

_PATH = "/proc/sysvipc/shm"


class Books(NamedTuple):
    """Of one segment. attached: mappings. stamp: another one whenever a mapping came or went;
    None: one did so lately that the next may leave the same time."""

    attached: int
    stamp: tuple[int, ...] | None


def read() -> dict[int, Books]:
    """All segments of our IPC namespace, by id; none if that cannot be read."""
    # Whole seconds of the clock that files have, asked itself and first, as backing.stamp() does.
    settled = time.clock_gettime_ns(CLOCK_REALTIME_COARSE) // 1_000_000_000
    try:
        with open(_PATH, encoding="ascii") as file:
            names, *lines = (line.split() for line in file)
        where = [names.index(name) for name in ("shmid", "nattch", "lpid", "atime", "dtime")]
    except (OSError, ValueError):
        return {}
    found = {}
    for line in lines:
        shmid, attached, last, atime, dtime = (int(line[at]) for at in where)
        stamp = (attached, last, atime, dtime) if max(atime, dtime) < settled else None
        found[shmid] = Books(attached, stamp)
    return found


def same_namespace(tid: int) -> bool:
    """Whether ids mean the same to a thread as to us: it is in our IPC namespace."""
    try:
        return os.readlink(f"/proc/{tid}/ns/ipc") == os.readlink("/proc/self/ns/ipc")
    except OSError:
        return False
