"""Numbers of one kind, and how two kinds of them compare.

Both sides of a row are taken in turn, and each round turns the order round (A B, B A, A B, ...):
a machine that slows down half-way, or a cache that the first one warms, then favours neither.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
    ratio: ours/bare of each round. allowed: the most that the project wants `ours` to be, where
    bare is its median. share: ours / what is allowed beside the bare of the same round.
    unit: a key of UNITS. note: what the numbers do not say, or why there are none.
    figure, series, x: where the row is a point of a plot: its name, the line, the place on it.
    """

    name: str
    unit: str
    bare: Spread | None = None
    ours: Spread | None = None
    ratio: Spread | None = None
    allowed: float | None = None
    share: Spread | None = None
    note: str = ""
    figure: str = ""
    series: str = ""
    x: float = 0.0

    @property
    def met(self) -> bool | None:
        """Whether we are within what is allowed; None where nothing is asked for.

        Round by round, as the ratio: a machine that was slower for some rounds was so for both.
        """
        if self.share is not None:
            return self.share.median <= 1
        if self.allowed is None or self.ours is None:
            return None
        return self.ours.median <= self.allowed

    def at(self, figure: str, series: str, x: float) -> Row:
        """The same row as a point of a plot."""
        return replace(self, figure=figure, series=series, x=x)

    def noted(self, note: str) -> Row:
        """The same row with a remark."""
        return replace(self, note=note)

    def to_map(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}

    @classmethod
    def from_map(cls, values: Mapping[str, Any]) -> Row:
        """The inverse of to_map()."""
        given = {key: value for key, value in values.items() if key != "met"}
        for key in ("bare", "ours", "ratio", "share"):
            given[key] = None if given.get(key) is None else Spread(**given[key])
        return cls(**given)


#: unit -> what a raw value (ns, bytes, a share, a count) is divided by.
UNITS = {
    "ns": 1.0,
    "us": 1e3,
    "ms": 1e6,
    "s": 1e9,
    "KiB": 1024.0,
    "MiB": float(1 << 20),
    "%": 0.01,
    "/s": 1.0,
    "": 1.0,
}


def single(name: str, unit: str, values: Sequence[float]) -> Row:
    """A row that has no reference. values: raw, see UNITS."""
    return Row(name, unit, None, Spread.of(values, UNITS[unit]))


def reference(name: str, unit: str, values: Sequence[float]) -> Row:
    """A row of the reference alone: what the others are seen against."""
    return Row(name, unit, Spread.of(values, UNITS[unit]), None)


def peer(name: str, unit: str, base: Sequence[float], values: Sequence[float]) -> Row:
    """A row of another reference, its ratio to a first one taken round by round."""
    made = compare(name, unit, base, values)
    return replace(made, bare=made.ours, ours=None)


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
    """A row of two equally long series of raw values (see UNITS), round by round.

    Allowed is the larger of factor * bare + fixed and floor, both in `unit`; nothing without a
    factor. Raises ValueError if the series differ in length.
    """
    scale = UNITS[unit]
    least = Spread.of(bare, scale)
    pairs = list(zip(ours, bare, strict=True))
    ratios = [mine / theirs for mine, theirs in pairs if theirs > 0]
    ratio = Spread.of(ratios) if ratios else None
    row = Row(name, unit, least, Spread.of(ours, scale), ratio)
    if factor is None:
        return row

    def allowed(theirs: float) -> float:
        return max(factor * theirs + fixed, floor)

    share = Spread.of([mine / scale / allowed(theirs / scale) for mine, theirs in pairs])
    return replace(row, allowed=allowed(least.median), share=share)


def in_turn(
    rounds: int, *measures: Callable[[], float], seconds: float = math.inf, least: int = 1
) -> list[list[float]]:
    """Call each measure once a round, the order reversed every second one; one list for each.

    seconds: no round begins later than this, once there are `least` of them.
    """
    taken: list[list[float]] = [[] for _ in measures]
    order = list(range(len(measures)))
    until = time.monotonic() + seconds
    for done in range(rounds):
        if done >= least and time.monotonic() >= until:
            break
        for which in order:
            taken[which].append(measures[which]())
        order.reverse()
    return taken
