"""Events between any two steps of an iteration: the copy is exact all the same.

`SEED=n` repeats one sequence, `MINUTES=n` goes on for so long.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import uffdtrackd
from tests.interleaver import Arena, Steps, files
from tests.oracle import Oracle
from tests.puppet import Puppet
from tests.victim import Victim

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.both_backends]


def one(puppet: Puppet, seed: int, folder: Path) -> tuple[int, int]:
    """One sequence. Returns how many events fell between steps, and pages compared."""
    rng = random.Random(seed)
    private, read_only = files(str(folder))
    arena = Arena(puppet, rng, puppet.open(private), puppet.open(read_only, os.O_RDONLY))
    try:
        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(patch, rng, arena.act)
            for _ in range(rng.randrange(12)):
                arena.act()
            steps.on = rng.random() < 0.5
            with uffdtrackd.attach(puppet.pid) as session:
                oracle = Oracle(session)
                apply = oracle._apply

                def late(iteration: object) -> None:
                    steps.maybe()
                    steps.maybe()
                    apply(iteration)  # type: ignore[arg-type]

                patch.setattr(oracle, "_apply", late)
                for _ in range(rng.randrange(2, 7)):
                    for _ in range(rng.randrange(4)):
                        arena.act()
                    steps.on = True
                    oracle.step()
                steps.on = False
                report = oracle.final()
                report.check()
                return steps.between, report.compared
    except Exception as error:
        raise AssertionError(f"SEED={seed}\n{error}\nlast events: {arena.log[-40:]}") from error


def test_interleavings(spawn: Callable[..., Victim], tmp_path: Path) -> None:
    first = int(os.environ.get("SEED", random.randrange(1 << 30)))
    until = time.monotonic() + 60 * float(os.environ.get("MINUTES", 0.1))
    between = sequences = 0
    while not sequences or ("SEED" not in os.environ and time.monotonic() < until):
        victim = spawn("obey")
        found, compared = one(Puppet(victim), first + sequences, tmp_path)
        assert compared
        between += found
        sequences += 1
        victim.finish()
        victim.kill()  # and its pipes
    print(f"SEED={first}: {sequences} sequences, {between} events between steps")
    assert between >= sequences
