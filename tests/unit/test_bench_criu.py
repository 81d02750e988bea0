"""What CRIU says of itself is read as it is written, and told beside ours."""

from __future__ import annotations

import struct

import pytest

from tests.bench.criu import rows
from tests.bench.criu_guest import statistics


def image(entry: bytes) -> bytes:
    """A stats-dump image around a DumpStatsEntry, by the description of the format."""
    message = b"\x0a" + bytes([len(entry)]) + entry
    return struct.pack("<III", 0x57093306, 0x56040009, len(message)) + message


def test_the_statistics_of_a_dump_are_read() -> None:
    # 1: 107, 2: 430604 (three bytes), 5: 300, 7: 1310
    entry = b"\x08\x6b" + b"\x10\x8c\xa4\x1a" + b"\x28\xac\x02" + b"\x38\x9e\x0a"
    assert statistics(image(entry)) == {1: 107, 2: 430604, 5: 300, 7: 1310}


def test_other_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="not the statistics"):
        statistics(struct.pack("<III", 1, 2, 2) + b"\x12\x00")


def test_loads_become_rows_beside_each_other() -> None:
    theirs = {"how": "criu", "load": "1 % dirty", "frozen": 9e6, "whole": 8e6, "pages": 12}
    mine = {"how": "ours", "load": "1 % dirty", "frozen": 0, "whole": 4e6, "found": 1e6}
    frozen, whole, alone, pages = rows([theirs, {**mine, "pages": 10}])
    assert frozen.bare is not None and frozen.ours is not None
    assert (frozen.bare.median, frozen.ours.median) == (9, 0)
    assert whole.ratio is not None and whole.ratio.median == 0.5
    assert alone.bare is None and alone.ours is not None and alone.ours.median == 1
    assert pages.bare is not None and pages.bare.median == 12
