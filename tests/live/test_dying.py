"""A process may end between any two looks at it: it is gone then, and nothing else is.

The truth about a look is the call itself: whatever of Python opens, lists or asks for a file of
/proc/PID passes here, and before the n-th such call the process is killed. n grows until nobody is
killed any more, so each step of an attach and of an iteration is struck at once, in turn.
"""

from __future__ import annotations

import builtins
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import uffdtrackd
from tests import procfs
from tests.live.tree import Followed, make
from tests.victim import Victim
from uffdtrackd.errors import TargetGone
from uffdtrackd.native.descriptors import Means

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]

_LOOKS = [
    (builtins, "open"),
    *((os, what) for what in ("open", "listdir", "readlink", "stat")),
]


class Strike:
    """Calls `kill` before the n-th look at `pid`. struck: whether it came to that."""

    def __init__(self, pid: int, number: int, kill: Callable[[int], None]) -> None:
        self.pid = pid
        self.left = number
        self.kill = kill
        self.where = ""

    @property
    def struck(self) -> bool:
        return self.left <= 0

    def look(self, path: object, dir_fd: object) -> None:
        # A path below an open directory is of a process too: nothing else is opened like that.
        if not str(path).startswith(f"/proc/{self.pid}/") and dir_fd is None:
            return
        self.left -= 1
        if self.left == 0:
            self.where = str(path)
            self.kill(self.pid)

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for module, name in _LOOKS:
                patch.setattr(module, name, self._wrapped(getattr(module, name)))
            pidfd_open = os.pidfd_open

            def open_pidfd(pid: int, flags: int = 0) -> int:
                self.look(f"/proc/{pid}/", None)
                return pidfd_open(pid, flags)

            patch.setattr(os, "pidfd_open", open_pidfd)
            yield

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(path: object, *args: Any, **options: Any) -> Any:
            self.look(path, options.get("dir_fd"))
            return original(path, *args, **options)

        return wrapper


def leave_a_zombie(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(10_000)
    finally:
        os.close(pidfd)


def track(pid: int) -> None:
    """Everything once: two iterations, and a final one."""
    with uffdtrackd.attach(pid) as session:
        session.iterate()
        session.iterate()
        with session.frozen():
            session.iterate()


def fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.both_backends
@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_the_target_dies_before_any_look(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, reaped: bool
) -> None:
    before, looks = fds(), 0
    while True:
        looks += 1
        target = spawn("idle")
        kill = (lambda _, one=target: one.kill()) if reaped else leave_a_zombie
        strike = Strike(target.pid, looks, kill)
        with strike.watching(monkeypatch), suppress(TargetGone):
            track(target.pid)
        target.kill()
        assert fds() == before, strike.where
        if not strike.struck:
            break
    assert looks > 15, "too few looks to be true"


@pytest.mark.both_backends
@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_a_child_dies_before_any_look(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, reaped: bool
) -> None:
    """It is not there any more, or never was; none of the others hears of it."""
    family = spawn("family")

    def end(pid: int) -> None:
        family.ask(f"end {pid}")

    with Followed(family.pid) as tree:
        tree.step()
        before, looks = fds(), 0
        while True:
            looks += 1
            child = make(family, "child")
            strike = Strike(child, looks, end if reaped else leave_a_zombie)
            with strike.watching(monkeypatch):
                for _ in range(2):
                    assert tree.step().untracked == {}, strike.where
            if not strike.struck:
                break
            assert tree.step().untracked == {}, strike.where
            assert tree.pids == {family.pid}, strike.where
            assert fds() == before, strike.where
            if not reaped:
                end(child)
        assert looks > 15, "too few looks to be true"
        tree.final()
    family.finish()


@pytest.mark.both_backends
def test_a_child_dies_in_a_freeze(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Born after the last iteration, so that it is held and not attached to."""
    family = spawn("family")
    with Followed(family.pid) as tree:
        tree.step()
        before, looks = fds(), 0
        while True:
            looks += 1
            child = make(family, "child")
            strike = Strike(child, looks, leave_a_zombie)
            with strike.watching(monkeypatch), tree.session.frozen():
                iteration = tree.session.iterate()
            assert iteration.frozen and iteration.untracked == {}, strike.where
            assert family.pid in iteration.processes
            family.ask(f"end {child}")
            assert set(tree.session.iterate().processes) == {family.pid}
            assert fds() == before, strike.where
            if not strike.struck:
                break
        assert looks > 5, "too few looks to be true"
    family.finish()


_LEADER = """
import ctypes, os, sys, threading
away, go = os.pipe()
def work():
    for line in sys.stdin:
        if line == "go\\n":
            os.close(go)
        print("done", flush=True)
    os._exit(0)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
threading.Thread(target=work).start()
print("ready", flush=True)
os.read(away, 1)
ctypes.CDLL(None).syscall(60, 0)  # exit(2), not exit_group(2)
"""


def test_the_leader_ends_before_the_others(
    spawn_program: Callable[..., Victim], tmp_path: Path
) -> None:
    """Its /proc/PID/fd is empty then, and tells nothing of the process: others are asked."""
    target = spawn_program(sys.executable, "-c", _LEADER, tmp_path / "direct")
    with uffdtrackd.attach(target.pid) as session:
        session.iterate()
        tracker = session._tree.members[target.pid]._tracker
        assert tracker is not None
        assert Means.DIRECT in tracker._pinned._means
        target.ask("go")
        while procfs.thread_states(target.pid)[target.pid] != "Z":
            os.sched_yield()
        for _ in range(3):
            # Forgotten, so that it is what is seen now.
            tracker._pinned._means = Means.NONE
            session.iterate()
            assert Means.DIRECT in tracker._pinned._means
        assert target.ask("say") == "done"
    target.kill()
