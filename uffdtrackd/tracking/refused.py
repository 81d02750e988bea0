"""What cannot be registered, and the gaps between.

    lowest         refused            refused      untried                 limit
    |---------------[vvar]-------------[~~~]--------[r--s]------------------|
    |<--- a gap --->|     |<-- gap -->|     | gap? |      |<---- gap? ----->|

A region is refused when the kernel has said so, for as long as maps shows it to the letter. One
that may be refused but is so young that it may go any moment is not tried yet: a call for it alone
would split what comes in its place. Gaps that end at a young region may go as well (`borders`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from ..model.pageset import PageSet
from ..native.layout import Layout, Vma
from .borders import Borders


@dataclass(frozen=True, slots=True)
class Refused:
    """A region that the kernel does not let us register, and why.

    errno: EINVAL its kind cannot be (vdso, rings), EPERM a shared mapping that can never become
    writable, EBUSY it belongs to another userfaultfd (ioctl_userfaultfd(2)); of our own making:
    EADDRNOTAVAIL it begins below the lowest address, so that no call can cover all of it.
    """

    vma: Vma
    errno: int


class RefusedRegions:
    """Of one address space, between two addresses.

    regions: the refused ones, by start. sort: how long a region must have been seen to be trusted
    to last, see `borders`.
    """

    def __init__(
        self, lowest: int, limit: int, page_size: int, sort: Callable[[Vma], float]
    ) -> None:
        self.regions: dict[int, Refused] = {}
        self._lowest = lowest
        self._limit = limit
        self._page_size = page_size
        self._sort = sort
        self._borders = Borders()
        self._untried: dict[int, Vma] = {}
        self._young: set[int] = set()  # ends of regions that may go

    def __len__(self) -> int:
        return len(self.regions) + len(self._untried)

    def __contains__(self, start: int) -> bool:
        return start in self.regions or start in self._untried

    def review(self, layout: Layout) -> None:
        """Drops the refused regions that are not in maps any more, as they were, to the letter.

        And adds those that cannot even be tried.
        """
        mapped = layout.mapped()
        if mapped and mapped[0] < self._lowest:
            for vma in layout.vmas():
                if vma.start < self._lowest:
                    self.regions[vma.start] = Refused(vma, errno.EADDRNOTAVAIL)
        self._borders.review(layout)
        if not self.regions:
            return
        text = b"\n" + layout.text()
        for start, refused in list(self.regions.items()):
            line = refused.vma.line.encode(errors="surrogateescape")
            if b"\n" + line + b"\n" not in text:
                del self.regions[start]

    def begin(self) -> None:
        """All of them are as old as they are now; what is untried may be tried."""
        self._untried = {}
        self._young = set()
        for one in self.regions.values():
            self._note_age(one.vma)

    def add(self, vma: Vma, why: int) -> None:
        """why: an errno."""
        self.regions[vma.start] = Refused(vma, why)
        self._note_age(vma)

    def wait_for(self, vma: Vma) -> bool:
        """Whether a region that may be refused should not be tried yet. It ends gaps until then."""
        if self._borders.lasts(vma, self._sort(vma)):
            return False
        self._untried[vma.start] = vma
        self._young |= {vma.start, vma.end}
        return True

    def ranges(self) -> PageSet:
        """All that is refused, and what lies below the lowest address."""
        ranges = ((one.vma.start, one.vma.end) for one in self.regions.values())
        return PageSet.from_ranges([(0, self._lowest), *ranges], self._page_size)

    def gap(self, start: int, end: int, *, lasting: bool = False) -> tuple[int, int]:
        """The gap that holds [start, end). lasting: between regions that will not go."""
        low, high = self._lowest, self._limit
        for vma in [*(one.vma for one in self.regions.values()), *self._untried.values()]:
            if lasting and vma.start in self._young and vma.end in self._young:
                continue
            if vma.end <= start:
                low = max(low, vma.end)
            elif vma.start >= end:
                high = min(high, vma.start)
        return low, high

    def may_go(self, low: int, high: int) -> bool:
        """Whether one of the ends of this gap may."""
        return low in self._young or high in self._young

    def _note_age(self, vma: Vma) -> None:
        if not self._borders.lasts(vma, self._sort(vma)):
            self._young |= {vma.start, vma.end}
