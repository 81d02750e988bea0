"""Targets in the corners of what a kernel offers: attached to, or refused, without harm.

The victims are tests/targets/corner.c (it says what each kind is) and odd.c; they look for damage
themselves, the tests look at their footprints.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable

import pytest

from tests.live.footprint import footprint, state, tracer
from tests.live.strike import Watched, injected
from tests.victim import Victim
from uffdtrackd.errors import TrackError
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.inject import Method
from uffdtrackd.tracking.attach import open_target

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]

both = pytest.mark.parametrize(
    "method", [Method.CALL, Method.PARASITE], ids=lambda method: method.name.lower()
)


def rounds(target: Victim) -> int:
    return int(target.ask("rounds"))


def goes_on(target: Victim) -> None:
    before = rounds(target)
    while rounds(target) < before + 2:
        os.sched_yield()


@both
@pytest.mark.parametrize("kind", ["rseq", "dispatch", "mdwe", "locked", "unshared"])
def test_unharmed(spawn: Spawn, kind: str, method: Method) -> None:
    target = spawn("corner", kind)
    tid = int(target.ask("where"))
    before = footprint(target.pid)
    for _ in range(50):
        assert injected(target.pid, tid, method).method is method
    assert before.differences(footprint(target.pid)) == []
    assert tracer(target.pid) == 0
    if kind in ("rseq", "dispatch", "unshared"):
        goes_on(target)
    target.finish()


def test_no_room_for_a_mapping(spawn: Spawn) -> None:
    """By call nothing is mapped; the parasite is refused, and leaves."""
    target = spawn("corner", "mappings")
    target.ask("where")
    before = footprint(target.pid)
    for _ in range(3):
        injected(target.pid, method=Method.CALL)
        with pytest.raises(NativeError, match=r"(mmap|mprotect) in the target"):
            injected(target.pid, method=Method.PARASITE)
    assert before.differences(footprint(target.pid)) == []
    target.finish()


@both
@pytest.mark.parametrize("kind", ["fds", "space"])
def test_limits_are_raised_and_put_back(spawn: Spawn, kind: str, method: Method) -> None:
    """A soft limit is no obstacle; a hard one is none to CAP_SYS_RESOURCE, else a refusal."""
    target = spawn("odd", kind)
    what = resource.RLIMIT_NOFILE if kind == "fds" else resource.RLIMIT_AS
    before = footprint(target.pid)
    try:
        injected(target.pid, method=method)
    except NativeError as error:
        assert "in the target" in error.step
        assert before.differences(footprint(target.pid)) == []
        # As a program would have it that lowered only its soft limit.
        target.kill()
        target = spawn("idle")
        count = len(os.listdir(f"/proc/{target.pid}/fd")) if kind == "fds" else 4096
        hard = resource.prlimit(target.pid, what)[1]
        resource.prlimit(target.pid, what, (count, hard))
        before = footprint(target.pid)
    for _ in range(5):
        assert injected(target.pid, method=method).method is method
        assert before.differences(footprint(target.pid)) == []
    target.finish()


@both
@pytest.mark.parametrize("kind", ["filter", "strict", "dead-leader", "nodump"])
def test_odd_ones(spawn: Spawn, kind: str, method: Method) -> None:
    target = spawn("odd", kind)
    before = footprint(target.pid) if kind != "dead-leader" else None
    for _ in range(5):
        assert injected(target.pid, method=method).method is method
    if before:
        assert before.differences(footprint(target.pid)) == []
    target.finish()


def test_waits_for_a_moment(spawn: Spawn) -> None:
    """A thread that cannot be stopped is waited for as long as said, and not touched."""
    target = spawn("odd", "vfork")
    vfork = next(
        int(tid)
        for tid in os.listdir(f"/proc/{target.pid}/task")
        if state(target.pid, int(tid)) == "D"
    )
    began = time.monotonic()
    with pytest.raises(NativeError, match="find a thread that can be stopped"):
        injected(target.pid, vfork, deadline=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    injected(target.pid)
    assert tracer(target.pid) == 0


@both
@pytest.mark.parametrize("kind", ["spin", "epoll", "nanosleep"])
def test_a_frozen_container(
    spawn: Spawn, frozen_group: Callable[[int], None], kind: str, method: Method
) -> None:
    """It stops for us but does not run for us: refused in time, or done when it is thawed."""
    target = Watched(spawn, kind)
    frozen_group(target.pid)
    frozen_group(1)
    for deadline in (0.1, 0.5, 2.5, 12.5):
        with pytest.raises(NativeError, match=r"(stop|run) the thread") as refused:
            injected(target.pid, target.tid, method, deadline=deadline)
        assert target.before.differences(footprint(target.pid)) == []
        assert tracer(target.pid) == 0
        # On a busy machine it may not even get the processor to stop on, until then.
        if refused.value.step == "run the thread":
            break
    else:
        pytest.fail("it never stopped")
    thaw = threading.Timer(0.1, frozen_group, (0,))
    thaw.start()
    try:
        injected(target.pid, target.tid, method)
    finally:
        thaw.join()
    target.unharmed()
    target.victim.finish()


def test_again_and_again(spawn: Spawn) -> None:
    """Nothing grows here: no descriptor, no child, no memory."""
    target = spawn("idle")
    for _ in range(50):
        injected(target.pid)
    before = len(os.listdir("/proc/self/fd")), resident()
    for _ in range(300):
        injected(target.pid)
    after = len(os.listdir("/proc/self/fd")), resident()
    assert after[0] == before[0]
    assert after[1] - before[1] < 512 << 10
    target.finish()


def resident() -> int:
    """Bytes of this process in memory (proc_pid_statm(5))."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_forks_take_nothing_along(spawn: Spawn) -> None:
    """Children that were forked while the target had the userfaultfd do not keep it."""
    target = spawn("corner", "forks")
    for _ in range(150):
        injected(target.pid)
    goes_on(target)
    target.finish()


@pytest.mark.parametrize("kind", ["execs", "leader"])
def test_execs(spawn: Spawn, kind: str) -> None:
    """A program that is replaced again and again comes to its end, whatever we do to it."""
    target = spawn("corner", kind, 500)
    attached = gone = 0
    serving = False
    while not serving:
        try:
            open_target(target.pid, deadline=1.0).close()
            attached += 1
        except TrackError as error:
            gone += 1
            assert "\n" not in str(error)
        with open(f"/proc/{target.pid}/cmdline") as file:
            serving = file.read().split("\0")[2:3] == ["0"]
    # Faster than we are, perhaps: then every one was refused.
    assert attached or gone
    # It says "ready" at each hundredth time round.
    for _ in range(5):
        assert target.line() == "ready"
    assert rounds(target) == 0
    target.finish()


def test_threads_come_and_go(spawn: Spawn) -> None:
    """The thread that was chosen may be gone a moment later: then another is taken."""
    target = spawn("crowd", "bomb", 16)
    for _ in range(100):
        injected(target.pid)
    assert tracer(target.pid) == 0
    target.finish()
