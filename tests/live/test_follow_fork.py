"""Whoever a followed process forks is found, and is exact in every final.

The truth about who exists comes from the victim, which prints the pids of its children; the truth
about memory from the oracle, which compares every process of the final with its copy.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.live.tree import Followed, make, no_process_events
from tests.victim import Victim
from uffdtrackd.errors import TargetGone, TrackError
from uffdtrackd.native import freeze
from uffdtrackd.tracking import tree as tree_module

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]


@pytest.fixture
def family(spawn: Spawn) -> Victim:
    return spawn("family")


@pytest.mark.parametrize("kind", ["child", "exec", "user 65534", "namespace"])
def test_children_of_before_and_of_after(family: Victim, kind: str) -> None:
    old = make(family, kind)
    with Followed(family.pid) as tree:
        assert set(tree.step().processes) == {family.pid, old}
        new = make(family, kind)
        assert set(tree.step().processes) == {family.pid, old, new}
        for _ in range(5):
            tree.step()
        tree.final()
        assert tree.pids == {family.pid, old, new}
        assert tree.iteration.exited == ()
        assert not tree.iteration.untracked
        # What is born after the last iteration is found by the freeze.
        newest = make(family, kind)
        tree.final()
        assert tree.pids == {family.pid, old, new, newest}
        # It was not attached to while it was frozen: now it is, and exact again.
        for _ in range(3):
            tree.step()
        tree.final()
        assert tree.pids == {family.pid, old, new, newest}
    family.finish()


def test_children_whose_first_threads_have_ended(family: Victim) -> None:
    """Neither has memory where its pid is looked at; that is not the same memory."""
    old = make(family, "headless")
    with Followed(family.pid) as tree:
        tree.step()
        new = make(family, "headless")
        tree.step()
        assert tree.pids == {family.pid, old, new}
        assert not tree.iteration.sharing
        for _ in range(3):
            tree.step()
        newest = make(family, "headless")
        tree.final()
        assert tree.pids == {family.pid, old, new, newest}
        assert not tree.iteration.sharing
    family.finish()


def test_pid_that_comes_back_as_the_freeze_begins(
    family: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After those who ended were dropped, before anybody stands still."""
    child = make(family, "child")
    stop = freeze.freeze

    def late(*pids: Any, **how: Any) -> Any:
        monkeypatch.setattr(tree_module, "freeze", stop)
        family.ask(f"end {child}")
        assert make(family, f"again {child}") == child
        return stop(*pids, **how)

    with Followed(family.pid) as tree:
        for _ in range(3):
            tree.step()
        monkeypatch.setattr(tree_module, "freeze", late)
        tree.final()
        assert tree.pids == {family.pid, child}
        assert not tree.iteration.exited
        tree.step()
        tree.final()
        assert tree.pids == {family.pid, child}
    family.finish()


def test_what_a_freeze_drops_is_known(family: Victim) -> None:
    """A session that goes on where this one ended still has to say that it ended."""
    child = make(family, "child")
    with Followed(family.pid) as tree:
        tree.step()
        family.ask(f"end {child}")
        with tree.session.frozen():
            pass
        known = tree.session.known
    with Followed(family.pid) as tree:
        tree.session.resume(1, known)
        assert tree.step().exited == (child,)
    family.finish()


def test_exit_is_reported_once(family: Victim) -> None:
    child = make(family, "child")
    with Followed(family.pid) as tree:
        tree.step()
        family.ask(f"end {child}")
        assert tree.step().exited == (child,)
        assert tree.pids == {family.pid}
        assert tree.step().exited == ()
        tree.final()
        assert tree.iteration.exited == ()
    family.finish()


def test_pid_that_comes_back(family: Victim) -> None:
    """Another process has the pid of one that was tracked: it is listed in full, and exact."""
    child = make(family, "child")
    with Followed(family.pid) as tree:
        for _ in range(3):
            tree.step()
        family.ask(f"end {child}")
        if make(family, f"again {child}") != child:
            pytest.skip("a pid cannot be chosen here (clone3(2), CAP_CHECKPOINT_RESTORE)")
        tree.step()
        assert tree.pids == {family.pid, child}
        # Its predecessor held no more than it has: everything is there once more.
        assert len(tree.iteration.processes[child].dirty) > 16
        for _ in range(3):
            tree.step()
        tree.final()
        # One that has nothing where its predecessor wrote, met running, and met frozen.
        for _ in range(2):
            family.ask(f"end {child}")
            assert make(family, f"blank {child}") == child
            tree.step()
            tree.final()
            family.ask(f"end {child}")
            assert make(family, f"again {child}") == child
            tree.step()
            family.ask(f"end {child}")
            assert make(family, f"blank {child}") == child
            tree.final()
            assert tree.pids == {family.pid, child}
            assert not tree.iteration.exited
    family.finish()


def test_orphan(family: Victim) -> None:
    """A double fork between two iterations: its parent is gone before we could look."""
    if why := no_process_events():
        pytest.skip(why)
    with Followed(family.pid) as tree:
        assert tree.session.status == []
        tree.step()
        orphan = make(family, "daemon")
        assert orphan in tree.step().processes
        tree.step()
        tree.final()
        late = make(family, "daemon")
        tree.final()
        assert tree.pids == {family.pid, orphan, late}
    family.finish()


def test_what_is_left_when_the_first_ends(family: Victim) -> None:
    """A daemon's parent ends: the session goes on with the daemon."""
    if why := no_process_events():
        pytest.skip(why)
    other = os.fork()
    if other == 0:  # pragma: no cover
        # A process that forks and waits to be told to end, as the parent of a daemon.
        child = os.fork()
        if child:
            signal.sigwait({signal.SIGUSR1})
            os._exit(0)
        signal.pause()
        os._exit(0)
    pids: set[int] = set()
    orphan = -1
    try:
        with Followed(other) as tree:
            while len(pids) < 2:
                pids = set(tree.step().processes)
            # Not ours to wait for: its pid may be another's as soon as it has ended.
            orphan = os.pidfd_open(max(pids - {other}))
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)
            left = pids - {other}
            assert set(tree.step().processes) == left
            assert tree.iteration.exited == (other,)
            tree.final()
            assert tree.pids == left
            signal.pidfd_send_signal(orphan, signal.SIGKILL)
            with pytest.raises(TargetGone):
                while True:
                    tree.step()
    finally:
        if orphan >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(orphan, signal.SIGKILL)
            os.close(orphan)


def test_shares_memory(family: Victim) -> None:
    """clone(CLONE_VM): one address space must be tracked once, and frozen with all its writers."""
    twin = make(family, "vm")
    with Followed(family.pid) as tree:
        tree.step()
        assert tree.pids == {family.pid}
        assert dict(tree.iteration.sharing) == {twin: family.pid}
        for _ in range(5):
            tree.step()
        tree.final()
        assert tree.pids == {family.pid}
    family.send("stop")


def test_vfork(family: Victim) -> None:
    """A child of vfork() is its parent's memory until exec(), and then a process."""
    child = make(family, "vfork")
    with Followed(family.pid) as tree:
        tree.step()
        assert tree.pids == {family.pid}
        assert dict(tree.iteration.sharing) == {child: family.pid}
        # The parent cannot be frozen before the child runs exec(): nothing may hang for ever.
        with pytest.raises(TimeoutError), tree.session.frozen(deadline=0.3):
            pass
        family.ask("release")
        tree.step()
        assert tree.pids == {family.pid, child}
        assert not tree.iteration.sharing
        tree.final()
        assert tree.pids == {family.pid, child}
    family.finish()


def test_storm(family: Victim) -> None:
    """Forks as fast as it can, three generations deep, while final after final is taken."""
    family.ask("storm 12")
    with Followed(family.pid, deadline=20.0) as tree:
        for _ in range(6):
            before = int(family.ask("count"))
            tree.step()
            tree.step()
            while int(family.ask("count")) < before + 20:
                pass
            tree.final()
            # Twelve stay until the root pushes them out, one at a time: it and eleven are there.
            assert len(tree.pids) >= 12
    family.ask("calm")
    family.finish()


def test_limit(family: Victim) -> None:
    children = [make(family, "child") for _ in range(4)]
    with Followed(family.pid, most_processes=4) as tree:
        with pytest.raises(TrackError, match="limit of 4"):
            tree.step()
        family.ask(f"end {children.pop()}")
        assert tree.step().number == 0
        make(family, "child")
        with pytest.raises(TrackError, match="limit of 4"), tree.session.frozen():
            pass
        # Nothing was lost by that.
        family.ask(f"end {children.pop()}")
        tree.step()
        tree.final()
    family.finish()


def test_nobody_is_left_behind(family: Victim) -> None:
    """After the session nobody is held or registered."""
    child = make(family, "child")
    with Followed(family.pid) as tree:
        tree.step()
        tree.final()
    for pid in (family.pid, child):
        with open(f"/proc/{pid}/status") as status:
            assert "TracerPid:\t0" in status.read()
        with open(f"/proc/{pid}/smaps") as smaps:
            assert not any(" uw" in line for line in smaps if line.startswith("VmFlags"))
    family.finish()
