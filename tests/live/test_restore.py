"""A session goes on in another process, and a copy kept from both is exact.

The first is killed with SIGKILL at any moment of an iteration, again and again, while the target
runs; what it had kept is all that is left. See tests/live/keeping.py for who holds what.
"""

from __future__ import annotations

import os
import random
import select
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import uffdtrackd
from tests.live.follow import Counting, tracked_by_nobody
from tests.live.keeping import Holder
from tests.live.row import ASYNCHRONOUS, MARKS_HOLES, own_userfaultfd
from tests.oracle import Oracle
from tests.procfs import PAGE
from tests.puppet import MADV_DONTNEED, Puppet
from tests.victim import Victim
from uffdtrackd import PageSet
from uffdtrackd.tracking.member import Member

pytestmark = [pytest.mark.live, pytest.mark.both_backends]

Spawn = Callable[..., Victim]

SEED = int(os.environ.get("SEED", random.randrange(1 << 30)))


@pytest.fixture
def hold(backend: str) -> Iterator[Callable[..., Holder]]:
    """hold(pid, **) -> Holder, closed at the end."""
    made: list[Holder] = []

    def start(pid: int, **more: str) -> Holder:
        made.append(Holder(pid, backend=backend, **more))
        return made[-1]

    yield start
    for one in made:
        one.close()


def apply(oracle: Oracle, iterations: list[object]) -> None:
    for one in iterations:
        oracle.session = Replay(one)  # type: ignore[assignment]
        oracle.step()


class Replay:
    """A session whose next iteration is known."""

    def __init__(self, iteration: object) -> None:
        self._iteration = iteration

    def iterate(self) -> object:
        return self._iteration


def go_on_here(holder: Holder, oracle: Oracle) -> tuple[uffdtrackd.Session, bool]:
    session, complete, late = holder.take_over()
    apply(oracle, late)
    oracle.session = session
    return session, complete


def test_killed_at_any_moment(spawn: Spawn, hold: Callable[..., Holder], backend: str) -> None:
    print(f"SEED={SEED}")
    draw = random.Random(SEED)
    victim = spawn("churn", "-s", SEED, "-t", 3, "-m", 24)
    progress = Counting(victim, 150)
    holder = hold(victim.pid)
    oracle = Oracle(holder)
    killed = {"before it began": 0, "in the middle": 0, "when it was kept": 0, "when told": 0}
    for _ in range(8):
        oracle.session = holder
        oracle.step()
        progress()
        holder.begin()
        time.sleep(draw.random() * holder.took)
        arrived = holder.kill()
        apply(oracle, arrived)
        # With the synchronous backend it waits until somebody is there again.
        if backend == "async" and not draw.randrange(3):
            progress()
        assert victim.alive() or victim.ask("stats")  # says what it died of
        late = holder.restart()
        apply(oracle, late)
        if arrived or late:
            killed["when told" if arrived else "when it was kept"] += 1
        else:
            killed["before it began" if holder.complete else "in the middle"] += 1
    print(killed)
    oracle.session = holder
    oracle.step()
    progress()
    holder.leave()
    session, _ = go_on_here(holder, oracle)
    with session:
        oracle.step()
        progress()
        oracle.final().check(iterations=10)
    assert tracked_by_nobody(victim.pid)
    progress()
    victim.finish()


def test_what_happens_meanwhile_is_seen(spawn: Spawn, hold: Callable[..., Holder]) -> None:
    """Nothing is listed but what was written, dropped or mapped while nobody tracked."""
    puppet = Puppet(spawn("obey"))
    kept, written, dropped, gone, over = (puppet.alone(64) for _ in range(5))
    for at in (kept, written, dropped, gone, over):
        puppet.fill(at, 64)
    holder = hold(puppet.pid)
    oracle = Oracle(holder)
    oracle.steps(3)
    holder.leave()
    # With the synchronous backend a write waits for the next tracker: answers come later. In one
    # piece, as it may wait in read(2), in which it keeps the pipe locked against writers.
    puppet.victim.send(
        f"call madvise {dropped + 8 * PAGE} {8 * PAGE} {MADV_DONTNEED}\n"
        f"call munmap {gone} {64 * PAGE}\n"
        f"fill {written + 3 * PAGE} {2 * PAGE} 12345"
    )
    session, complete = go_on_here(holder, oracle)
    assert complete
    with session:
        assert [puppet.victim.line() for _ in range(3)][-1] == "ok"
        pages = oracle.step().processes[puppet.pid]
        assert isinstance(pages.dirty, PageSet) and isinstance(pages.discarded, PageSet)
        everything = sum(64 for _ in (kept, written, dropped, over))
        assert len(pages.dirty) < everything, "a full one: nothing was restored"
        assert not pages.dirty & PageSet.from_ranges([(kept, kept + 64 * PAGE)])
        assert written + 3 * PAGE in pages.dirty and written + 5 * PAGE not in pages.dirty
        assert len(pages.discarded & PageSet.from_ranges([(gone, gone + 64 * PAGE)])) == 64
        oracle.final().check()
        puppet.fill(kept, 64)
        oracle.final().check()


@pytest.mark.parametrize("features", [MARKS_HOLES, ASYNCHRONOUS])
def test_memory_of_its_own_userfaultfd(
    spawn: Spawn, hold: Callable[..., Holder], features: int
) -> None:
    """Nothing tells whose a registration is: all is tried, and listed, once more."""
    puppet = Puppet(spawn("obey"))
    at, other = puppet.alone(8), puppet.alone(8)
    own_userfaultfd(puppet, at, 8, 2, features)
    for start in (at, other):
        puppet.fill(start, 8)
    holder = hold(puppet.pid)
    oracle = Oracle(holder)
    oracle.steps(3)
    holder.leave()
    session, _ = go_on_here(holder, oracle)
    with session:
        oracle.step()
        for start in (at, other):
            puppet.fill(start, 8)
        oracle.final().check()
        for start in (at, other):
            puppet.fill(start, 8)
        oracle.final().check()


def test_an_iteration_nobody_heard_of(spawn: Spawn, hold: Callable[..., Holder]) -> None:
    """The state says so, and the next one lists everything."""
    puppet = Puppet(spawn("obey"))
    at = puppet.alone(64)
    puppet.fill(at, 64)
    state = os.memfd_create("state")
    session = uffdtrackd.attach(puppet.pid)
    oracle = Oracle(session)
    session.keep_in(state)
    oracle.steps(2)
    session.keep()
    puppet.fill(at, 4)
    fds = {name: os.dup(fd) for name, fd in session.descriptors().items()}
    session.iterate()  # and not a word of it
    session.leave()
    restored = uffdtrackd.restore(state, fds)
    os.close(state)
    with restored.session as again:
        assert not restored.complete
        iteration = again.iterate()
        dirty = iteration.processes[puppet.pid].dirty
        assert iteration.number == 2
        assert len(dirty & PageSet.from_ranges([(at, at + 64 * PAGE)])) == 64
    assert not restored.also


def test_no_descriptors(spawn: Spawn, hold: Callable[..., Holder]) -> None:
    """Whoever held them let go: attached to again, everything listed, what is gone discarded."""
    puppet = Puppet(spawn("obey"))
    at = puppet.alone(64)
    puppet.fill(at, 64)
    holder = hold(puppet.pid)
    oracle = Oracle(holder)
    oracle.steps(2)
    holder.leave()
    for fd in holder.fds.values():
        os.close(fd)
    holder.fds = {}
    puppet.munmap(at, 32)
    session, complete = go_on_here(holder, oracle)
    assert not complete
    with session:
        pages = oracle.step().processes[puppet.pid]
        assert isinstance(pages.dirty, PageSet) and isinstance(pages.discarded, PageSet)
        assert len(pages.dirty & PageSet.from_ranges([(at, at + 64 * PAGE)])) == 32
        assert len(pages.discarded & PageSet.from_ranges([(at, at + 64 * PAGE)])) == 32
        oracle.final().check()


def test_exec_meanwhile(spawn: Spawn, hold: Callable[..., Holder]) -> None:
    puppet = Puppet(spawn("obey"))
    scratch = puppet.mmap(4)
    puppet.fill(scratch, 4)
    path = puppet.victim.argv[0].encode() + b"\0"
    puppet.store(scratch, struct.pack("QQQ", scratch + 64, 0, 0) + bytes(40) + path)
    holder = hold(puppet.pid)
    oracle = Oracle(holder)
    oracle.steps(2)
    puppet.victim.send(f"call execve {scratch + 64} {scratch} {scratch + 8}")
    puppet.victim.wait_for("ready")
    holder.leave()
    session, complete = go_on_here(holder, oracle)
    assert not complete
    with session:
        oracle.step()
        oracle.final().check()


def test_a_target_that_ended(spawn: Spawn, hold: Callable[..., Holder]) -> None:
    puppet = Puppet(spawn("obey"))
    holder = hold(puppet.pid)
    holder.iterate()
    holder.leave()
    puppet.victim.kill()
    before = len(os.listdir("/proc/self/fd"))
    held = len(holder.fds)
    with pytest.raises(uffdtrackd.errors.TargetGone):
        holder.take_over()
    assert len(os.listdir("/proc/self/fd")) == before - held


def test_a_family(spawn: Spawn, hold: Callable[..., Holder]) -> None:
    """One child ended, one was born, one runs on."""
    puppet = Puppet(spawn("obey"))
    at = puppet.alone(16)
    puppet.fill(at, 16)
    ends, stays = puppet.agent("child"), puppet.agent("child")
    stays.fill(at, 4)
    holder = hold(puppet.pid, follow="fork")
    oracle = Oracle(holder)
    oracle.steps(3)
    assert len(oracle.shadows) == 3
    holder.leave()
    os.kill(ends.pid, 9)
    session, _ = go_on_here(holder, oracle)
    with session:
        born = puppet.agent("child")
        stays.fill(at + 8 * PAGE, 2)
        iteration = oracle.step()
        assert isinstance(iteration, uffdtrackd.Iteration)
        assert set(iteration.processes) == {puppet.pid, stays.pid, born.pid}
        assert iteration.exited == (ends.pid,)
        pages = iteration.processes[stays.pid]
        assert at + 8 * PAGE in pages.dirty and at not in pages.dirty
        assert any("no tracker ran" in line for line in session.status)
        oracle.final().check()


def test_one_ends_while_it_is_taken_over(
    spawn: Spawn, hold: Callable[..., Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet = Puppet(spawn("obey"))
    ends = puppet.agent("child")
    holder = hold(puppet.pid, follow="fork")
    oracle = Oracle(holder)
    oracle.steps(2)
    holder.leave()
    take_over = Member.take_over

    def too_late(self: Member, *args: Any) -> None:
        if self.pid == ends.pid:
            pidfd = os.pidfd_open(self.pid)
            os.kill(self.pid, 9)
            select.select([pidfd], [], [], 30)
            os.close(pidfd)
        take_over(self, *args)

    monkeypatch.setattr(Member, "take_over", too_late)
    session, _ = go_on_here(holder, oracle)
    with session:
        iteration = oracle.step()
        assert isinstance(iteration, uffdtrackd.Iteration)
        assert iteration.exited == (ends.pid,)
        oracle.final().check()


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_a_state_that_is_none(content: bytes) -> None:
    state = os.memfd_create("state")
    os.write(state, content)
    null = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(uffdtrackd.errors.TrackError, match="not the state"):
        uffdtrackd.restore(state, {"uffd.1.2.3": null})
    os.close(state)
    with pytest.raises(OSError):
        os.close(null)
