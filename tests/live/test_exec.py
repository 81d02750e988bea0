"""exec() of another program under tracking: what runs then is listed whole, and followed."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.test_dying import Strike
from tests.live.tree import Followed
from tests.oracle import Oracle
from tests.procfs import thread_states
from tests.victim import Victim, build

pytestmark = [pytest.mark.live, pytest.mark.both_backends]
Spawn = Callable[..., Victim]


@pytest.mark.parametrize("iterations", [1, 2])
def test_exec_of_another_program(spawn_program: Spawn, backend: str, iterations: int) -> None:
    """Between two iterations, whether or not the one before found anything new."""
    victim = spawn_program("sh", "-c", f"echo ready; read line; exec {build('churn')}")
    with uffdtrackd.attach(victim.pid, backend=backend) as session:
        oracle = Oracle(session)
        for _ in range(iterations):
            oracle.step()
        victim.send("go")
        victim.wait_for("ready")
        # Not only by the final one, which takes a new program as it finds it.
        pages = session.iterate().processes[victim.pid]
        assert any("churn" in one.label for one in pages.regions)
        assert len(pages.dirty) > 20 and len(pages.discarded) > 20
    with uffdtrackd.attach(victim.pid, backend=backend) as session:
        oracle = Oracle(session)
        oracle.step()
        oracle.step()
        oracle.final().check(iterations=3)
    victim.finish()


_NURSERY = """
echo ready
while read -r what fifo; do
    [ "$what" = child ] || break
    (read -r line <"$fifo"; exec sh -c "second=; read -r line <$fifo.2; exec sleep 1000") &
    echo $!
done
echo ok
"""


@contextmanager
def _child(nursery: Victim, fifo: Path) -> Iterator[int]:
    """The pid of one, which ends with the block."""
    pid = int(nursery.ask(f"child {fifo}"))
    pidfd = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(10_000)
        os.close(pidfd)


def _next_program(pid: int, fifo: Path) -> None:
    """Has a child of the nursery run exec(), and waits until the next program waits."""
    before = Path(f"/proc/{pid}/cmdline").read_bytes()
    fifo.write_text("go\n")
    while (
        Path(f"/proc/{pid}/cmdline").read_bytes() in (before, b"") or thread_states(pid)[pid] != "S"
    ):
        os.sched_yield()


@pytest.mark.both_backends
@pytest.mark.parametrize("kind", ["new", "member", "member that ran exec()"])
def test_exec_of_a_child_before_any_look(
    spawn_program: Spawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """It has not ended, and is in the iteration, or in the next one if it was in half of this."""
    nursery = spawn_program("sh", "-c", _NURSERY)
    first, second = tmp_path / "go", tmp_path / "go.2"
    os.mkfifo(first)
    os.mkfifo(second)
    last = second if kind == "member that ran exec()" else first
    with Followed(nursery.pid) as tree:
        tree.step()
        looks = 0
        struck = True
        while struck:
            looks += 1
            with _child(nursery, first) as child:
                if kind != "new":
                    tree.step()
                if last is second:
                    _next_program(child, first)
                strike = Strike(child, looks, lambda pid: _next_program(pid, last))
                with strike.watching(monkeypatch):
                    found = tree.step()
                assert found.exited == (), strike.where
                assert tree.pids | set(found.untracked) == {nursery.pid, child}, strike.where
                if found.untracked:
                    assert tree.step().exited == () and not tree.iteration.untracked, strike.where
                    assert tree.pids == {nursery.pid, child}, strike.where
            assert tree.step().exited == (child,), strike.where
            struck = strike.struck
        assert looks > (2 if kind == "member" else 15), "too few looks to be true"
    nursery.finish()
