"""Before = after: 200 attaches, with iterations and freezes, to targets that are busy all the time.

What is compared is read from /proc by footprint.py; registers are watched by the target itself
(tests/targets/registers.c), EINTR and early timeouts too (eintr.c), and its memory by all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.footprint import Footprint, footprint, tracer
from tests.live.strike import Watched
from tests.victim import Victim
from uffdtrackd.native.freeze import freeze

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]

CYCLES = 200
# Sessions are made of Python objects: what one frees the next one uses, but not to the byte.
GROWTH = 2 << 20


def track(pid: int, cycle: int) -> None:
    """One session; every fourth goes all the way to a final iteration."""
    with uffdtrackd.attach(pid) as session:
        if cycle % 4 == 3:
            assert session.iterate().processes[pid].dirty
            with session.frozen():
                assert session.iterate().frozen


def resident() -> int:
    """Memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cycles(pid: int, number: int = CYCLES) -> None:
    """All of them; this process must not grow either. (The fixture no_leaks sees to the rest.)"""
    for cycle in range(number // 4):
        track(pid, cycle)
    before = resident()
    for cycle in range(number // 4, number):
        track(pid, cycle)
    assert resident() - before < GROWTH


def steady(found: list[str]) -> list[str]:
    """Differences, but for what a thread changes by itself in calls that change its mask."""
    own = ("threads[", "status[SigPnd]", "status[ShdPnd]", "status[SigBlk]")
    return [line for line in found if not line.startswith(own)]


@pytest.mark.parametrize("kind", ["spin", "epoll", "futex"])
def test_registers_and_footprint(spawn: Spawn, kind: str) -> None:
    target = Watched(spawn, kind)
    cycles(target.pid)
    target.unharmed()
    target.victim.finish()


@pytest.mark.parametrize("kind", ["spin", "epoll", "nanosleep", "futex", "poll"])
def test_registers_across_freezes(spawn: Spawn, kind: str) -> None:
    target = Watched(spawn, kind)
    for _ in range(CYCLES):
        freeze([target.pid]).thaw()
    target.unharmed()
    target.victim.finish()


@pytest.mark.parametrize(("kind", "number"), [("spin", 4), ("sleep", 64)])
def test_many_threads(spawn: Spawn, kind: str, number: int) -> None:
    crowd = spawn("crowd", kind, number)
    before = footprint(crowd.pid)
    cycles(crowd.pid, CYCLES // 4)
    assert before.differences(footprint(crowd.pid)) == []
    assert tracer(crowd.pid) == 0
    crowd.finish()


def mask_of(pid: int, tid: int) -> str:
    status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
    return status.split("SigBlk:\t")[1].split()[0]


def has_its_masks(before: Footprint, pid: int) -> bool:
    """Every thread shows the signal mask that it had, if not at once then soon."""
    limit = time.monotonic() + 10
    for tid, (mask, *_) in before.threads.items():
        while mask_of(pid, tid) != mask:
            if time.monotonic() > limit:
                return False
            os.sched_yield()
    return True


def test_every_call(spawn: Spawn) -> None:
    target = spawn("eintr")
    # Until each thread has been through its call once, and so has all that it ever maps.
    while ":0" in target.ask("stats"):
        os.sched_yield()
    before = footprint(target.pid)
    cycles(target.pid)
    assert steady(before.differences(footprint(target.pid))) == []
    assert has_its_masks(before, target.pid)
    assert tracer(target.pid) == 0
    target.finish()


def test_python(spawn_program: Callable[..., Victim]) -> None:
    """A real program that allocates, with a thread that does nothing."""
    code = (
        "import sys, threading\n"
        "done = threading.Event()\n"
        "threading.Thread(target=done.wait).start()\n"
        "def churn():\n"
        "    while not done.is_set(): sum([list(range(100)) for _ in range(10)], [])\n"
        "threading.Thread(target=churn).start()\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    if line == 'stop\\n': break\n"
        "    print(line, end='', flush=True)\n"
        "done.set()\n"
        "print('ok', flush=True)\n"
    )
    python = spawn_program("python3", "-c", code)
    before = footprint(python.pid)
    cycles(python.pid)
    assert python.ask("hello") == "hello"
    found = before.differences(footprint(python.pid))
    # Its allocator may map and unmap arenas; nothing of ours is among what is new.
    found = [line for line in found if not line.startswith(("maps: ", "status[Vm"))]
    assert found == []
    after = footprint(python.pid)
    files = {line.split()[-1] for line in after.maps if "/" in line}
    assert files == {line.split()[-1] for line in before.maps if "/" in line}
    assert not [line for line in after.maps if "x" in line.split()[1] and line not in before.maps]
    python.finish()
