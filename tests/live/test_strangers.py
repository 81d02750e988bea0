"""A pid is a number: what has it later, or runs in its place, is none of the session's business."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import uffdtrackd
from tests.live.tree import make
from tests.procfs import thread_states
from tests.victim import Victim
from uffdtrackd.errors import NotPermitted, TargetGone
from uffdtrackd.tracking.procfs import read_stat

pytestmark = pytest.mark.live
Spawn = Callable[..., Victim]


@pytest.mark.parametrize("follow", ["none", "fork"])
def test_another_process_with_the_pid(spawn: Spawn, follow: str) -> None:
    """It is neither read nor held, whether or not memory of the first was read before."""
    family = spawn("family")
    for read_before in (False, True):
        child = make(family, "child")
        with uffdtrackd.attach(child, follow=follow) as session:
            start = session.iterate().processes[child].dirty.runs[0]
            if read_before:
                session.read(child, start, 1)
            family.ask(f"end {child}")
            assert make(family, f"again {child}") == child
            with pytest.raises(TargetGone):
                session.read(child, start, 1)
            with pytest.raises(TargetGone), session.frozen():
                pass
        assert not set(thread_states(child).values()) & {"t", "T"}
        family.ask(f"end {child}")
    family.finish()


def test_another_program_after_a_freeze_that_lapsed(spawn_program: Spawn) -> None:
    """What runs now was not frozen with the rest: it is to be permitted like everything else."""
    forbidden = False

    def permit(pid: int) -> None:
        if forbidden:
            raise NotPermitted("not yours any more", pid=pid)

    shell = spawn_program("sh", "-c", "echo ready; read line; exec cat")
    with uffdtrackd.attach(shell.pid, permit=permit) as session:
        session.iterate()
        before = read_stat(shell.pid).image
        with session.frozen(lease=0.05):
            while session.is_frozen:
                time.sleep(0.01)
            shell.send("go")
            while read_stat(shell.pid).image == before:
                time.sleep(0.01)
            forbidden = True
            with pytest.raises(NotPermitted):
                session.iterate()
            forbidden = False
            found = session.iterate()
            assert not found.frozen
            assert found.processes[shell.pid].dirty
    shell.kill()
