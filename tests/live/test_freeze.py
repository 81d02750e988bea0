"""A frozen process stands still, whatever it was doing, and goes on as if nothing had been.

The oracle is the process itself: counters in its memory, its own checks, and /proc.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.victim import Victim
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.freeze import freeze

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]


def states(pid: int) -> list[str]:
    """State letter of every thread that does not exit while we look."""
    found = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/task/{tid}/stat").read_text()
            found.append(text.rsplit(") ", 1)[1][0])
    return found


class Counters:
    """The counters of a crowd, read from its memory."""

    def __init__(self, crowd: Victim) -> None:
        self.crowd = crowd
        address, number = crowd.ask("where").split()
        self.address, self.size = int(address, 16), 8 * int(number)

    def read(self) -> tuple[int, ...]:
        with open(f"/proc/{self.crowd.pid}/mem", "rb", buffering=0) as file:
            file.seek(self.address)
            return struct.unpack(f"{self.size // 8}Q", file.read(self.size))

    def wait_for_change(self) -> None:
        before = self.read()
        limit = time.monotonic() + 30
        while self.read() == before:
            assert time.monotonic() < limit, "the target does not run"
            os.sched_yield()

    def stand_still(self) -> None:
        """As many looks as would show a running thread with near certainty."""
        before = self.read()
        for _ in range(20):
            assert self.read() == before
            time.sleep(0.0005)  # gives a runaway thread the CPU; not to wait for anything


@pytest.mark.parametrize(
    ("kind", "number"), [("spin", 1), ("spin", 8), ("sleep", 256), ("bomb", 1), ("bomb", 64)]
)
def test_stands_still(spawn: Spawn, kind: str, number: int) -> None:
    crowd = spawn("crowd", kind, number)
    counters = Counters(crowd)
    for _ in range(5):
        counters.wait_for_change()
        before = time.monotonic_ns()
        with freeze([crowd.pid]) as frozen:
            after = time.monotonic_ns()
            assert before <= frozen.stopped_at_ns <= frozen.frozen_at_ns <= after
            assert set(states(crowd.pid)) == {"t"}
            assert frozen.threads == len(states(crowd.pid))
            counters.stand_still()
            frozen.check()
        assert frozen.thawed_at_ns >= after
        assert frozen.stopped_ns == frozen.thawed_at_ns - frozen.stopped_at_ns
        counters.wait_for_change()
    assert "t" not in states(crowd.pid)
    crowd.finish()


def test_several_processes_and_one_that_has_ended(spawn: Spawn) -> None:
    crowds = [spawn("crowd", "spin", 2) for _ in range(3)]
    counters = [Counters(crowd) for crowd in crowds]
    gone = subprocess.Popen(["true"])
    gone.wait()
    with freeze([gone.pid, *(crowd.pid for crowd in crowds)]) as frozen:
        assert frozen.threads == 9
        for one in counters:
            one.stand_still()
    for one in counters:
        one.wait_for_change()
    for crowd in crowds:
        crowd.finish()


def test_nobody_there() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(NativeError) as caught:
        freeze([gone.pid])
    assert caught.value.errno == errno.ESRCH


def test_a_zombie_has_nothing_to_stop() -> None:
    child = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with freeze([child.pid]) as frozen:
            assert frozen.threads == 0
    finally:
        child.wait()


def test_dead_leader(spawn: Spawn) -> None:
    odd = spawn("odd", "dead-leader")
    tid = int(odd.ask("where"))
    with freeze([odd.pid]) as frozen:
        assert frozen.threads == 1
        assert sorted(states(odd.pid)) == ["Z", "t"]
    assert int(odd.ask("where")) == tid
    odd.finish()


def test_another_tracer(spawn: Spawn, spawn_program: Callable[..., Victim]) -> None:
    crowd = spawn("crowd", "spin", 4)
    counters = Counters(crowd)
    spawn_program("sh", "-c", f"exec strace -f -p {crowd.pid} -o /dev/null 2>&1", ready="attached")
    with pytest.raises(NativeError) as caught:
        freeze([crowd.pid])
    assert caught.value.errno == errno.EPERM
    assert caught.value.step == "PTRACE_SEIZE"
    counters.wait_for_change()


def test_vfork_is_given_up(spawn: Spawn) -> None:
    odd = spawn("odd", "vfork")
    before = time.monotonic()
    with pytest.raises(NativeError) as caught:
        freeze([odd.pid], deadline=0.2)
    assert caught.value.errno == errno.ETIMEDOUT
    assert 0.2 <= time.monotonic() - before < 5
    assert "t" not in states(odd.pid)
    assert int(odd.ask("where")) == odd.pid
    odd.finish()


def test_nobody_is_late_who_was_not_asked(spawn: Spawn) -> None:
    """A holder that gets to run too late (a busy machine, an emulated one) has not tried yet."""
    crowd = spawn("crowd", "spin", 4)
    counters = Counters(crowd)
    tids = {int(tid) for tid in os.listdir(f"/proc/{crowd.pid}/task")}
    for _ in range(20):
        try:
            with freeze([crowd.pid], deadline=0):
                counters.stand_still()
        except NativeError as error:
            assert error.errno == errno.ETIMEDOUT
            assert error.pid in tids, f"no thread was asked: {error.step}"
    counters.wait_for_change()


def test_interrupted_by_the_keyboard(spawn: Spawn) -> None:
    odd = spawn("odd", "vfork")

    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            freeze([odd.pid], deadline=60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert int(odd.ask("where")) == odd.pid
    odd.finish()


def test_lease(spawn: Spawn) -> None:
    crowd = spawn("crowd", "spin", 4)
    counters = Counters(crowd)
    frozen = freeze([crowd.pid], lease=0.05)
    try:
        counters.wait_for_change()
        with pytest.raises(NativeError) as caught:
            frozen.check()
        assert caught.value.errno == errno.ETIME
    finally:
        frozen.thaw()
    assert 50_000_000 <= frozen.stopped_ns < 30_000_000_000
    with pytest.raises(NativeError):
        frozen.check()
    crowd.finish()


TRACKER = """
import sys
from uffdtrackd.native.freeze import freeze
frozen = freeze([int(sys.argv[1])])
print("frozen", frozen.holder, flush=True)
input()
"""


def test_tracker_is_killed(spawn: Spawn, spawn_program: Callable[..., Victim]) -> None:
    crowd = spawn("crowd", "spin", 4)
    counters = Counters(crowd)
    tracker = spawn_program(sys.executable, "-c", TRACKER, crowd.pid, ready="")
    assert tracker.line().startswith("frozen")
    counters.stand_still()
    os.kill(tracker.pid, signal.SIGKILL)
    counters.wait_for_change()
    crowd.finish()


def test_holder_is_killed(spawn: Spawn) -> None:
    crowd = spawn("crowd", "spin", 4)
    counters = Counters(crowd)
    frozen = freeze([crowd.pid])
    os.kill(frozen.holder, signal.SIGKILL)
    counters.wait_for_change()
    with pytest.raises(NativeError) as caught:
        frozen.check()
    assert caught.value.errno == errno.ECHILD
    frozen.thaw()
    crowd.finish()


def test_target_is_killed_while_frozen(spawn: Spawn) -> None:
    crowd = spawn("crowd", "spin", 16)
    with freeze([crowd.pid]) as frozen:
        os.kill(crowd.pid, signal.SIGKILL)
        # Its parent learns of it at once: the holder has waited for the threads.
        assert crowd.process.wait(30) == -signal.SIGKILL
        frozen.check()


def test_forgotten_freeze_is_thawed(spawn: Spawn) -> None:
    crowd = spawn("crowd", "spin", 1)
    counters = Counters(crowd)
    frozen = freeze([crowd.pid])
    counters.stand_still()
    del frozen
    counters.wait_for_change()
    crowd.finish()


def wait_for_state(pid: int, wanted: set[str]) -> None:
    limit = time.monotonic() + 30
    while set(states(pid)) != wanted:
        assert time.monotonic() < limit, states(pid)
        os.sched_yield()


def test_stopped_stays_stopped(spawn: Spawn) -> None:
    crowd = spawn("crowd", "spin", 4)
    counters = Counters(crowd)
    os.kill(crowd.pid, signal.SIGSTOP)
    wait_for_state(crowd.pid, {"T"})
    for _ in range(20):
        with freeze([crowd.pid]):
            assert set(states(crowd.pid)) == {"t"}
            counters.stand_still()
        wait_for_state(crowd.pid, {"T"})
    counters.stand_still()
    os.kill(crowd.pid, signal.SIGCONT)
    counters.wait_for_change()
    crowd.finish()


def test_stop_and_continue_while_frozen(spawn: Spawn) -> None:
    crowd = spawn("crowd", "spin", 4)
    counters = Counters(crowd)
    with freeze([crowd.pid]):
        os.kill(crowd.pid, signal.SIGSTOP)
        counters.stand_still()
    wait_for_state(crowd.pid, {"T"})
    with freeze([crowd.pid]):
        os.kill(crowd.pid, signal.SIGCONT)
        counters.stand_still()
    counters.wait_for_change()
    assert "T" not in states(crowd.pid)
    crowd.finish()


def test_exec_under_the_freeze(
    build_target: Callable[..., Path], spawn_program: Callable[..., Victim], tmp_path: Path
) -> None:
    file = os.open(tmp_path / "generation", os.O_RDWR | os.O_CREAT)
    generations = []
    # The victim finds the file at fd 3, whatever number it has here.
    program = build_target("crowd")
    crowd = spawn_program(
        "sh", "-c", f'exec "$0" exec 4 3<>/dev/fd/{file}', program, pass_fds=[file]
    )
    for _ in range(200):
        with freeze([crowd.pid]) as frozen:
            assert set(states(crowd.pid)) == {"t"}
            first = os.pread(file, 8, 0)
            time.sleep(0.0005)
            assert os.pread(file, 8, 0) == first
            assert frozen.threads == len(states(crowd.pid))
        generations.append(struct.unpack("Q", first)[0])
    os.close(file)
    assert generations == sorted(generations)
    assert generations[-1] > generations[0], "it never ran exec()"
