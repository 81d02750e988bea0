"""Whatever fails in an injection, and whoever dies in it, the target lives and shows nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.footprint import footprint, state, tracer
from tests.live.strike import Watched, injected, killed, strike
from tests.victim import Victim
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.inject import HELPER, Action, Calls, Fault, Method, Point

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]

both = pytest.mark.parametrize(
    "method", [Method.CALL, Method.PARASITE], ids=lambda method: method.name.lower()
)
# How a target waits, and whether the injector is a program or a fork of the tracker.
kinds = pytest.mark.parametrize(
    ("kind", "helper"),
    [("spin", HELPER), ("epoll", HELPER), ("nanosleep", HELPER), ("nanosleep", None)],
    ids=["spin", "epoll", "nanosleep", "forked"],
)

ONLY_PARASITE = {Point.MAPPED, Point.WRITTEN, Point.SOCKET, Point.SENT}
POINTS: dict[Method, list[Point]] = {
    Method.CALL: [p for p in Point if p is not Point.NONE and p not in ONLY_PARASITE],
    Method.PARASITE: [p for p in Point if p is not Point.NONE],
}


@kinds
@both
def test_every_call_may_fail_once(
    spawn: Spawn, kind: str, helper: Path | None, method: Method
) -> None:
    target = Watched(spawn, kind)
    counts = injected(target.pid, target.tid, method, helper=helper).calls
    assert counts.tracer > 10 and counts.remote >= 2
    assert (counts.parasite > 0) == (method is Method.PARASITE)
    # A few more than a clean run makes: the way back after a failure has calls of its own.
    faults = [Calls(tracer=n) for n in range(1, counts.tracer + 5)]
    faults += [Calls(remote=n) for n in range(1, counts.remote + 3)]
    faults += [Calls(parasite=n) for n in range(1, counts.parasite + 3)]
    failed = 0
    for fail in faults:
        try:
            injected(target.pid, target.tid, method, Fault(fail=fail), helper=helper)
        except NativeError as error:
            failed += 1
            assert error.step, fail
        assert target.before.differences(footprint(target.pid)) == [], fail
    # Some failures are survived, but not all: or else nothing failed.
    assert 3 <= failed < len(faults)
    target.unharmed()
    target.victim.finish()


@kinds
@both
def test_tracker_is_killed(spawn: Spawn, kind: str, helper: Path | None, method: Method) -> None:
    """The injector is a process of its own and finishes what it began."""
    target = Watched(spawn, kind)
    for point in POINTS[method]:
        status = strike(target.pid, target.tid, method, Fault(point, Action.KILL_TRACKER), helper)
        assert killed(status), point
        assert target.before.differences(footprint(target.pid)) == [], point
        target.unharmed()
    target.victim.finish()


# Not epoll: that returns EINTR after any SIGSTOP and SIGCONT (signal(7)), whoever looks on.
@pytest.mark.parametrize("kind", ["spin", "nanosleep", "futex"])
@both
def test_target_is_stopped_meanwhile(spawn: Spawn, kind: str, method: Method) -> None:
    """SIGSTOP cannot be blocked: it may come at any moment, and must stop the target then."""
    target = Watched(spawn, kind)
    for point in POINTS[method]:
        injected(target.pid, target.tid, method, Fault(point, Action.STOP_TARGET))
        wait_until_stopped(target)
        assert target.before.differences(footprint(target.pid)) == [], point
        os.kill(target.pid, signal.SIGCONT)
        target.unharmed()
    target.victim.finish()


@both
def test_target_was_stopped_before(spawn: Spawn, method: Method) -> None:
    target = Watched(spawn, "nanosleep")
    os.kill(target.pid, signal.SIGSTOP)
    wait_until_stopped(target)
    for _ in range(10):
        injected(target.pid, target.tid, method)
        wait_until_stopped(target)
        assert target.before.differences(footprint(target.pid)) == []
    os.kill(target.pid, signal.SIGCONT)
    target.unharmed()
    target.victim.finish()


@both
def test_target_is_killed_meanwhile(spawn: Spawn, method: Method) -> None:
    for point in POINTS[method]:
        target = spawn("registers", "epoll")
        tid = int(target.ask("where"))
        try:
            injected(target.pid, tid, method, Fault(point, Action.KILL_TARGET))
        except NativeError as error:
            assert error.step, point
        assert os.waitstatus_to_exitcode(os.waitpid(target.pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["spin", "epoll", "nanosleep", "futex", "poll"])
def test_the_parasite_cures(spawn: Spawn, kind: str) -> None:
    """With the injector dead too the parasite puts the thread back; its two pages stay."""
    target = Watched(spawn, kind)
    for round in range(1, 4):
        fault = Fault(Point.RECEIVED, Action.KILL_INJECTOR)
        with pytest.raises(NativeError, match="injector"):
            injected(target.pid, target.tid, Method.PARASITE, fault)
        target.goes_on()
        assert tracer(target.pid) == 0
        now = footprint(target.pid)
        left = [line for line in now.maps if line not in target.before.maps]
        sizes = [size(line) for line in left]
        assert sum(sizes) == round * 8192, left
        assert now.fds == target.before.fds
        assert now.threads == target.before.threads
        assert now.limits == target.before.limits
    target.victim.finish()


@both
@pytest.mark.parametrize("point", [Point.CHOSEN, Point.SEIZED, Point.RELEASED, Point.REPORTED])
def test_injector_is_killed_outside_the_window(spawn: Spawn, method: Method, point: Point) -> None:
    target = Watched(spawn, "epoll")
    fault = Fault(point, Action.KILL_INJECTOR)
    try:
        injected(target.pid, target.tid, method, fault)
    except NativeError as error:
        assert error.step == "injector"
    else:
        assert point is Point.REPORTED
    target.unharmed()
    target.victim.finish()


def size(line: str) -> int:
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    return end - start


def wait_until_stopped(target: Watched) -> None:
    """Every thread in a group stop. The kernel gets there by itself, and soon."""
    tids = [int(name) for name in os.listdir(f"/proc/{target.pid}/task")]
    while any(state(target.pid, tid) != "T" for tid in tids):
        assert Path(f"/proc/{target.pid}").exists()
        os.sched_yield()
