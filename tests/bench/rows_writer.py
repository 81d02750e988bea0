"""What a writer pays that never rests: the time of one write, at so many iterations a second.

    target    writes one word of a page, of 256 MiB: in order, at random, or a few again and again
    tracker   never | every 5 s | every second | ten times a second

Tracking costs a fault for each page that is written after an iteration, so it is the number of
pages and of iterations that counts, not that of writes: the same load is harmless once a second
and ruinous a hundred times. Every way of tracking has its own target and they run in turn; ours is
judged beside a bare scan of the same target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial

from tests.bench.case import Case
from tests.bench.pace import Pace
from tests.bench.sample import Row, compare, peer, reference
from tests.bench.ticker import Ticker
from tests.bench.ways import PEERS, WAYS, Way, enter

MIB = 256
FACTOR = 1.02
PATTERNS = ("order", "random", "zipf")
#: Iterations a second -> ms to write for: never less than one period.
RATES = {0.0: 400, 0.2: 5000, 1.0: 1000, 10.0: 800}


def _measure(
    way: Way, collect: Callable[[], object], pattern: str, rate: float, milliseconds: int
) -> Callable[[], float]:
    """ns for one write. The iteration at the beginning is part of it."""

    def measure() -> float:
        inside = way.name == "mprotect" and rate
        gap = int(1000 / rate) if inside else 0
        outside = way.name not in ("untracked", "mprotect") and rate
        with Ticker(collect, rate) if outside else nullcontext():
            taken, writes = way.writer.ask(f"run {milliseconds} {pattern} {gap}")
        return taken / writes

    return measure


def _rows(
    pattern: str, rates: dict[float, int], names: tuple[str, ...], pace: Pace
) -> Iterator[Row]:
    with ExitStack() as stack:
        ways, missing = enter(stack, names, MIB)
        for way in ways:
            way.collect()  # everything is met for the first time here
            way.writer.ask(f"run 1 {pattern} 0")
        for rate, milliseconds in rates.items():
            each = partial(_measure, pattern=pattern, rate=rate, milliseconds=milliseconds)
            least = 1 if milliseconds > 1000 else 3
            apart = [way for way in ways if way.beside is None]
            series = pace.few(least).cold(*(each(way, way.collect) for way in apart), least=least)
            taken = {way.name: times for way, times in zip(apart, series, strict=True)}
            for way in ways:
                row = f"writer: {pattern}, {rate:g} iterations/s, {way.name}"
                if way.beside is None:
                    made = _row(row, way.name, taken)
                else:
                    made = _judged(row, each(way, way.beside), each(way, way.collect), least, pace)
                yield made.at(f"writer: {pattern}", way.name, rate)
        for name, reason in missing.items():
            yield Row(f"writer: {pattern}, {name}", "", note=reason)


def _judged(
    row: str, bare: Callable[[], float], ours: Callable[[], float], least: int, pace: Pace
) -> Row:
    """Both on one target: where its pages lie is worth some four in a hundred, both ways.

    Two in a hundred take more rounds to be told from nothing than a factor of a thousand.
    """
    rounds = least * 3
    both = pace.few(rounds).cold(bare, ours, least=rounds)
    return compare(row, "ns", *both, factor=FACTOR)


def _row(row: str, name: str, taken: dict[str, list[float]]) -> Row:
    if name in PEERS and PEERS[name] in taken:
        return compare(row, "ns", taken[PEERS[name]], taken[name])
    if name == "untracked":
        return reference(row, "ns", taken[name])
    return peer(row, "ns", taken["untracked"], taken[name])


def cases(quick: bool) -> Iterator[Case]:
    for pattern in PATTERNS:
        rates = {
            rate: ms for rate, ms in RATES.items() if rate != 0.2 and not (quick and rate < 10)
        }
        yield Case(
            f"writer: {pattern}",
            partial(_rows, pattern, rates, WAYS),
            45.0,
        )
    if not quick:
        names = ("untracked", "bare async", "async")
        yield Case(
            "writer: random, rarely",
            partial(_rows, "random", {0.2: RATES[0.2]}, names),
            17.0,
        )
