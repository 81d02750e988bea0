"""Which lines of maps are worth a registration under synchronous protection."""

from __future__ import annotations

from typing import cast

import pytest

from uffdtrackd.model.pageset import PageSet
from uffdtrackd.native.layout import Layout
from uffdtrackd.tracking.sync_registrar import SyncRegistrar

HEAP = "{:x}-{:x} rw-p 00000000 00:00 0 "
NONE = "{:x}-{:x} ---p 00000000 00:00 0 "
FILE = "{:x}-{:x} rw-p {:08x} 08:01 77    /a file"

Ranges = list[tuple[int, int]]


class Maps:
    """What is asked of a Layout here."""

    def __init__(self, *lines: str) -> None:
        self._text = "".join(f"{line}\n" for line in lines).encode()

    def text(self) -> bytes:
        return self._text

    def mapped(self) -> memoryview:
        ranges = (line.split()[0].split(b"-") for line in self._text.splitlines())
        return PageSet.from_ranges((int(start, 16), int(end, 16)) for start, end in ranges).runs


def new(before: Maps, after: Maps) -> Ranges:
    registrar = SyncRegistrar(-1, -1, 1 << 47, 4096, False)
    registrar.new_lines(cast(Layout, before))
    return [(start >> 12, end >> 12) for start, end in registrar.new_lines(cast(Layout, after))]


CASES: dict[str, tuple[Ranges, Ranges, Ranges]] = {
    "nothing changed": ([(0, 4), (6, 8)], [(0, 4), (6, 8)], []),
    "merged": ([(0, 4), (4, 8)], [(0, 8)], []),
    "cut": ([(0, 8)], [(0, 2), (4, 8)], []),
    "grown to the right": ([(0, 4)], [(0, 5)], []),
    "grown to the left": ([(2, 4)], [(1, 4)], []),
    "filled between": ([(0, 2), (4, 6)], [(0, 6)], []),
    "new": ([(0, 2)], [(0, 2), (6, 8)], [(6, 8)]),
    "new beside another": ([(0, 2)], [(0, 2), (2, 4)], [(2, 4)]),
    "mapped over its middle": ([(0, 8)], [(0, 2), (2, 4), (4, 8)], [(0, 8)]),
    "mapped over its end": ([(0, 8)], [(0, 6), (6, 8)], [(0, 8)]),
    "the first of all": ([(4, 6)], [(2, 3), (4, 6)], [(2, 3)]),
    "none before": ([], [(2, 3)], [(2, 3)]),
    "none after": ([(2, 3)], [], []),
}


@pytest.mark.parametrize("name", CASES)
def test_anonymous(name: str) -> None:
    *sides, expected = CASES[name]
    before, after = (
        Maps(*(HEAP.format(start << 12, end << 12) for start, end in ranges)) for ranges in sides
    )
    assert new(before, after) == expected


def test_other_protection_is_something_else() -> None:
    before = Maps(HEAP.format(0x1000, 0x2000), NONE.format(0x2000, 0x3000))
    assert new(before, Maps(HEAP.format(0x1000, 0x4000))) == []
    assert new(before, Maps(NONE.format(0x1000, 0x2000), NONE.format(0x2000, 0x3000))) == [(1, 2)]


def test_parts_of_a_file_must_fit() -> None:
    whole = Maps(FILE.format(0x1000, 0x3000, 0x5000))
    first = FILE.format(0x1000, 0x2000, 0x5000)
    fits, other = (FILE.format(0x2000, 0x3000, shift) for shift in (0x6000, 0x9000))
    assert new(Maps(first, fits), whole) == []
    assert new(Maps(first), Maps(first, other)) == [(2, 3)]
    assert new(whole, Maps(FILE.format(0x1000, 0x3000, 0x9000))) == [(1, 3)]
