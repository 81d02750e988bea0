"""Rows 19, 20, 22, 27 of docs/soundness.md: writes into pages that are held, not mapped.

A pinned page is written through another address than the target's: its protection says nothing.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.row import Row, own_userfaultfd
from tests.procfs import PAGE, idle_worker, read_maps, thread_states
from tests.puppet import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_NONE,
    PROT_READ,
    RW,
    Puppet,
)
from tests.slowfile import SlowFile
from tests.uring import Ring
from tests.victim import PATIENCE
from uffdtrackd.native.layout import Vma
from uffdtrackd.tracking.untracked import Judge

pytestmark = [pytest.mark.live, pytest.mark.both_backends]


def pipe(puppet: Puppet) -> tuple[int, int]:
    scratch = puppet.mmap(1)
    puppet.call("pipe2", scratch, 0)
    reader, writer = struct.unpack("ii", puppet.load(scratch, 8))
    return reader, writer


@pytest.fixture
def ring(puppet: Puppet) -> Ring:
    try:
        return Ring(puppet)
    except OSError as error:
        pytest.skip(f"io_uring is not to be had here: {error}")


def feed(puppet: Puppet, ring: Ring, at: int, pages: int) -> None:
    """Read random bytes into a registered buffer by way of a pipe."""
    reader, writer = pipe(puppet)
    source = puppet.mmap(pages)
    puppet.fill(source, pages)
    ring.read_fixed(reader, at, pages * PAGE)
    assert puppet.call("write", writer, source, pages * PAGE) == pages * PAGE
    ring.wait()
    assert puppet.load(at, 64) == puppet.load(source, 64)


@pytest.mark.parametrize("when", ["before", "after"])
def test_row_19_registered_buffer(row: Row, ring: Ring, when: str, backend: str) -> None:
    at = row.puppet.alone(12)
    row.puppet.fill(at, 12)
    if when == "before":
        ring.register(at + 2 * PAGE, 8 * PAGE)
    row.watch()
    if when == "after":
        try:
            ring.register(at + 2 * PAGE, 8 * PAGE)
        except OSError as error:
            if backend != "sync" or error.errno != errno.EFAULT:
                raise
            pytest.skip("pinning protected pages fails on this kernel (see docs/soundness.md)")
        row.step()
        row.step()
    feed(row.puppet, ring, at + 3 * PAGE, 4)
    row.judge((at + 3 * PAGE, 4))
    feed(row.puppet, ring, at + 5 * PAGE, 4)
    row.judge((at + 5 * PAGE, 4))
    always = row.step().processes[row.puppet.pid].always
    assert sum(end - start for start, end in always if at <= start < at + 12 * PAGE) == 8 * PAGE
    row.writes_are_seen(at, 12)


def test_row_19_only_while_it_is_registered(row: Row, ring: Ring) -> None:
    """The last data may have come after the last look: listed once more, then tracked again."""
    at = row.puppet.alone(8)
    row.puppet.fill(at, 8)
    ring.register(at, 8 * PAGE)
    row.watch()
    feed(row.puppet, ring, at, 4)
    ring.unregister()
    row.judge((at, 4))
    row.step()
    # The kernel may unpin some time after the call returned: Linux 6.1 does so by a worker.
    limit = time.monotonic() + PATIENCE
    while row.listed(row.step(), at, 8):
        assert time.monotonic() < limit, "still listed"
    row.writes_are_seen(at, 8)


def test_row_19_part_of_the_buffer_was_mapped_over(row: Row, ring: Ring) -> None:
    """What is pinned is no longer what is mapped: the ring writes to pages that nobody sees."""
    at = row.puppet.alone(8)
    row.puppet.fill(at, 8)
    ring.register(at, 8 * PAGE)
    row.watch()
    row.puppet.mmap(4, at=at)
    row.puppet.fill(at, 4)
    row.judge((at, 4))
    row.puppet.munmap(at, 8)
    row.judge((at, 8))


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFile]:
    try:
        with SlowFile(tmp_path) as made:
            yield made
    except OSError as error:
        pytest.skip(f"no file system can be mounted over /dev/fuse here: {error}")


def test_row_20_direct_read_in_flight(row: Row, slow: SlowFile) -> None:
    """Pinned before the scan, filled after it, and over before the freeze."""
    reader = row.puppet.agent("thread")
    at = row.puppet.alone(8)
    row.puppet.fill(at, 8)
    fd = row.puppet.open(slow.path, os.O_RDONLY | os.O_DIRECT)
    row.watch()
    ended = reader.begin(f"call read {fd} {at} {4 * PAGE}")
    read = slow.wait_for_read()
    for _ in range(3):
        row.step()
    slow.answer(read)
    assert ended() == f"{4 * PAGE} 0"
    row.judge((at, 4))
    row.writes_are_seen(at, 8)


def test_row_20_descriptor_closed_before_the_final(row: Row, slow: SlowFile) -> None:
    reader = row.puppet.agent("thread")
    at = row.puppet.alone(8)
    row.puppet.fill(at, 8)
    row.watch()
    fd = row.puppet.open(slow.path, os.O_RDONLY | os.O_DIRECT)
    ended = reader.begin(f"call read {fd} {at} {4 * PAGE}")
    read = slow.wait_for_read()
    row.step()
    row.puppet.close(fd)
    row.step()
    slow.answer(read)
    ended()
    row.step()
    row.judge((at, 4))


def test_row_20_aio(row: Row, slow: SlowFile) -> None:
    """Asynchronous: no thread waits for it."""
    puppet = row.puppet
    at, scratch = puppet.alone(8), puppet.mmap(1)
    puppet.fill(at, 8)
    fd = puppet.open(slow.path, os.O_RDONLY | os.O_DIRECT)
    puppet.call("io_setup", 8, scratch)
    (context,) = struct.unpack("Q", puppet.load(scratch, 8))
    control = struct.pack("QIIHHIQQqQII", 0, 0, 0, 0, 0, fd, at, 4 * PAGE, 0, 0, 0, 0)
    puppet.store(scratch + 64, control)
    puppet.store(scratch, struct.pack("Q", scratch + 64))
    row.watch()
    assert puppet.call("io_submit", context, 1, scratch) == 1
    read = slow.wait_for_read()
    row.step()
    slow.answer(read)
    assert puppet.call("io_getevents", context, 1, 1, scratch + 512, 0) == 1
    row.judge((at, 4))


def wait_for_idle_worker(pid: int) -> None:
    limit = time.monotonic() + PATIENCE
    while not any(idle_worker(pid, thread) for thread in thread_states(pid)):
        assert time.monotonic() < limit, "no worker came to rest"


def test_row_20_beside_an_idle_worker(row: Row, ring: Ring, slow: SlowFile) -> None:
    """A worker of io_uring that waits for more cannot be stopped: the rest is all the same."""
    puppet = row.puppet
    reader = puppet.agent("thread")
    at, other = puppet.alone(8), puppet.alone(1)
    puppet.fill(at, 8)
    fd = puppet.open(slow.path, os.O_RDONLY | os.O_DIRECT)
    ring.read_by_worker(puppet.open("/dev/zero", os.O_RDONLY), other, 64)
    ring.wait()
    wait_for_idle_worker(puppet.pid)
    row.watch()
    ended = reader.begin(f"call read {fd} {at} {4 * PAGE}")
    read = slow.wait_for_read()
    for _ in range(3):
        row.step()
    slow.answer(read)
    assert ended() == f"{4 * PAGE} 0"
    row.step()
    row.judge((at, 4))


def always_with_reason(row: Row, at: int) -> None:
    region = row.region(at)
    assert region.tracking == "always", region
    assert region.reason


def test_row_22_io_uring_rings(row: Row, ring: Ring) -> None:
    at = row.puppet.alone(8)
    row.puppet.fill(at, 8)
    row.watch()
    always_with_reason(row, ring.ring)
    always_with_reason(row, ring.sqes)
    reader, writer = pipe(row.puppet)
    ring.read(reader, at, 100)
    row.puppet.call("write", writer, at + PAGE, 100)
    ring.wait()
    row.judge((at, 1))


def test_row_22_aio_ring(row: Row) -> None:
    scratch = row.puppet.mmap(1)
    row.puppet.call("io_setup", 8, scratch)
    (context,) = struct.unpack("Q", row.puppet.load(scratch, 8))
    row.watch()
    always_with_reason(row, context)
    row.judge()


def test_row_22_perf_ring(row: Row) -> None:
    scratch = row.puppet.mmap(1)
    # struct perf_event_attr: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY
    row.puppet.store(scratch, struct.pack("IIQ", 1, 64, 9).ljust(64, b"\0"))
    fd = row.puppet.try_call("perf_event_open", scratch, 0, -1, -1, 0)
    if fd < 0:
        pytest.skip(f"no perf events here: {os.strerror(-fd)}")
    at = row.puppet.mmap(2, RW, MAP_SHARED, fd)
    row.watch()
    region = row.region(at)
    assert region.tracking in ("always", "skip"), region
    assert region.reason
    row.judge()


def test_row_22_vdso(row: Row) -> None:
    row.watch()
    found = {vma.label: vma.start for vma in read_maps(row.puppet.pid)}
    assert row.region(found["[vdso]"]).tracking == "always"
    assert row.region(found["[vvar]"]).tracking in ("skip", "always")
    row.judge()


def test_row_22_judged_while_it_is_away(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that cannot be read when that is tried, because it is elsewhere just then."""
    puppet = row.puppet
    scratch, at = puppet.mmap(1), puppet.alone(1)
    puppet.call("io_setup", 8, scratch)
    (context,) = struct.unpack("Q", puppet.load(scratch, 8))
    (size,) = (vma.end - vma.start for vma in read_maps(puppet.pid) if vma.start == context)
    hole, move = puppet.alone(size // PAGE, PROT_NONE), MREMAP_MAYMOVE | MREMAP_FIXED
    is_readable, events = Judge._is_readable, 0

    def race(self: Judge, vma: Vma) -> bool:
        nonlocal events
        if vma.start != context or events:
            return is_readable(self, vma)
        events += 1
        puppet.call("mremap", context, size, size, move, hole)
        try:
            return is_readable(self, vma)
        finally:
            puppet.call("mremap", hole, size, size, move, context)

    monkeypatch.setattr(Judge, "_is_readable", race)
    row.watch()
    assert events == 1
    always_with_reason(row, context)
    fd = puppet.open("/dev/zero", os.O_RDONLY)
    control = struct.pack("QIIHHIQQqQII", 0, 0, 0, 0, 0, fd, at, 64, 0, 0, 0, 0)
    puppet.store(scratch + 64, control)
    puppet.store(scratch, struct.pack("Q", scratch + 64))
    assert puppet.call("io_submit", context, 1, scratch) == 1
    assert puppet.call("io_getevents", context, 1, 1, scratch + 512, 0) == 1
    row.judge((context, 1))


def test_row_22_a_socket_shows_what_it_received(row: Row) -> None:
    """TCP_ZEROCOPY_RECEIVE puts pages into a mapping that the target can only read."""
    puppet = row.puppet
    fd = puppet.call("socket", 2, 1, 0)  # AF_INET, SOCK_STREAM
    at = puppet.call("mmap", 0, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0)
    row.watch()
    always_with_reason(row, at)
    row.judge()


def test_row_27_own_userfaultfd(row: Row) -> None:
    """Its regions are listed every time, and a hole that waits for its handler is never read."""
    puppet = row.puppet
    at = puppet.alone(8)
    puppet.fill(at, 4)
    own_userfaultfd(puppet, at, 8, 1)
    row.watch()
    always_with_reason(row, at)
    iteration = row.step()
    assert row.listed(iteration, at, 4) == 4
    assert row.listed(iteration, at + 4 * PAGE, 4) == 0, "a hole: reading it calls the handler"
    puppet.fill(at, 2)
    row.judge((at, 2))


def test_row_27_protected_holes(row: Row) -> None:
    """A marker of the target's own looks like a swapped page: nobody may read there."""
    puppet = row.puppet
    at = puppet.mmap(8, RW, MAP_SHARED | MAP_ANONYMOUS)
    puppet.fill(at, 4)
    fd = own_userfaultfd(puppet, at, 8, 1 | 2)
    scratch = puppet.mmap(1)
    puppet.store(scratch, struct.pack("QQQ", at, 8 * PAGE, 1))
    puppet.call("ioctl", fd, 0xC018AA06, scratch)  # UFFDIO_WRITEPROTECT
    row.watch()
    iteration = row.step()
    assert row.listed(iteration, at, 4) == 4
    assert row.listed(iteration, at + 4 * PAGE, 4) == 0, "a hole: reading it calls the handler"
    row.judge()


@pytest.mark.parametrize("written", [False, True])
def test_row_27_given_back(row: Row, written: bool) -> None:
    puppet = row.puppet
    at = puppet.alone(8)
    own_userfaultfd(puppet, at, 8, 2)
    puppet.fill(at, 8)
    row.watch()
    puppet.madvise(at + PAGE, 4, MADV_DONTNEED)
    if written:
        puppet.fill(at + PAGE, 2)
    row.judge((at + PAGE, 4))
    row.writes_are_seen(at, 8)


def test_row_27_taken_while_it_is_tracked(row: Row) -> None:
    puppet = row.puppet
    row.watch()
    at = puppet.alone(8)
    own_userfaultfd(puppet, at, 8, 2)
    puppet.fill(at, 8)
    row.step()
    always_with_reason(row, at)
    row.writes_are_seen(at, 8)


def test_row_27_shared_without_a_page_table(row: Row) -> None:
    """What it wrote, and what a child did, has no entry in the page table of who owns it."""
    puppet = row.puppet
    at = puppet.mmap(16, RW, MAP_SHARED | MAP_ANONYMOUS)
    puppet.fill(at, 16)
    child = puppet.agent("child")
    puppet.madvise(at, 16, MADV_DONTNEED)
    own_userfaultfd(puppet, at, 16, 2)
    row.watch()
    puppet.fill(at, 4)
    puppet.madvise(at, 4, MADV_DONTNEED)
    child.fill(at + 8 * PAGE, 4)
    row.judge((at, 4), (at + 8 * PAGE, 4))
    always_with_reason(row, at)
