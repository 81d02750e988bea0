"""The `bitmap` format: one bit a page in the order of KVM_GET_DIRTY_LOG, and a table of regions.

A bare bitmap is useless without its addresses and page size, and one of a whole address space
would not fit anywhere, so the file is

    header     64 bytes   magic, page size, iteration, how many entries, where they are
    table      64 bytes an entry: process, set, region, first page, pages, offsets of bits and label
    labels     UTF-8, padded to 8 bytes
    bits       little-endian u64 words for each entry: page i is bit i & 63 of word i >> 6

An entry is a part of one region from its first page in the set to its last. A part is cut where
more than MAX_HOLE pages in a row are not in the set: a reservation of terabytes with a page at each
end would otherwise be gigabytes of zeroes. All integers are little-endian; docs/formats.md is the
reference and has a reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ..model.iteration import Iteration
from ..model.pageset import PageSet
from ..model.region import Region
from .spans import spans

MAGIC = b"UFTBITS\0"
VERSION = 1
# magic, version, page size, flags, entry size, iteration, time_ns, entries, table, labels' bytes
HEADER = struct.Struct("<8sIIIIQQQQQ")
# pid, set, region start, region end, start, pages, bits' offset, label's offset, label's bytes
ENTRY = struct.Struct("<iIQQQQQQQ")
FROZEN = 1
SETS = ("dirty", "discarded")
# 16 KiB of zero bits at most between two pages, some hundred times the size of an entry.
MAX_HOLE = 1 << 17


class Part(NamedTuple):
    """What one entry of the table is about: bytes [start, end) of a region, or of none."""

    pid: int
    which: int
    pages: PageSet
    region: Region | None
    start: int
    end: int

    @property
    def words(self) -> int:
        return ((self.end - self.start) // self.pages.page_size + 63) // 64


def _parts(iteration: Iteration) -> Iterator[Part]:
    hole = MAX_HOLE * iteration.page_size
    for pid, process in iteration.processes.items():
        for which, pages in enumerate((process.dirty, process.discarded)):
            part: Part | None = None
            for region, start, end in spans(pages, process.regions):
                if part and part.region is region and start - part.end <= hole:
                    part = part._replace(end=end)
                    continue
                if part:
                    yield part
                part = Part(pid, which, pages, region, start, end)
            if part:
                yield part


def write_bitmap(iteration: Iteration, file: BinaryIO) -> None:
    """Writes from front to back, so that the file may be a pipe."""
    parts = list(_parts(iteration))
    labels, where = _labels(parts)
    table_at = HEADER.size
    labels_at = table_at + len(parts) * ENTRY.size
    bits_at = labels_at + len(labels)
    file.write(
        HEADER.pack(
            MAGIC,
            VERSION,
            iteration.page_size,
            FROZEN if iteration.frozen else 0,
            ENTRY.size,
            iteration.number,
            iteration.time_ns,
            len(parts),
            table_at,
            len(labels),
        )
    )
    for part in parts:
        at, size = where[part.region.label if part.region else ""]
        file.write(
            ENTRY.pack(
                part.pid,
                part.which,
                part.region.start if part.region else part.start,
                part.region.end if part.region else part.end,
                part.start,
                (part.end - part.start) // iteration.page_size,
                bits_at,
                labels_at + at,
                size,
            )
        )
        bits_at += part.words * 8
    file.write(labels)
    for part in parts:
        file.write(part.pages.to_bitmap(part.start, part.end))


def _labels(parts: list[Part]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """All labels once, end to end, and where each is: (offset, bytes)."""
    text = b""
    where: dict[str, tuple[int, int]] = {}
    for label in dict.fromkeys(part.region.label if part.region else "" for part in parts):
        raw = label.encode("utf-8", "surrogateescape")
        where[label] = (len(text), len(raw))
        text += raw
    return text + bytes(-len(text) % 8), where
