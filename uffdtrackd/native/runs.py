"""Set operations on runs of pages, in C; `model.pageset` gives them a face.

A run array is a read-only memoryview of format 'Q': pairs start, end in bytes, half-open,
sorted, no two touching (native/api/runs.h has the drawing). Results are written by C into
memory that C allocated, and the view keeps it alive; nothing is copied on the way to Python:

    C array --ffi.gc--> owner --ffi.buffer--> memoryview('Q') --> PageSet

`model.pure_runs` has the same functions in Python; a test holds the two together.
"""

from __future__ import annotations

from array import array
from typing import Any

from ._native import ffi, lib
from .pointer import octets, words

EMPTY = memoryview(array("Q")).toreadonly()


def adopt(pointer: Any, count: int) -> memoryview:
    """Takes over an array of `count` runs made by ut_runs_alloc(); shrinks it to that size.

    pointer: cdata `uint64_t *`, not to be used afterwards.
    """
    if count == 0:
        lib.ut_runs_free(pointer)
        return EMPTY
    return owned(lib.ut_runs_shrink(pointer, count), count)


def owned(pointer: Any, count: int) -> memoryview:
    """As adopt(), of an array that has its size already; of at least one run."""
    size = count * 16
    # The size tells a garbage collector what is behind the pointer (PyPy uses it).
    owner = ffi.gc(pointer, lib.ut_runs_free, size=size)
    return memoryview(ffi.buffer(owner, size)).cast("Q").toreadonly()


def allocate(count: int) -> Any:
    """Room for `count` runs, to hand to C and then to adopt(). Raises MemoryError."""
    pointer = lib.ut_runs_alloc(count)
    if pointer == ffi.NULL:
        raise MemoryError(f"no memory for {count} runs")
    return pointer


def _combine(operation: Any, a: memoryview, b: memoryview) -> memoryview:
    count_a, count_b = len(a) // 2, len(b) // 2
    out = allocate(count_a + count_b)
    return adopt(out, operation(words(a), count_a, words(b), count_b, out))


def union(a: memoryview, b: memoryview) -> memoryview:
    """Pages in a or b."""
    return _combine(lib.ut_runs_union, a, b)


def intersection(a: memoryview, b: memoryview) -> memoryview:
    """Pages in a and b."""
    return _combine(lib.ut_runs_intersection, a, b)


def difference(a: memoryview, b: memoryview) -> memoryview:
    """Pages in a and not in b."""
    return _combine(lib.ut_runs_difference, a, b)


def shifted(runs: memoryview, by: int) -> memoryview:
    """The same pages `by` bytes further on; by may be negative."""
    count = len(runs) // 2
    out = allocate(count)
    lib.ut_runs_shift(words(runs), count, by & 0xFFFFFFFFFFFFFFFF, out)
    return adopt(out, count)


def equal(a: memoryview, b: memoryview) -> bool:
    """Whether a and b hold the same pages."""
    return bool(lib.ut_runs_equal(words(a), len(a) // 2, words(b), len(b) // 2))


def within(a: memoryview, b: memoryview) -> bool:
    """Whether every page of a is in b."""
    return bool(lib.ut_runs_within(words(a), len(a) // 2, words(b), len(b) // 2))


def total(runs: memoryview) -> int:
    """Bytes covered."""
    return int(lib.ut_runs_bytes(words(runs), len(runs) // 2))


def normalise(ranges: array[int], page_size: int) -> memoryview:
    """Runs of arbitrary ranges, widened outwards to pages.

    ranges: array('Q') of start, end, ...; it is changed. ValueError: a range ends before it
    starts, or its last page has no 64-bit end.
    """
    count = len(ranges) // 2
    if count == 0:
        return EMPTY
    at = words(ranges)
    good = lib.ut_runs_widen(at, count, page_size)
    if good < count:
        raise ValueError(f"bad range {ranges[2 * good]:#x}-{ranges[2 * good + 1]:#x}")
    merged = lib.ut_runs_normalise(at, count)
    return memoryview(ranges)[: 2 * merged].toreadonly()


def from_borders(borders: array[int], page_size: int) -> memoryview:
    """Runs in bytes of an even number of rising borders in pages.

    borders: array('Q'); it is changed. ValueError: they do not rise, or one has no 64-bit address.
    """
    at = words(borders)
    good = lib.ut_runs_from_borders(at, len(borders), page_size)
    if good < len(borders):
        raise ValueError(f"bad page number {borders[good]}")
    return memoryview(borders).toreadonly()


def to_bitmap(runs: memoryview, page_size: int, start: int, end: int) -> bytes:
    """One bit a page of [start, end), LSB first, padded to 8 bytes with zeroes."""
    bitmap = bytearray(((end - start) // page_size + 63) // 64 * 8)
    lib.ut_runs_to_bitmap(words(runs), len(runs) // 2, page_size, start, end, octets(bitmap))
    return bytes(bitmap)


def from_bitmap(bitmap: bytes | memoryview, page_size: int, start: int) -> memoryview:
    """The runs of such a bitmap, whose first bit is the page at `start`.

    bitmap: a multiple of 8 bytes.
    """
    bits = octets(bitmap)
    words = len(bitmap) // 8
    count = lib.ut_runs_from_bitmap(bits, words, page_size, start, ffi.NULL)
    out = allocate(count)
    return adopt(out, lib.ut_runs_from_bitmap(bits, words, page_size, start, out))
