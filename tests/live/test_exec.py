"""exec() of another program under tracking: what runs then is listed whole, and followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import uffdtrackd
from tests.oracle import Oracle
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
