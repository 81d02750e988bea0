"""The shadow copy finds what reports left out, and only that.

The target is a Python child that does what it is told and then waits; the reports are made up
here, from /proc/PID/pagemap read by this file. Nothing is attached to.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from uffdtrackd.errors import TargetGone, TrackError
from uffdtrackd.model.iteration import Iteration, ProcessPages
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.model.region import Kind, Region, Tracking, Window
from uffdtrackd.tracking import expectation
from uffdtrackd.tracking.comparison import SAME, SHARED, Comparison
from uffdtrackd.tracking.shadow import Shadow

PAGE = os.sysconf("SC_PAGE_SIZE")

LOOP = """
import ctypes, gc, mmap, os, sys
libc = ctypes.CDLL(None)
gc.disable()
def address(area): return ctypes.addressof(ctypes.c_char.from_buffer(area))
def punch(fd, start, length): libc.fallocate(fd, 3, ctypes.c_long(start), ctypes.c_long(length))
area = mmap.mmap(-1, 16 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area[:] = b"a" * len(area)
fd = os.memfd_create("object"); os.ftruncate(fd, 16 * 4096)
shared = mmap.mmap(fd, 16 * 4096); shared[:8 * 4096] = b"s" * 8 * 4096
file = os.open(sys.argv[1], os.O_RDWR)
private = mmap.mmap(file, 16 * 4096, mmap.MAP_PRIVATE)
disk = mmap.mmap(file, 16 * 4096)
private[:4096] = b"p" * 4096
while True:
    print(address(area), address(shared), address(private), address(disk), flush=True)
    exec(sys.stdin.readline())
"""


def regions_of(pid: int) -> list[Region]:
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, perms, offset, device, inode, *name = line.split(None, 5)
        start, end = (int(x, 16) for x in where.split("-"))
        label = name[0] if name else ""
        major, minor = (int(x, 16) for x in device.split(":"))
        tracking = Tracking.ASYNC
        if label.startswith("[v"):
            kind, tracking = Kind.SPECIAL, Tracking.SKIP
        elif inode == "0":
            kind = Kind.ANON
        elif perms.endswith("p"):
            kind = Kind.FILE
        else:
            kind = Kind.SHMEM if label.startswith("/memfd:") else Kind.SHARED_FILE
        found.append(
            Region(
                start,
                end,
                perms,
                int(offset, 16),
                (major, minor),
                int(inode),
                label,
                kind,
                tracking,
            )
        )
    return found


def populated(pid: int, regions: Iterable[Region]) -> PageSet:
    ranges = []
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for region in regions:
            if region.tracking is Tracking.SKIP:
                continue
            count = (region.end - region.start) // PAGE
            data = os.pread(pagemap.fileno(), count * 8, region.start // PAGE * 8)
            for index, (entry,) in enumerate(struct.iter_unpack("=Q", data)):
                if entry >> 62:
                    at = region.start + index * PAGE
                    ranges.append((at, at + PAGE))
    return PageSet.from_ranges(ranges)


class Target:
    """The child, the copy of it, and what is reported about it."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(b"f" * 16 * PAGE)
        self.child = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.child.pid
        self.area, self.shared, self.private, self.disk = self._addresses()
        # Once, so that what the loop itself touches is populated before the first report.
        self.do("x = 1; shared[0] = 115; disk[0]")
        self.shadow = Shadow()
        regions = regions_of(self.pid)
        self.number = 0
        self.shadow.apply(self.report(populated(self.pid, regions)))

    def _addresses(self) -> list[int]:
        assert self.child.stdout
        return [int(word) for word in self.child.stdout.readline().split()]

    def do(self, line: str) -> None:
        assert self.child.stdin
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        self._addresses()

    def report(self, dirty: PageSet | None = None, discarded: PageSet | None = None) -> Iteration:
        pages = ProcessPages(
            dirty or PageSet(), discarded or PageSet(), PageSet(), lambda: regions_of(self.pid)
        )
        self.number += 1
        return Iteration(self.number, True, 0, 0, 0, PAGE, {self.pid: pages})

    def noise(self) -> PageSet:
        """What Python itself touches: everything but the four areas."""
        regions = regions_of(self.pid)
        mine = PageSet.from_ranges(
            (at, at + 16 * PAGE) for at in (self.area, self.shared, self.private, self.disk)
        )
        return populated(self.pid, regions) - mine

    def finish(self, dirty: Iterable[int] = (), discarded: Iterable[int] = ()) -> Comparison:
        """The last report: Python's own pages, and the given ones."""
        said = PageSet.from_ranges((at, at + PAGE) for at in dirty)
        dropped = PageSet.from_ranges((at, at + PAGE) for at in discarded)
        (result,) = self.shadow.finish(self.report(self.noise() | said, dropped))
        return result

    def blocks(self) -> int:
        """What the object takes, in units of 512 bytes."""
        path = f"/proc/{self.pid}/fd/"
        object_fd = next(n for n in os.listdir(path) if "memfd:object" in os.readlink(path + n))
        return os.stat(path + object_fd).st_blocks

    def end(self) -> None:
        self.shadow.close()
        self.child.kill()
        self.child.communicate()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "mapped")
    yield made
    made.end()


def pages(result: PageSet) -> list[int]:
    return [at for start, end in result for at in range(start, end, PAGE)]


@pytest.fixture
def no_mem(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel that lets only a debugger read PROT_NONE: without /proc/PID/mem."""
    opened = os.open

    def fail(path: str, *args: int, **more: int) -> int:
        if str(path).endswith("/mem"):
            raise PermissionError(path)
        return opened(path, *args, **more)

    monkeypatch.setattr(os, "open", fail)


def test_what_could_not_be_read_is_read_later(target: Target, no_mem: None) -> None:
    protect = f"libc.mprotect(ctypes.c_void_p({target.area}), 4096, {{}})"
    said = PageSet.from_ranges([(target.area, target.area + PAGE)])
    target.do("area[:4096] = b'n' * 4096; " + protect.format(0))
    target.shadow.apply(target.report(target.noise() | said))
    # Nothing is claimed of it while it is so.
    target.shadow.apply(target.report(target.noise()))
    target.do(protect.format(3))
    result = target.finish()
    assert result.equal, [hex(page) for page in pages(result.missed)]
    assert not result.unreadable


def test_what_cannot_be_read_is_named(target: Target, no_mem: None) -> None:
    target.do(f"libc.mprotect(ctypes.c_void_p({target.area}), 4096, 0)")
    result = target.finish([target.area])
    assert result.equal
    assert pages(result.unreadable) == [target.area]


def test_all_reported_is_equal(target: Target) -> None:
    result = target.finish()
    assert result.equal
    assert not result.unreadable and not result.unverified
    assert result.compared > 16


def test_a_write_left_out_is_missed(target: Target) -> None:
    target.do("area[5 * 4096 + 17] = 1")
    assert pages(target.finish().missed) == [target.area + 5 * PAGE]


def test_a_write_reported_is_equal(target: Target) -> None:
    target.do("area[5 * 4096 + 17] = 1")
    assert target.finish(dirty=[target.area + 5 * PAGE]).equal


def test_over_reported_pages_are_counted(target: Target) -> None:
    quiet = target.shadow.finish(target.report())[0]
    assert (quiet.over_reported, quiet.final_dirty) == (0, 0)
    target.do("area[0] = 1")
    dirty = PageSet.from_ranges([(target.area, target.area + 3 * PAGE)])
    one_changed = target.shadow.finish(target.report(dirty))[0]
    assert (one_changed.over_reported, one_changed.final_dirty) == (2, 3)
    none_changed = target.shadow.finish(target.report(dirty))[0]
    assert (none_changed.over_reported, none_changed.final_dirty) == (3, 3)


@pytest.mark.parametrize("told", [True, False])
def test_emptied_anonymous_page(target: Target, told: bool) -> None:
    target.do("libc.madvise(ctypes.c_void_p(address(area) + 2 * 4096), 4096, 4)")
    gone = target.area + 2 * PAGE
    result = target.finish(discarded=[gone] if told else [])
    assert pages(result.missed) == ([] if told else [gone])


@pytest.mark.parametrize("told", [True, False])
def test_private_page_reverted_to_its_file(target: Target, told: bool) -> None:
    target.do("libc.madvise(ctypes.c_void_p(address(private)), 4096, 4)")
    result = target.finish(discarded=[target.private] if told else [])
    assert pages(result.missed) == ([] if told else [target.private])


def test_private_page_written_and_never_held(target: Target) -> None:
    target.do("private[9 * 4096] = 1")
    assert pages(target.finish().missed) == [target.private + 9 * PAGE]


def test_private_page_copied_with_the_content_of_its_file_is_equal(target: Target) -> None:
    target.do("private[9 * 4096] = ord('f')")
    assert target.finish().equal


@pytest.mark.parametrize("told", [True, False])
def test_hole_punched_into_shared_memory(target: Target, told: bool) -> None:
    target.do("punch(fd, 3 * 4096, 4096)")
    gone = target.shared + 3 * PAGE
    result = target.finish(discarded=[gone] if told else [])
    assert pages(result.missed) == ([] if told else [gone])


def test_shared_memory_written_through_its_file(target: Target) -> None:
    target.do("os.pwrite(fd, b'x', 12 * 4096)")
    assert pages(target.finish().missed) == [target.shared + 12 * PAGE]


def test_looking_allocates_nothing(target: Target) -> None:
    before = target.blocks()
    assert before * 512 == 8 * PAGE
    target.finish()
    assert target.blocks() == before


def test_without_a_way_to_the_object_nothing_is_claimed(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An ordinary user may not open map_files, and a deleted file has no name.
    monkeypatch.setattr(expectation, "_object_path", lambda pid, region: None)
    target.do("punch(fd, 3 * 4096, 4096)")
    result = target.finish()
    assert result.equal
    assert target.shared + 3 * PAGE in result.unverified


def test_shared_file_follows_its_file(target: Target) -> None:
    # Held since the first report, so a change is a miss; never held, it is the file's.
    target.do("disk[0] = 1; disk[7 * 4096] = 1")
    assert target.disk in pages(target.finish().missed)


def test_a_mapping_without_a_region_is_missed(target: Target) -> None:
    target.do("new = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); new[0] = 7")
    iteration = target.report(target.noise())
    (at,) = {r.start for r in regions_of(target.pid)} & {target.area}
    kept = [r for r in regions_of(target.pid) if not r.start <= at < r.end]
    iteration.processes[target.pid]._regions = kept
    (result,) = target.shadow.finish(iteration)
    assert target.area in result.missed


def test_above_the_limit_digests_are_kept(target: Target) -> None:
    with Shadow(memory_limit=3 * PAGE) as small:
        fits = PageSet.from_ranges([(target.area, target.area + 3 * PAGE)])
        small.apply(target.report(fits))
        assert (small.bytes, small.memory) == (3 * PAGE, 3 * PAGE)
        more = PageSet.from_ranges([(target.area + PAGE, target.area + 4 * PAGE)])
        small.apply(target.report(more))
        # 16 pages lie in one or two pages of digests.
        assert small.bytes == 4 * PAGE
        assert small.memory <= 2 * PAGE
        assert small.peak == 3 * PAGE


def test_not_even_digests_fit(target: Target) -> None:
    with Shadow(memory_limit=PAGE - 1) as small:
        with pytest.raises(TrackError, match="limit") as caught:
            small.apply(target.report(PageSet.from_ranges([(target.area, target.area + PAGE)])))
        assert caught.value.hint
        assert small.bytes == 0


@pytest.fixture
def digesting(target: Target) -> Target:
    """The target with a copy of digests only."""
    target.shadow.memory_limit = target.shadow.memory // 10
    return target


def test_digests_agree_with_contents(digesting: Target) -> None:
    digesting.do("area[3 * 4096] = 1; shared[9 * 4096] = 2")
    at, other = digesting.area + 3 * PAGE, digesting.shared + 9 * PAGE
    result = digesting.finish(dirty=[at, other])
    assert result.equal and not result.exact
    assert digesting.shadow.memory <= digesting.shadow.memory_limit


def test_digests_find_what_was_left_out(digesting: Target) -> None:
    digesting.do("area[5 * 4096 + 17] = 1")
    digesting.do("libc.madvise(ctypes.c_void_p(address(area) + 9 * 4096), 4096, 4)")
    digesting.do("private[7 * 4096] = 1; punch(fd, 3 * 4096, 4096)")
    result = digesting.finish()
    assert pages(result.missed) == sorted(
        [
            digesting.area + 5 * PAGE,
            digesting.area + 9 * PAGE,
            digesting.private + 7 * PAGE,
            digesting.shared + 3 * PAGE,
        ]
    )
    assert {miss.byte for miss in result.misses} == {None}


def test_a_miss_is_described(target: Target) -> None:
    target.do("area[5 * 4096 + 17] = 1; disk[0] = 1")
    result = target.finish()
    found = {miss.start: (miss.region and miss.region.kind, miss.byte) for miss in result.misses}
    at = target.area + 5 * PAGE
    assert found == {at: (Kind.ANON, at + 17), target.disk: (Kind.SHARED_FILE, target.disk)}


def test_describing_a_miss_allocates_nothing(target: Target) -> None:
    target.do("punch(fd, 3 * 4096, 4096)")
    before = target.blocks()
    result = target.finish()
    assert [(miss.start, miss.byte) for miss in result.misses] == [(target.shared + 3 * PAGE, None)]
    assert target.blocks() == before


def test_why_pages_were_listed_in_vain(target: Target) -> None:
    quiet = target.report()
    said = [(target.area, target.area + 2 * PAGE), (target.shared, target.shared + 5 * PAGE)]
    regions = [
        replace(one, tracking=Tracking.ALWAYS, reason="nobody knows")
        if one.start == target.area
        else one
        for one in regions_of(target.pid)
    ]
    told = ProcessPages(
        PageSet.from_ranges(said),
        PageSet(),
        PageSet.from_ranges([(target.area, target.area + PAGE)]),
        lambda: regions,
        [Window(target.shared, target.shared + 16 * PAGE, "object", 0)],
    )
    (result,) = target.shadow.finish(replace(quiet, processes={target.pid: told}))
    assert result.why == {"always: nobody knows": 1, SHARED: 5, SAME: 1}
    assert result.over_reported == 7


def test_a_target_that_ended_is_gone(target: Target) -> None:
    target.child.kill()
    target.child.wait()
    with pytest.raises(TargetGone):
        target.shadow.apply(target.report(PageSet.from_ranges([(target.area, target.area + PAGE)])))


def test_a_process_that_left_the_session_is_dropped(target: Target) -> None:
    assert target.shadow.bytes > 0
    target.shadow.apply(Iteration(9, False, 0, 0, 0, PAGE, {}))
    assert target.shadow.bytes == 0
