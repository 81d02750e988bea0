"""Private huge pages (hugetlb): what their scan does not say.

Zapping a huge page (MADV_DONTNEED) leaves the write-protect marker behind, so a page that now
reads zero stays "clean" for ever. Two looks make up for it:

    was present, is not            --> discarded
    present and clean, zero inside --> dirty: it may have been zapped and read again since

A page that is the file's own, below a private mapping of one, counts as absent: writes to the file
are seen by nobody here.

The second needs no copy of the page: a clean page is either what it was or all zero, so one word
that is not zero, the *witness*, proves that it is what it was. Eight bytes a page are read.

hugetlb is never swapped, and a part of a huge page cannot be protected: each region is scanned
whole, outside of the collector.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ..model.pageset import PageSet
from ..native import scan
from ..native.layout import Vma

_WORD = 8

#: Which present pages of a range were written: their ranges; they are protected again.
Clear = Callable[[int, int], list[tuple[int, int]]]


class HugePages:
    """The private hugetlb regions of one address space.

    mem_fd: /proc/PID/mem, open for reading, the caller's. clear: how written pages are found and
    protected, if not asynchronously.
    """

    def __init__(
        self, pagemap: int, mem_fd: int, page_size: int, clear: Clear | None = None
    ) -> None:
        self._pagemap = pagemap
        self._clear = clear or self._clear_async
        self._mem = mem_fd
        self._page_size = page_size
        self._witness: dict[int, int] = {}
        self._trusted = True

    def distrust(self) -> None:
        """What was found last time was told to nobody: all that is present is dirty, once."""
        self._trusted = False

    def collect(
        self, regions: Sequence[tuple[Vma, int]], known: PageSet
    ) -> tuple[PageSet, PageSet]:
        """Dirty and discarded pages of `regions` (VMA and bytes in one of its pages).

        known: pages that a consumer may hold. Raises NativeError.
        """
        dirty: list[tuple[int, int]] = []
        present: list[tuple[int, int]] = []
        for vma, _ in regions:
            dirty += self._clear(vma.start, vma.end)
            now = scan.get(
                self._pagemap,
                vma.start,
                vma.end,
                mask=scan.Page.PRESENT | scan.Page.FILE,
                inverted=scan.Page.FILE,
            )
            present += [(start, end) for start, end, _ in now]
        all_present = PageSet.from_ranges(present, self._page_size)
        all_dirty = PageSet.from_ranges(dirty, self._page_size) & all_present
        if not self._trusted:
            self._trusted, all_dirty = True, all_present
        extent = PageSet.from_ranges(((vma.start, vma.end) for vma, _ in regions), self._page_size)
        held = known & extent
        clean = (held & all_present) - all_dirty
        zero: list[tuple[int, int]] = []
        for vma, size in regions:
            zero += self._zero_pages(clean, vma, size)
        return all_dirty | PageSet.from_ranges(zero, self._page_size), held - all_present

    def _clear_async(self, start: int, end: int) -> list[tuple[int, int]]:
        written = scan.clear(
            self._pagemap,
            start,
            end,
            mask=scan.Page.WPALLOWED | scan.Page.WRITTEN,
            anyof=scan.Page.PRESENT,
        )
        return [(first, last) for first, last, _ in written]

    def _zero_pages(self, clean: PageSet, vma: Vma, size: int) -> list[tuple[int, int]]:
        inside = clean & PageSet.from_ranges([(vma.start, vma.end)], self._page_size)
        return [
            (page, page + size)
            for start, end in inside
            for page in range(start - start % size, end, size)
            if not self._has_witness(page, size)
        ]

    def _has_witness(self, page: int, size: int) -> bool:
        at = self._witness.get(page, 0)
        try:
            if any(os.pread(self._mem, _WORD, page + at)):
                return True
            content = os.pread(self._mem, size, page)
        except OSError:
            # PROT_NONE, on a kernel that lets only a debugger read it (proc_mem.force_override);
            # or unmapped since. Nobody knows: it is listed.
            return False
        rest = content.lstrip(b"\0")
        if not rest:
            self._witness.pop(page, None)
            return False
        self._witness[page] = (len(content) - len(rest)) & -_WORD
        return True
