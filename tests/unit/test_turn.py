"""Long work on an address space lets its own mmap() have the lock in between (c/turn.h)."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import time
from collections.abc import Callable, Iterator

import pytest

from uffdtrackd.native import scan

PAGE = mmap.PAGESIZE
PATIENCE = 20.0
#: prctl(2).
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30
#: Linux 5.14: page tables full of the zero page, so that there is much to walk and no memory.
MADV_POPULATE_READ = 22
MADV_NOHUGEPAGE = 15


@pytest.fixture
def pagemap() -> Iterator[int]:
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def memory() -> Iterator[tuple[int, int]]:
    with mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(MADV_NOHUGEPAGE)
        try:
            area.madvise(MADV_POPULATE_READ)
        except OSError as error:
            pytest.skip(f"no page tables without memory here: {error}")
        with memoryview(area) as view:
            start = ctypes.addressof(ctypes.c_char.from_buffer(view))
            yield start, start + len(area)


def _slept(work: Callable[[], object], seconds: float) -> int:
    """How often this thread slept while it did the work again and again for so long."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        work()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before


def test_calls_in_a_row_leave_a_gap(pagemap: int, memory: tuple[int, int]) -> None:
    start, end = memory

    def walk() -> None:
        assert scan.get(pagemap, start, end, mask=scan.Page.PRESENT)

    # A rest for each millisecond of it; on a busy machine, fewer: a thread that had to wait for its
    # CPU has left a gap anyway. So for as long as it takes: without rests there are none.
    rests, until = 0, time.monotonic() + PATIENCE
    while rests < 50 and time.monotonic() < until:
        rests += _slept(walk, 0.2)
    assert rests >= 50


def test_what_is_short_does_not_sleep(pagemap: int, memory: tuple[int, int]) -> None:
    start, _ = memory

    def look() -> None:
        scan.get(pagemap, start, start + PAGE, mask=scan.Page.PRESENT)
        until = time.monotonic() + 0.0002  # more than what counts as a gap
        while time.monotonic() < until:
            pass

    # Each of some 200 would; other reasons to sleep are rare.
    assert _slept(look, 0.05) < 20


def test_a_rest_leaves_the_slack_of_the_thread(pagemap: int, memory: tuple[int, int]) -> None:
    libc, (start, end) = ctypes.CDLL(None), memory
    before = libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)
    try:
        assert not libc.prctl(PR_SET_TIMERSLACK, 70_000, 0, 0, 0)
        rests, until = 0, time.monotonic() + PATIENCE
        while not rests and time.monotonic() < until:
            rests = _slept(lambda: scan.get(pagemap, start, end, mask=scan.Page.PRESENT), 0.1)
        assert rests
        assert libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == 70_000
    finally:
        libc.prctl(PR_SET_TIMERSLACK, before, 0, 0, 0)
