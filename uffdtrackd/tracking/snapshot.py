"""A frozen process that nobody tracks yet: everything it has is dirty.

A process that appears while its tree is being frozen, or runs exec() just then, cannot be attached
to: the holder of the freeze is its tracer, and a process has one. It need not be, for it stands
still: what is populated now is exact until the thaw, and it is attached to in the next iteration.

    maps -----> Space (what the kernel would refuse to register is guessed)
    pagemap --> what is populated           --> Collection: all dirty
    View    --> SharedPages, of the session
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from ..model.pageset import PageSet
from ..model.region import Region, Tracking
from ..native import scan
from ..native.error import NativeError
from ..native.layout import SHARED, WRITE, Layout
from .collection import Collection
from .object import View
from .pinned import Pins
from .registrar import Refused
from .shared import SharedPages
from .space import Space
from .untracked import Judge, in_swap, populated


class Snapshot:
    """All pages of the frozen process `pid`; tid: a live thread of it. Raises OSError.

    view: what the session has to say something about before `finish()`.
    """

    def __init__(self, pid: int, tid: int, page_size: int) -> None:
        self._page_size = page_size
        with ExitStack() as stack:
            maps, mem, pagemap = (
                stack.enter_context(_opened(f"/proc/{tid}/{name}"))
                for name in ("maps", "mem", "pagemap")
            )
            layout = Layout(maps)
            layout.refresh()
            if not len(layout):
                raise NativeError("reading maps", errno.ESRCH, pid)  # it is about to end
            limit = scan.limit(pagemap)
            refused = [one for one in _refused(tid, layout) if one.vma.end <= limit]
            self._space = space = Space(layout, refused, Judge(mem, tid), page_size, {})
            self._dirty = _populated(pagemap, limit, space, page_size)
            self._always = space.always
            for region in space.always_if_populated:
                self._always |= PageSet.from_ranges(populated(region, pagemap), page_size)
        none = PageSet(page_size)
        huge = [vma.start for vma, _ in space.shared_huge]
        self.view = View(
            pid, tid, space.shared_regions, huge, space.shared_unseen, none, space.shared, none
        )

    def finish(self, shared: SharedPages) -> Collection:
        """What the process has. shared: the answer to the view."""
        always = self._always | shared.always
        return Collection(
            self._dirty | shared.dirty | always,
            PageSet(self._page_size),
            always,
            lambda: self._regions(shared.reasons),
            {},
            shared.windows,
        )

    def _regions(self, reasons: Mapping[int, str]) -> list[Region]:
        # What is pinned needs no care of its own: everything is listed, again and again.
        pins = Pins(PageSet(self._page_size))
        return self._space.regions(Tracking.ASYNC, dict(reasons), pins)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _refused(tid: int, layout: Layout) -> Iterator[Refused]:
    """What UFFDIO_REGISTER would refuse, as ioctl_userfaultfd(2) has it."""
    writable: frozenset[int] | None = None
    for vma in layout.special():
        if vma.name.startswith(("[", "/[", "anon_inode:", "/dev/")) and not vma.name.startswith(
            ("[heap]", "[stack]", "[anon", "/dev/zero", "/dev/shm/")
        ):
            yield Refused(vma, errno.EINVAL)
        elif vma.flags & SHARED and not vma.flags & WRITE:
            if writable is None:
                writable = _may_be_written(tid)
            if vma.start not in writable:
                yield Refused(vma, errno.EPERM)


def _may_be_written(tid: int) -> frozenset[int]:
    """Starts of the mappings that mprotect(2) can make writable: `mw` in smaps."""
    found = []
    start = 0
    with open(f"/proc/{tid}/smaps", "rb") as smaps:
        for line in smaps:
            first = line.split(b" ", 1)[0]
            if first == b"VmFlags:" and b" mw " in line:
                found.append(start)
            elif not first.endswith(b":"):
                start = int(first.split(b"-")[0], 16)
    return frozenset(found)


def _populated(pagemap: int, limit: int, space: Space, page_size: int) -> PageSet:
    aside = space.shared | PageSet.from_ranges(
        ((one.vma.start, one.vma.end) for one in space.untracked.values()), page_size
    )
    own: list[tuple[int, int]] = []
    files: list[tuple[int, int]] = []
    for start, end in (space.mapped - aside) & PageSet.from_ranges([(0, limit)], page_size):
        for first, last, categories in scan.get(
            pagemap,
            start,
            end,
            anyof=scan.Page.PRESENT | scan.Page.SWAPPED,
            ret=scan.Page.FILE | scan.Page.PRESENT,
        ):
            if not categories & scan.Page.PRESENT:
                # Not a marker of its own userfaultfd: reading one would call its handler.
                own += in_swap(pagemap, first, last)
            else:
                (files if categories & scan.Page.FILE else own).append((first, last))
    # A page of the file behind a private mapping is the file's, until it is written.
    of_files = PageSet.from_ranges(files, page_size) - space.private_files
    return PageSet.from_ranges(own, page_size) | of_files
