"""What of a frozen process a copy of it must hold, and how to look without disturbing it.

    region of the iteration ----+
    page tables  (presence) ----+--> Expectation: four sets of pages
    mapped file  (SEEK_DATA) ---+
    what the copy holds --------+

    A page that is ...                       is checked by
    ---------------------------------------  ----------------------------------------------------
    populated, or held over existing data    reading it in the target: equal to the copy?
    held, but empty in the target            the copy alone: it must read zero, as the target does
    not held, own page over a file           reading it in the target: equal to the file?
    held, and nobody can tell if it exists   nothing: `unverified`

Reading an empty page of shared memory would allocate it in the target, so whether one exists is
asked of the object behind the mapping, not of the mapping. The kernel's write-protect markers
look like swapped-out pages; on anonymous memory reading one is harmless.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..model.pageset import PageSet
from ..model.region import Kind, Region, Tracking
from ..native.presence import presence

_NO_BACKING = frozenset({Kind.ANON, Kind.HEAP, Kind.STACK, Kind.SPECIAL})

# Above it the kernel maps only [vsyscall], which holds no data and no page table of the target.
_USER_END = 1 << 63


@dataclass
class Expectation:
    """Pages to check, by how they are checked.

    compare: read in the target and compared with the copy. zero: must read zero in the copy.
    of_file: (file, shift, pages): not held; must equal the file at address + shift.
    unverified: held or possibly so, cannot be checked.
    untracked: populated pages of mappings that the iteration has no region for.
    """

    page_size: int
    compare: list[PageSet] = field(default_factory=list)
    zero: list[PageSet] = field(default_factory=list)
    of_file: list[tuple[str, int, PageSet]] = field(default_factory=list)
    unverified: list[PageSet] = field(default_factory=list)
    untracked: list[PageSet] = field(default_factory=list)


def expect(pid: int, regions: Sequence[Region], held: PageSet) -> Expectation:
    """What a copy that holds `held` must show of the frozen process `pid`.

    Raises OSError (NativeError) if the process cannot be looked at.
    """
    wanted = Expectation(held.page_size)
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for region in _joined(regions):
            if region.start < _USER_END:
                _expect_region(wanted, pid, pagemap, region, held)
        covered = PageSet.from_ranges(((r.start, r.end) for r in regions), held.page_size)
        for start, end in PageSet.from_ranges(_mapped(pid), held.page_size) - covered:
            own, _ = _presence(pagemap, start, end, held.page_size)
            wanted.untracked.append(own)
    finally:
        os.close(pagemap)
    return wanted


def union(sets: Sequence[PageSet], page_size: int) -> PageSet:
    """All pages of the sets; each set lies in another place."""
    return PageSet.from_ranges((run for pages in sets for run in pages), page_size)


def _joined(regions: Sequence[Region]) -> Iterator[Region]:
    """Regions to check; neighbours without backing as one, as heaps are cut into thousands."""
    last: Region | None = None
    for region in regions:
        if region.tracking is Tracking.SKIP:
            continue
        if (
            last
            and last.end == region.start
            and last.kind in _NO_BACKING
            and region.kind in _NO_BACKING
        ):
            last = replace(last, end=region.end)
            continue
        if last:
            yield last
        last = region
    if last:
        yield last


def _expect_region(
    wanted: Expectation, pid: int, pagemap: int, region: Region, held: PageSet
) -> None:
    size = held.page_size
    whole = PageSet.from_ranges([(region.start, region.end)], size)
    mine = held & whole
    own, file = _presence(pagemap, region.start, region.end, size)
    shared = region.perms.endswith("s")

    if region.kind is Kind.SHARED_FILE:
        # A page that is not held equals its file by nature: it is the file's page.
        wanted.compare.append(mine)
    elif region.kind is Kind.HUGETLB and shared:
        # hugetlbfs does not tell data from holes, and reading a hole takes a huge page.
        wanted.compare.append(file)
        wanted.unverified.append(mine - file)
    elif region.kind in _NO_BACKING or region.kind is Kind.HUGETLB:
        wanted.compare.append(own | file)
        wanted.zero.append(mine - own - file)
    else:
        path = _object_path(pid, region)
        data = _data(path, region, size) if path else None
        if data is None:
            # `own` may be no more than a marker, and reading over that may allocate.
            sure = file if shared else (own | file) & mine
            wanted.compare.append(sure)
            wanted.unverified.append((mine if shared else mine | own) - sure)
        elif shared:
            wanted.compare.append(data)
            wanted.zero.append(mine - data)
        else:
            wanted.compare.append(mine & (own | data))
            wanted.zero.append(mine - own - data)
            if path and own - mine:
                wanted.of_file.append((path, region.offset - region.start, own - mine))


def _presence(pagemap: int, start: int, end: int, page_size: int) -> tuple[PageSet, PageSet]:
    own, file = presence(pagemap, start, end)
    return PageSet.from_runs(own, page_size), PageSet.from_runs(file, page_size)


def _object_path(pid: int, region: Region) -> str | None:
    """A path that opens the very file that the region maps, None if there is none for us."""
    # map_files follows no name, so it also opens what was deleted; it needs
    # CAP_CHECKPOINT_RESTORE (proc_pid_map_files(5)). The name is for those without.
    for path in (f"/proc/{pid}/map_files/{region.start:x}-{region.end:x}", region.label):
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            continue
        # Opening a device may do something.
        same = stat.S_ISREG(found.st_mode) and found.st_ino == region.inode
        if same and os.access(path, os.R_OK):
            return path
    return None


def _data(path: str, region: Region, page_size: int) -> PageSet | None:
    """Addresses of the pages that exist in the file (lseek(2), SEEK_DATA); None: no telling."""
    found: list[tuple[int, int]] = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        end = region.offset + region.end - region.start
        at = region.offset
        while at < end:
            at = os.lseek(fd, at, os.SEEK_DATA)
            hole = os.lseek(fd, at, os.SEEK_HOLE)
            found.append((at, min(hole, end)))
            at = hole
    except OSError as error:
        # ENXIO: no data from here to the end of the file.
        if error.errno != errno.ENXIO:
            return None
    finally:
        os.close(fd)
    shift = region.start - region.offset
    return PageSet.from_ranges(
        ((start + shift, stop + shift) for start, stop in found if start < stop), page_size
    )


def _mapped(pid: int) -> Iterator[tuple[int, int]]:
    with open(f"/proc/{pid}/maps", "rb") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split(b" ", 1)[0].split(b"-"))
            if start < _USER_END:
                yield start, end
