"""Protection bits that no registration stands behind, and where they hide.

mremap() next to a registered neighbour merges the two VMAs and then takes the registration off the
merged one (mremap_userfaultfd_prep() -> userfaultfd_reset_ctx(), mm/userfaultfd.c, seen on 6.18):

    |AAAA|      |BB|     both registered, A protected
    |AAAABB|             mremap(B) to the end of A: one VMA, not registered, A's bits still set
    |AAAABB|             a write to A: the page becomes writable, its bit stays
    |AAAABB|             registered again: "protected", and writable; no write will ever show

So a bit found in a region that was registered a moment ago is a lie: it is taken off before
anything is collected. The same for what a tracker that died in between left behind.

That may happen at any moment, also between asking what is not registered and registering it. So no
call covers what was registered when that was asked: a neighbour that was stripped since stays so,
and the next question finds it. And whatever a call did cover counts as registered a moment ago, not
just what was found to be new: `registrar` returns all of it. (maps does not help. Let the neighbour
be stripped by what is moved onto a part of itself, and every line is as it was.)
"""

from __future__ import annotations

import errno

from ..model.pageset import PageSet
from ..native import scan
from ..native.error import NativeError

# A target that moves its mappings all the time may get in between; the rest waits.
_ROUNDS = 8


def clean(uffd: int, pagemap: int, fresh: PageSet) -> PageSet:
    """Takes the protection off every page in `fresh`, registered a moment ago.

    Nothing is found, most of the time, and finding that out costs a fast get. Returns where the
    target was in the way: to be treated as fresh again. Raises NativeError.
    """
    left: list[tuple[int, int]] = []
    for start, end in fresh:
        left += _clean_range(uffd, pagemap, start, end, fresh.page_size)
    return PageSet.from_ranges(left, fresh.page_size)


def _clean_range(
    uffd: int, pagemap: int, start: int, end: int, page_size: int
) -> list[tuple[int, int]]:
    for _ in range(_ROUNDS):
        written = scan.get(pagemap, start, end, mask=scan.Page.WRITTEN, ret=scan.Page.WRITTEN)
        if written == [(start, end, scan.Page.WRITTEN)]:
            return []
        whole = PageSet.from_ranges([(start, end)], page_size)
        gaps = whole - PageSet.from_ranges(((one[0], one[1]) for one in written), page_size)
        stale = [
            (first, last)
            for low, high in gaps
            for first, last, _ in scan.get(
                pagemap,
                low,
                high,
                mask=scan.Page.WPALLOWED | scan.Page.WRITTEN,
                # Empty huge pages (hugetlb) are never "written": they are not stale.
                anyof=scan.Page.PRESENT | scan.Page.SWAPPED,
                inverted=scan.Page.WRITTEN,
            )
        ]
        if not stale:
            return []
        try:
            for first, last in stale:
                scan.unprotect(uffd, first, last)
            return []
        except NativeError as error:
            # ENOENT: not registered, or not mapped, any more (fs/userfaultfd.c).
            if error.errno not in (errno.ENOENT, errno.EAGAIN):
                raise
    return [(start, end)]
