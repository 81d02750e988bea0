"""Page sets as portable 64-bit Roaring bitmaps of page numbers, which many languages can read.

Format: RoaringFormatSpec, "Extension for 64-bit implementations": a u64 count of buckets, each a
u32 of high bits and a 32-bit bitmap; little-endian. Run containers are used where they are smaller.
`pyroaring` does the format; here runs become bitmaps and back without ever naming each page:

    runs -> add_range each -> BitMap64 -> bytes
    bytes -> BitMap64 -> bitmap ^ (bitmap << 1) = its borders -> runs
"""

from __future__ import annotations

from array import array

from pyroaring import BitMap64

# The address space has 2^64 bytes: a page number above this cannot be meant.
MAX_PAGE = (1 << 63) - 1


def encode(runs: memoryview, page_size: int) -> bytes:
    """The portable bytes of the pages of `runs` (format 'Q', pairs start, end in bytes)."""
    bitmap = BitMap64()
    for start, end in zip(runs[::2], runs[1::2], strict=True):
        bitmap.add_range(start // page_size, end // page_size)
    bitmap.run_optimize()
    return bytes(bitmap.serialize())


def decode(data: bytes) -> array[int]:
    """The borders of such a bitmap in pages: starts and ends of runs in turn, rising; format 'Q'.

    ValueError: not such a bitmap.
    """
    # pyroaring indexes the first byte before it looks at the length.
    if len(data) < 8:
        raise ValueError("too short for a Roaring bitmap")
    bitmap = BitMap64.deserialize(data)
    if bitmap and bitmap.max() > MAX_PAGE:
        raise ValueError(f"page number {bitmap.max()} is no address")
    return (bitmap ^ bitmap.shift(1)).to_array()
