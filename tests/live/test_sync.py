"""Synchronous protection: whatever a handler can do to a target that waits for it.

The victim `writers` writes as fast as it can, by itself and by read(2), and knows what each page
must contain. Where the tracker dies, it is a process of its own that is killed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.follow import Counting, follow, tracked_by_nobody
from tests.live.test_shadow_churn import MIXES, SEEDS, judge
from tests.oracle import Oracle
from tests.victim import Victim

pytestmark = [pytest.mark.live, pytest.mark.sync_only]

Spawn = Callable[..., Victim]


@contextmanager
def tracker(pid: int, *, pause: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    """A process that tracks `pid` synchronously, iteration after iteration; killed at the end."""
    code = (
        "import sys, time, uffdtrackd\n"
        f"session = uffdtrackd.attach({pid}, backend='sync')\n"
        "print('tracking', flush=True)\n"
        "while True:\n"
        "    session.iterate()\n"
        f"    time.sleep({pause})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"tracking\n"
            yield process
        finally:
            process.kill()


def test_writes_by_the_kernel_and_signals(spawn: Spawn) -> None:
    """A read(2) into protected pages is whole, whatever is pending meanwhile."""
    victim = spawn("writers", 3, 256, 60, 500)
    follow(victim.pid, Counting(victim, 2000), steps=30)
    assert tracked_by_nobody(victim.pid)
    victim.finish()


def test_many_threads_at_once(spawn: Spawn) -> None:
    """64 threads that fault in the same moment are a few reads, not 64 wake-ups."""
    victim = spawn("writers", 64, 8, 0, 0)
    assert victim.ask("rest") == "resting"
    most = 0
    with uffdtrackd.attach(victim.pid, backend="sync") as session:
        for _ in range(10):
            session.iterate()
            assert victim.ask("at once").startswith("written")
            most = max(most, session.iterate().stats["faults_at_once"])
            assert victim.ask("rest") == "resting"
        assert most > 1, "every fault was a message of its own"
    victim.finish()


def test_fork_while_faults_are_pending(spawn: Spawn) -> None:
    victim = spawn("writers", 4, 128, 30, 0)
    with uffdtrackd.attach(victim.pid, backend="sync") as session:
        oracle = Oracle(session)
        oracle.step()
        for _ in range(15):
            assert victim.ask("fork") == "forked"
            oracle.step()
        oracle.final().check(iterations=16)
    victim.finish()


@pytest.mark.parametrize("attempt", range(4))
def test_a_killed_tracker_leaves_nobody_waiting(spawn: Spawn, attempt: int) -> None:
    """SIGKILL at a random moment, in the middle of faults of all threads."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    delay = random.Random(seed).random() * 0.05
    victim = spawn("writers", 4, 512, 30, 0)
    with tracker(victim.pid) as process:
        Counting(victim, 1000, "count")()
        time.sleep(delay)  # not to wait for anything: the moment is what is random
        process.send_signal(signal.SIGKILL)
        process.wait()
    Counting(victim, 20000, "count")()
    assert tracked_by_nobody(victim.pid)
    victim.finish()


def test_a_killed_tracker_while_freezing(spawn: Spawn) -> None:
    """The holder of the freeze lives on for a moment: it must not keep the userfaultfd."""
    victim = spawn("writers", 4, 512, 60, 0)
    code = (
        "import os, signal, threading, time, uffdtrackd\n"
        f"session = uffdtrackd.attach({victim.pid}, backend='sync')\n"
        "session.iterate()\n"
        "threading.Timer({delay}, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        "while True:\n"
        "    with session.frozen():\n"
        "        session.iterate()\n"
    )
    for i in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("{delay}", str(0.03 * (i + 1)))], check=False
        )
        assert done.returncode == -signal.SIGKILL
        Counting(victim, 5000, "count")()
        assert tracked_by_nobody(victim.pid)
    victim.finish()


def test_a_fork_of_the_tracker_does_not_keep_the_target(spawn: Spawn) -> None:
    """A child that outlives the tracker has no userfaultfd that anybody would wait on."""
    victim = spawn("writers", 2, 256, 30, 0)
    code = (
        "import os, signal, sys, time, uffdtrackd\n"
        f"session = uffdtrackd.attach({victim.pid}, backend='sync')\n"
        "session.iterate()\n"
        "if os.fork() == 0:\n"
        "    print('child', flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n"
        "session.iterate()\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"child\n"
        Counting(victim, 1000, "count")()
        process.kill()
        process.wait()
        Counting(victim, 5000, "count")()
        assert tracked_by_nobody(victim.pid)
    victim.finish()


def test_sigstop_while_faults_are_pending(spawn: Spawn) -> None:
    """A write from kernel mode spins until it is resolved: the stop must not wait for us."""
    victim = spawn("writers", 3, 512, 80, 0)
    with uffdtrackd.attach(victim.pid, backend="sync") as session:
        oracle = Oracle(session)
        for _ in range(10):
            oracle.step()
            os.kill(victim.pid, signal.SIGSTOP)
            wait_for_state(victim.pid, "T")
            oracle.step()
            os.kill(victim.pid, signal.SIGCONT)
            Counting(victim, 200, "count")()
        oracle.final().check(iterations=20)
    victim.finish()


def test_cgroup_freezer_while_faults_are_pending(
    spawn: Spawn, frozen_group: Callable[[int], None]
) -> None:
    victim = spawn("writers", 3, 512, 80, 0)
    frozen_group(victim.pid)
    with uffdtrackd.attach(victim.pid, backend="sync") as session:
        oracle = Oracle(session)
        for _ in range(5):
            oracle.step()
            frozen_group(1)
            oracle.step()
            frozen_group(0)
            Counting(victim, 200, "count")()
        oracle.final().check(iterations=10)
    victim.finish()


def test_nothing_is_listed_for_what_nobody_writes(spawn: Spawn) -> None:
    victim = spawn("writers", 2, 512, 0, 0)
    assert victim.ask("rest") == "resting"
    with uffdtrackd.attach(victim.pid, backend="sync") as session:
        session.iterate()
        session.iterate()
        pages = session.iterate().processes[victim.pid]
        # The stacks of the threads that wait, and of main.
        assert len(pages.dirty - pages.always) <= 8
    victim.finish()


def test_two_trackers_do_not_fight(spawn: Spawn) -> None:
    victim = spawn("writers", 2, 64, 0, 0)
    with uffdtrackd.attach(victim.pid, backend="sync") as session:
        session.iterate()
        with pytest.raises(uffdtrackd.errors.AlreadyTracked):
            uffdtrackd.attach(victim.pid, backend="sync")
        session.iterate()
    victim.finish()


def wait_for_state(pid: int, state: str) -> None:
    limit = time.monotonic() + 10
    tasks = Path(f"/proc/{pid}/task")
    while True:
        texts = [(one / "stat").read_text() for one in tasks.iterdir()]
        if all(text.rsplit(") ", 1)[1][0] == state for text in texts):
            return
        assert time.monotonic() < limit, "a thread did not stop"
        os.sched_yield()


def test_a_target_without_rights(spawn: Spawn) -> None:
    """It may not make a userfaultfd for kernel mode: the device is given to it for a moment."""
    if os.geteuid():
        pytest.skip("needs root to start a process of another user")
    victim = spawn("writers", 3, 256, 60, 200, user=65534, group=65534)
    before = len(os.listdir(f"/proc/{victim.pid}/fd"))
    follow(victim.pid, Counting(victim, 1000, "count"), steps=10)
    assert len(os.listdir(f"/proc/{victim.pid}/fd")) == before
    victim.finish()


def test_ctrl_z_does_not_stop_the_target(spawn: Spawn) -> None:
    """The command line ignores it while the target waits for it."""
    victim = spawn("writers", 2, 256, 30, 0)
    argv = ["track", str(victim.pid), "--embedded", "--backend=sync", "-i", "0.05", "--json"]
    with subprocess.Popen(["uffdtrack", *argv], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"iteration":0')
        process.send_signal(signal.SIGTSTP)
        Counting(victim, 5000, "count")()
        for _ in range(3):
            assert process.stdout.readline().startswith(b'{"iteration":')
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    victim.finish()


@pytest.mark.parametrize("name", ["kernel-writes", "move-content", "huge"])
def test_churn(spawn: Spawn, name: str) -> None:
    """A few of the mixes of test_shadow_churn, which take long with both backends."""
    print(f"SEED={SEEDS[0]}")
    victim = spawn("churn", "-s", SEEDS[0], "-t", 2, "-m", 12, "-o", MIXES[name])
    judge(victim, amount=60, steps=12)


def test_churn_of_everything(spawn: Spawn) -> None:
    print(f"SEED={SEEDS[0]}")
    judge(spawn("churn", "-s", SEEDS[0], "-t", 3, "-m", 32), amount=400, steps=20)
