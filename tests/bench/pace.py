"""How much may be measured: rounds and seconds for a row, and the memory that is free.

A full run has a time to end (`make bench MINUTES=n`); every case is given its share of what is
left, as the last run's times tell it. A row that gets less time has fewer rounds and says so by
its count; nothing is left out but at the very end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.sample import in_turn

#: Left to the machine: without it, measuring a large target would measure how it swaps.
SPARE = 1 << 30


class NotMeasured(Exception):
    """Why a row has no numbers, where that is no failure: the message is shown in its place."""


@dataclass(frozen=True, slots=True)
class Pace:
    """rounds: as many as are wanted. seconds: for one row, all its rounds. quick: small only."""

    rounds: int
    seconds: float
    quick: bool

    def in_turn(self, *measures: Callable[[], float], least: int = 3) -> list[list[float]]:
        """As sample.in_turn, after a round that is not counted; at least `least` are."""
        for measure in measures:
            measure()
        return self.cold(*measures, least=least)

    def cold(self, *measures: Callable[[], float], least: int = 3) -> list[list[float]]:
        """As in_turn, but the first round counts too."""
        most = max(self.rounds, least)
        return in_turn(most, *measures, seconds=self.seconds, least=least)

    def few(self, rounds: int) -> Pace:
        """The same with at most so many rounds."""
        return Pace(min(self.rounds, rounds), self.seconds, self.quick)


def free_memory() -> int:
    """Bytes that a new process can have without anything being pushed out."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    raise NotMeasured("/proc/meminfo has no MemAvailable")


#: Memory of a target that has ended is given back a little later.
PATIENCE = 10.0


def need_memory(size: int) -> None:
    """Raises NotMeasured unless `size` bytes are free, and something to spare."""
    until = time.monotonic() + PATIENCE
    while (free := free_memory()) < size + SPARE:
        if time.monotonic() > until:
            raise NotMeasured(f"needs {size / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free")
        time.sleep(0.2)
