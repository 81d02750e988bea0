"""Registration without anybody to ask what is not registered.

PAGEMAP_SCAN tells the asynchronous backend what is not registered. Under synchronous protection
it tells nothing, and before Linux 6.7 there is none. So what may be new is

    lines of maps that were not there before    a mapping that came, grew, was cut or merged
    VMAs with bits and no registration          the sweep finds those (c/protect.c)
    VMAs that refused to be protected           the rest: they have pages without bits only

Nothing depends on finding all of it at once. Pages of a VMA that is not registered have no bit,
and are listed in every iteration until it is.

That leaves time to be careful. Every mapping of a file is a border here, mappings of files come
and go, and a border that went just now would let a call split a mapping. So a gap is registered
only between borders that are expected to last (`borders`).
"""

from __future__ import annotations

from ..model.pageset import PageSet
from ..native import scan
from ..native.layout import EXEC, SHARED, Layout, Vma
from .borders import CERTAIN, LATE
from .refused import Refused
from .registrar import Registrar
from .untracked import is_shared_memory


def _file(vma: Vma) -> tuple[object, ...]:
    return (*vma.device, vma.inode)


class SyncRegistrar(Registrar):
    """Registers one address space, from outside, for synchronous protection."""

    def __init__(self, uffd: int, pagemap: int, limit: int, page_size: int) -> None:
        super().__init__(uffd, pagemap, limit, page_size)
        self._lines: frozenset[bytes] = frozenset()
        self._code: frozenset[tuple[object, ...]] = frozenset()  # files that are executed

    def new_lines(self, layout: Layout) -> PageSet:
        """What maps shows now and did not when it was last looked at by this."""
        lines = frozenset(layout.text().splitlines())
        fresh, self._lines = lines - self._lines, lines
        ranges = (line.split(b" ", 1)[0].split(b"-") for line in fresh)
        return PageSet.from_ranges(
            ((int(start, 16), int(end, 16)) for start, end in ranges), self._page_size
        )

    def still_refused(self, layout: Layout) -> list[Refused]:
        """The refused regions that `layout` shows as they were."""
        self._refused.review(layout)
        return list(self.refused.values())

    def register(self, layout: Layout, missing: PageSet) -> PageSet:
        """Registers what can be of `missing` and of what was postponed.

        Returns what was registered that is not of it. layout: it is refreshed. Raises NativeError.
        """
        layout.refresh()
        self._layout = layout
        self._code = frozenset(
            _file(vma) for vma in layout.special() if vma.flags & EXEC and vma.inode
        )
        self._refused.review(layout)
        self._refused.begin()
        wanted, self.postponed = missing | self.postponed, self._none
        reachable = PageSet.from_ranges([(self._lowest, self._limit)], self._page_size)
        done = 0
        for start, end in (wanted & reachable) - self._refused.ranges():
            if end > done:
                done = self._register_around(start, end, layout)
        layout.refresh()
        also, self._also = self._also, self._none
        return also

    def _sort(self, vma: Vma) -> float:
        return CERTAIN if _file(vma) in self._code or vma.name.startswith("[") else LATE

    def _can_wait(self, vma: Vma) -> bool:
        # What kind of pages a region has, and which of them are to be listed, goes by whether it is
        # refused.
        return False

    def wake(self) -> None:
        """Lets everybody who waits for a handler tell it once more. Raises NativeError."""
        scan.wake(self._uffd, self._lowest, self._limit)

    def _is_suspect(self, vma: Vma) -> bool:
        # Only anonymous memory, shmem and hugetlb can be protected (mm/userfaultfd.c, Linux 6.6);
        # a SysV segment is shmem in a wrapping of its own (ipc/shm.c).
        shared = vma.flags & SHARED and is_shared_memory(vma)
        if vma.inode and (not shared or vma.name.startswith("/SYSV")):
            return True
        return super()._is_suspect(vma)
