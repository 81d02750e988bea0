"""Page tables that are made beforehand, where a process has never touched what others share.

Two processes share memory; the child has no page table in front of it until it is tracked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.tree import no_process_events
from tests.procfs import PAGE
from tests.puppet import (
    HUGE,
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE,
    MAP_SHARED,
    RW,
    Puppet,
)
from tests.victim import Victim
from uffdtrackd import PageSet
from uffdtrackd.native import scan
from uffdtrackd.tracking.tracker import Tracker

pytestmark = pytest.mark.live


@pytest.fixture
def first(spawn: Callable[..., Victim]) -> Puppet:
    """Older than what it will map, by what clock ticks can tell."""
    if why := no_process_events():
        pytest.skip(why)
    made = Puppet(spawn("obey"))
    stat = Path(f"/proc/{made.pid}/stat").read_text()
    born = int(stat.rpartition(")")[2].split()[19])
    tick = os.sysconf("SC_CLK_TCK")
    while float(Path("/proc/uptime").read_text().split()[0]) * tick < born + 3:
        pass
    return made


def test_where_the_address_space_ends(first: Puppet) -> None:
    """No page table is made, and no scan goes, where there are no addresses any more."""
    with open(f"/proc/{first.pid}/pagemap", "rb") as pagemap:
        top = scan.limit(pagemap.fileno())
    flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    at = first.mmap(2, RW, flags, at=top - 2 * PAGE)
    first.fill(at, 2)
    child = first.agent("child")
    with uffdtrackd.attach(first.pid, follow="fork") as session:
        for _ in range(3):
            iteration = session.iterate()
            assert iteration.stats.get("scan_failures", 0) == 0
        assert at not in iteration.processes[child.pid].dirty
        child.fill(at, 1)
        iteration = session.iterate()
        for pid in (first.pid, child.pid):
            assert at in iteration.processes[pid].dirty
            assert at + PAGE not in iteration.processes[pid].dirty


def test_mapped_anew_before_it_is_armed(first: Puppet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of it is armed, and nothing is listed anew for that."""
    own = first.mmap(4)
    first.fill(own, 4)
    at = first.mmap(8 * 512, RW, MAP_SHARED | MAP_ANONYMOUS)
    first.fill(at, 8 * 512)
    far = (at // HUGE + 6) * HUGE
    child = first.agent("child")
    arm = Tracker._arm

    def late(tracker: Tracker, data: PageSet) -> None:
        if tracker._pid == child.pid:
            child.mmap(512, at=at + PAGE)
        arm(tracker, data)

    with uffdtrackd.attach(first.pid, follow="fork") as session:
        monkeypatch.setattr(Tracker, "_arm", late)
        session.iterate()
        monkeypatch.undo()
        assert own not in session.iterate().processes[child.pid].dirty
        for _ in range(3):
            found = session.iterate().processes[child.pid].dirty
        assert far not in found
        child.fill(far, 1)
        child.madvise(far, 1, MADV_DONTNEED)
        found = session.iterate().processes[first.pid].dirty
        assert far in found and far + PAGE not in found
