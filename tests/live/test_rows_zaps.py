"""Rows 11-15, 18 of docs/soundness.md: content that goes away without a write.

Each event in three shapes: left alone, read again, written again. What is read again has a page
(the zero page, or the file's) where a clean one was: that is where remedies that only look at
populated pages fail.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.row import Row
from tests.procfs import PAGE, present
from tests.puppet import (
    ANON,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    HUGE,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_PAGEOUT,
    MADV_REMOVE,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    RW,
    Puppet,
)
from uffdtrackd.native.collect import Collected, Collector
from uffdtrackd.native.faults import Counts, Faults
from uffdtrackd.native.layout import Layout, Vma
from uffdtrackd.tracking.backing import stamp
from uffdtrackd.tracking.sync import SyncTracker

pytestmark = [pytest.mark.live, pytest.mark.both_backends]

AFTER = ["alone", "read", "written"]
PER_HUGE = HUGE // PAGE


def then(puppet: Puppet, after: str, at: int, pages: int) -> None:
    if after == "read":
        puppet.touch(at, pages)
    elif after == "written":
        puppet.fill(at, pages)


def pagemap(puppet: Puppet, look: Callable[[int, int, int], bytes], at: int, pages: int) -> bytes:
    fd = os.open(f"/proc/{puppet.pid}/pagemap", os.O_RDONLY)
    try:
        return look(fd, at, at + pages * PAGE)
    finally:
        os.close(fd)


@pytest.mark.parametrize("after", AFTER)
def test_row_11_dontneed(row: Row, after: str) -> None:
    at = row.puppet.alone(32)
    row.puppet.fill(at, 32)
    row.watch()
    row.puppet.madvise(at + 4 * PAGE, 8, MADV_DONTNEED)
    then(row.puppet, after, at + 4 * PAGE, 8)
    row.judge((at + 4 * PAGE, 8))
    row.writes_are_seen(at, 32)


def test_row_11_dontneed_while_it_is_new(
    row: Row, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Given back and written again in the midst of the iteration that meets it, then given back.

    The first time between two looks, so that one of them sees pages and the other does not.
    """
    puppet = row.puppet
    whole = puppet.mmap(2 * PER_HUGE, PROT_NONE)
    puppet.munmap(whole, 2 * PER_HUGE)
    at = (whole + HUGE - 1 & -HUGE) + 100 * PAGE  # with page tables of its own
    row.watch()
    puppet.mmap(32, at=at)
    puppet.fill(at, 32)
    collect, events = Collector.collect, 0

    def race(self: Collector, also: memoryview) -> Collected:
        nonlocal events
        events += 1
        puppet.madvise(at, 32, MADV_DONTNEED)
        found = collect(self, also)
        puppet.fill(at, 32)
        return found

    monkeypatch.setattr(Collector, "collect", race)
    row.step()
    monkeypatch.undo()
    assert events == (backend == "async")
    puppet.madvise(at, 32, MADV_DONTNEED)
    row.judge()
    row.writes_are_seen(at, 32)


def huge_page(puppet: Puppet) -> int:
    """A written transparent huge page, by itself; skips where there is none to be had."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("transparent huge pages are off here")
    whole = puppet.mmap(3 * PER_HUGE)
    at = (whole + HUGE - 1) & -HUGE
    if at > whole:  # the kernel aligns large mappings by itself, some
        puppet.munmap(whole, (at - whole) // PAGE)
    puppet.munmap(at + HUGE, (whole + 2 * HUGE - at) // PAGE)
    puppet.madvise(at, PER_HUGE, MADV_HUGEPAGE)
    puppet.fill(at, PER_HUGE)
    smaps = Path(f"/proc/{puppet.pid}/smaps").read_text()
    if "AnonHugePages:      2048 kB" not in smaps:
        pytest.skip("no transparent huge page was free")
    return at


@pytest.mark.parametrize("after", AFTER)
def test_row_11a_dontneed_of_a_huge_page(row: Row, after: str) -> None:
    at = huge_page(row.puppet)
    row.watch()
    row.puppet.madvise(at, PER_HUGE, MADV_DONTNEED)
    then(row.puppet, after, at, PER_HUGE)
    row.judge((at, PER_HUGE))
    row.writes_are_seen(at + 7 * PAGE, 3)


def test_row_11a_one_page_of_a_huge_page(row: Row) -> None:
    at = huge_page(row.puppet)
    row.watch()
    row.puppet.madvise(at + 9 * PAGE, 1, MADV_DONTNEED)
    row.judge((at + 9 * PAGE, 1))
    row.writes_are_seen(at + 100 * PAGE, 1)


@pytest.mark.parametrize("written", [False, True])
def test_row_12_free_and_reclaimed(row: Row, written: bool) -> None:
    """MADV_FREE takes the pages when memory is short; MADV_PAGEOUT makes it short here."""
    at = row.puppet.alone(32)
    row.puppet.fill(at, 32)
    row.watch()
    row.puppet.madvise(at, 16, MADV_FREE)
    row.oracle.final().check()
    if written:
        row.puppet.fill(at, 4)
    row.puppet.madvise(at, 16, MADV_PAGEOUT)
    left = pagemap(row.puppet, present, at, 16)
    if left == b"\1" * 16:
        pytest.skip("MADV_PAGEOUT does not take freed pages here")
    row.judge(*((at + i * PAGE, 1) for i, there in enumerate(left) if not there))
    row.writes_are_seen(at, 16)


@pytest.fixture(params=["disk", "tmpfs", "memfd"])
def private(request: pytest.FixtureRequest, row: Row, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A private mapping of 16 pages of a file with content, all of it written: address, fd."""
    puppet = row.puppet
    if request.param == "memfd":
        fd = puppet.memfd(16)
    else:
        folder = tmp_path if request.param == "disk" else Path("/dev/shm")
        path = folder / f"row-{puppet.pid}"
        path.write_bytes(os.urandom(16 * PAGE))
        fd = puppet.open(path)
        path.unlink()
    at = puppet.mmap(16, RW, MAP_PRIVATE, fd)
    puppet.fill(at, 16)
    yield at, fd


@pytest.mark.parametrize("after", AFTER)
def test_row_13_private_copy_given_back(row: Row, private: tuple[int, int], after: str) -> None:
    at, _ = private
    row.watch()
    row.puppet.madvise(at + 2 * PAGE, 6, MADV_DONTNEED)
    then(row.puppet, after, at + 2 * PAGE, 6)
    row.judge((at + 2 * PAGE, 6))
    row.writes_are_seen(at, 16)


class Silent:
    """In place of a handler of faults: nobody answers, so that the target waits."""

    def counts(self) -> Counts:
        return Counts(0, 0, 0, 0)

    def stop(self) -> None:
        pass


def test_row_13_frozen_between_two_faults(row: Row, backend: str, private: tuple[int, int]) -> None:
    """A page that was given up is the file's once more, and looks as the one that was written."""
    at, _ = private
    row.watch()
    puppet = row.puppet
    if backend == "async":
        # There the second fault waits for nobody: that all such pages are listed must do.
        row.judge()
        assert row.oracle.last is not None and row.listed(row.oracle.last, at, 16) == 16
        return
    writer = puppet.agent("thread")
    tracker = row.session._tree.members[puppet.pid]._tracker
    assert isinstance(tracker, SyncTracker)
    tracker._faults.stop()
    tracker._faults = Silent()  # type: ignore[assignment]
    puppet.madvise(at, 4, MADV_DONTNEED)
    written = writer.begin(f"fill {at} {PAGE} 1")
    with open(f"/proc/{puppet.pid}/pagemap", "rb", buffering=0) as pagemap:
        limit = time.monotonic() + 60
        # Present, of no file (proc(5)): the first fault is over.
        while (os.pread(pagemap.fileno(), 8, at // PAGE * 8)[7] & 0xA0) != 0x80:
            assert time.monotonic() < limit, "the first fault never came"
    row.judge((at, 4))
    tracker._faults = Faults(tracker._uffd)
    assert written() == "ok"
    row.writes_are_seen(at, 16)


@pytest.mark.parametrize("after", ["alone", "read"])
def test_row_13_twice_in_a_row(row: Row, private: tuple[int, int], after: str) -> None:
    """A page that came back and went again is as lost as the first time."""
    at, _ = private
    row.watch()
    for _ in range(2):
        row.puppet.madvise(at, 4, MADV_DONTNEED)
        then(row.puppet, after, at, 4)
        row.judge((at, 4))
        row.writes_are_seen(at, 4)


@contextmanager
def huge_mapping(puppet: Puppet, flags: int, pages: int = 4) -> Iterator[int]:
    at = puppet.mmap(pages * PER_HUGE, RW, flags | MAP_HUGETLB)
    puppet.fill(at, pages * PER_HUGE)
    yield at


@pytest.mark.parametrize("after", AFTER)
def test_row_14_private_hugetlb(row: Row, huge_pages: None, after: str) -> None:
    with huge_mapping(row.puppet, ANON) as at:
        row.watch()
        row.puppet.madvise(at + HUGE, 2 * PER_HUGE, MADV_DONTNEED)
        then(row.puppet, after, at + HUGE, 2 * PER_HUGE)
        row.judge((at + HUGE, 2 * PER_HUGE))
        row.writes_are_seen(at, 4 * PER_HUGE)


@pytest.mark.parametrize("after", ["alone", "read"])
def test_row_14_one_word_was_there(row: Row, huge_pages: None, after: str) -> None:
    """The least content that a page can lose, then none, then another."""
    at = row.puppet.mmap(2 * PER_HUGE, RW, ANON | MAP_HUGETLB)
    row.puppet.touch(at, 2 * PER_HUGE)
    last = at + 2 * HUGE - 8
    row.puppet.store(last, b"last one")
    row.watch()
    for word in (b"\0\0\0\1", b"\1\0\0\0"):
        row.puppet.madvise(at, 2 * PER_HUGE, MADV_DONTNEED)
        then(row.puppet, after, at, 2 * PER_HUGE)
        row.judge((last & -PAGE, 1))
        row.puppet.store(last, word)
        row.judge((last & -PAGE, 1))


@pytest.mark.parametrize("copied", [False, True])
def test_row_17_hugetlb_file_under_a_private_mapping(
    row: Row, huge_pages: None, copied: bool
) -> None:
    """What was read through it is the file's own, and follows what others write there."""
    puppet = row.puppet
    fd = puppet.memfd(2 * PER_HUGE, huge=True)
    shared = puppet.mmap(2 * PER_HUGE, RW, MAP_SHARED, fd)
    puppet.fill(shared, 2 * PER_HUGE)
    at = puppet.mmap(2 * PER_HUGE, RW, MAP_PRIVATE, fd)
    puppet.touch(at, 2 * PER_HUGE)
    if copied:
        puppet.fill(at, 1)
    row.watch()
    if copied:
        puppet.madvise(at, PER_HUGE, MADV_DONTNEED)
        puppet.touch(at, PER_HUGE)
    puppet.fill(shared + 8 * PAGE, 4)
    if copied:
        row.judge((at, 1))
    else:
        row.judge((shared + 8 * PAGE, 4))
    row.writes_are_seen(at + HUGE, 1)


def test_row_14_asked_while_another_is_there(
    row: Row, huge_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of its pages is asked by address, and known for the whole file system from then."""
    puppet = row.puppet
    whole = puppet.mmap(4 * PER_HUGE, PROT_NONE)
    at = (whole + HUGE - 1) & -HUGE
    fd = puppet.memfd(PER_HUGE)
    puppet.mmap(PER_HUGE, RW, ANON | MAP_HUGETLB, at=at)
    page_size_of, events = Layout.page_size_of, 0

    def race(self: Layout, vma: Vma) -> int:
        nonlocal events
        if vma.start != at or vma.name.startswith("/memfd") or events:
            return page_size_of(self, vma)
        events += 1
        puppet.mmap(PER_HUGE, RW, MAP_PRIVATE, fd, at=at)
        try:
            return page_size_of(self, vma)
        finally:
            puppet.mmap(PER_HUGE, RW, ANON | MAP_HUGETLB, at=at)

    monkeypatch.setattr(Layout, "page_size_of", race)
    row.watch()
    assert events == 1
    puppet.fill(at, PER_HUGE)
    row.step()
    row.step()
    puppet.madvise(at, PER_HUGE, MADV_DONTNEED)
    puppet.touch(at, PER_HUGE)
    row.judge((at, PER_HUGE))
    row.writes_are_seen(at, PER_HUGE)


def sparse(row: Row, flags: int) -> int:
    """More than a GiB of huge pages, of which one is there."""
    at = row.puppet.mmap(1100 * PER_HUGE, RW, flags | MAP_HUGETLB | MAP_NORESERVE)
    row.puppet.fill(at, PER_HUGE)
    return at


def test_row_14_an_empty_gibibyte(row: Row, huge_pages: None, backend: str) -> None:
    """Huge pages without even a page table: older kernels say nothing of those.

    Nothing but what is listed is looked at: reading holes in full takes the oracle minutes.
    """
    at = sparse(row, ANON)
    with uffdtrackd.attach(row.puppet.pid, backend=backend) as session:
        for number in (0, 1, 1090):
            row.puppet.fill(at + number * HUGE, PER_HUGE)
            dirty = session.iterate().processes[row.puppet.pid].dirty
            inside = [run for run in dirty if at <= run[0] < at + 1100 * HUGE]
            assert inside == [(at + number * HUGE, at + (number + 1) * HUGE)]


def test_row_14_an_empty_gibibyte_shared(row: Row, huge_pages: None, backend: str) -> None:
    """Protecting those would hang kernels before 6.12.97 for ever. (Reading them takes pages.)"""
    at = sparse(row, MAP_SHARED | 0x20)
    with uffdtrackd.attach(row.puppet.pid, backend=backend) as session:
        for _ in range(3):
            row.puppet.fill(at, PER_HUGE)
            pages = session.iterate().processes[row.puppet.pid]
            assert any(start <= at < end for start, end in pages.always)


@pytest.mark.parametrize("after", AFTER)
def test_row_14_shared_hugetlb_with_a_hole(row: Row, huge_pages: None, after: str) -> None:
    with huge_mapping(row.puppet, MAP_SHARED | 0x20) as at:
        row.watch()
        row.puppet.madvise(at + HUGE, PER_HUGE, MADV_REMOVE)
        then(row.puppet, after, at + HUGE, PER_HUGE)
        row.judge((at + HUGE, PER_HUGE))
        row.writes_are_seen(at, 4 * PER_HUGE)


@pytest.fixture(params=["anon", "memfd", "closed memfd", "tmpfs", "disk", "sysv"])
def shared(request: pytest.FixtureRequest, row: Row, tmp_path: Path) -> int:
    """A shared mapping of 16 pages, written; where the name says so nothing else has it."""
    puppet, kind = row.puppet, str(request.param)
    if kind == "anon":
        at = puppet.mmap(16, RW, MAP_SHARED | 0x20)
    elif kind == "sysv":
        segment = puppet.call("shmget", 0, 16 * PAGE, 0o1600)
        at = puppet.call("shmat", segment, 0, 0)
        puppet.call("shmctl", segment, 0, 0)  # IPC_RMID: gone when detached
    else:
        if "memfd" in kind:
            fd = puppet.memfd(16)
        else:
            path = (tmp_path if kind == "disk" else Path("/dev/shm")) / f"row-{puppet.pid}"
            path.write_bytes(bytes(16 * PAGE))
            fd = puppet.open(path)
            path.unlink()
        at = puppet.mmap(16, RW, MAP_SHARED, fd)
        if kind == "closed memfd":
            puppet.close(fd)
    puppet.fill(at, 16)
    return at


@pytest.mark.parametrize("after", AFTER)
def test_row_15_hole_by_madvise(row: Row, shared: int, after: str) -> None:
    row.watch()
    row.puppet.madvise(shared + 3 * PAGE, 5, MADV_REMOVE)
    then(row.puppet, after, shared + 3 * PAGE, 5)
    row.judge((shared + 3 * PAGE, 5))
    row.writes_are_seen(shared, 16)


def reopened(puppet: Puppet, at: int) -> int:
    """The file behind a mapping, opened once more."""
    return puppet.open(f"/proc/{puppet.pid}/map_files/{at:x}-{at + 16 * PAGE:x}")


@pytest.mark.parametrize("after", AFTER)
def test_row_15_hole_by_fallocate(row: Row, shared: int, after: str) -> None:
    row.watch()
    fd = reopened(row.puppet, shared)
    how = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE
    row.puppet.call("fallocate", fd, how, 3 * PAGE, 5 * PAGE)
    row.puppet.close(fd)
    then(row.puppet, after, shared + 3 * PAGE, 5)
    row.judge((shared + 3 * PAGE, 5))
    row.writes_are_seen(shared, 16)


def test_row_15_hole_and_mtime_set_back(row: Row, shared: int) -> None:
    """And read again: else there is a hole to be seen."""
    row.watch()
    link = f"/proc/{row.puppet.pid}/map_files/{shared:x}-{shared + 16 * PAGE:x}"
    before = os.stat(link)
    while time.time_ns() < before.st_mtime_ns + 200_000_000:
        row.oracle.step()  # mtime is old by now: it can be believed
    row.puppet.madvise(shared + 3 * PAGE, 5, MADV_REMOVE)
    os.utime(link, ns=(before.st_atime_ns, before.st_mtime_ns))
    row.puppet.touch(shared + 3 * PAGE, 5)
    row.judge((shared + 3 * PAGE, 5))
    row.writes_are_seen(shared, 16)


def test_row_15_a_settled_stamp_is_left_behind(tmp_path: Path) -> None:
    """By any change, however soon it comes and however late the tick of the kernel's clock."""
    for fd in (os.memfd_create("stamp"), os.open(tmp_path / "stamp", os.O_RDWR | os.O_CREAT)):
        try:
            os.ftruncate(fd, 8 * PAGE)
            for page in range(20):
                os.pwrite(fd, b"1", page % 8 * PAGE)
                while not (before := stamp(fd)).settled:
                    pass
                os.pwrite(fd, b"2", page % 8 * PAGE)
                assert stamp(fd).changed_ns != before.changed_ns
        finally:
            os.close(fd)


@pytest.mark.parametrize("after", AFTER)
def test_row_15_cut_and_grown(row: Row, shared: int, after: str) -> None:
    row.watch()
    fd = reopened(row.puppet, shared)
    row.puppet.call("ftruncate", fd, 4 * PAGE)
    row.oracle.final().check()
    row.puppet.call("ftruncate", fd, 16 * PAGE)
    row.puppet.close(fd)
    then(row.puppet, after, shared + 4 * PAGE, 12)
    row.judge()
    row.puppet.fill(shared, 16)
    row.judge((shared, 16))


def test_row_15_cut_and_grown_at_once(row: Row, shared: int) -> None:
    row.watch()
    fd = reopened(row.puppet, shared)
    row.puppet.call("ftruncate", fd, 4 * PAGE + 100)
    row.puppet.call("ftruncate", fd, 16 * PAGE)
    row.puppet.close(fd)
    row.puppet.touch(shared, 16)
    row.judge((shared + 4 * PAGE, 12))


@pytest.mark.parametrize("after", AFTER)
def test_row_15_takes_private_copies_too(row: Row, private: tuple[int, int], after: str) -> None:
    """Cutting a file drops the private copies of what was cut (but punching does not)."""
    at, fd = private
    row.watch()
    row.puppet.call("ftruncate", fd, 0)
    row.puppet.call("ftruncate", fd, 16 * PAGE)
    then(row.puppet, after, at, 16)
    row.judge((at, 16))
    row.writes_are_seen(at, 16)


@pytest.mark.parametrize("after", AFTER)
def test_row_18_dontneed_of_shared_memory(row: Row, shared: int, after: str) -> None:
    """The content stays in the object."""
    row.watch()
    row.puppet.madvise(shared, 8, MADV_DONTNEED)
    then(row.puppet, after, shared, 8)
    row.judge(*([(shared, 8)] if after == "written" else []))
    row.writes_are_seen(shared, 16)
