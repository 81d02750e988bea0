"""Numbers of one kind, and how two kinds of them compare.

Both sides of a row are taken in turn, and each round turns the order round (A B, B A, A B, ...):
a machine that slows down half-way, or a cache that the first one warms, then favours neither.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and the tenth and ninetieth percentiles of `count` values, in the row's unit."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], scale: float = 1.0) -> Spread:
        """Raises ValueError if there are none."""
        if not values:
            raise ValueError("no values")
        ordered = sorted(value / scale for value in values)
        last = len(ordered) - 1
        return cls(
            statistics.median(ordered),
            ordered[round(last * 0.1)],
            ordered[round(last * 0.9)],
            len(ordered),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    bare: the reference. ours: the tracker. Either may be None: not everything has both.
    ratio: ours/bare of each round. allowed: the most that the project wants `ours` to be.
    unit: "ns", "us" or "ms".
    """

    name: str
    unit: str
    bare: Spread | None
    ours: Spread | None
    ratio: Spread | None = None
    allowed: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median is within what is allowed; None where nothing is asked for."""
        if self.allowed is None or self.ours is None:
            return None
        return self.ours.median <= self.allowed

    def to_map(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


UNITS = {"ns": 1.0, "us": 1e3, "ms": 1e6}


def compare(
    name: str,
    unit: str,
    bare: Sequence[float],
    ours: Sequence[float],
    *,
    factor: float | None = None,
    fixed: float = 0.0,
    floor: float = 0.0,
) -> Row:
    """A row of two equally long series in ns, round by round.

    Allowed is the larger of factor * bare + fixed and floor, both in `unit`; nothing without a
    factor. Raises ValueError if the series differ in length.
    """
    scale = UNITS[unit]
    reference = Spread.of(bare, scale)
    ratio = Spread.of([mine / least for mine, least in zip(ours, bare, strict=True)])
    allowed = None if factor is None else max(factor * reference.median + fixed, floor)
    return Row(name, unit, reference, Spread.of(ours, scale), ratio, allowed)


def in_turn(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Call each measure once a round, the order reversed every second one; one list for each."""
    taken: list[list[float]] = [[] for _ in measures]
    order = list(range(len(measures)))
    for _ in range(rounds):
        for which in order:
            taken[which].append(measures[which]())
        order.reverse()
    return taken
