"""Set operations on runs of pages without compiled code, for clients of the socket.

The same functions as `native.runs`, on the same arrays (flat pairs start, end in bytes, sorted,
no two touching), a hundred times slower; `model.pageset` picks one of the two when imported.

All three operations are one sweep over the borders of both arrays in rising order: how many
borders of each were passed says whether the sweep is inside it, and a border is written when the
result changes state.
"""

from __future__ import annotations

from array import array

EMPTY = memoryview(array("Q")).toreadonly()

# Which places of an address belong to the result, indexed by in_a + 2 * in_b.
_UNION = (False, True, True, True)
_INTERSECTION = (False, False, False, True)
_DIFFERENCE = (False, True, False, False)


def _sweep(a: memoryview, b: memoryview, table: tuple[bool, bool, bool, bool]) -> memoryview:
    out = array("Q")
    i = j = 0
    while i < len(a) and j < len(b):
        x, y = a[i], b[j]
        at = min(x, y)
        i += x == at
        j += y == at
        if table[(i & 1) + 2 * (j & 1)] != bool(len(out) & 1):
            out.append(at)
    # One side has ended, outside of any run: the other decides alone.
    if table[1]:
        out.extend(a[i:])
    if table[2]:
        out.extend(b[j:])
    return memoryview(out).toreadonly()


def union(a: memoryview, b: memoryview) -> memoryview:
    """Pages in a or b."""
    return _sweep(a, b, _UNION)


def intersection(a: memoryview, b: memoryview) -> memoryview:
    """Pages in a and b."""
    return _sweep(a, b, _INTERSECTION)


def difference(a: memoryview, b: memoryview) -> memoryview:
    """Pages in a and not in b."""
    return _sweep(a, b, _DIFFERENCE)


def within(a: memoryview, b: memoryview) -> bool:
    """Whether every page of a is in b."""
    return not difference(a, b)


def shifted(runs: memoryview, by: int) -> memoryview:
    """The same pages `by` bytes further on; by may be negative."""
    return memoryview(array("Q", [border + by for border in runs])).toreadonly()


def equal(a: memoryview, b: memoryview) -> bool:
    """Whether a and b hold the same pages."""
    return a == b


def total(runs: memoryview) -> int:
    """Bytes covered."""
    return sum(runs[1::2]) - sum(runs[::2])


def normalise(ranges: array[int], page_size: int) -> memoryview:
    """Runs of arbitrary ranges, widened outwards to pages.

    ranges: array('Q') of start, end, .... ValueError: a range ends before it starts, or its last
    page has no 64-bit end.
    """
    mask = page_size - 1
    wide = []
    for start, end in zip(ranges[::2], ranges[1::2], strict=True):
        if start > end or end > (1 << 64) - page_size:
            raise ValueError(f"bad range {start:#x}-{end:#x}")
        if start != end:
            wide.append((start & ~mask, (end + mask) & ~mask))
    wide.sort()
    out = array("Q")
    for start, end in wide:
        if out and start <= out[-1]:
            out[-1] = max(out[-1], end)
        else:
            out.extend((start, end))
    return memoryview(out).toreadonly()


def from_borders(borders: array[int], page_size: int) -> memoryview:
    """Runs in bytes of an even number of rising borders in pages.

    borders: array('Q'). ValueError: they do not rise, or one has no 64-bit address.
    """
    limit = ((1 << 64) - 1) // page_size
    previous = -1
    for border in borders:
        if border <= previous or border > limit:
            raise ValueError(f"bad page number {border}")
        previous = border
    return memoryview(array("Q", [border * page_size for border in borders])).toreadonly()


def to_bitmap(runs: memoryview, page_size: int, start: int, end: int) -> bytes:
    """One bit a page of [start, end), LSB first, padded to 8 bytes with zeroes."""
    bits = 0
    for low, high in zip(runs[::2], runs[1::2], strict=True):
        low, high = max(low, start), min(high, end)
        if low < high:
            first, last = (low - start) // page_size, (high - start) // page_size
            bits |= ((1 << (last - first)) - 1) << first
    return bits.to_bytes(((end - start) // page_size + 63) // 64 * 8, "little")


def from_bitmap(bitmap: bytes | memoryview, page_size: int, start: int) -> memoryview:
    """The runs of such a bitmap, whose first bit is the page at `start`.

    bitmap: a multiple of 8 bytes.
    """
    out = array("Q")
    for number, byte in enumerate(bytes(bitmap) + b"\0"):
        # Most bytes continue the run or the hole that they are in.
        if byte == (0xFF if len(out) & 1 else 0):
            continue
        for bit in range(8):
            if byte >> bit & 1 != len(out) & 1:
                out.append(start + (8 * number + bit) * page_size)
    return memoryview(out).toreadonly()
