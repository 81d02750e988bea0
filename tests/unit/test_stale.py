"""Which VMAs took in something from elsewhere between two looks at maps."""

from __future__ import annotations

import pytest

from uffdtrackd.tracking.stale import swallowed

HEAP = "{:x}-{:x} rw-p 00000000 00:00 0 "
FILE = "{:x}-{:x} rw-p {:08x} 08:01 77    /a file"


def maps(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()


CASES = {
    "nothing changed": ([(0, 4), (6, 8)], [(0, 4), (6, 8)], []),
    "merged": ([(0, 4), (4, 8)], [(0, 8)], []),
    "cut": ([(0, 8)], [(0, 2), (4, 8)], []),
    "grown to the right": ([(0, 4)], [(0, 5)], [(0, 5)]),
    "grown to the left": ([(2, 4)], [(1, 4)], [(1, 4)]),
    "new": ([(0, 2)], [(0, 2), (6, 8)], [(6, 8)]),
    "filled between": ([(0, 2), (4, 6)], [(0, 6)], [(0, 6)]),
    "the first of all": ([(4, 6)], [(2, 3), (4, 6)], [(2, 3)]),
    "none before": ([], [(2, 3)], [(2, 3)]),
    "none after": ([(2, 3)], [], []),
}


@pytest.mark.parametrize("name", CASES)
def test_anonymous(name: str) -> None:
    before, after, expected = CASES[name]
    texts = [
        maps(*(HEAP.format(start << 12, end << 12) for start, end in one)) if one else b""
        for one in (before, after)
    ]
    assert sorted(swallowed(*texts)) == [(a << 12, b << 12) for a, b in expected]


def test_other_protection_is_something_else() -> None:
    before = maps(HEAP.format(0x1000, 0x2000), "2000-3000 ---p 00000000 00:00 0 ")
    after = maps(HEAP.format(0x1000, 0x3000))
    assert list(swallowed(before, after)) == [(0x1000, 0x3000)]


def test_parts_of_a_file_must_fit() -> None:
    whole = maps(FILE.format(0x1000, 0x3000, 0x5000))
    parts = maps(FILE.format(0x1000, 0x2000, 0x5000), FILE.format(0x2000, 0x3000, 0x6000))
    other = maps(FILE.format(0x1000, 0x2000, 0x5000), FILE.format(0x2000, 0x3000, 0x9000))
    assert list(swallowed(parts, whole)) == []
    assert list(swallowed(whole, parts)) == []
    assert list(swallowed(other, whole)) == [(0x1000, 0x3000)]
