"""Registration without anybody to ask what is not registered.

PAGEMAP_SCAN tells the asynchronous backend what is not registered. Under synchronous protection
it tells nothing, and before Linux 6.7 there is none. So what may be new is

    lines of maps that were not there before    a mapping that came, grew, was cut or merged
    VMAs with bits and no registration          the sweep finds those (c/protect.c)
    VMAs that refused to be protected           the rest: they have pages without bits only

Nothing depends on finding all of it at once. Pages of a VMA that is not registered have no bit,
and are listed in every iteration until it is.

That leaves time to be careful. Every mapping of a file is a border here, mappings of files come
and go, and a border that went just now would let a call split a mapping (c/register.c). So a gap
is registered only between borders that are expected to last:

    the program and its libraries, the kernel's own      from the beginning
    another mapping of a file                            when it is a second old
    whatever it is, where some of it were seen to go     when it is far older than those were
"""

from __future__ import annotations

import time

from ..model.pageset import PageSet
from ..native import scan
from ..native.layout import EXEC, SHARED, Layout, Vma
from .registrar import Refused, Registrar
from .untracked import is_shared_memory

# Seconds that a mapping of a file must have been there, and how many times older it must be than
# the oldest that was seen to go.
_PATIENCE = 1.0
_FACTOR = 20.0
_MOST_PATIENCE = 60.0


def _file(vma: Vma) -> tuple[object, ...]:
    return (*vma.device, vma.inode)


class SyncRegistrar(Registrar):
    """Registers one address space, from outside, for synchronous protection."""

    asks = False

    def __init__(self, uffd: int, pagemap: int, limit: int, page_size: int) -> None:
        super().__init__(uffd, pagemap, limit, page_size)
        self._lines: frozenset[bytes] = frozenset()
        # Refused regions: since when, and whether they are code.
        self._seen: dict[Refused, tuple[float, bool]] = {}
        self._code: frozenset[tuple[object, ...]] = frozenset()  # files that are executed
        self._patience = {True: 0.0, False: _PATIENCE}  # seconds; code or not
        self._young: set[int] = set()  # borders that may not last

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
        self._review_refused(layout)
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
        self._note_ages(self.still_refused(layout))
        wanted, self.postponed = missing | self.postponed, self._none
        reachable = PageSet.from_ranges([(self._lowest, self._limit)], self._page_size)
        done = 0
        for start, end in (wanted & reachable) - self._refused_ranges():
            if end > done:
                done = self._register_around(start, end, layout)
        layout.refresh()
        also, self._also = self._also, self._none
        return also

    def _note_ages(self, refused: list[Refused]) -> None:
        """Which of the borders are expected to last, after those that did not."""
        now = time.monotonic()
        gone = self._seen.keys() - set(refused)
        for one in gone:
            since, code = self._seen.pop(one)
            patience = min(_FACTOR * (now - since), _MOST_PATIENCE)
            self._patience[code] = max(self._patience[code], _PATIENCE, patience)
        self._young = {
            border
            for one in refused
            if not self._lasts(one)
            for border in (one.vma.start, one.vma.end)
        }

    def _is_code(self, vma: Vma) -> bool:
        return _file(vma) in self._code or vma.name.startswith("[")

    def _lasts(self, one: Refused) -> bool:
        now = time.monotonic()
        since, code = self._seen.setdefault(one, (now, self._is_code(one.vma)))
        return now - since >= self._patience[code]

    def _registered(self, low: int, high: int) -> bool:
        if low < high and {low, high} & self._young:
            self._postpone(low, high)
            return True
        return super()._registered(low, high)

    def _register_alone(self, vma: Vma) -> None:
        super()._register_alone(vma)
        one = self.refused.get(vma.start)
        if one is not None and not self._lasts(one):
            self._young |= {vma.start, vma.end}

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
