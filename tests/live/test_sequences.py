"""Any sequence of memory operations, iterations at any moment: the copy is exact.

`SEED=n` repeats a run, `make soak MINUTES=n` goes on for as long as asked.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import uffdtrackd
from tests import sequences
from uffdtrackd import PageSet

pytestmark = [pytest.mark.live, pytest.mark.slow]


# Making a failing sequence small takes up to five minutes, which hypothesis allows itself.
@pytest.mark.both_backends
@pytest.mark.timeout(420)
def test_sequences() -> None:
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print(f"SEED={seed}")
    counts = sequences.run(seed, examples=10, steps=25)
    assert counts.sequences and counts.compared > counts.sequences


class Liar:
    """A session that leaves out something of what it was told."""

    def __init__(self, session: Any, spoil: Callable[[Any, int], Any]) -> None:
        self._session = session
        self._spoil = spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def iterate(self) -> Any:
        true = self._session.iterate()
        processes = {pid: self._spoil(one, true.number) for pid, one in true.processes.items()}
        return SimpleNamespace(number=true.number, frozen=true.frozen, processes=processes)


def told(true: Any, dirty: PageSet, discarded: PageSet) -> Any:
    return SimpleNamespace(
        dirty=dirty, discarded=discarded, always=true.always, regions=true.regions
    )


def no_last_page(true: Any, number: int) -> Any:
    """The last page that was written, now and then, is not told."""
    ranges = list(true.dirty - true.always)
    if number % 3 or not ranges:
        return true
    last = PageSet.from_ranges([(ranges[-1][1] - 4096, ranges[-1][1])], 4096)
    return told(true, true.dirty - last, true.discarded)


def nothing_discarded(true: Any, number: int) -> Any:
    return told(true, true.dirty, PageSet(4096))


@pytest.mark.parametrize("spoil", [no_last_page, nothing_discarded])
def test_a_tracker_that_misses_something_is_caught(spoil: Callable[[Any, int], Any]) -> None:
    def attach(pid: int, **options: Any) -> Liar:
        return Liar(uffdtrackd.attach(pid, **options), spoil)

    with pytest.raises(BaseException, match=r"pages missed|held, but no longer mapped"):
        sequences.run(1, examples=20, steps=25, shrink=False, attach=attach)
