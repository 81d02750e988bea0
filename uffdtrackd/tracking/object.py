"""One shared object, from one iteration to the next: what of it is dirty, in offsets.

shown now, by whom      against  shown at the last look   --> what came, what went: dirty
written, in every View                                    --> dirty
doubt now, or last time                                   --> all of it is dirty
exists, did not at the last look                          --> dirty
ctime moved             and nobody wrote                  --> all of it is dirty
                        else: clean, and all zero now     --> dirty, unless it was so before
data extents                                              --> the rest does not exist
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..model.pageset import PageSet
from ..native.layout import Vma
from . import procfs
from .backing import Backing, Stamp, born, kernel_device, path_of
from .neighbours import ticks_after_boot

# Nothing but fork(2) passes such memory on: it has no name, and nobody ever had it open.
_INHERITED = "/dev/zero (deleted)"
_SYSV = "/SYSV"

Shown = dict[tuple[int, int], PageSet]
"""Offsets by (pid, start of a mapping minus its offset)."""


@dataclass(frozen=True, slots=True)
class View:
    """What one address space says of its shared regions in one iteration.

    regions: shared and writable. huge: starts of those in huge pages. unseen: more such regions,
    writes to which its page tables do not tell. written: what the scan reported in `regions`.
    fresh: pages of which nothing was known before. known: what a consumer holds. tid: a live
    thread of the process. pinned: what is pinned, and written past all page tables, may be shared.
    """

    pid: int
    tid: int
    regions: Sequence[Vma]
    huge: Collection[int]
    unseen: Sequence[Vma]
    written: PageSet
    fresh: PageSet
    known: PageSet
    pinned: bool = False


class Verdict(NamedTuple):
    """Offsets: dirty, and those that exist. reason: why dirty is all of them every time."""

    dirty: PageSet
    data: PageSet
    reason: str


class Place(NamedTuple):
    """What a process that has it open, or maps it, shows of an object.

    links: how many names it has. number: in maps, (major, minor, inode).
    """

    device: int
    inode: int
    links: int
    number: tuple[int, int, int]


class SharedObject:
    """name: its identity, see `backing`. views: who shows it in this iteration, and where. looks:
    how often all processes were asked who has it. Both are the owner's."""

    def __init__(self, page_size: int, name: str = "") -> None:
        self._name = name
        self.views: list[tuple[View, Vma]] = []
        self.looks = 0  # at all processes
        self._none = PageSet(page_size)
        self._shown: Shown = {}
        self._data = self._none  # what of it existed
        self._reason = ""  # at the last look
        self._doubted = False  # all of it may have been written since
        self._stamp: Stamp | None = None
        self._books: tuple[int, ...] | None = None
        self._zero = self._none  # were zero when last listed, and have been clean since
        self._hints = bytearray()
        self._sealed = False  # no seal is ever taken off

    @property
    def some(self) -> tuple[View, Vma]:
        """A mapping of it; any will do."""
        return self.views[0]

    @property
    def inherited(self) -> bool:
        vma = self.some[1]
        return vma.name == _INHERITED and vma.device == kernel_device()

    def made(self) -> int | None:
        """When one of the processes made it, in clock ticks after boot, if it passes by fork(2).

        None where that is not known: it may be older than all of them, and come from a parent.
        """
        if not self.inherited:
            return None
        view, vma = self.some
        born_ns = born(view.tid, vma)
        made = ticks_after_boot(born_ns)
        for pid in {view.pid for view, _ in self.views}:
            try:
                if born_ns and procfs.read_stat(pid).start_time < made:
                    return made
            except ProcessLookupError:
                continue
        return None

    @property
    def segment(self) -> bool:
        """Whether it is a SysV segment; its id is the inode then (ipc/shm.c)."""
        vma = self.some[1]
        return vma.name.startswith(_SYSV) and vma.device == kernel_device()

    @property
    def sealed(self) -> bool:
        """Whether no descriptor of it is good for writing, whoever has one."""
        if not self._sealed:
            view, vma = self.some
            try:
                with Backing(view.tid, vma) as backing:
                    self._sealed = backing.sealed() and backing.shows(self._name, vma)
            except OSError:
                pass
        return self._sealed

    @property
    def huge(self) -> bool:
        return any(vma.start in view.huge for view, vma in self.views)

    def place(self) -> Place | None:
        """None where we may not look at it."""
        view, vma = self.some
        try:
            status = os.stat(path_of(view.tid, vma))
        except OSError:
            return None
        number = (*vma.device, vma.inode)
        return Place(status.st_dev, status.st_ino, status.st_nlink, number)

    @property
    def trusted(self) -> bool:
        """Whether it was at the last look."""
        return bool(self._shown) and not self._reason

    def attached(self, stamp: tuple[int, ...] | None) -> bool:
        """Whether somebody may have attached since the last look: the books moved."""
        before, self._books = self._books, stamp
        return stamp is None or stamp != before

    def judge(self, reason: str, everything: bool, again: bool) -> Verdict:
        """One iteration. reason: why it cannot be trusted, "" if it can. everything: all of it may
        have been written since the last look. again: and may be, until the next one.
        """
        shown, written = self._look()
        came, went = _without(shown, self._shown), _without(self._shown, shown)
        everything |= self._doubted or bool(reason)
        self._shown, self._reason, self._doubted = shown, reason, again or bool(reason)
        extent = self._union(shown.values())
        view, vma = self.some
        try:
            with Backing(view.tid, vma) as backing:
                stamp = backing.stamp()  # before the rest: what is later moves it once more
                ranges = (run for start, end in extent for run in backing.data(start, end))
                data = PageSet.from_ranges(ranges, self._none.page_size)
                written &= data
                moved, unsure = self._moved(stamp)
                if everything or (moved and not written):
                    dirty = data
                else:
                    # What was swapped out, or given back, since it was written is in no page table.
                    fresh = data - self._data
                    dirty = fresh | data & self._union([written, *came, *went])
                self._data = data
                self._zero -= dirty
                if unsure and (clean := data - dirty):
                    zero = backing.zero(clean, self._hints)
                    dirty |= zero - self._zero
                    self._zero = zero
        except OSError:
            self._stamp, self._zero, self._data = None, self._none, self._none
            return Verdict(extent, extent, reason)
        return Verdict(dirty, data, reason)

    def _look(self) -> tuple[Shown, PageSet]:
        """What is shown, and what of it was written or is fresh."""
        size = self._none.page_size
        shown: Shown = {}
        written = self._none
        for view, vma in self.views:
            shift = vma.start - vma.offset
            region = PageSet.from_ranges([(vma.start, vma.end)], size)
            key, offsets = (view.pid, shift), region.shifted(-shift)
            shown[key] = shown[key] | offsets if key in shown else offsets
            written |= ((view.written | view.fresh) & region).shifted(-shift)
        return shown, written

    def _moved(self, stamp: Stamp) -> tuple[bool, bool]:
        """Whether it was changed since the last look; whether it was, or may have been."""
        before, self._stamp = self._stamp, stamp
        moved = before is None or before[:2] != stamp[:2]
        return moved, moved or (before is not None and not before.settled)

    def _union(self, sets: Iterable[PageSet]) -> PageSet:
        found = self._none
        for one in sets:
            found |= one
        return found


def _without(shown: Shown, other: Shown) -> list[PageSet]:
    """What `shown` shows and `other` does not."""
    found = [pages - other[key] if key in other else pages for key, pages in shown.items()]
    return [pages for pages in found if pages]
