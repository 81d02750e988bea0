"""PageSet as its callers see it: the set operations, the widening, the formats, the errors."""

from __future__ import annotations

import operator
import random
import subprocess
import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from uffdtrackd.model.errors import UsageError
from uffdtrackd.model.pageset import PageSet

PAGE = 4096
BASE = 0x7FFF_0000_0000
numbers = st.sets(st.integers(0, 300), max_size=150)


def set_of(pages: set[int]) -> PageSet:
    return PageSet.from_ranges((BASE + n * PAGE, BASE + (n + 1) * PAGE) for n in pages)


def pages_of(s: PageSet) -> set[int]:
    return {n for start, end in s for n in range((start - BASE) // PAGE, (end - BASE) // PAGE)}


@given(numbers, numbers)
def test_set_operations(a: set[int], b: set[int]) -> None:
    x, y = set_of(a), set_of(b)
    assert pages_of(x | y) == a | b
    assert pages_of(x & y) == a & b
    assert pages_of(x - y) == a - b
    assert (x == y) == (a == b)
    assert bool(x) == bool(a)
    assert len(x) == len(a)
    assert x.bytes == len(a) * PAGE
    assert x.run_count == len(list(x)) == len(x.runs) // 2
    for n in range(-1, 302):
        for byte in (0, PAGE - 1):
            assert (BASE + n * PAGE + byte in x) == (n in a)


@given(numbers, st.integers(-500, 500))
def test_shifted(a: set[int], by: int) -> None:
    assert pages_of(set_of(a).shifted(by * PAGE)) == {n + by for n in a}


@pytest.mark.parametrize("by", [1, -2 * PAGE, 1 << 64])
def test_what_cannot_be_shifted(by: int) -> None:
    with pytest.raises(UsageError, match="cannot be moved"):
        PageSet.from_ranges([(PAGE, 2 * PAGE)]).shifted(by)


def test_iteration_is_sorted_merged_half_open() -> None:
    s = PageSet.from_ranges([(9 * PAGE, 10 * PAGE), (0, PAGE), (PAGE, 2 * PAGE)])
    assert list(s) == [(0, 2 * PAGE), (9 * PAGE, 10 * PAGE)]
    assert 2 * PAGE not in s and -1 not in s and "0" not in s


def test_unaligned_ranges_are_widened_and_empty_ones_dropped() -> None:
    s = PageSet.from_ranges([(PAGE - 1, PAGE + 1), (5 * PAGE + 7, 5 * PAGE + 7)])
    assert list(s) == [(0, 2 * PAGE)]
    big = PageSet.from_ranges([(1, 2)], page_size=2 << 20)
    assert list(big) == [(0, 2 << 20)] and len(big) == 1


@pytest.mark.parametrize(
    "ranges",
    [[(2, 1)], [(-1, 5)], [(0, 1 << 64)], [(0, (1 << 64) - 1)], [(1, 2, 3)], [("a", "b")], [5]],
)
def test_what_is_no_range_is_a_usage_error(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(UsageError):
        PageSet.from_ranges(ranges)


def test_page_sizes_do_not_mix() -> None:
    small, big = PageSet.from_ranges([(0, PAGE)]), PageSet.from_ranges([(0, PAGE)], 2 << 20)
    for combine in (operator.or_, operator.and_, operator.sub):
        with pytest.raises(UsageError, match="do not combine"):
            combine(small, big)
    assert small != big
    for bad in (0, -4096, 4095):
        with pytest.raises(UsageError, match="power of two"):
            PageSet(bad)


def test_runs_are_taken_without_a_copy() -> None:
    words = array("Q", [0, PAGE, 4 * PAGE, 9 * PAGE])
    s = PageSet.from_runs(words)
    words[1] = 2 * PAGE
    assert list(s) == [(0, 2 * PAGE), (4 * PAGE, 9 * PAGE)]
    assert s.runs.format == "Q" and s.runs.readonly
    assert PageSet.from_runs(bytes(s.runs)) == s == PageSet.from_runs(s.runs)
    assert not PageSet.from_runs(b"")
    with pytest.raises(UsageError):
        PageSet.from_runs(bytes(24))


def test_bitmap_order_and_borders() -> None:
    s = PageSet.from_ranges([(0, PAGE), (9 * PAGE, 10 * PAGE), (64 * PAGE, 70 * PAGE)])
    bitmap = s.to_bitmap(0, 66 * PAGE)
    assert bitmap == bytes([1, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0])
    assert PageSet.from_bitmap(bitmap, 0) == s & PageSet.from_ranges([(0, 66 * PAGE)])
    assert s.to_bitmap(PAGE, PAGE) == b""
    for start, end in ((1, PAGE), (0, 5), (PAGE, 0), (-PAGE, 0), (0, 1 << 64)):
        with pytest.raises(UsageError):
            s.to_bitmap(start, end)
    for bits, start in ((b"123", 0), (bytes(8), 1), (bytes(8), -PAGE), (bytes(8), 2**64 - PAGE)):
        with pytest.raises(UsageError):
            PageSet.from_bitmap(bits, start)


@given(numbers)
def test_roaring_is_what_pyroaring_reads(a: set[int]) -> None:
    s = set_of(a)
    assert set(BitMap64.deserialize(s.to_roaring())) == {BASE // PAGE + n for n in a}
    assert PageSet.from_roaring(s.to_roaring()) == s
    plain = BitMap64(BASE // PAGE + n for n in a)
    assert PageSet.from_roaring(plain.serialize()) == s


def test_roaring_bytes_are_those_of_the_specification() -> None:
    """RoaringFormatSpec by hand: 64-bit count and key, run cookie, flags, key, count, runs."""
    s = PageSet.from_ranges([(5 * PAGE, 105 * PAGE), ((3 << 32) * PAGE, ((3 << 32) + 1) * PAGE)])
    word = int.to_bytes
    assert s.to_roaring() == (
        word(2, 8, "little")  # buckets of 2^32 pages
        + word(0, 4, "little")  # high bits of the first
        + word(12347, 2, "little")  # cookie: has run containers
        + word(0, 2, "little")  # containers - 1
        + b"\1"  # container 0 is one of runs
        + word(0, 2, "little")  # its key
        + word(99, 2, "little")  # pages - 1
        + word(1, 2, "little")  # runs
        + word(5, 2, "little")  # first page
        + word(99, 2, "little")  # length - 1
        + word(3, 4, "little")  # high bits of the second bucket
        + word(12346, 4, "little")  # cookie: no run containers
        + word(1, 4, "little")  # containers
        + word(0, 2, "little")  # key
        + word(0, 2, "little")  # pages - 1
        + word(16, 4, "little")  # offset of the container from the cookie
        + word(0, 2, "little")  # the page
    )


def test_garbage_is_no_roaring_bitmap() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    good = set_of(set(range(0, 300, 3))).to_roaring()
    for data in (b"", b"x", good[:-1], good[:20], b"\xff" * 64):
        with pytest.raises(UsageError):
            PageSet.from_roaring(data)
    too_far = BitMap64([1 << 60]).serialize()
    with pytest.raises(UsageError):
        PageSet.from_roaring(too_far)
    with pytest.raises(UsageError):
        PageSet.from_roaring(BitMap64([(1 << 64) - 1]).serialize())
    for _ in range(2000):
        broken = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            s = PageSet.from_roaring(bytes(broken))
        except UsageError:
            continue
        borders = s.runs.tolist()
        assert borders == sorted(set(borders))


def test_repr_is_short() -> None:
    assert repr(PageSet.from_ranges([(0, 512 << 20)])) == "<PageSet 131072 pages, 512.0 MiB, 1 run>"
    assert repr(PageSet()) == "<PageSet 0 pages, 0.0 MiB, 0 runs>"


def test_works_without_compiled_code() -> None:
    """A client of the socket has no compiled module: the same answers from pure Python."""
    script = """
import sys
sys.modules["uffdtrackd.native._native"] = None  # what import finds where it was not built
from uffdtrackd.model import pageset
assert pageset.operations.__name__ == "uffdtrackd.model.pure_runs"
a = pageset.PageSet.from_ranges([(0, 40960), (81920, 90112)])
b = pageset.PageSet.from_ranges([(8192, 12288)])
print(list(a - b), list(a & b), len(a | b), 9000 in b, a.to_bitmap(0, 40960), a == b)
assert pageset.PageSet.from_roaring(a.to_roaring()) == a
"""
    out = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert out == (
        "[(0, 8192), (12288, 40960), (81920, 90112)] [(8192, 12288)] 12 True "
        "b'\\xff\\x03\\x00\\x00\\x00\\x00\\x00\\x00' False\n"
    )
