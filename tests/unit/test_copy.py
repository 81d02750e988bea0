"""Reading memory and the shadow file, on this process's own memory: no attaching needed."""

from __future__ import annotations

import array
import ctypes
import errno
import mmap
import os
import random
import subprocess
from collections.abc import Iterator

import pytest

from uffdtrackd.native import copy
from uffdtrackd.native.error import NativeError

PAGE = mmap.PAGESIZE
PROT_NONE = 0
PAGES = 600  # more than one batch of 512 pieces

libc = ctypes.CDLL(None, use_errno=True)


def runs(*pairs: tuple[int, int]) -> bytes:
    return array.array("Q", [x for pair in pairs for x in pair]).tobytes()


def pairs(view: memoryview) -> list[tuple[int, int]]:
    flat = view.tolist()
    return list(zip(flat[::2], flat[1::2], strict=True))


def protect(start: int, length: int, how: int) -> None:
    assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), how) == 0


class Area:
    """Pages of this process with a known random content; the page behind them is unreadable."""

    def __init__(self) -> None:
        # Past the end of its file a mapping cannot be read, by force neither, and nothing else
        # can be mapped there meanwhile.
        fd = os.memfd_create("area")
        os.ftruncate(fd, (PAGES + 1) * PAGE)
        self.map = mmap.mmap(fd, (PAGES + 1) * PAGE, mmap.MAP_PRIVATE)
        os.ftruncate(fd, PAGES * PAGE)
        os.close(fd)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.end = self.start + PAGES * PAGE
        self.content = random.Random(1).randbytes(PAGES * PAGE)
        self.map[: len(self.content)] = self.content

    def page(self, number: int) -> tuple[int, int]:
        return self.start + number * PAGE, self.start + (number + 1) * PAGE


@pytest.fixture(scope="module")
def area() -> Area:
    return Area()


@pytest.fixture
def memory() -> Iterator[copy.Memory]:
    with copy.Memory(os.getpid()) as made:
        yield made


@pytest.fixture
def shadow() -> Iterator[int]:
    fd = os.memfd_create("shadow")
    os.ftruncate(fd, 1 << 47)
    yield fd
    os.close(fd)


def test_read_any_alignment(area: Area, memory: copy.Memory) -> None:
    assert memory.read(area.start, PAGES * PAGE) == area.content
    assert memory.read(area.start + 5, 3 * PAGE) == area.content[5 : 5 + 3 * PAGE]
    assert memory.read(area.start, 0) == b""


def test_read_scattered(area: Area, memory: copy.Memory) -> None:
    numbers = range(0, PAGES, 2)
    got = memory.read_runs(runs(*(area.page(n) for n in numbers)))
    assert got == b"".join(area.content[n * PAGE : (n + 1) * PAGE] for n in numbers)
    # More pieces than one batch, each smaller than a page.
    tiny = [(area.start + 7 * n, area.start + 7 * n + 3) for n in range(1500)]
    assert memory.read_runs(runs(*tiny)) == b"".join(
        area.content[7 * n : 7 * n + 3] for n in range(1500)
    )


def test_read_of_a_hole_names_the_address(area: Area, memory: copy.Memory) -> None:
    with pytest.raises(NativeError) as caught:
        memory.read(area.end - PAGE, 2 * PAGE)
    assert caught.value.errno == errno.EFAULT
    assert caught.value.address == area.end


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (1 << 64, 1)])
def test_read_refuses_what_is_no_range(memory: copy.Memory, start: int, length: int) -> None:
    with pytest.raises(ValueError):
        memory.read(start, length)


def test_read_of_protected_pages(area: Area, memory: copy.Memory) -> None:
    start, _ = area.page(300)
    protect(start, PAGE, PROT_NONE)
    try:
        assert memory.read(area.start, PAGES * PAGE) == area.content
        memory.close()  # without /proc/PID/mem there is only the polite way
        with pytest.raises(NativeError) as caught:
            memory.read(area.start, PAGES * PAGE)
        assert caught.value.address == start
    finally:
        protect(start, PAGE, mmap.PROT_READ | mmap.PROT_WRITE)


def test_gone_process_is_esrch() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(NativeError) as caught:
        copy.Memory(child.pid).read(0x1000, 1)
    assert caught.value.errno == errno.ESRCH


def test_copy_goes_to_the_address(area: Area, memory: copy.Memory, shadow: int) -> None:
    assert pairs(memory.copy_to(shadow, runs(area.page(1), area.page(599)))) == []
    assert os.pread(shadow, PAGE, area.page(1)[0]) == area.content[PAGE : 2 * PAGE]
    assert os.pread(shadow, PAGE, area.page(599)[0]) == area.content[599 * PAGE :]
    assert os.pread(shadow, PAGE, area.page(2)[0]) == bytes(PAGE)
    assert os.fstat(shadow).st_blocks * 512 == 2 * PAGE


def test_copy_lists_the_unreadable(area: Area, memory: copy.Memory, shadow: int) -> None:
    hole = (area.end, area.end + PAGE)
    bad = memory.copy_to(shadow, runs((area.start, area.end + PAGE)))
    assert pairs(bad) == [hole]
    assert os.pread(shadow, PAGE, area.page(599)[0]) == area.content[599 * PAGE :]


def test_compare_finds_exactly_what_differs(area: Area, memory: copy.Memory, shadow: int) -> None:
    everything = runs((area.start, area.end))
    memory.copy_to(shadow, everything)
    assert [pairs(x) for x in memory.compare(shadow, everything)] == [[], []]
    # The last byte of a page, two neighbours, and pages on both sides of a batch border.
    for number in (0, 17, 18, 255, 256, 599):
        os.pwrite(shadow, b"\0\1", area.page(number)[1] - 2)
        assert area.content[(number + 1) * PAGE - 2 : (number + 1) * PAGE] != b"\0\1"
    differ, bad = memory.compare(shadow, everything)
    assert pairs(differ) == [
        area.page(0),
        (area.page(17)[0], area.page(18)[1]),
        (area.page(255)[0], area.page(256)[1]),
        area.page(599),
    ]
    assert pairs(bad) == []


def test_compare_with_a_hole_compares_with_zero(
    area: Area, memory: copy.Memory, shadow: int
) -> None:
    differ, _ = memory.compare(shadow, runs(area.page(3)))
    assert pairs(differ) == [area.page(3)]


def test_compare_lists_the_unreadable(area: Area, memory: copy.Memory, shadow: int) -> None:
    os.pwrite(shadow, b"x", area.end)
    differ, bad = memory.compare(shadow, runs((area.end, area.end + PAGE)))
    assert pairs(bad) == [(area.end, area.end + PAGE)]
    assert pairs(differ) == [(area.end, area.end + PAGE)]


def test_punch_and_nonzero(area: Area, memory: copy.Memory, shadow: int) -> None:
    everything = runs((area.start, area.end))
    memory.copy_to(shadow, everything)
    assert pairs(copy.nonzero(shadow, everything)) == [(area.start, area.end)]
    copy.punch(shadow, runs((area.start, area.page(10)[0]), area.page(20)))
    assert pairs(copy.nonzero(shadow, everything)) == [
        (area.page(10)[0], area.page(19)[1]),
        (area.page(21)[0], area.end),
    ]
    assert os.fstat(shadow).st_blocks * 512 == (PAGES - 11) * PAGE


def test_no_space_in_the_shadow_is_an_error(area: Area, memory: copy.Memory) -> None:
    fd = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(NativeError) as caught:
            memory.copy_to(fd, runs(area.page(0)))
    finally:
        os.close(fd)
    assert caught.value.errno == errno.ENOSPC


def test_no_runs(memory: copy.Memory, shadow: int) -> None:
    assert memory.read_runs(b"") == b""
    assert pairs(memory.copy_to(shadow, b"")) == []
    assert [pairs(x) for x in memory.compare(shadow, b"")] == [[], []]
    copy.punch(shadow, b"")
    assert pairs(copy.nonzero(shadow, b"")) == []
