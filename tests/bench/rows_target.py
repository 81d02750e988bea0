"""What the target itself pays: the first write to a page after each iteration.

Each way of tracking has a target of its own, and all do the same writes in turn. If ours were
dearer than the same thing done bare, something of the tracker would be on the path of a fault;
with asynchronous protection nothing should be, with synchronous it is a handler in C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from tests.bench.case import Case
from tests.bench.pace import Pace
from tests.bench.programs import CPUS, Writer
from tests.bench.sample import Row, compare, reference
from tests.bench.ways import PEERS, Way, enter

#: What is allowed beside the same thing done bare.
FACTORS = {"async": 1.05, "sync": 1.25}
#: One page in so many, strewn: each write is then alone in its cache lines and page tables.
STREWN = 10


def first_write(writer: Writer, how: str, share: int) -> float:
    """ns for each page that is written for the first time."""
    taken, pages = writer.ask(f"first {how} {share}")
    return taken / pages


def _measure(way: Way, how: str, share: int) -> Callable[[], float]:
    def measure() -> float:
        way.collect()
        return first_write(way.writer, how, share)

    return measure


def _rows(names: tuple[str, ...], mib: int, pace: Pace) -> Iterator[Row]:
    with ExitStack() as stack:
        ways, missing = enter(stack, names, mib)
        for how, share in (("order", 1), ("random", STREWN)):
            shown = "in order" if how == "order" else "strewn"
            row = f"target: first write to a page, {shown}"
            series = pace.in_turn(*(_measure(way, how, share) for way in ways))
            taken = {way.name: times for way, times in zip(ways, series, strict=True)}
            for name in taken:
                yield _row(row, name, taken)
        for name, reason in missing.items():
            yield Row(f"target: first write to a page, {name}", "", note=reason)


def _row(row: str, name: str, taken: dict[str, list[float]]) -> Row:
    if name in PEERS:
        peer = PEERS[name]
        return compare(f"{row}, {name}", "ns", taken[peer], taken[name], factor=FACTORS[name])
    return reference(f"{row}, {name}", "ns", taken[name])


def _spinning(mib: int, pace: Pace) -> Iterator[Row]:
    """The bare handler at its best: it never sleeps, and costs a CPU for that."""
    if len(CPUS) > 1:
        with Writer(mib) as writer, writer.handler("spin") as handler:

            def measure() -> float:
                handler.ask("protect")
                return first_write(writer, "order", 1)

            (series,) = pace.few(5).in_turn(measure)
            yield reference(
                "target: first write to a page, in order, bare sync, spinning", "ns", series
            )


def _sync(pace: Pace) -> Iterator[Row]:
    names = ("untracked", "bare sync", "sync", "mprotect")
    yield from _rows(names, 32, pace)
    yield from _spinning(8, pace)


def cases(quick: bool) -> Iterator[Case]:
    async_ways = ("untracked", "bare async", "async")
    yield Case("target: async", partial(_rows, async_ways, 256), 15.0)
    yield Case("target: sync", _sync, 40.0)
