"""Shared objects from their own side: told apart for good, and searched for pages of zero."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.procfs import read_maps
from uffdtrackd.model.iteration import Iteration, ProcessPages
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.model.region import Window
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.layout import SHARED, Vma
from uffdtrackd.native.object import born_ns, handle, zero_pages
from uffdtrackd.tracking import neighbours, sysv
from uffdtrackd.tracking.backing import Backing, kernel_device
from uffdtrackd.tracking.object import SharedObject, View

PAGE = 4096


@pytest.fixture
def memory() -> Iterator[tuple[int, mmap.mmap]]:
    fd = os.memfd_create("object")
    os.ftruncate(fd, 8 * PAGE)
    with mmap.mmap(fd, 8 * PAGE) as mapped:
        yield fd, mapped
    os.close(fd)


def path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def test_a_handle_names_the_file_and_no_other(memory: tuple[int, mmap.mmap]) -> None:
    fd, _ = memory
    again = os.open(path(fd), os.O_RDONLY)
    other = os.memfd_create("object")
    try:
        assert handle(path(fd)) == handle(path(again)) != handle(path(other))
    finally:
        os.close(again)
        os.close(other)


def test_no_such_file() -> None:
    with pytest.raises(NativeError, match="name_to_handle_at"):
        handle("/no/such/file")
    assert born_ns("/no/such/file") == 0


def test_birth(tmp_path: Path) -> None:
    before = neighbours.ticks_after_boot(born_ns("/proc/self/exe") or 1)
    fd = os.memfd_create("object")
    try:
        born = born_ns(path(fd))
        if not born:
            pytest.skip("shared memory does not tell here when it was made")
        made = neighbours.ticks_after_boot(born)
        with open("/proc/uptime") as uptime:
            now = float(uptime.read().split()[0]) * os.sysconf("SC_CLK_TCK")
        assert before < made and now - 100 < made <= now + 100
    finally:
        os.close(fd)


def test_pages_of_zero(memory: tuple[int, mmap.mmap]) -> None:
    fd, mapped = memory
    hints = bytearray(2 * 6)  # two pages have no hint
    runs = PageSet.from_ranges([(0, 8 * PAGE)]).runs

    def zero() -> list[int]:
        return list(zero_pages(fd, runs, hints))

    assert zero() == [0, 8 * PAGE]
    for page, at in ((1, 0), (2, 4088), (4, 2047), (7, 17)):
        mapped[page * PAGE + at] = 1
    assert zero() == [0, PAGE, 3 * PAGE, 4 * PAGE, 5 * PAGE, 7 * PAGE]
    assert list(memoryview(hints).cast("H")) == [0, 0, 511, 0, 255, 0]
    # The word has gone, another has come: the hint is no more than that.
    mapped[2 * PAGE + 4088] = 0
    mapped[2 * PAGE + 8] = 9
    mapped[4 * PAGE + 2047] = 0
    assert zero() == [0, PAGE, 3 * PAGE, 7 * PAGE]


def test_books_of_the_segments_here() -> None:
    books = sysv.read()
    with open("/proc/sysvipc/shm") as file:
        rows = [line.split() for line in file][1:]
    assert {int(row[1]) for row in rows} == books.keys()
    assert sysv.same_namespace(os.getpid())


def test_a_descriptor_and_a_mapping_are_found(memory: tuple[int, mmap.mmap]) -> None:
    fd, _ = memory
    status = os.stat(path(fd))
    place = status.st_dev, status.st_ino
    number = os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
    wanted, pid = {place: neighbours.Wanted(number, None)}, os.getpid()
    assert neighbours.look(wanted, {pid}, pid) == {place: "open in the target"}
    assert neighbours.look(wanted, {pid}, 1) == {place: f"open in process {pid}"}
    assert neighbours._mapped(pid, wanted) == {place}


def test_a_file_with_the_name_of_unnamed_memory(memory: tuple[int, mmap.mmap]) -> None:
    """maps shows the path of a file as it was: `/dev/zero (deleted)` may be one on any tmpfs."""
    status = os.fstat(memory[0])
    here = os.major(status.st_dev), os.minor(status.st_dev)
    assert kernel_device() == here

    def made(name: str, device: tuple[int, int]) -> SharedObject:
        vma = Vma(0, PAGE, SHARED, 0, device, 7, name, "")
        none = PageSet(PAGE)
        found = SharedObject(PAGE)
        found.views = [(View(1, 1, [vma], [], [], none, none, none), vma)]
        return found

    for device in (here, (8, 1)):
        assert made("/dev/zero (deleted)", device).inherited == (device == here)
        assert made("/SYSV00000000 (deleted)", device).segment == (device == here)
        assert not made("/memfd:zero (deleted)", device).inherited


def test_only_a_seal_makes_a_descriptor_harmless(tmp_path: Path) -> None:
    """Asked of the file behind a mapping of ours."""
    (tmp_path / "file").write_bytes(bytes(PAGE))
    kinds = [
        os.memfd_create("object"),
        os.memfd_create("object", os.MFD_ALLOW_SEALING),
        os.open(tmp_path / "file", os.O_RDWR),
    ]
    try:
        for number, fd in enumerate(kinds):
            os.ftruncate(fd, PAGE)
            with mmap.mmap(fd, PAGE):
                seal = 0x10  # F_SEAL_FUTURE_WRITE
                if number == 1:
                    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
                place = os.stat(path(fd))
                line = next(one for one in read_maps(os.getpid()) if one.inode == place.st_ino)
                vma = Vma(line.start, line.end, SHARED, 0, (0, 0), place.st_ino, "", "")
                with Backing(os.getpid(), vma) as backing:
                    assert backing.sealed() == (number == 1)
    finally:
        for fd in kinds:
            os.close(fd)


def test_a_private_mapping_writes_to_nobody() -> None:
    fd = os.memfd_create("object")
    os.ftruncate(fd, PAGE)
    status = os.stat(path(fd))
    number = os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
    wanted = {(status.st_dev, status.st_ino): neighbours.Wanted(number, None)}
    try:
        with mmap.mmap(fd, PAGE, flags=mmap.MAP_PRIVATE):
            assert neighbours._mapped(os.getpid(), wanted) == set()
    finally:
        os.close(fd)


def window(start: int, pages: int, offset: int, name: str = "a") -> Window:
    return Window(start * PAGE, (start + pages) * PAGE, name, offset * PAGE)


def pages(*numbers: int) -> PageSet:
    return PageSet.from_ranges((n * PAGE, (n + 1) * PAGE) for n in numbers)


def test_copies_once() -> None:
    none = pages()
    processes = {
        1: ProcessPages(pages(1, 10, 11), none, none, windows=[window(10, 4, 0)]),
        # The same object from its second page on, twice, and another one.
        2: ProcessPages(
            pages(2, 20, 21, 30, 40),
            none,
            none,
            windows=[window(20, 3, 1), window(30, 2, 1), window(40, 1, 0, "b")],
        ),
    }
    iteration = Iteration(0, False, 0, 0, 0, PAGE, processes)
    # 20 is 11; 21 is new, offset 2; 30 is 20; 40 is of another object.
    assert iteration.copies() == {1: pages(1, 10, 11), 2: pages(2, 21, 40)}
    assert iteration.to_map()["processes"][0]["windows"] == [[10 * PAGE, 14 * PAGE, "a", 0]]
