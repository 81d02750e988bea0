"""What PAGEMAP_SCAN tells and what reading /proc/PID/pagemap tells are the same.

Each is the oracle of the other, on memory of this very process; and both must see what the test
itself protected and wrote.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Iterator

import pytest

from tests.unit.test_collect import MADV_DONTNEED, PAGE, Arena, Fds, fds
from uffdtrackd.native import scan
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.scan import Page

__all__ = ["fds"]

TOLD = (Page.NONE, Page.WRITTEN, Page.FILE, Page.PRESENT, Page.SWAPPED)


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(2)
    yield made
    made.close()


def read(pagemap: int, arena: Arena, **match: Page) -> list[tuple[int, int, int]]:
    scan.forgo(True)
    try:
        return scan.get(pagemap, arena.start, arena.start + arena.size, **match)
    finally:
        scan.forgo(False)


def test_both_tell_the_same(fds: Fds, arena: Arena) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    uffd, pagemap = fds.uffd, fds.pagemap
    count = arena.size // PAGE
    for page in numbers.sample(range(count), count // 2):
        arena.write(page)
    scan.register(uffd, arena.start, arena.start + arena.size)
    scan.clear(pagemap, arena.start, arena.start + arena.size, anyof=Page.PRESENT)
    written = sorted(numbers.sample(range(count), count // 4))
    for page in written:
        arena.write(page)
    for page in numbers.sample(range(count), 20):
        arena.advise(page, 1, MADV_DONTNEED)
    for mask, anyof, inverted, ret in itertools.product(TOLD, repeat=4):
        match = {
            "mask": mask | (Page.PRESENT if inverted else Page.NONE),
            "anyof": anyof,
            "inverted": inverted,
            "ret": ret,
        }
        asked = scan.get(pagemap, arena.start, arena.start + arena.size, **match)
        assert asked == read(pagemap, arena, **match), match


def test_what_was_written_is_read(fds: Fds, arena: Arena) -> None:
    uffd, pagemap = fds.uffd, fds.pagemap
    for page in range(100):
        arena.write(page)
    scan.register(uffd, arena.start, arena.start + arena.size)
    scan.clear(pagemap, arena.start, arena.start + 100 * PAGE)
    arena.write(7)
    arena.write(8)
    arena.write(99)
    found = read(pagemap, arena, mask=Page.WRITTEN | Page.PRESENT)
    assert [((a - arena.start) // PAGE, (b - arena.start) // PAGE) for a, b, _ in found] == [
        (7, 9),
        (99, 100),
    ]


def test_what_a_read_cannot_tell_is_refused(fds: Fds, arena: Arena) -> None:
    """Whether a page is registered is in no pagemap: no answer is better than a wrong one."""
    with pytest.raises(NativeError) as caught:
        read(fds.pagemap, arena, mask=Page.WPALLOWED)
    assert caught.value.errno == errno.ENOTTY


def test_the_limit_is_found_either_way() -> None:
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        asked = scan.limit(pagemap)
        scan.forgo(True)
        assert scan.limit(pagemap) == asked
    finally:
        scan.forgo(False)
        os.close(pagemap)
