"""The collector, on memory of this very process: what it reports is what was written.

The test makes a userfaultfd for itself, so nothing is attached to. The oracle is the list of
pages that the test wrote. Everything is done as on new kernels, and as on those whose scans say
nothing of holes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from uffdtrackd.model.pageset import PageSet
from uffdtrackd.native import scan
from uffdtrackd.native.collect import Collector
from uffdtrackd.tracking.probe import works

PAGE = 4096
BLOCK = 2 << 20
SYS_USERFAULTFD = 323
MADV_DONTNEED = 4
MADV_NOHUGEPAGE = 15

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]


class Arena:
    """Memory of ours, aligned to blocks, that nobody else touches."""

    def __init__(self, blocks: int, fd: int = -1) -> None:
        self.size = blocks * BLOCK
        flags = mmap.MAP_PRIVATE | (0x20 if fd < 0 else 0) | 0x4000  # ANONYMOUS, NORESERVE
        self._all = libc.mmap(None, self.size + BLOCK, 3, flags, fd & (2**64 - 1), 0)
        assert self._all != ctypes.c_void_p(-1).value
        self.start = -(-self._all // BLOCK) * BLOCK
        self.advise(0, self.size // PAGE, MADV_NOHUGEPAGE)

    def write(self, page: int) -> None:
        ctypes.memset(self.start + page * PAGE, random.randrange(256), 1)

    def advise(self, page: int, count: int, advice: int) -> None:
        address = ctypes.c_void_p(self.start + page * PAGE)
        assert libc.madvise(address, ctypes.c_size_t(count * PAGE), advice) == 0

    def close(self) -> None:
        libc.munmap(ctypes.c_void_p(self._all), ctypes.c_size_t(self.size + BLOCK))


class Fds(NamedTuple):
    """A userfaultfd for this process, its pagemap, and how the kernel is taken to be."""

    uffd: int
    pagemap: int
    silent_holes: bool


@pytest.fixture(params=[False, True], ids=["holes are told", "silent holes"])
def fds(request: pytest.FixtureRequest) -> Iterator[Fds]:
    if not works("pagemap_scan"):
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    if not request.param and not works("empty_huge_page"):
        pytest.skip("scans of this kernel say nothing of holes")
    uffd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | 1)
    assert uffd >= 0, "userfaultfd(UFFD_USER_MODE_ONLY) is needed, Linux 5.11"
    scan.enable_async(uffd)
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    yield Fds(uffd, pagemap, request.param)
    os.close(uffd)
    os.close(pagemap)


def tracked(fds: Fds, arena: Arena) -> Collector:
    scan.register(fds.uffd, arena.start, arena.start + arena.size)
    return Collector(fds.pagemap, scan.limit(fds.pagemap), fds.silent_holes)


def pages(runs: memoryview, arena: Arena) -> list[int]:
    """Page numbers in the arena, in the order of the report, so that a fault in it shows."""
    ranges = zip(runs[::2], runs[1::2], strict=True)
    return [
        (address - arena.start) // PAGE
        for start, end in ranges
        for address in range(start, end, PAGE)
    ]


def page_tables_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if "VmPTE" in line).split()[1])


def test_reports_exactly_what_was_written(fds: Fds) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    arena = Arena(32)
    count = arena.size // PAGE
    collector = tracked(fds, arena)
    for share in (0.5, 0.01, 0.9, 0.0, 0.3, 1.0, 0.001):
        written = sorted(draw.sample(range(count), int(count * share)))
        for page in written:
            arena.write(page)
        found = collector.collect()
        assert pages(found.dirty, arena) == written
        assert not found.discarded and not found.failed
    arena.close()


def test_many_runs_come_once_and_in_order(fds: Fds) -> None:
    # The kernel's walk_end is behind where it stopped after such a walk: see native/c/scan.c.
    arena = Arena(64)
    count = arena.size // PAGE
    collector = tracked(fds, arena)
    for first in (0, 1, 0):
        for page in range(first, count, 2):
            arena.write(page)
        assert pages(collector.collect().dirty, arena) == list(range(first, count, 2))
    arena.close()


def test_pieces_of_a_scan_make_one_answer(fds: Fds) -> None:
    # A scan is cut into pieces of at most 128 MiB, less where much is dirty (native/c/collect.c).
    arena = Arena(96)
    count, per_block = arena.size // PAGE, BLOCK // PAGE
    collector = tracked(fds, arena)
    ctypes.memset(arena.start, 1, arena.size)
    collector.collect()
    for gone in (range(0), range(64, 66), range(95, 96)):
        ctypes.memset(arena.start, 2, arena.size)
        for block in gone:
            arena.advise(block * per_block, per_block, MADV_DONTNEED)
        found = collector.collect()
        lost = [
            page for block in gone for page in range(block * per_block, (block + 1) * per_block)
        ]
        assert pages(found.discarded, arena) == lost
        assert pages(found.dirty, arena) == sorted(set(range(count)) - set(lost))
        assert len(found.dirty) // 2 == 1 + bool(lost and lost[-1] < count - 1)
    arena.close()


def test_untouched_memory_costs_no_page_tables(fds: Fds) -> None:
    arena = Arena(8192)  # 16 GiB of address space: 32 MiB of page tables if it were protected
    collector = tracked(fds, arena)
    for block in (0, 4000, 8191):
        arena.write(block * BLOCK // PAGE + 7)
    before = page_tables_kib()
    expected = [block * BLOCK // PAGE + 7 for block in (0, 4000, 8191)]
    assert pages(collector.collect().dirty, arena) == expected
    assert not collector.collect().dirty
    assert page_tables_kib() - before < 256
    assert collector.span_bytes == 3 * BLOCK
    arena.close()


def test_reading_is_not_writing(fds: Fds) -> None:
    arena = Arena(2)
    collector = tracked(fds, arena)
    arena.write(3)
    collector.collect()
    for page in range(0, 512, 5):
        ctypes.string_at(arena.start + page * PAGE, 1)
    assert not collector.collect().dirty
    arena.close()


def test_emptied_blocks_are_discarded_and_come_back(fds: Fds) -> None:
    arena = Arena(6)
    collector = tracked(fds, arena)
    for page in range(6 * 512):
        arena.write(page)
    collector.collect()
    arena.advise(512, 3 * 512, MADV_DONTNEED)  # blocks 1..3 in full
    arena.advise(4 * 512, 10, MADV_DONTNEED)  # ten pages of block 4
    arena.write(2 * 512 + 9)  # block 2 is not empty
    found = collector.collect()
    assert pages(found.discarded, arena) == [*range(512, 1024), *range(1536, 2048)]
    assert pages(found.dirty, arena) == [*range(1024, 1536), *range(2048, 2058)]
    assert collector.span_bytes == 4 * BLOCK
    assert not collector.collect().dirty
    arena.write(600)
    assert pages(collector.collect().dirty, arena) == [600]
    assert collector.span_bytes == 5 * BLOCK
    arena.close()


def test_emptied_pages_read_as_nothing(fds: Fds) -> None:
    arena = Arena(1)
    collector = tracked(fds, arena)
    for page in range(512):
        arena.write(page)
    collector.collect()
    arena.advise(5, 3, MADV_DONTNEED)
    assert pages(collector.collect().dirty, arena) == [5, 6, 7]
    arena.close()


def test_clean_pages_of_a_file_are_told_apart(fds: Fds, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * BLOCK)
    with path.open("rb") as file:
        arena = Arena(1, file.fileno())
    collector = tracked(fds, arena)
    for page in (4, 5, 300):
        ctypes.string_at(arena.start + page * PAGE, 1)
    arena.write(5)
    found = collector.collect()
    assert pages(found.dirty, arena) == [5]
    assert {4, 300} <= set(pages(found.file, arena)) and 5 not in pages(found.file, arena)
    arena.write(4)
    found = collector.collect()
    assert pages(found.dirty, arena) == [4] and not found.file
    arena.close()


def test_excluded_ranges_are_left_alone(fds: Fds) -> None:
    arena = Arena(3)
    collector = tracked(fds, arena)
    middle = arena.start + BLOCK
    collector.exclude(PageSet.from_ranges([(middle, middle + BLOCK)]).runs)
    for page in (1, 513, 1025):
        arena.write(page)
    assert pages(collector.collect().dirty, arena) == [1, 1025]
    arena.close()


def test_a_failed_call_makes_its_range_dirty(fds: Fds) -> None:
    arena = Arena(2)
    collector = tracked(fds, arena)
    for page in range(1024):
        arena.write(page)
    collector.collect()
    pagemap = fds.pagemap
    kept = os.dup(pagemap)
    with open("/dev/null") as null:
        os.dup2(null.fileno(), pagemap)  # PAGEMAP_SCAN: ENOTTY
    found = collector.collect()
    assert pages(found.dirty, arena) == list(range(1024))
    assert found.failed
    os.dup2(kept, pagemap)
    os.close(kept)
    arena.write(17)
    assert pages(collector.collect().dirty, arena) == [17]
    arena.close()


def test_forgotten_blocks_are_found_again(fds: Fds) -> None:
    arena = Arena(4)
    collector = tracked(fds, arena)
    for page in range(0, 2048, 3):
        arena.write(page)
    collector.collect()
    whole = PageSet.from_ranges([(arena.start + BLOCK + PAGE, arena.start + 3 * BLOCK)])
    collector.forget(whole.runs)
    assert collector.span_bytes == 3 * BLOCK  # only block 2 lies wholly inside
    arena.write(1030)
    assert pages(collector.collect().dirty, arena) == [1030]
    arena.close()
