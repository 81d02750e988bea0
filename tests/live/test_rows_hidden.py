"""Rows 16, 19, 20 of docs/soundness.md: shared memory that is held where nobody can look.

A descriptor need be in no table that /proc shows for a process, and pinned pages need be mapped
nowhere. Each holder here writes between two iterations while the target writes too, so that ctime
tells nothing. Other processes are left out of the tracker's looks (`few`), as if all of them could
be examined: such memory was trusted then.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.row import SETTLED_NS, Row
from tests.live.test_follow_shared import PAGES as FAMILY_PAGES
from tests.live.test_follow_shared import Family, listed, regions
from tests.live.test_rows_around import pipe, ring, slow  # noqa: F401  (fixtures)
from tests.live.test_rows_shared import F_SEAL_FUTURE_WRITE, must_be_always
from tests.live.tree import Followed, no_process_events
from tests.procfs import PAGE
from tests.puppet import (
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_READ,
    RW,
    Puppet,
)
from tests.slowfile import SlowFile
from tests.uring import Ring
from tests.victim import PATIENCE, Victim
from uffdtrackd.native.layout import Vma
from uffdtrackd.tracking import neighbours
from uffdtrackd.tracking import object as object_module
from uffdtrackd.tracking.backing import Backing

pytestmark = [pytest.mark.live, pytest.mark.both_backends]

#: Takes the memfd {fd} of process {pid} out of a hiding place, writes to page `n`, hides it again.
HOLDER = """
import array, ctypes, mmap, os, socket, threading
file = os.open("/proc/{pid}/fd/{fd}", os.O_RDWR)
here, there = socket.socketpair()

def hide_in_flight(file):
    here.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))])
    os.close(file)

def take_from_flight():
    _, [(_, _, data)], _, _ = there.recvmsg(1, socket.CMSG_SPACE(4))
    return array.array("i", data)[0]

def write(file, page):
    with mmap.mmap(file, {size}) as shown:
        shown[page * {page} : (page + 1) * {page}] = os.urandom({page})

def in_flight():
    hide_in_flight(file)
    os.write(1, b"r")
    while page := os.read(0, 1):
        held = take_from_flight()
        write(held, page[0])
        hide_in_flight(held)
        os.write(1, b"w")

def in_a_table_of_its_own():
    done = threading.Event()
    def hold():
        ctypes.CDLL(None).unshare(0x400)  # CLONE_FILES
        done.set()
        while page := os.read(0, 1):
            write(file, page[0])
            os.write(1, b"w")
    holder = threading.Thread(target=hold)
    holder.start()
    done.wait()
    os.close(file)
    os.write(1, b"r")
    holder.join()

{where}()
"""


@pytest.fixture
def few(row: Row, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All processes that there are, for the tracker: itself, the puppet, and who is added."""
    if why := no_process_events():
        pytest.skip(why)
    there = [os.getpid(), row.puppet.pid]
    monkeypatch.setattr(neighbours, "_everybody", lambda: there)
    return there


def at_rest(row: Row) -> None:
    """Watched until ctime of what was written before tells nothing any more."""
    row.watch()
    limit = time.monotonic_ns() + SETTLED_NS
    while time.monotonic_ns() < limit:
        row.step()


@contextmanager
def holder(puppet: Puppet, fd: int, where: str, few: list[int]) -> Iterator[Callable[[int], None]]:
    """A process that holds a memfd of 16 pages out of sight; call it to write to a page of that."""
    text = HOLDER.format(pid=puppet.pid, fd=fd, size=16 * PAGE, page=PAGE, where=where)
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        asked, told = process.stdin, process.stdout

        def write(page: int) -> None:
            asked.write(bytes([page]))
            assert told.read(1) == b"w"

        try:
            assert told.read(1) == b"r"
            few.append(process.pid)
            yield write
        finally:
            process.kill()


def must_be_tracked(row: Row, at: int) -> None:
    region = row.region(at)
    assert region.tracking == row.session.backend, region


@pytest.mark.parametrize("where", ["in_flight", "in_a_table_of_its_own"])
def test_row_16_held_by_nobody_who_shows_it(row: Row, few: list[int], where: str) -> None:
    fd = row.puppet.memfd(16)
    at = row.puppet.mmap(16, RW, MAP_SHARED, fd)
    row.puppet.fill(at, 16)
    with holder(row.puppet, fd, where, few) as write:
        row.puppet.close(fd)
        at_rest(row)
        must_be_always(row, at)
        row.puppet.fill(at, 1)
        write(5)
        row.judge((at, 1), (at + 5 * PAGE, 1))


def test_row_16_held_by_a_ring(row: Row, few: list[int], ring: Ring) -> None:  # noqa: F811
    fd = row.puppet.memfd(16)
    at, source = row.puppet.mmap(16, RW, MAP_SHARED, fd), row.puppet.mmap(1)
    row.puppet.fill(at, 16)
    row.puppet.fill(source, 1)
    ring.register_file(fd)
    row.puppet.close(fd)
    at_rest(row)
    must_be_always(row, at)
    row.puppet.fill(at + 5 * PAGE, 1)
    ring.write_held(source, PAGE)
    ring.wait()
    row.judge((at, 1), (at + 5 * PAGE, 1))


@pytest.mark.parametrize("sealed", [True, False])
def test_row_16_nobody_may_write_but_who_maps_it(row: Row, few: list[int], sealed: bool) -> None:
    """With F_SEAL_FUTURE_WRITE no descriptor is good for writing, whoever holds it."""
    fd = row.puppet.memfd(16, seals=True)
    at = row.puppet.mmap(16, RW, MAP_SHARED, fd)
    row.puppet.fill(at, 16)
    if sealed:
        row.puppet.call("fcntl", fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
    at_rest(row)
    if sealed:
        must_be_tracked(row, at)
        source = row.puppet.mmap(1)
        assert row.puppet.try_call("pwrite64", fd, source, PAGE, 0) < 0
        assert row.puppet.try_call("mmap", 0, PAGE, RW, MAP_SHARED, fd, 0) < 0
    else:
        must_be_always(row, at)
    row.writes_are_seen(at + 3 * PAGE, 2)
    row.writes_are_seen(at, 16)


def test_row_16_asked_while_another_is_there(
    row: Row, few: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seal is never taken off, and so known for good: it must be of this object."""
    puppet = row.puppet
    fd, other = puppet.memfd(16), puppet.memfd(16, seals=True)
    puppet.call("fcntl", other, 1033, F_SEAL_FUTURE_WRITE)
    at = puppet.mmap(16, RW, MAP_SHARED, fd)
    source = puppet.mmap(1)
    puppet.fill(at, 16)
    opened, events = Backing, 0

    def race(tid: int, vma: Vma) -> Backing:
        nonlocal events
        if vma.start != at or sys._getframe(1).f_code.co_name != "sealed" or events:
            return opened(tid, vma)
        events += 1
        puppet.mmap(16, PROT_READ, MAP_SHARED, other, at=at)
        try:
            return opened(tid, vma)
        finally:
            puppet.mmap(16, RW, MAP_SHARED, fd, at=at)

    monkeypatch.setattr(object_module, "Backing", race)
    at_rest(row)
    assert events == 1
    puppet.fill(source)
    puppet.fill(at)
    puppet.call("pwrite64", fd, source, PAGE, 3 * PAGE)
    row.judge((at, 1), (at + 3 * PAGE, 1))
    must_be_always(row, at)


@pytest.fixture
def family(spawn: Callable[..., Victim]) -> Iterator[Family]:
    if why := no_process_events():
        pytest.skip(why)
    victim = spawn("obey")
    yield Family(Puppet(victim), "unnamed")
    victim.finish()


def read_fixed(puppet: Puppet, by: Ring, at: int, pages: int) -> None:
    """As feed(), and what is filled need not be mapped."""
    reader, writer = pipe(puppet)
    source = puppet.mmap(pages)
    puppet.fill(source, pages)
    by.read_fixed(reader, at, pages * PAGE)
    assert puppet.call("write", writer, source, pages * PAGE) == pages * PAGE
    by.wait()


def ring_of(puppet: Puppet) -> Ring:
    try:
        return Ring(puppet)
    except OSError as error:
        pytest.skip(f"io_uring is not to be had here: {error}")


@pytest.mark.parametrize("mapped", [True, False])
def test_row_19_buffer_in_shared_memory(family: Family, mapped: bool) -> None:
    """What a ring of one process fills is written in all; mapped or not in the first of them."""
    first, at = family.first, family.at
    own = ring_of(first)
    own.register(at + 2 * PAGE, 8 * PAGE)
    if not mapped:  # there; who made the memory must keep it, or nobody knows its age
        first.call("mremap", at, 0, FAMILY_PAGES * PAGE, MREMAP_MAYMOVE)
        first.munmap(at, FAMILY_PAGES)
    with Followed(first.pid) as tree:
        settle_shared(tree)
        for page in (3, 5):
            read_fixed(first, own, at + page * PAGE, 4)
            tree.final()
        assert {region.tracking for region in regions(tree, family)} == {"always"}
        own.unregister()
        limit = time.monotonic() + PATIENCE
        while any(listed(tree, pid, family) for pid in tree.pids):
            tree.step()
            assert time.monotonic() < limit, "still listed"
        family.children[0].fill(at, 9)
        tree.final()


def test_row_19_buffer_that_moved(row: Row, ring: Ring) -> None:  # noqa: F811
    """A ring goes on to tell where its buffer was; the pages are elsewhere."""
    at, there = row.puppet.alone(8), row.puppet.alone(8)
    row.puppet.fill(at, 8)
    ring.register(at, 8 * PAGE)
    at_rest(row)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    assert row.puppet.call("mremap", at, 8 * PAGE, 8 * PAGE, flags, there) == there
    for _ in range(3):
        row.step()
    for page in (0, 3):
        read_fixed(row.puppet, ring, at + page * PAGE, 4)
        iteration = row.step()
        assert row.listed(iteration, there, 8) == 8
        row.oracle.final().check()
    ring.unregister()
    row.writes_are_seen(there, 8)


@pytest.mark.parametrize("written", [False, True])
def test_row_19_buffer_that_left_its_place_mapped(row: Row, ring: Ring, written: bool) -> None:  # noqa: F811
    """MREMAP_DONTUNMAP: nothing at the old place is new, and nothing is gone."""
    at, there = row.puppet.alone(8), row.puppet.alone(8)
    row.puppet.fill(at, 8)
    ring.register(at, 8 * PAGE)
    at_rest(row)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
    assert row.puppet.call("mremap", at, 8 * PAGE, 8 * PAGE, flags, there) == there
    if written:
        row.puppet.fill(at, 8)
    for _ in range(3):
        row.step()
    for page in (0, 3):
        read_fixed(row.puppet, ring, at + page * PAGE, 4)
        assert row.listed(row.step(), there, 8) == 8
        row.oracle.final().check()
    ring.unregister()
    row.writes_are_seen(there, 8)


def test_row_19_one_ring_does_not_account_for_another(row: Row, ring: Ring) -> None:  # noqa: F811
    """A page is registered with a ring that is seen; more with one that only a child has."""
    puppet, hidden = row.puppet, ring_of(row.puppet)
    seen, unseen = puppet.alone(8), puppet.alone(8)
    puppet.fill(seen, 8)
    puppet.fill(unseen, 8)
    ring.register(seen, PAGE)
    hidden.register(unseen, 8 * PAGE)
    hidden.puppet = puppet.agent("child")
    puppet.munmap(hidden.ring, 2)
    puppet.munmap(hidden.sqes, 1)
    puppet.close(hidden.fd)
    if b"VmPin:\t       0" in Path(f"/proc/{puppet.pid}/status").read_bytes():
        pytest.skip("what a ring has pinned is not counted here")
    at_rest(row)
    row.step()
    read_fixed(hidden.puppet, hidden, unseen, 4)
    assert row.listed(row.step(), unseen, 8) == 8
    row.oracle.final().check()


def test_row_19_umem(row: Row) -> None:
    """AF_XDP: packets arrive in pinned memory, which no count tells; the mapping of a ring does."""
    puppet = row.puppet
    at, scratch = puppet.alone(16), puppet.mmap(1)
    puppet.fill(at, 16)
    sol_xdp, umem_reg, fill_ring, pages = 283, 4, 5, 16
    try:
        fd = puppet.call("socket", 44, 3, 0)
    except OSError as error:
        pytest.skip(f"no AF_XDP here: {error}")
    puppet.store(scratch, struct.pack("QQIIII", at, pages * PAGE, PAGE, 0, 0, 0))
    puppet.call("setsockopt", fd, sol_xdp, umem_reg, scratch, 32)
    puppet.store(scratch, struct.pack("I", 8))
    puppet.call("setsockopt", fd, sol_xdp, fill_ring, scratch, 4)
    puppet.mmap(1, RW, MAP_SHARED, fd, 0x100000000)
    row.watch()
    for _ in range(2):
        assert row.listed(row.step(), at, pages) == pages
    region = row.region(at)
    assert (str(region.tracking), region.reason) == (
        "always",
        "a device may write to pinned memory",
    )
    row.oracle.final().check()


def test_row_20_direct_read_into_shared_memory(family: Family, slow: SlowFile) -> None:  # noqa: F811
    first, at = family.first, family.at
    reader = first.agent("thread")
    fd = first.open(slow.path, os.O_RDONLY | os.O_DIRECT)
    with Followed(first.pid) as tree:
        settle_shared(tree)
        ended = reader.begin(f"call read {fd} {at} {4 * PAGE}")
        read = slow.wait_for_read()
        for _ in range(3):
            tree.step()
        slow.answer(read)
        assert ended() == f"{4 * PAGE} 0"
        tree.final()


def settle_shared(tree: Followed) -> None:
    limit = time.monotonic_ns() + 2 * SETTLED_NS
    while time.monotonic_ns() < limit:
        tree.step()
