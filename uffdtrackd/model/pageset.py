"""An immutable set of pages: what iterations, logs, exports and the wire carry.

It is a sorted array of runs, flat pairs (start, end) in bytes, in memory that usually C made:

    PAGEMAP_SCAN --native.scan--> runs --from_runs--> PageSet --+--> .runs --------> wire
                                                      | & -     +--> .to_roaring() -> log
                                                                +--> .to_bitmap() --> file

A page that is never named costs nothing: a terabyte in one run is 16 bytes, the worst case,
every second page of 1 GiB, is 2 MiB.
The operations on arrays are in `native.runs`, or in `pure_runs` where nothing was compiled.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from . import pure_runs as operations
else:
    try:
        from ..native import runs as operations
    except ImportError:
        from . import pure_runs as operations

# Inside the class the name means the property.
_bytes = bytes


class PageSet:
    """Pages of one address space, all of one size.

    `a | b`, `a & b`, `a - b` make new sets, `a <= b` says whether all of a is in b; operands with
    different page sizes raise UsageError (compared by `==` they are different). `len()` counts
    pages, iteration gives byte ranges (start, end), half-open, sorted, no two touching.
    `address in s` takes any byte address. Addresses go up to 2^64 minus one page. Not hashable:
    equal sets may be large.
    """

    __slots__ = ("_bytes", "_page_size", "_runs")

    def __init__(self, page_size: int = 4096) -> None:
        """The empty set. page_size: bytes, a power of two, else UsageError."""
        if page_size <= 0 or page_size & (page_size - 1):
            raise UsageError(f"page size {page_size} is not a power of two")
        self._page_size = page_size
        self._runs = operations.EMPTY
        self._bytes = -1

    @classmethod
    def from_ranges(cls, ranges: Iterable[tuple[int, int]], page_size: int = 4096) -> PageSet:
        """The pages that arbitrary byte ranges (start, end), half-open, touch.

        In any order, overlapping or empty. A range that does not begin and end on a page is
        widened outwards: a page too many is copied once more, a page missing is lost.
        UsageError: a range ends before it starts, is no pair of integers, or leaves the
        64-bit address space.
        """
        pages = cls(page_size)
        try:
            pairs = ranges if isinstance(ranges, list | tuple) else list(ranges)
            if any(length != 2 for length in set(map(len, pairs))):
                raise ValueError("one has not two borders")
            flat = array("Q", list(chain.from_iterable(pairs)))
            pages._runs = operations.normalise(flat, page_size)
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(f"not ranges of addresses: {error}") from error
        return pages

    @classmethod
    def from_runs(cls, buffer: Buffer, page_size: int = 4096) -> PageSet:
        """The set over a buffer of native-endian u64 pairs start, end in bytes, without a copy.

        The buffer is trusted: aligned to pages, sorted, no two runs touching, and never written
        again. UsageError: its size is not a multiple of 16 bytes.
        """
        pages = cls(page_size)
        # What native.runs hands over needs no other face.
        if isinstance(buffer, memoryview) and buffer.format == "Q" and buffer.readonly:
            pages._runs = buffer
            return pages
        data = memoryview(buffer).cast("B")
        if len(data) % 16:
            raise UsageError(f"{len(data)} bytes are no whole number of runs")
        if data:
            pages._runs = data.cast("Q").toreadonly()
        return pages

    @classmethod
    def from_bitmap(cls, bitmap: bytes, start: int, page_size: int = 4096) -> PageSet:
        """The inverse of to_bitmap(): its first bit is the page at `start`.

        UsageError: not a multiple of 8 bytes, `start` not on a page, or an end past 2^64.
        """
        pages = cls(page_size)
        if len(bitmap) % 8 or start % page_size:
            raise UsageError("a bitmap is whole 64-bit words and starts on a page")
        if start < 0 or start + len(bitmap) * 8 * page_size >= 1 << 64:
            raise UsageError(f"a bitmap of {len(bitmap)} bytes at {start:#x} leaves the addresses")
        pages._runs = operations.from_bitmap(bitmap, page_size, start)
        return pages

    @classmethod
    def from_roaring(cls, data: bytes, page_size: int = 4096) -> PageSet:
        """The inverse of to_roaring(). UsageError: not a portable 64-bit Roaring bitmap."""
        from . import roaring

        pages = cls(page_size)
        try:
            pages._runs = operations.from_borders(roaring.decode(data), page_size)
        except ValueError as error:
            raise UsageError(f"not a Roaring bitmap of pages: {error}") from error
        return pages

    @property
    def page_size(self) -> int:
        """Bytes."""
        return self._page_size

    @property
    def runs(self) -> memoryview:
        """The array itself, read-only: format 'Q', start, end, start, end, ... in bytes."""
        return self._runs

    @property
    def run_count(self) -> int:
        return len(self._runs) // 2

    @property
    def bytes(self) -> int:
        if self._bytes < 0:
            self._bytes = operations.total(self._runs)
        return self._bytes

    def __len__(self) -> int:
        return self.bytes // self._page_size

    def __bool__(self) -> bool:
        return len(self._runs) > 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._runs[::2], self._runs[1::2], strict=True)

    def __contains__(self, address: object) -> bool:
        # Flat, the runs are rising borders: inside after an odd number of them.
        return isinstance(address, int) and bool(bisect_right(self._runs, address) & 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PageSet):
            return NotImplemented
        return self._page_size == other._page_size and operations.equal(self._runs, other._runs)

    def __le__(self, other: PageSet) -> bool:
        """Whether every page is in the other set too."""
        if not isinstance(other, PageSet):
            return NotImplemented
        self._check(other)
        return operations.within(self._runs, other._runs)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: PageSet) -> PageSet:
        if not isinstance(other, PageSet):
            return NotImplemented
        self._check(other)
        if not other:
            return self
        return self._like(operations.union(self._runs, other._runs)) if self else other

    def __and__(self, other: PageSet) -> PageSet:
        if not isinstance(other, PageSet):
            return NotImplemented
        self._check(other)
        return self._like(operations.intersection(self._runs, other._runs))

    def __sub__(self, other: PageSet) -> PageSet:
        if not isinstance(other, PageSet):
            return NotImplemented
        self._check(other)
        if not other:
            return self
        return self._like(operations.difference(self._runs, other._runs))

    def shifted(self, by: int) -> PageSet:
        """The same pages `by` bytes further on (or back, if negative): in another mapping.

        UsageError: `by` is no multiple of the page size, or a page would leave the addresses.
        """
        if not self or not by:
            return self
        if by % self._page_size or self._runs[0] + by < 0 or self._runs[-1] + by >= 1 << 64:
            raise UsageError(f"{self!r} cannot be moved by {by:#x}")
        return self._like(operations.shifted(self._runs, by))

    def to_bitmap(self, start: int, end: int) -> _bytes:
        """One bit a page of [start, end): page i is bit i & 63 of little-endian u64 word i >> 6.

        The order of KVM_GET_DIRTY_LOG (Documentation/virt/kvm/api.rst): LSB first, the last word
        padded with zeroes. UsageError: a border is not on a page or end < start.
        """
        size = self._page_size
        if start % size or end % size or not 0 <= start <= end < 1 << 64:
            raise UsageError(f"{start:#x}-{end:#x} is no range of pages of {size} bytes")
        return operations.to_bitmap(self._runs, size, start, end)

    def to_roaring(self) -> _bytes:
        """The portable 64-bit Roaring bitmap of the page numbers (address / page_size)."""
        from . import roaring

        return roaring.encode(self._runs, self._page_size)

    def __repr__(self) -> str:
        pages, runs = len(self), self.run_count
        return (
            f"<PageSet {pages} page{'s' * (pages != 1)}, {self.bytes / (1 << 20):.1f} MiB, "
            f"{runs} run{'s' * (runs != 1)}>"
        )

    def _like(self, runs: memoryview) -> PageSet:
        result = PageSet(self._page_size)
        result._runs = runs
        return result

    def _check(self, other: PageSet) -> None:
        if self._page_size != other._page_size:
            raise UsageError(
                f"sets of {self._page_size} and {other._page_size} byte pages do not combine"
            )
