"""A session that goes on where another one ended: the copy of the first one's reader is made exact.

session 1 --iterations--> copy;  ended, nobody looks, the target writes, maps and unmaps
session 2, resume()   --> everything dirty, discarded what is gone --> the same copy, exact
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import uffdtrackd
from tests.live.follow import Counting
from tests.oracle import Oracle
from tests.victim import Victim

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]


def churn(spawn: Spawn) -> Victim:
    seed = random.randrange(1 << 30)
    print(f"SEED={seed}")
    return spawn("churn", "-s", seed, "-t", 2, "-m", 16)


def test_a_copy_outlives_its_session(spawn: Spawn) -> None:
    victim = churn(spawn)
    progress = Counting(victim, 300)
    with uffdtrackd.attach(victim.pid) as first:
        oracle = Oracle(first)
        oracle.step()
        progress()
        oracle.step()
        known = first.known
    progress()
    with uffdtrackd.attach(victim.pid) as second:
        second.resume(2, known)
        oracle.session = second
        full = oracle.step()
        assert full.number == 2
        gone = full.processes[victim.pid].discarded
        assert len(gone) > 0, "churn unmaps: something must have gone"
        progress()
        oracle.step()
        oracle.final().check(iterations=5)


def test_without_it_the_copy_is_wrong(spawn: Spawn) -> None:
    """The test above can fail: a full iteration alone does not say what is gone."""
    victim = churn(spawn)
    progress = Counting(victim, 300)
    with uffdtrackd.attach(victim.pid) as first:
        oracle = Oracle(first)
        oracle.step()
    progress()
    with uffdtrackd.attach(victim.pid) as second:
        second.resume(1, {})
        oracle.session = second
        oracle.step()
        report = oracle.final()
    assert report.missed_pages or report.faults
