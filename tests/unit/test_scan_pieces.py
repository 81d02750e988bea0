"""A get that finds much is made in pieces, for an mmap() of the target to wait little."""

from __future__ import annotations

import itertools
import mmap
import random
from pathlib import Path

import pytest

from tests.unit.test_collect import PAGE, Arena
from uffdtrackd.native import scan

#: Three pieces of 65 536 pages and a bit, in blocks of 2 MiB.
BLOCKS = 3 * 128 + 5


def empty_runs(arena: Arena, written: set[int]) -> list[tuple[int, int]]:
    """What was never written, as ranges."""
    borders = [-1, *sorted(written), arena.size // PAGE]
    gaps = ((a + 1, b) for a, b in itertools.pairwise(borders))
    return [(arena.start + a * PAGE, arena.start + b * PAGE) for a, b in gaps if a < b]


@pytest.mark.parametrize("count", [0, 1, 700, 3000])
def test_seams_do_not_show(count: int) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    arena = Arena(BLOCKS)
    try:
        written = set(rng.sample(range(arena.size // PAGE), count))
        for page in written:
            arena.write(page)
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            found = scan.get(
                pagemap.fileno(),
                arena.start,
                arena.start + arena.size,
                mask=scan.Page.PRESENT,
                inverted=scan.Page.PRESENT,
            )
    finally:
        arena.close()
    assert [(start, end) for start, end, _ in found] == empty_runs(arena, written)


def test_a_piece_may_end_where_all_ends() -> None:
    arena = Arena(2 * 128)
    assert mmap.PAGESIZE == PAGE
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            found = scan.get(pagemap.fileno(), arena.start, arena.start + arena.size)
    finally:
        arena.close()
    assert found == [(arena.start, arena.start + arena.size, 0)]
