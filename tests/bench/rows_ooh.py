"""The table of the OoH paper, with the ways of today beside its published rows.

Bitchebe and Tchana, "Out of Hypervisor (OoH): Efficient Dirty Page Tracking in Userspace Using
Hardware Virtualization Features", SC'22, table I: by how many per cent a loop over an array, one
word a page, is slowed by tracking. It measured synchronous write protection (Linux 5.11) and
soft-dirty, tracker and tracked on one virtual CPU; it is the figure that everyone quotes.

    target    passes over the array, one word a page, WORK_MS of them when untracked
    tracker   one iteration before it begins

The paper does not say how often it collected. Its own times for 1 GB (3 483 ms of handling faults
are 1 463 %) give 238 ms of work for each collection, which is what is measured here, for all sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from tests.bench.case import Case
from tests.bench.pace import Pace
from tests.bench.sample import Row, Spread
from tests.bench.ways import Way, enter

WORK_MS = 238
SIZES = (1, 10, 50, 100, 250, 500, 1000)
#: Overhead in per cent on the tracked program, by size.
PUBLISHED = {
    "ufd (2022)": (195, 272, 583, 1050, 1266, 1462, 1463),
    "soft-dirty (2022)": (104, 55, 114, 208, 302, 307, 335),
}
OURS = ("async", "sync", "mprotect")


def _passes(way: Way, count: int) -> Callable[[], float]:
    def measure() -> float:
        way.collect()
        return way.writer.ask(f"passes {count}")[0]

    return measure


def _rows(size: int, pace: Pace) -> Iterator[Row]:
    with ExitStack() as stack:
        names = ("untracked", *OURS)
        ways, missing = enter(stack, names, size)
        for way in ways:
            way.collect()
        # Long enough to warm up, then as many passes as fill the time.
        one = min(ways[0].writer.ask("passes 10")[0] / 10 for _ in range(3))
        count = max(1, round(WORK_MS * 1e6 / one))
        few = pace.few(3 if size < 500 else 2)
        series = few.cold(*(_passes(way, count) for way in ways), least=2)
        taken = {way.name: times for way, times in zip(ways, series, strict=True)}
        yield _row(f"ooh: {size} MB, untracked", Spread.of([v / 1e6 for v in taken["untracked"]]))
        for name in list(taken)[1:]:
            pairs = zip(taken[name], taken["untracked"], strict=True)
            overhead = Spread.of([max(0.0, mine / bare - 1) * 100 for mine, bare in pairs])
            row = Row(f"ooh: {size} MB, overhead, {name}", "%", None, overhead)
            yield row.at("ooh", name, size)
        for name, reason in missing.items():
            yield Row(f"ooh: {size} MB, overhead, {name}", "", note=reason)
    for name, values in PUBLISHED.items():
        value = Spread.of([float(values[SIZES.index(size)])])
        row = Row(f"ooh: {size} MB, overhead, {name}", "%", value, None)
        yield row.at("ooh", name, size).noted("as published")


def _row(name: str, spread: Spread) -> Row:
    return Row(name, "ms", spread, None)


def cases(quick: bool) -> Iterator[Case]:
    for size in SIZES[:3] if quick else SIZES:
        yield Case(f"ooh: {size} MB", partial(_rows, size), 4.0 + size / 20)
