"""A copy kept from iterations equals a target that changes its address space in every way.

The whole mix with seeds of its own in each run (printed; `SEED=n` repeats one), and small mixes
that name what broke. The victim's own checks must pass too: a tracker that splits a mapping,
disturbs a system call or loses a page is seen from inside.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.live.follow import Counting, follow, tracked_by_nobody
from tests.victim import Victim

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else random.sample(range(1 << 30), 3)

#: Letters of tests/targets/churn_calls.h. Writes and reads are in each: a page must have content
#: to lose it.
MIXES = {
    "map-unmap": "wwwrmuu",
    "map-over": "wwwrmxxx",
    "move": "wwwrmvvv",
    "move-content": "wwwrmttu",
    "grow-shrink": "wwwrmggsu",
    "dontneed": "wwwrmddd",
    "free": "wwwrmfffo",
    "remove": "wwwrmeeed",
    "huge": "wwwrmhhccdy",
    "protect": "wwwrmpppp",
    "guard": "wwwrmGGG",
    "brk": "wwwrbbbbd",
    "stack": "wrkkkk",
    "fork": "wwwrmdnn",
    "kernel-writes": "wrmiiiii",
    "lock": "wwwrmlld",
}


def judge(victim: Victim, amount: int, steps: int) -> None:
    report = follow(victim.pid, Counting(victim, amount), steps)
    assert tracked_by_nobody(victim.pid)
    # It must go on well after we have gone, not only meanwhile.
    Counting(victim, amount)()
    victim.finish()
    print(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_at_once(spawn: Spawn, seed: int) -> None:
    print(f"SEED={seed}")
    judge(spawn("churn", "-s", seed, "-t", 3, "-m", 32), amount=400, steps=20)


@pytest.mark.parametrize("name", MIXES)
def test_mix(spawn: Spawn, name: str) -> None:
    seed = SEEDS[0]
    print(f"SEED={seed}")
    victim = spawn("churn", "-s", seed, "-t", 2, "-m", 12, "-o", MIXES[name])
    judge(victim, amount=60, steps=12)
