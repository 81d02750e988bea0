"""Memory that the processes of a session share: tracked, and exact in each of them.

What nobody else can reach, an unnamed shared mapping, passes by fork(2) only; a SysV segment counts
who is attached. Both can be trusted wherever the tests run. Files of any sort can be trusted only
where every process may be looked at: tests/live/test_rows_shared.py has those.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import uffdtrackd
from tests.live.tree import Followed, no_process_events
from tests.procfs import PAGE
from tests.puppet import HUGE, MADV_DONTNEED, MADV_REMOVE, MAP_ANONYMOUS, MAP_SHARED, RW, Puppet
from tests.victim import Victim
from uffdtrackd import PageSet
from uffdtrackd.tracking import neighbours
from uffdtrackd.tracking import shared as shared_module

pytestmark = pytest.mark.live

PAGES = 64
MREMAP_MAYMOVE = 1


class Family:
    """A puppet and two children that share `pages` of memory at the same address, `at`."""

    def __init__(self, first: Puppet, kind: str) -> None:
        self.first = first
        self.kind = kind
        self.segment = -1
        if kind == "sysv":
            self.segment = first.call("shmget", 0, PAGES * PAGE, 0o1600)
            self.at = first.call("shmat", self.segment, 0, 0)
        else:
            # Older than the memory, by what clock ticks can tell: so it is the one who made it.
            while _ticks_since_start(first.pid) < 3:
                pass
            self.at = first.mmap(PAGES, RW, MAP_SHARED | MAP_ANONYMOUS)
        first.fill(self.at, PAGES)
        self.children = [first.agent("child") for _ in range(2)]

    def close(self) -> None:
        if self.segment >= 0:
            self.first.call("shmctl", self.segment, 0, 0)


def _ticks_since_start(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat, open("/proc/uptime") as uptime:
        start = int(stat.read().rpartition(")")[2].split()[19])
        return float(uptime.read().split()[0]) * os.sysconf("SC_CLK_TCK") - start


#: A segment is at rest only when its books are a second old, so not every test has one.
BOTH = pytest.mark.parametrize("family", ["unnamed", "sysv"], indirect=True)


@pytest.fixture
def family(
    request: pytest.FixtureRequest, spawn: Callable[..., Victim], backend: str
) -> Iterator[Family]:
    if why := no_process_events():
        pytest.skip(why)
    kind = str(getattr(request, "param", "unnamed"))
    if (kind, backend) == ("sysv", "sync"):
        pytest.skip("a SysV segment cannot be registered for synchronous protection")
    victim = spawn("obey")
    made = Family(Puppet(victim), kind)
    yield made
    made.close()
    victim.finish()


def settle(tree: Followed, family: Family) -> None:
    """Iterations until nothing shared is listed any more."""
    for _ in range(2000):
        tree.step()
        if not any(listed(tree, pid, family) for pid in tree.pids):
            return
    raise AssertionError(f"shared memory never came to rest: {regions(tree, family)}")


def listed(tree: Followed, pid: int, family: Family) -> int:
    """Pages of the shared memory that the last iteration lists for a process."""
    place = PageSet.from_ranges([(family.at, family.at + PAGES * PAGE)])
    return len(tree.iteration.processes[pid].dirty & place)


def regions(tree: Followed, family: Family) -> list[Any]:
    return [
        region
        for pages in tree.iteration.processes.values()
        for region in pages.regions
        if region.start == family.at
    ]


def must_list(tree: Followed, family: Family, pages: int) -> None:
    """The same pages, no others, in each process; and tracked."""
    for region in regions(tree, family):
        assert (region.tracking, region.reason) == (tree.session.backend, "")
    found = {pid: listed(tree, pid, family) for pid in tree.pids}
    assert set(found.values()) == {pages}, found


@pytest.mark.both_backends
@BOTH
def test_a_write_of_one_is_dirty_in_all(family: Family) -> None:
    first, (one, two), at = family.first, family.children, family.at
    with Followed(first.pid) as tree:
        settle(tree, family)
        assert tree.pids == {first.pid, one.pid, two.pid}
        one.fill(at + 5 * PAGE, 2)
        tree.step()
        must_list(tree, family, 2)
        first.fill(at, 1)
        two.fill(at + 9 * PAGE, 3)
        tree.step()
        must_list(tree, family, 4)
        one.fill(at, 1)
        two.fill(at, 1)
        tree.final()
        must_list(tree, family, 1)
        settle(tree, family)
        tree.final()
        must_list(tree, family, 0)


@BOTH
def test_shared_pages_are_copied_once(family: Family) -> None:
    first, (one, two), at = family.first, family.children, family.at
    with Followed(first.pid) as tree:
        tree.step()
        place = PageSet.from_ranges([(at, at + PAGES * PAGE)])
        copies = {pid: len(pages & place) for pid, pages in tree.iteration.copies().items()}
        assert sorted(copies.values()) == [0, 0, PAGES]
        names = {
            (window.object, window.offset)
            for pages in tree.iteration.processes.values()
            for window in pages.windows
            if window.start == at
        }
        assert len(names) == 1
        settle(tree, family)
        two.fill(at + PAGE, 3)
        tree.step()
        copies = {pid: len(pages & place) for pid, pages in tree.iteration.copies().items()}
        assert sorted(copies.values()) == [0, 0, 3]
        one.fill(at, 1)


@pytest.mark.both_backends
@pytest.mark.parametrize("again", [False, True], ids=["hole", "read again"])
def test_hole(family: Family, again: bool) -> None:
    """Punched by one, read again by another, while a third writes something else."""
    first, (one, two), at = family.first, family.children, family.at
    with Followed(first.pid) as tree:
        settle(tree, family)
        first.madvise(at + 20 * PAGE, 4, MADV_REMOVE)
        if again:
            one.touch(at + 20 * PAGE, 4)
        two.fill(at + 30 * PAGE, 1)
        tree.step()
        must_list(tree, family, 5 if again else 1)
        tree.final()
        two.fill(at + 20 * PAGE, 4)
        tree.final()


@pytest.mark.both_backends
@pytest.mark.parametrize("how", ["munmap", "exit", "exec", "dontneed"])
def test_who_wrote_is_gone(family: Family, how: str) -> None:
    """With the page table goes what it knew of the object that lives on."""
    first, (one, _), at = family.first, family.children, family.at
    with Followed(first.pid) as tree:
        settle(tree, family)
        one.fill(at + 7 * PAGE, 2)
        first.fill(at, 1)  # so that a new mtime proves nothing
        if how == "munmap":
            one.munmap(at, PAGES)
        elif how == "dontneed":
            one.madvise(at, PAGES, MADV_DONTNEED)
        elif how == "exit":
            end(one)
        else:
            path = one.mmap(1)
            one.store(path, b"/bin/sleep\0sleep\x0060\0")
            words = (path + 11, path + 17, 0)
            one.store(path + 64, b"".join(word.to_bytes(8, "little") for word in words))
            one.begin(f"call execve {path} {path + 64} {path + 80}")
            while not os.readlink(f"/proc/{one.pid}/exe").endswith("/sleep"):
                pass
        tree.step()
        assert all(listed(tree, pid, family) >= 2 for pid in tree.pids - {one.pid})
        settle(tree, family)
        tree.final()


@BOTH
def test_child_that_came_wrote_and_went(family: Family) -> None:
    """Between two iterations; it read first, so that not even the object's mtime tells."""
    first, (one, _), at = family.first, family.children, family.at
    with Followed(first.pid) as tree:
        settle(tree, family)
        child = first.agent("child")
        child.touch(at, PAGES)
        child.fill(at + 11 * PAGE, 2)
        one.fill(at, 1)
        end(child)
        tree.final()
        assert child.pid not in tree.pids
        settle(tree, family)
        tree.final()
        must_list(tree, family, 0)


def test_mapping_that_grows(family: Family) -> None:
    """It shows pages that others wrote long ago, and that its page table knows nothing of."""
    first, half = family.first, 1024
    big = first.mmap(2 * half, RW, MAP_SHARED | MAP_ANONYMOUS)
    first.fill(big, 2 * half)
    one = first.agent("child")
    one.munmap(big + half * PAGE, half)
    one.fill(big, 1)
    with Followed(first.pid) as tree:
        tree.step()
        settle(tree, family)
        assert one.call("mremap", big, half * PAGE, 2 * half * PAGE, 0) == big
        first.fill(big, 1)
        tree.final()
        grown = PageSet.from_ranges([(big + half * PAGE, big + 2 * half * PAGE)])
        assert len(tree.iteration.processes[one.pid].dirty & grown) == half


@pytest.mark.both_backends
def test_child_that_stays(family: Family) -> None:
    first, (one, _), at = family.first, family.children, family.at
    with Followed(first.pid) as tree:
        settle(tree, family)
        child = first.agent("child")
        child.fill(at + 3 * PAGE, 1)
        tree.step()
        child.fill(at + 4 * PAGE, 1)
        tree.final()
        settle(tree, family)
        child.fill(at + 5 * PAGE, 1)
        one.fill(at + 6 * PAGE, 1)
        tree.step()
        must_list(tree, family, 2)
        tree.final()


@pytest.mark.both_backends
def test_alias_in_one_process(family: Family) -> None:
    """mremap() of size 0 shows the memory once more: writes are seen at both places."""
    first, (one, _), at = family.first, family.children, family.at
    with Followed(first.pid) as tree:
        settle(tree, family)
        alias = one.call("mremap", at, 0, PAGES * PAGE, MREMAP_MAYMOVE)
        one.touch(alias, PAGES)
        one.fill(alias + 33 * PAGE, 2)
        first.fill(at, 1)
        tree.final()
        settle(tree, family)
        one.fill(alias + 3 * PAGE, 2)
        tree.step()
        must_list(tree, family, 2)
        assert alias + 3 * PAGE in tree.iteration.processes[one.pid].dirty
        first.fill(at + 8 * PAGE, 1)
        tree.final()
        assert alias + 8 * PAGE in tree.iteration.processes[one.pid].dirty


@pytest.mark.parametrize("family", ["sysv"], indirect=True)
def test_outsider_attaches_to_a_segment(family: Family, spawn: Callable[..., Victim]) -> None:
    first, at = family.first, family.at
    outsider = Puppet(spawn("obey"))
    with Followed(first.pid) as tree:
        settle(tree, family)
        # Came, read, wrote, and went.
        there = outsider.call("shmat", family.segment, 0, 0)
        outsider.touch(there, PAGES)
        outsider.fill(there + 13 * PAGE, 2)
        outsider.call("shmdt", there)
        first.fill(at, 1)
        tree.final()
        settle(tree, family)
        # Came twice in the same second, a look in between: the books read alike.
        for _ in range(2):
            there = outsider.call("shmat", family.segment, 0, 0)
            outsider.touch(there, PAGES)
            outsider.fill(there + 14 * PAGE, 1)
            outsider.call("shmdt", there)
            first.fill(at, 1)
            tree.step()
        tree.final()
        # Came and stayed.
        there = outsider.call("shmat", family.segment, 0, 0)
        tree.step()
        outsider.touch(there, PAGES)
        for page in (15, 16):
            outsider.fill(there + page * PAGE, 1)
            tree.step()
            assert {region.tracking for region in regions(tree, family)} == {"always"}
            assert all("attached" in region.reason for region in regions(tree, family))
        outsider.fill(there + 17 * PAGE, 1)
        outsider.call("shmdt", there)
        tree.final()
        settle(tree, family)
        first.fill(at, 1)
        tree.step()
        must_list(tree, family, 1)
    outsider.victim.finish()


def test_a_process_that_is_not_followed(family: Family) -> None:
    """A session of one process: its children are others, who write unseen."""
    first, (one, _), at = family.first, family.children, family.at
    with Followed(first.pid, "none") as tree:
        tree.step()
        assert {region.tracking for region in regions(tree, family)} == {"always"}
        assert all(region.reason for region in regions(tree, family))
        one.fill(at + 3 * PAGE, 2)
        tree.final()


def test_an_outsider_writes_once_more_and_ends(family: Family) -> None:
    """Nobody else is there any more at the next look, but what it wrote is."""
    first, (one, two), at = family.first, family.children, family.at
    end(two)
    with Followed(first.pid, "none") as tree:
        tree.step()
        assert {region.reason for region in regions(tree, family)} == {
            f"shared with process {one.pid}"
        }
        one.touch(at, PAGES)
        one.fill(at + 3 * PAGE, 2)
        first.fill(at, 1)
        end(one)
        tree.final()
        settle(tree, family)
        first.fill(at, 1)
        tree.step()
        must_list(tree, family, 1)


@pytest.mark.both_backends
def test_written_where_nothing_was_and_given_back(family: Family) -> None:
    """The object has it, no page table shows it, and mtime moved for another page as well."""
    first = family.first
    at = first.mmap(4 * 512, RW, MAP_SHARED | MAP_ANONYMOUS)
    far = at + 3 * 512 * PAGE
    first.fill(at, 2)
    with Followed(first.pid) as tree:
        settle(tree, family)
        first.fill(far, 2)
        first.madvise(far, 2, MADV_DONTNEED)
        first.fill(at, 1)
        tree.final()
        found = tree.iteration.processes[first.pid]
        assert {region.reason for region in found.regions if region.start == at} == {""}
        assert far in found.dirty and far + 2 * PAGE not in found.dirty


@pytest.mark.both_backends
@pytest.mark.parametrize("maps_it_late", [False, True])
def test_written_where_another_had_written_and_given_back(
    family: Family, maps_it_late: bool
) -> None:
    """The page is there already, and its writer has never had a page anywhere near."""
    first = family.first
    at = first.mmap(8 * 512, RW, MAP_SHARED | MAP_ANONYMOUS)
    far = (at // HUGE + 4) * HUGE  # nothing else is in its page table
    place = PageSet.from_ranges([(at, at + 8 * 512 * PAGE)])
    first.fill(at, 2)
    early = first.agent("child")
    early.fill(far, 4)
    # Nobody reads: that would make the page tables, in whatever process is read.
    with uffdtrackd.attach(first.pid, follow="fork") as session:

        def listed() -> list[PageSet]:
            found = [one.dirty & place for one in session.iterate().processes.values()]
            return [pages for pages in found if pages]

        if maps_it_late:
            while listed():
                pass
        writer = first.agent("child")
        while listed():
            pass
        for one in (first, writer):
            one.fill(far, 2)
            one.madvise(far, 2, MADV_DONTNEED)
            one.fill(at, 1)
            wanted = PageSet.from_ranges([(at, at + PAGE), (far, far + 2 * PAGE)])
            assert listed() == [wanted] * 3
            while listed():
                pass


def test_an_outsider_forks_while_it_is_looked_at(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its child was not born when /proc was listed, and it has nothing left when it is seen."""
    first, (one, two), at = family.first, family.children, family.at
    end(two)
    mapped = neighbours._mapped
    born: list[Puppet] = []

    def late(pid: int, wanted: Any) -> Any:
        if pid == one.pid and not born:
            born.append(one.agent("child"))
            # What it faults in now moves mtime; what it writes later does not.
            born[0].fill(at, PAGES)
            one.munmap(at, PAGES)
        return mapped(pid, wanted)

    with Followed(first.pid, "none") as tree:
        tree.step()
        monkeypatch.setattr(neighbours, "_mapped", late)
        # Nothing of this is about a look that takes too long, as on a busy machine it may.
        monkeypatch.setattr(shared_module, "LOOK_NS", 10_000_000_000)
        for _ in range(20):
            tree.step()
        for page in range(3):
            born[0].fill(at + page * PAGE, 1)
            tree.final()
        assert {region.reason for region in regions(tree, family)} == {
            f"shared with process {born[0].pid}"
        }


def end(puppet: Puppet) -> None:
    os.kill(puppet.pid, signal.SIGKILL)
    while not _dead(puppet.pid):
        pass


def _dead(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] in "ZX"
