"""Threads of the kernel inside a target: io_uring's workers must not be interrupted.

A signal, and a stop by ptrace comes as one, ends the request that a worker is blocked in, and the
program finds EINTR in its completion queue.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.victim import Victim
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.freeze import freeze
from uffdtrackd.tracking.attach import open_target

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]


def start(spawn: Spawn, *args: object) -> Victim:
    victim = spawn("uring", *args, ready="")
    if victim.line() == "none":
        pytest.skip("io_uring is not to be had here (kernel.io_uring_disabled?)")
    return victim


def workers(victim: Victim) -> set[str]:
    """Names of the threads that are the kernel's."""
    folder = Path(f"/proc/{victim.pid}/task")
    names = [(folder / tid / "comm").read_text() for tid in os.listdir(folder)]
    return {name.split("-")[1] for name in names if name.startswith("iou-")}


def wait_until_blocked(victim: Victim) -> None:
    """Until the worker sleeps, and not for want of work."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        for folder in Path(f"/proc/{victim.pid}/task").iterdir():
            state = (folder / "stat").read_text().rsplit(") ", 1)[1][0]
            place = (folder / "wchan").read_text()
            if "iou-wrk" in (folder / "comm").read_text() and state == "S":
                if place == "0":
                    pytest.skip("this kernel does not tell where its threads sleep (wchan)")
                if place != "io_wq_worker":
                    return
        os.sched_yield()
    pytest.fail("the worker never opened the FIFO")


@pytest.mark.parametrize("kind", ["idle", "sqpoll"])
def test_freeze_and_attach(spawn: Spawn, kind: str) -> None:
    victim = start(spawn, kind)
    assert "sqp" in workers(victim) if kind == "sqpoll" else "wrk" in workers(victim)
    for _ in range(20):
        with freeze([victim.pid]) as frozen:
            assert frozen.threads == (2 if kind == "sqpoll" else 1)
        assert int(victim.ask("start")) >= 0
        target = open_target(victim.pid)
        assert target.injection and target.injection.tid == victim.pid
        target.close()
        assert int(victim.ask("start")) >= 0
    victim.finish()


def test_a_busy_worker_is_waited_for(spawn: Spawn, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    victim = start(spawn, "blocked", fifo)
    wait_until_blocked(victim)
    with pytest.raises(NativeError, match="io_uring") as caught:
        freeze([victim.pid], deadline=0.1)
    assert caught.value.errno == errno.ETIMEDOUT
    open_target(victim.pid).close()
    assert victim.ask("runs") == "runs"
    assert victim.ask("reap") == "reap"
    os.close(os.open(fifo, os.O_WRONLY))
    # The descriptor that the worker opened; -EINTR had it been disturbed.
    assert int(victim.line()) >= 0
    with freeze([victim.pid]):
        pass
    victim.finish()
