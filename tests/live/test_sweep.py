"""The iteration in one call: taken when nothing is new, never when something is.

The step-by-step way is made to fail: whatever is answered then was answered by the sweep.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import uffdtrackd
from tests.procfs import PAGE, read_maps
from tests.puppet import (
    HUGE,
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_SHARED,
    MREMAP_MAYMOVE,
    Puppet,
)
from tests.victim import Victim
from uffdtrackd import PageSet
from uffdtrackd.native.collect import Collected, Collector
from uffdtrackd.tracking.pinned import Pinned
from uffdtrackd.tracking.tracker import Tracker

pytestmark = pytest.mark.live


class StepByStep(Exception):
    """The step-by-step way was taken."""


@pytest.fixture
def puppet(spawn: Callable[..., Victim]) -> Puppet:
    return Puppet(spawn("obey"))


@pytest.fixture
def settled(puppet: Puppet) -> Iterator[tuple[Puppet, uffdtrackd.Session, int]]:
    """A puppet with eight pages of its own, watched until nothing is new; their address."""
    at = puppet.mmap(8)
    puppet.fill(at, 8)
    with uffdtrackd.attach(puppet.pid) as session:
        for _ in range(3):
            session.iterate()
        yield puppet, session, at


def only_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Collected:
        raise StepByStep

    monkeypatch.setattr(Collector, "collect", refuse)


def test_a_target_at_rest_takes_one_call(
    settled: tuple[Puppet, uffdtrackd.Session, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet, session, at = settled
    pages = PageSet.from_ranges([(at, at + 8 * PAGE)])
    only_sweeps(monkeypatch)
    for page in (3, 5):
        puppet.fill(at + page * PAGE, 1)
        dirty = session.iterate().processes[puppet.pid].dirty & pages
        assert list(dirty) == [(at + page * PAGE, at + (page + 1) * PAGE)]
    assert not session.iterate().processes[puppet.pid].dirty & pages


@pytest.mark.parametrize("event", ["mapped", "unmapped", "mapped over"])
def test_what_is_new_does_not(
    settled: tuple[Puppet, uffdtrackd.Session, int], monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    puppet, session, at = settled
    if event == "mapped":
        puppet.fill(puppet.mmap(1), 1)
    elif event == "unmapped":
        puppet.call("munmap", at, 8 * PAGE)
    else:
        # maps is the same to the letter: only its registration tells.
        puppet.mmap(8, at=at)
    only_sweeps(monkeypatch)
    with pytest.raises(StepByStep):
        session.iterate()
    monkeypatch.undo()
    pages = session.iterate().processes[puppet.pid]  # the one that failed makes it a full one
    assert pages.dirty
    if event != "mapped":
        assert len(pages.discarded & PageSet.from_ranges([(at, at + 8 * PAGE)])) == 8


def test_pages_that_no_maps_ever_showed(puppet: Puppet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grown after maps was read, listed, and shrunk before maps is read again."""
    room = puppet.mmap(16)
    puppet.call("munmap", room + 8 * PAGE, 8 * PAGE)
    puppet.fill(room, 8)
    grown = PageSet.from_ranges([(room + 8 * PAGE, room + 16 * PAGE)])
    with uffdtrackd.attach(puppet.pid) as session:
        for _ in range(3):
            session.iterate()
        collect = Collector.collect

        def grow_first(self: Collector, *also: memoryview) -> Collected:
            assert puppet.call("mremap", room, 8 * PAGE, 16 * PAGE, 0) == room
            puppet.fill(room + 8 * PAGE, 8)
            return collect(self, *also)

        # Any new mapping makes this one go step by step.
        puppet.mmap(1)
        session.iterate()
        monkeypatch.setattr(Collector, "collect", grow_first)
        listed = session.iterate().processes[puppet.pid].dirty & grown
        monkeypatch.undo()
        assert listed == grown, "the test lost its race with itself"
        puppet.call("mremap", room, 16 * PAGE, 8 * PAGE, MREMAP_MAYMOVE)
        discarded = PageSet()
        for _ in range(2):
            discarded |= session.iterate().processes[puppet.pid].discarded & grown
        assert discarded == grown


def only_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StepByStep

    monkeypatch.setattr(Tracker, "_finish", refuse)


def test_writes_to_known_pages_are_told_as_they_are(
    settled: tuple[Puppet, uffdtrackd.Session, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet, session, at = settled
    only_quiet(monkeypatch)
    for page in (3, 5):
        puppet.fill(at + page * PAGE, 1)
        found = session.iterate().processes[puppet.pid]
        pages = found.dirty & PageSet.from_ranges([(at, at + 8 * PAGE)])
        assert list(pages) == [(at + page * PAGE, at + (page + 1) * PAGE)]
        assert found.always <= found.dirty and not found.discarded
        maps = {(one.start, one.end) for one in read_maps(puppet.pid)}
        assert {(region.start, region.end) for region in found.regions} == maps


@pytest.mark.parametrize("event", ["new page", "given back", "direct", "was direct", "shared"])
def test_what_is_more_is_looked_at(
    settled: tuple[Puppet, uffdtrackd.Session, int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    event: str,
) -> None:
    puppet, session, _ = settled
    block = puppet.mmap(1024)
    start = -(-block // HUGE) * HUGE
    puppet.fill(start, 1)
    if event == "shared":
        puppet.fill(puppet.mmap(1, flags=MAP_SHARED | MAP_ANONYMOUS), 1)
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    if event == "was direct":
        # What was read into then may yet be to be listed again, when the target is stopped.
        fd = puppet.open(path, os.O_RDONLY | os.O_DIRECT)
        session.iterate()
        puppet.close(fd)
    for _ in range(3):
        session.iterate()
    if event == "new page":
        puppet.fill(start + PAGE, 1)
    elif event == "given back":
        puppet.madvise(start, HUGE // PAGE, MADV_DONTNEED)
    elif event == "direct":
        puppet.open(path, os.O_RDONLY | os.O_DIRECT)
    only_quiet(monkeypatch)
    with pytest.raises(StepByStep):
        session.iterate()


_MANY_GROUPS = """
import os, sys
os.setgroups(range(4_000_000_000, 4_000_000_000 + 20_000))
print("ready", flush=True)
sys.stdin.readline()
print("ok", flush=True)
"""


@pytest.mark.both_backends
@pytest.mark.skipif(os.geteuid() != 0, reason="to choose one's groups takes root")
def test_a_target_of_many_groups(
    spawn_program: Callable[..., Victim], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come before what it has pinned in /proc/PID/status, and fill pages of it."""
    victim = spawn_program(sys.executable, "-c", _MANY_GROUPS)
    with uffdtrackd.attach(victim.pid, backend=backend) as session:
        for _ in range(3):
            session.iterate()
        if backend == "async":
            only_sweeps(monkeypatch)
            # Nor is it asked once more what the sweep has found.
            monkeypatch.setattr(Pinned, "_look", lambda _: pytest.fail("asked again"))
        session.iterate()
    victim.finish()
