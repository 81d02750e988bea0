"""Rows 4-10, 34, 35 of docs/soundness.md: mappings that come, go, move, and merge."""

from __future__ import annotations

import pytest

from tests.live.row import Row
from tests.procfs import PAGE, read_maps
from tests.puppet import (
    ANON,
    MAP_FIXED,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_NONE,
    PROT_READ,
    RW,
    Puppet,
)

pytestmark = [pytest.mark.live, pytest.mark.both_backends]


def test_row_04_new_mapping(row: Row) -> None:
    row.watch()
    at = row.puppet.mmap(8)
    row.puppet.fill(at, 4)
    row.judge((at, 4))
    row.writes_are_seen(at, 8)


def test_row_04_brk(row: Row) -> None:
    """A heap that grows is another, unregistered VMA (VMAs merge only with the same tracker)."""
    row.watch()
    end = row.puppet.call("brk", 0)
    for _ in range(2):
        grown = row.puppet.call("brk", end + 4 * PAGE)
        assert grown == end + 4 * PAGE
        row.writes_are_seen((end + PAGE - 1) & -PAGE, 3)
        end = grown


def test_row_04_beside_a_registered_one(row: Row) -> None:
    at = row.puppet.mmap(16, PROT_NONE)
    low = row.puppet.mmap(4, at=at + 4 * PAGE)
    row.puppet.fill(low, 4)
    row.watch()
    for place in (at, at + 8 * PAGE):
        row.puppet.mmap(4, at=place)
        row.writes_are_seen(place, 4)
    row.writes_are_seen(at, 12)


@pytest.mark.parametrize("pages", [1, 3, 8])
@pytest.mark.parametrize("how", ["unmap", "over"])
def test_row_05_mapped_again_at_the_same_place(row: Row, how: str, pages: int) -> None:
    """maps is the same to the letter; the content is not. Part of a VMA, and all of it."""
    at = row.puppet.alone(8)
    row.puppet.fill(at, 8)
    row.watch()
    before = [str(vma) for vma in read_maps(row.puppet.pid)]
    if how == "unmap":
        row.puppet.munmap(at, pages)
    row.puppet.mmap(pages, at=at)
    # A part merges with the rest only when it is registered too.
    assert pages < 8 or [str(vma) for vma in read_maps(row.puppet.pid)] == before
    row.judge((at, pages))
    assert [str(vma) for vma in read_maps(row.puppet.pid)] == before
    row.puppet.mmap(pages, at=at)
    row.puppet.fill(at, 1)
    row.judge((at, 1))
    row.writes_are_seen(at, 8)


def test_row_05_another_file_at_the_same_place(row: Row) -> None:
    first, second = row.puppet.memfd(4), row.puppet.memfd(4)
    at = row.puppet.mmap(4, RW, MAP_SHARED, first)
    row.puppet.fill(at, 4)
    row.watch()
    row.puppet.mmap(4, RW, MAP_SHARED, second, at=at)
    row.judge((at, 4))
    row.puppet.mmap(4, RW, MAP_SHARED, first, at=at)
    row.judge((at, 4))


@pytest.mark.parametrize("written", [False, True])
def test_row_06_moved(row: Row, written: bool) -> None:
    at = row.puppet.alone(8)
    there = row.puppet.alone(8, PROT_NONE)
    row.puppet.fill(at, 8)
    row.watch()
    row.puppet.call("mremap", at, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there)
    if written:
        row.puppet.fill(there, 2)
    row.judge((at, 8), (there, 8))
    row.writes_are_seen(there, 8)


def test_row_06_moved_away_and_back(row: Row) -> None:
    """Two pieces change places: maps and bits are what they were."""
    at, spare = row.puppet.alone(8), row.puppet.alone(4, PROT_NONE)
    row.puppet.fill(at, 8)
    row.watch()
    for source, target in ((at, spare), (at + 4 * PAGE, at), (spare, at + 4 * PAGE)):
        row.puppet.call("mremap", source, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target)
    row.judge((at, 8))
    row.writes_are_seen(at, 8)


def test_row_08_moved_without_unmapping(row: Row) -> None:
    at, there = row.puppet.alone(8), row.puppet.alone(8, PROT_NONE)
    row.puppet.fill(at, 8)
    row.watch()
    flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
    row.puppet.call("mremap", at, 8 * PAGE, 8 * PAGE, flags, there)
    row.judge((at, 8), (there, 8))
    row.writes_are_seen(at, 8)
    row.writes_are_seen(there, 8)


def test_row_09_grown_in_place(row: Row) -> None:
    at = row.puppet.alone(8)
    row.puppet.munmap(at + 4 * PAGE, 4)
    row.puppet.fill(at, 4)
    row.watch()
    assert row.puppet.call("mremap", at, 4 * PAGE, 8 * PAGE, 0, 0) == at
    row.writes_are_seen(at + 3 * PAGE, 5)


def test_row_09_stack(row: Row) -> None:
    row.watch()
    (stack,) = [vma for vma in read_maps(row.puppet.pid) if vma.label == "[stack]"]
    row.puppet.ask(f"deep {1 << 20}")
    (grown,) = [vma for vma in read_maps(row.puppet.pid) if vma.label == "[stack]"]
    assert grown.start < stack.start
    row.judge((grown.end - (1 << 20), 128))


def test_row_10_gone(row: Row) -> None:
    at = row.puppet.alone(8)
    row.puppet.fill(at, 8)
    row.watch()
    assert row.puppet.call("mremap", at, 8 * PAGE, 6 * PAGE, 0, 0) == at
    row.judge((at + 6 * PAGE, 2))
    row.puppet.munmap(at + 2 * PAGE, 2)
    row.judge((at + 2 * PAGE, 2))
    row.puppet.munmap(at, 8)
    row.judge((at, 2), (at + 4 * PAGE, 2))


def _borders(puppet: Puppet) -> list[tuple[int, int]]:
    return [(vma.start, vma.end) for vma in read_maps(puppet.pid)]


def test_row_34_no_mapping_is_ever_split(row: Row) -> None:
    """A VMA cut in two by a tracker makes the target's next mremap() over it fail."""
    puppet = row.puppet
    places = [puppet.alone(16) for _ in range(8)]
    for at in places:
        puppet.fill(at, 16)
    row.watch()
    for step in range(8):
        at = places[step]
        puppet.munmap(at, 16)
        puppet.mmap(16, at=at)
        puppet.fill(at, step + 1)
        row.step()
        assert (at, at + 16 * PAGE) in _borders(puppet)
        there = puppet.alone(16, PROT_NONE)
        flags = MREMAP_MAYMOVE | MREMAP_FIXED
        assert puppet.call("mremap", at, 16 * PAGE, 16 * PAGE, flags, there) == there
        places[step] = there
    row.judge(*((at, 1) for at in places[-1:]))


def test_row_34_part_of_a_mapping_made_new(row: Row) -> None:
    """The middle of a registered VMA is mapped over; the three must be one again when settled."""
    at = row.puppet.alone(12)
    row.puppet.fill(at, 12)
    row.watch()
    row.puppet.mmap(4, at=at + 4 * PAGE)
    row.judge((at + 4 * PAGE, 4))
    assert (at, at + 12 * PAGE) in _borders(row.puppet)
    row.writes_are_seen(at, 12)


@pytest.mark.parametrize("dontunmap", [False, True])
@pytest.mark.parametrize("side", ["behind", "before"])
def test_row_35_moved_beside_a_neighbour(row: Row, side: str, dontunmap: bool) -> None:
    """The two merge, and the neighbour loses its registration but keeps its bits."""
    here = row.puppet.alone(12, PROT_NONE)
    stays, comes = (here + 4 * PAGE, here + 8 * PAGE if side == "behind" else here)
    row.puppet.mmap(4, at=stays)
    source = row.puppet.alone(4)
    row.puppet.fill(stays, 4)
    row.puppet.fill(source, 4)
    row.watch()
    flags = MREMAP_MAYMOVE | MREMAP_FIXED | (MREMAP_DONTUNMAP if dontunmap else 0)
    # Page offsets of anonymous VMAs must agree to merge: the source is made from the neighbour.
    row.puppet.call("mremap", source, 4 * PAGE, 4 * PAGE, flags, comes)
    row.puppet.fill(stays, 1)
    row.judge((stays, 1), (comes, 4))
    for _ in range(3):
        row.writes_are_seen(stays, 4)
        row.writes_are_seen(comes, 4)


def test_row_35_the_neighbour_comes_home(row: Row) -> None:
    """Cut off, moved away and back: the pieces do merge, and the one that stayed is not missed."""
    at, spare = row.puppet.alone(8), row.puppet.alone(4, PROT_NONE)
    row.puppet.fill(at, 8)
    row.watch()
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    row.puppet.call("mremap", at + 4 * PAGE, 4 * PAGE, 4 * PAGE, flags, spare)
    row.step()
    row.puppet.call("mremap", spare, 4 * PAGE, 4 * PAGE, flags, at + 4 * PAGE)
    row.puppet.fill(at, 2)
    row.judge((at, 2), (at + 4 * PAGE, 4))
    assert (at, at + 8 * PAGE) in _borders(row.puppet)
    for _ in range(3):
        row.writes_are_seen(at, 8)


def test_census_prot_none_to_writable(row: Row) -> None:
    at = row.puppet.alone(8, PROT_NONE)
    row.watch()
    row.puppet.call("mprotect", at + 2 * PAGE, 4 * PAGE, RW)
    row.writes_are_seen(at + 2 * PAGE, 4)
    row.puppet.call("mprotect", at, 8 * PAGE, PROT_READ)
    row.step()
    row.puppet.call("mprotect", at, 8 * PAGE, RW)
    row.writes_are_seen(at, 8)


@pytest.mark.parametrize("pages", [1, 32])
def test_row_34_below_the_lowest_address(row: Row, pages: int, backend: str) -> None:
    """No call reaches the first half of such a mapping (vm.mmap_min_addr): so none the second."""
    size = pages * PAGE
    assert row.puppet.call("mmap", 0, size, RW, ANON | MAP_FIXED, -1, 0) == 0
    other = row.puppet.alone(8)
    row.puppet.fill(0, pages)
    row.watch()
    region = row.region(0)
    assert (region.end, str(region.tracking)) == (size, "always")
    assert str(row.region(other).tracking) == backend
    row.writes_are_seen(0, pages)
    row.writes_are_seen(other, 8)
