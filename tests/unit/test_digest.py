"""Digests of pages, on this process's own memory: they differ where contents do."""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import random
from collections.abc import Iterator

import pytest

from uffdtrackd.native import copy, digest

PAGE = mmap.PAGESIZE
PAGES = 700  # more than one batch


def runs(*pairs: tuple[int, int]) -> bytes:
    return array.array("Q", [border for pair in pairs for border in pair]).tobytes()


class Area:
    def __init__(self) -> None:
        self.map = mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.map[:] = random.Random(5).randbytes(PAGES * PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.all = runs((self.start, self.start + PAGES * PAGE))
        self.fd = os.memfd_create("digests")
        os.ftruncate(self.fd, 1 << 62)
        self.memory = copy.Memory(os.getpid())

    def differ(self) -> list[int]:
        """Numbers of the pages that are not as kept."""
        found, unreadable = digest.compare(self.memory, self.fd, self.all)
        assert not unreadable
        flat = found.tolist()
        return [
            (page - self.start) // PAGE
            for start, end in zip(flat[::2], flat[1::2], strict=True)
            for page in range(start, end, PAGE)
        ]

    def keep(self) -> None:
        assert not digest.copy_to(self.memory, self.fd, self.all)


@pytest.fixture
def area() -> Iterator[Area]:
    made = Area()
    yield made
    made.memory.close()
    os.close(made.fd)


def test_what_is_kept_is_equal(area: Area) -> None:
    assert len(area.differ()) == PAGES
    area.keep()
    assert area.differ() == []


def test_any_changed_byte_or_bit_shows(area: Area) -> None:
    area.keep()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(300):
        at = chance.randrange(PAGES * PAGE)
        before = area.map[at]
        area.map[at] = before ^ 1 << chance.randrange(8)
        assert area.differ() == [at // PAGE]
        area.map[at] = before
    # Two words of a page that change places, and a word that moves within its lane.
    page = area.map[:PAGE]
    area.map[:16] = page[8:16] + page[:8]
    assert area.differ() == [0]
    area.map[:16] = page[:16]
    area.map[0:8], area.map[32:40] = page[32:40], page[0:8]
    assert area.differ() == [0]


def test_pages_alike_but_for_their_place(area: Area) -> None:
    """Each word of a page at each place: no two of these pages have one digest."""
    area.map[:] = bytes(PAGES * PAGE)
    for page in range(512):
        area.map[page * PAGE + page * 8] = 1
    area.keep()
    kept = os.pread(area.fd, PAGES * 8, area.start // PAGE * 8)
    words = array.array("Q", kept)
    assert len(set(words[:512])) == 512
    assert set(words[512:]) == {0}


def test_zero_is_a_hole(area: Area) -> None:
    area.map[3 * PAGE : 5 * PAGE] = bytes(2 * PAGE)
    assert 3 not in area.differ() and 4 not in area.differ()
    area.keep()
    found = digest.nonzero(area.fd, area.all).tolist()
    assert found == [
        area.start,
        area.start + 3 * PAGE,
        area.start + 5 * PAGE,
        area.start + PAGES * PAGE,
    ]
    digest.punch(area.fd, runs((area.start + 8 * PAGE, area.start + 600 * PAGE)))
    assert area.differ() == list(range(8, 600))


def test_of_a_copy_as_of_the_target(area: Area) -> None:
    contents = os.memfd_create("contents")
    try:
        os.ftruncate(contents, 1 << 62)
        area.memory.copy_to(contents, area.all)
        digest.of_file(contents, area.all, area.fd)
        assert area.differ() == []
    finally:
        os.close(contents)


def test_what_cannot_be_read_is_told(area: Area) -> None:
    beyond = runs((1 << 20, (1 << 20) + PAGE))
    assert digest.copy_to(area.memory, area.fd, beyond).tolist() == [1 << 20, (1 << 20) + PAGE]
    assert digest.compare(area.memory, area.fd, beyond)[1].tolist() == [1 << 20, (1 << 20) + PAGE]
