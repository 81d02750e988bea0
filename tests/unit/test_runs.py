"""The array operations below PageSet, in C and in Python, against plain sets of page numbers.

Page numbers are drawn close together so that runs touch, overlap and swallow each other often.
Each property runs on both implementations: a fault of one cannot hide in the other, and the
oracle, a Python set, shares no code with either.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uffdtrackd.model import pure_runs
from uffdtrackd.native import runs as native_runs
from uffdtrackd.native._native import ffi, lib

PAGE = 4096
BASE = 0x7F00_0000_0000
LAST = (1 << 64) - PAGE

both = pytest.mark.parametrize("ops", [native_runs, pure_runs], ids=["c", "python"])
pages = st.sets(st.integers(0, 200), max_size=120)


def runs_of(numbers: set[int]) -> memoryview:
    """Runs by definition: a border wherever membership changes."""
    places = numbers | {n + 1 for n in numbers}
    borders = sorted(n for n in places if (n in numbers) != (n - 1 in numbers))
    return memoryview(array("Q", [BASE + n * PAGE for n in borders])).toreadonly()


@both
@given(pages, pages)
def test_operations_are_those_of_sets(ops: ModuleType, a: set[int], b: set[int]) -> None:
    x, y = runs_of(a), runs_of(b)
    assert ops.union(x, y).tolist() == runs_of(a | b).tolist()
    assert ops.intersection(x, y).tolist() == runs_of(a & b).tolist()
    assert ops.difference(x, y).tolist() == runs_of(a - b).tolist()
    assert ops.equal(x, y) == (a == b)
    assert ops.within(x, y) == (a <= b)
    assert ops.within(ops.intersection(x, y), y)
    assert ops.total(x) == len(a) * PAGE


@given(
    st.integers(0, (1 << 32) - 1),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 300)), max_size=5),
)
def test_a_few_runs_against_many(seed: int, spans: list[tuple[int, int]]) -> None:
    # Some 500 runs: above sixteen times as many, C takes another way through them.
    many = set(random.Random(seed).sample(range(2000), 1000))
    few = {page for first, count in spans for page in range(first, first + count)}
    x, y = runs_of(many), runs_of(few)
    for a, b, left, right in ((x, y, many, few), (y, x, few, many)):
        assert native_runs.union(a, b).tolist() == runs_of(left | right).tolist()
        assert native_runs.intersection(a, b).tolist() == runs_of(left & right).tolist()
        assert native_runs.difference(a, b).tolist() == runs_of(left - right).tolist()
        assert native_runs.within(a, b) == (left <= right)
    assert native_runs.within(runs_of(many & few), runs_of(many))
    assert native_runs.within(runs_of(many & few), runs_of(few))


@both
@given(pages, st.integers(-200, 200))
def test_shifted_by_whole_pages(ops: ModuleType, a: set[int], by: int) -> None:
    moved = runs_of({n + by for n in a})
    assert ops.shifted(runs_of(a), by * PAGE).tolist() == moved.tolist()


@both
@given(st.lists(st.tuples(st.integers(0, 64 * PAGE), st.integers(0, 3 * PAGE)), max_size=30))
def test_normalise_is_the_pages_touched(ops: ModuleType, spans: list[tuple[int, int]]) -> None:
    flat = array("Q", [word for s, n in spans for word in (BASE + s, BASE + s + n)])
    touched = {page for s, n in spans if n for page in range(s // PAGE, (s + n - 1) // PAGE + 1)}
    assert ops.normalise(flat, PAGE).tolist() == runs_of(touched).tolist()


@both
@pytest.mark.parametrize("bad", [(PAGE, 0), (0, LAST + 1), (2**64 - 1, 2**64 - 1)])
def test_normalise_refuses_what_is_no_range(ops: ModuleType, bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="bad range"):
        ops.normalise(array("Q", [0, PAGE, *bad]), PAGE)


@both
def test_the_last_page_that_has_an_end(ops: ModuleType) -> None:
    top = ops.normalise(array("Q", [LAST - 1, LAST]), PAGE)
    assert top.tolist() == [LAST - PAGE, LAST]
    assert ops.union(top, top).tolist() == top.tolist()
    assert ops.to_bitmap(top, PAGE, LAST - 2 * PAGE, LAST) == b"\2" + bytes(7)


@both
@given(pages, st.integers(0, 200), st.integers(0, 200))
def test_bitmap_has_one_bit_a_page(ops: ModuleType, a: set[int], first: int, count: int) -> None:
    start, end = BASE + first * PAGE, BASE + (first + count) * PAGE
    bitmap = ops.to_bitmap(runs_of(a), PAGE, start, end)
    assert len(bitmap) == -(-count // 64) * 8
    for page in range(len(bitmap) * 8):
        inside = page < count and first + page in a
        assert bitmap[page >> 3] >> (page & 7) & 1 == inside
    window = {n for n in a if first <= n < first + count}
    assert ops.from_bitmap(bitmap, PAGE, start).tolist() == runs_of(window).tolist()


@both
def test_a_bitmap_full_to_its_last_bit_closes_its_run(ops: ModuleType) -> None:
    assert ops.from_bitmap(b"\xff" * 16, PAGE, 0).tolist() == [0, 128 * PAGE]


@both
@pytest.mark.parametrize("bad", [[3, 3], [3, 2], [0, 1 << 52]])
def test_borders_must_rise_and_fit(ops: ModuleType, bad: list[int]) -> None:
    assert ops.from_borders(array("Q", [1, 2, 9, 11]), PAGE).tolist() == [
        PAGE,
        2 * PAGE,
        9 * PAGE,
        11 * PAGE,
    ]
    with pytest.raises(ValueError, match="bad page number"):
        ops.from_borders(array("Q", bad), PAGE)


def regions_of(pairs: list[tuple[int, int]]) -> object:
    """A scan result as the kernel fills it: start, end, categories."""
    return ffi.new("struct page_region24[]", [(start, end, 7) for start, end in pairs])


def scan_result(seed: int, count: int) -> list[tuple[int, int]]:
    """Sorted, not overlapping; every third touches the one before it."""
    rng = random.Random(seed)
    at, result = BASE, []
    for _ in range(count):
        at += rng.choice([0, 1, 5]) * PAGE
        result.append((at, at + rng.randint(1, 4) * PAGE))
        at = result[-1][1]
    return result


def test_regions_of_a_scan_become_runs() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    pairs = scan_result(seed, 1000)
    expected = runs_of({n for s, e in pairs for n in range((s - BASE) // PAGE, (e - BASE) // PAGE)})

    out = lib.ut_runs_alloc(len(pairs))
    count = lib.ut_runs_from_regions(regions_of(pairs), len(pairs), out)
    assert native_runs.adopt(out, count).tolist() == expected.tolist()

    # In place: the array of regions is also the array of runs.
    regions = regions_of(pairs)
    words = ffi.cast("uint64_t *", regions)
    count = lib.ut_runs_from_regions(regions, len(pairs), words)
    assert list(words[0 : 2 * count]) == expected.tolist()

    # In pieces, cut anywhere, as a scan with a small buffer gives it.
    out = lib.ut_runs_alloc(len(pairs))
    cut, count = random.Random(seed).randrange(len(pairs)), 0
    for piece in (pairs[:cut], pairs[cut:], []):
        count = lib.ut_runs_append_regions(out, count, regions_of(piece), len(piece))
    assert native_runs.adopt(out, count).tolist() == expected.tolist()


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 40), pages)
def test_regions_together_with_other_runs(seed: int, count: int, others: set[int]) -> None:
    pairs = scan_result(seed, count)
    found = {n for s, e in pairs for n in range((s - BASE) // PAGE, (e - BASE) // PAGE)}
    words = runs_of(others)
    out = lib.ut_runs_alloc(len(pairs) + len(words) // 2)
    also = ffi.from_buffer("uint64_t[]", words)
    made = lib.ut_runs_union_regions(regions_of(pairs), len(pairs), also, len(words) // 2, out)
    assert native_runs.adopt(out, made).tolist() == runs_of(found | others).tolist()


def test_a_result_outlives_everything_it_came_from() -> None:
    a, b = runs_of(set(range(0, 9000, 2))), runs_of(set(range(1, 9000, 3)))
    expected = pure_runs.union(a, b).tolist()
    views = [native_runs.union(a, b) for _ in range(50)]
    del a, b
    assert all(view.tolist() == expected for view in views)
    assert views[0].readonly and views[0].format == "Q"


def test_no_word_beyond_an_array_is_touched(build_target: Callable[..., Path]) -> None:
    """The same operations under AddressSanitizer, in arrays of exactly the documented size."""
    native = Path(native_runs.__file__).parent
    source = native / "c" / "runs.c"
    # The cache of programs knows only the file in tests/targets: the hash makes it know this one.
    version = hashlib.sha256(source.read_bytes()).hexdigest()
    flags = ("-g", "-fsanitize=address,undefined", f"-DVERSION={version}", f"-I{native}")
    program = build_target("runs_check", (*flags, str(source)))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    done = subprocess.run([program, str(seed), "3000"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
