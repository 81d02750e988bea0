"""Protection bits that no registration stands behind, and where they hide.

mremap() next to a registered neighbour merges the two VMAs and then takes the registration off the
merged one (mremap_userfaultfd_prep() -> userfaultfd_reset_ctx(), mm/userfaultfd.c, seen on 6.18):

    |AAAA|      |BB|     both registered, A protected
    |AAAABB|             mremap(B) to the end of A: one VMA, not registered, A's bits still set
    |AAAABB|             a write to A: the page becomes writable, its bit stays
    |AAAABB|             registered again: "protected", and writable; no write will ever show

So a bit found in a region that was registered a moment ago is a lie: it is taken off before
anything is collected. The same for what a tracker that died in between left behind.

There is a moment between asking what is not registered and registering the gap around it. A
neighbour that loses its registration just then gets it back unnoticed. But the VMA that swallowed
it has part of its range from elsewhere, which maps before and after show; unless what is moved onto
a part of the neighbour leaves every line as it was. So the question is asked once more just before
the call, and what is left are some microseconds (docs/soundness.md).
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterator

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


def swallowed(before: bytes, after: bytes) -> Iterator[tuple[int, int]]:
    """VMAs of maps `after` of which some part was something else, or nothing, in maps `before`.

    VMAs that only merged or were cut between the two are none of these.
    """
    old = before.splitlines()
    changed = set(after.splitlines()).difference(old)
    if not changed:
        return
    starts = [int(line[: line.index(b"-")], 16) for line in old]
    for line in changed:
        start, end, place = _parse(line)
        at = start
        index = max(bisect_right(starts, start) - 1, 0)
        while at < end and index < len(old):
            low, high, old_place = _parse(old[index])
            if low > at or (high > at and old_place != place):
                break
            at = max(at, high)
            index += 1
        if at < end:
            yield start, end


def _parse(line: bytes) -> tuple[int, int, tuple[object, ...]]:
    """start, end, and what must agree for two VMAs to be parts of one."""
    fields = line.split(maxsplit=5)
    start, _, end = fields[0].partition(b"-")
    low = int(start, 16)
    # The offset of a file at address 0, so that neighbours agree.
    shift = int(fields[2], 16) - low if fields[4] != b"0" else 0
    return low, int(end, 16), (fields[1], shift, *fields[3:])
