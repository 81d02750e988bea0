"""Cuts pages at the borders of regions, so that each piece has one label.

    regions   |--- heap ---|      |-- libc.so --|-- libc.so --|
    pages           |############|####|     |######|
    spans           |######|#####|####|     |###|##|
                     heap   None  libc       libc libc

Runs merge across neighbouring regions, and pages of a region that ended since the layout was read
have none: those spans carry None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..model.pageset import PageSet
from ..model.region import Region


class Span(NamedTuple):
    """Bytes [start, end) of one region, or of none."""

    region: Region | None
    start: int
    end: int


def spans(pages: PageSet, regions: Sequence[Region]) -> Iterator[Span]:
    """The pages in rising order, cut at the borders of `regions` (sorted, not overlapping)."""
    index = 0
    for start, end in pages:
        while start < end:
            while index < len(regions) and regions[index].end <= start:
                index += 1
            region = regions[index] if index < len(regions) else None
            if region is None or end <= region.start:
                stop, inside = end, None
            elif start < region.start:
                stop, inside = region.start, None
            else:
                stop, inside = min(end, region.end), region
            yield Span(inside, start, stop)
            start = stop
