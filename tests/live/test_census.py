"""One mapping of each class that a process can have: how it is tracked, and that this is enough.

class --make--> mapping --watch--> its region is tracked, always or skip, as the table says
                   \\--write------> listed, and the copy is exact
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.row import Row
from tests.procfs import PAGE, read_maps
from tests.puppet import (
    ANON,
    HUGE,
    MADV_DONTFORK,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_WIPEONFORK,
    MAP_ANONYMOUS,
    MAP_DROPPABLE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    RW,
    Puppet,
)

pytestmark = [pytest.mark.live, pytest.mark.both_backends]


def anon(flags: int = 0, prot: int = RW) -> Callable[[Puppet], int]:
    return lambda puppet: puppet.alone(16, prot, ANON | flags)


def advised(advice: int) -> Callable[[Puppet], int]:
    def make(puppet: Puppet) -> int:
        at = puppet.alone(16)
        puppet.madvise(at, 16, advice)
        return at

    return make


def of_file(path: str, flags: int) -> Callable[[Puppet], int]:
    def make(puppet: Puppet) -> int:
        name = Path(path.format(pid=puppet.pid))
        device = name.is_char_device()
        if not device:
            name.write_bytes(os.urandom(16 * PAGE))
        fd = puppet.open(name)
        if not device:
            name.unlink()
        return puppet.mmap(16, RW, flags, fd)

    return make


def memfd(flags: int) -> Callable[[Puppet], int]:
    return lambda puppet: puppet.mmap(16, RW, flags, puppet.memfd(16))


def sysv(puppet: Puppet) -> int:
    segment = puppet.call("shmget", 0, 16 * PAGE, 0o1600)
    at = puppet.call("shmat", segment, 0, 0)
    puppet.call("shmctl", segment, 0, 0)
    return at


def secret(puppet: Puppet) -> int:
    fd = puppet.try_call("memfd_secret", 0)
    if fd < 0:
        pytest.skip(f"no memfd_secret(2) here: {os.strerror(-fd)}")
    puppet.call("ftruncate", fd, 16 * PAGE)
    return puppet.mmap(16, RW, MAP_SHARED, fd)


@dataclass(frozen=True)
class Class:
    """make: maps 16 pages at least. tracking: what the region may be, "tracked" by the backend.

    sync: the same for the sync backend, where it is not the same.
    """

    make: Callable[[Puppet], int]
    tracking: str = "tracked"
    sync: str = ""
    writable: bool = True


CLASSES = {
    "anonymous": Class(anon()),
    "executable": Class(anon(prot=RW | PROT_EXEC)),
    "no access": Class(anon(prot=PROT_NONE), writable=False),
    "read-only": Class(anon(prot=PROT_READ), writable=False),
    "no reserve": Class(anon(MAP_NORESERVE)),
    "grows down": Class(lambda puppet: puppet.mmap(16, RW, ANON | MAP_GROWSDOWN)),
    "not forked": Class(advised(MADV_DONTFORK)),
    "wiped on fork": Class(advised(MADV_WIPEONFORK)),
    "mergeable": Class(advised(MADV_MERGEABLE)),
    "wants huge pages": Class(advised(MADV_HUGEPAGE)),
    "private /dev/zero": Class(of_file("/dev/zero", MAP_PRIVATE)),
    "shared /dev/zero": Class(of_file("/dev/zero", MAP_SHARED), "tracked always"),
    "shared anonymous": Class(
        lambda puppet: puppet.mmap(16, RW, MAP_SHARED | MAP_ANONYMOUS), "tracked always"
    ),
    "shared memfd": Class(memfd(MAP_SHARED), "tracked always"),
    "private memfd": Class(memfd(MAP_PRIVATE)),
    "tmpfs shared": Class(of_file("/dev/shm/census-{pid}", MAP_SHARED), "tracked always"),
    "tmpfs private": Class(of_file("/dev/shm/census-{pid}", MAP_PRIVATE)),
    "disk shared": Class(of_file("/var/tmp/census-{pid}", MAP_SHARED), "tracked always", "always"),
    "disk private": Class(of_file("/var/tmp/census-{pid}", MAP_PRIVATE), sync="always"),
    "SysV": Class(sysv, "tracked always"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_census(row: Row, name: str, backend: str) -> None:
    one = CLASSES[name]
    expected = (backend == "sync" and one.sync) or one.tracking
    at = one.make(row.puppet)
    if one.writable:
        row.puppet.fill(at, 12)
    row.watch()
    region = row.region(at)
    assert str(region.tracking) in expected.replace("tracked", backend).split(), region
    assert region.reason or region.tracking == backend
    if not one.writable:
        row.judge()
        row.puppet.call("mprotect", at, 16 * PAGE, RW)
    row.writes_are_seen(at + 2 * PAGE, 6)
    row.writes_are_seen(at, 16)


@pytest.mark.parametrize("flags", [MAP_PRIVATE, MAP_SHARED])
def test_census_hugetlb(row: Row, huge_pages: None, flags: int, backend: str) -> None:
    at = row.puppet.mmap(4 * HUGE // PAGE, RW, flags | MAP_ANONYMOUS | MAP_HUGETLB)
    row.puppet.fill(at, HUGE // PAGE)
    row.watch()
    region = row.region(at)
    assert (region.kind, region.page_size) == ("hugetlb", HUGE)
    assert region.tracking == (backend if flags == MAP_PRIVATE else "always")
    row.writes_are_seen(at, 1)
    row.writes_are_seen(at + HUGE, 2 * HUGE // PAGE)


def test_census_droppable(row: Row, backend: str) -> None:
    """Its pages may vanish at any time; other memory in its place looks the same in maps."""
    try:
        at = row.puppet.alone(16, RW, MAP_DROPPABLE | MAP_ANONYMOUS)
    except OSError as error:
        pytest.skip(f"no MAP_DROPPABLE here: {error}")
    row.puppet.fill(at, 16)
    row.watch()
    region = row.region(at)
    # Linux 6.12 looks for the flag in the wrong place, and tracks it like any other memory.
    assert region.tracking in ("always", backend), region
    assert region.reason or region.tracking == backend
    before = [str(vma) for vma in read_maps(row.puppet.pid)]
    row.puppet.mmap(16, at=at)
    assert [str(vma) for vma in read_maps(row.puppet.pid)] == before
    row.writes_are_seen(at, 16)


def test_census_secret(row: Row, backend: str) -> None:
    """Nobody can read it from outside, not even to copy it: it is listed when it is written."""
    at = secret(row.puppet)
    row.puppet.fill(at, 16)
    row.watch()
    if backend == "sync":
        assert row.region(at).tracking == "skip"
        return
    row.puppet.fill(at + 2 * PAGE, 3)
    assert row.listed(row.session.iterate(), at + 2 * PAGE, 3) == 3


def test_census_guard_regions(row: Row) -> None:
    at = row.puppet.alone(16)
    row.puppet.fill(at, 16)
    row.watch()
    done = row.puppet.try_call("madvise", at + 4 * PAGE, 4 * PAGE, MADV_GUARD_INSTALL)
    if done < 0:
        pytest.skip(f"no guard regions here: {os.strerror(-done)}")
    row.judge((at + 4 * PAGE, 4))
    row.puppet.madvise(at + 4 * PAGE, 4, MADV_GUARD_REMOVE)
    row.judge()
    row.writes_are_seen(at, 16)


def test_census_shared_file_of_another(row: Row) -> None:
    """Opened for reading only, on a disk: the content is the file's, which outlives the target."""
    name = Path(f"/var/tmp/census-{row.puppet.pid}")
    name.write_bytes(os.urandom(16 * PAGE))
    try:
        at = row.puppet.mmap(16, PROT_READ, MAP_SHARED, row.puppet.open(name, os.O_RDONLY))
        row.puppet.touch(at, 16)
        row.watch()
        region = row.region(at)
        assert region.tracking == "skip", region
        assert region.reason
        row.judge()
    finally:
        name.unlink()


def test_census_pages_of_a_file_out_of_order(row: Row) -> None:
    """remap_file_pages(2): one mapping becomes three."""
    at = row.puppet.mmap(16, RW, MAP_SHARED, row.puppet.memfd(16))
    row.puppet.fill(at, 16)
    row.watch()
    row.puppet.call("remap_file_pages", at + 4 * PAGE, 4 * PAGE, 0, 12, 0)
    row.judge((at + 4 * PAGE, 4))
    row.puppet.fill(at + 4 * PAGE, 4)
    row.judge((at + 4 * PAGE, 4), (at + 12 * PAGE, 4))
