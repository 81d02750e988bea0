"""Shared memory: pages live in an object (memfd, SysV, tmpfs, a file), not in the address space.

The page tables of the target tell what the target wrote through this mapping, and no more. What
else can happen to the object, and what it takes to notice:

    a hole is punched, the file is cut   its data extents (SEEK_DATA, lseek(2)) each iteration;
                                         and where the hole was read since, which fills it with a
                                         zero page: mtime, which every such change moves
    write(2) to it                       mtime too (inode(7))
    another mapping writes, here or      nobody can notice: all of it is dirty every time
      in another process
    a hole is punched in huge pages      the same: hugetlbfs moves no mtime, tells no holes

So an object is trusted (`async`) only as long as nobody but one mapping of the target can write
it: no second mapping, no descriptor, in no process. Once doubted it stays `always`. The look
around costs a pass over /proc; where that is slow or refused there is doubt at once.

Holes of an object are never listed: reading one through the mapping would allocate it.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..model.pageset import PageSet
from ..native.layout import Vma

# mtime moves with the timer tick, 10 ms at the slowest (CONFIG_HZ=100): a change in the tick of
# our last look leaves no trace, so an object changed that recently is taken as changed again.
_TICK_NS = 50_000_000

# Looking around for other users at every iteration may take this much of a CPU, however busy the
# machine is; beyond, we stop trusting.
_LOOK_NS = 20_000_000

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SharedPages:
    """dirty, discarded: of all shared regions. always: the part of dirty listed every time."""

    dirty: PageSet
    discarded: PageSet
    always: PageSet


class SharedMemory:
    """The shared, writable regions of one address space."""

    def __init__(self, pid: int, tid: int, page_size: int) -> None:
        self._pid = pid
        self._tid = tid
        self._page_size = page_size
        self._vmas: Sequence[Vma] = ()
        self._doubted: dict[Key, str] = {}
        self._stamps: dict[Key, tuple[int, int, int] | None] = {}

    def set_regions(
        self, vmas: Sequence[Vma], huge: Sequence[Vma] = (), refused: Sequence[Vma] = ()
    ) -> None:
        """The regions of the layout as it is now.

        Of them, huge: in huge pages (hugetlb). refused: cannot be protected.
        """
        self._vmas = vmas
        keys = {_key(vma) for vma in vmas}
        self._doubted = {key: why for key, why in self._doubted.items() if key in keys}
        self._stamps = {key: stamp for key, stamp in self._stamps.items() if key in keys}
        # fs/hugetlbfs/inode.c: punching a hole leaves mtime alone, and a hole that is read again
        # has as many blocks as before.
        self._doubted.update((_key(vma), "huge pages whose holes leave no trace") for vma in huge)
        self._doubted.update((_key(vma), "cannot be protected") for vma in refused)

    def distrust(self) -> None:
        """What was found last time was told to nobody: every object counts as changed."""
        self._stamps.clear()

    def reason(self, vma: Vma) -> str:
        """Why a region is `always`; "" if it is tracked."""
        return self._doubted.get(_key(vma), "")

    def collect(self, written: PageSet, known: PageSet) -> SharedPages:
        """One iteration. written: what the scan reported, known: what a consumer may hold."""
        if not self._vmas:
            empty = PageSet(self._page_size)
            return SharedPages(empty, empty, empty)
        self._doubt()
        dirty: list[tuple[int, int]] = []
        always: list[tuple[int, int]] = []
        data: list[tuple[int, int]] = []
        changed = {key: self._changed(key) for key in {_key(vma) for vma in self._vmas}}
        for vma in self._vmas:
            found = extents(self._tid, vma)
            data += found
            if _key(vma) in self._doubted:
                always += found
            elif changed[_key(vma)]:
                dirty += found
        size = self._page_size
        has_data = PageSet.from_ranges(data, size)
        listed = PageSet.from_ranges(always, size)
        extent = PageSet.from_ranges(((vma.start, vma.end) for vma in self._vmas), size)
        return SharedPages(
            (written & has_data) | PageSet.from_ranges(dirty, size) | listed,
            (known & extent) - has_data,
            listed,
        )

    def _changed(self, key: Key) -> bool:
        """Whether the object may have been changed other than through the mapping."""
        vma = next(vma for vma in self._vmas if _key(vma) == key)
        try:
            status = os.stat(_path(self._tid, vma))
        except OSError:
            self._stamps[key] = None
            return True
        before = self._stamps.get(key)
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        recent = max(stamp[0], stamp[1]) > time.time_ns() - _TICK_NS
        self._stamps[key] = None if recent else stamp
        return before != stamp

    def _doubt(self) -> None:
        """Finds objects that somebody else can write."""
        trusted: dict[Key, list[Vma]] = {}
        for vma in self._vmas:
            if _key(vma) not in self._doubted:
                trusted.setdefault(_key(vma), []).append(vma)
        if not trusted:
            return
        identities: dict[tuple[int, int], Key] = {}
        for key, vmas in trusted.items():
            if _overlap(vmas):
                self._doubted[key] = "mapped more than once"
                continue
            try:
                status = os.stat(_path(self._tid, vmas[0]))
            except OSError:
                self._doubted[key] = "shared memory that we may not examine"
                continue
            identities[(status.st_dev, status.st_ino)] = key
        self._look_around(identities)

    def _look_around(self, identities: dict[tuple[int, int], Key]) -> None:
        began = time.thread_time_ns()
        for name in ["self", *filter(str.isdigit, os.listdir("/proc"))] if identities else ():
            pid = os.getpid() if name == "self" else int(name)
            reason = "open in the target" if pid == self._pid else f"shared with process {pid}"
            try:
                users = self._users(pid, identities)
            except PermissionError:
                users = list(identities)
                reason = f"process {pid}, which may share it, may not be examined"
            for identity in users:
                self._doubted[identities.pop(identity)] = reason
            if not identities:
                return
            if time.thread_time_ns() - began > _LOOK_NS:
                for key in identities.values():
                    self._doubted[key] = "too many processes to look for other users"
                return

    def _users(self, pid: int, identities: dict[tuple[int, int], Key]) -> list[tuple[int, int]]:
        """Those of the objects that a process has open, or maps (but for the target's own map).

        Raises PermissionError.
        """
        found = []
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    status = os.stat(f"/proc/{pid}/fd/{fd}")
                except FileNotFoundError:
                    continue
                if (status.st_dev, status.st_ino) in identities:
                    found.append((status.st_dev, status.st_ino))
            if pid != self._pid:
                with open(f"/proc/{pid}/maps", "rb") as file:
                    maps = file.read()
                for identity, (major, minor, inode) in identities.items():
                    if b" %02x:%02x %d " % (major, minor, inode) in maps:
                        found.append(identity)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended: its mappings and descriptors are gone too
        return list(dict.fromkeys(found))


def _path(tid: int, vma: Vma) -> str:
    return f"/proc/{tid}/map_files/{vma.start:x}-{vma.end:x}"


def extents(tid: int, vma: Vma) -> list[tuple[int, int]]:
    """Ranges of the region whose pages exist in the object; all of it where unknown."""
    try:
        fd = os.open(_path(tid, vma), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return [(vma.start, vma.end)]
    found = []
    try:
        at, stop = vma.offset, vma.offset + vma.end - vma.start
        while at < stop:
            start = os.lseek(fd, at, os.SEEK_DATA)
            if start >= stop:
                break
            at = min(os.lseek(fd, start, os.SEEK_HOLE), stop)
            found.append((vma.start + start - vma.offset, vma.start + at - vma.offset))
    except OSError as error:
        # ENXIO: no data behind `at`, as lseek(2) has it. Anything else: it cannot tell.
        if error.errno != errno.ENXIO:
            return [(vma.start, vma.end)]
    finally:
        os.close(fd)
    return found


def _key(vma: Vma) -> Key:
    return (*vma.device, vma.inode)


def _overlap(vmas: Sequence[Vma]) -> bool:
    """Whether two of the regions show the same part of the object."""
    parts = sorted((vma.offset, vma.offset + vma.end - vma.start) for vma in vmas)
    return any(b[0] < a[1] for a, b in pairwise(parts))
