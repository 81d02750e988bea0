"""What a tree of processes costs: the fork of a tracked target, and a hundred children.

fork      the time of fork() in the parent: untracked, registered bare, tracked with its
          descendants. Nothing of ours runs there, but the kernel copies protected page
          tables that it would have left to the child's faults.
children  one iteration of the tree, beside the time of the first one that meets them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import uffdtrackd
from tests.bench.case import Case
from tests.bench.clock import timed
from tests.bench.pace import Pace
from tests.bench.programs import Forker
from tests.bench.sample import Row, compare, peer, reference, single
from tests.bench.ticker import Ticker

MIB = 64
FORKS = 100
CHILDREN = 100
CHILD_MIB = 4


def _forks(pace: Pace) -> Iterator[Row]:
    with Forker(MIB) as free, Forker(MIB) as bare, Forker(MIB) as ours:
        bare.ask("track")
        with uffdtrackd.attach(ours.pid, follow="fork") as session:
            session.iterate()
            worst: dict[str, list[float]] = {}

            def forks(name: str, forker: Forker, rate: float = 0.0) -> Callable[[], float]:
                def measure() -> float:
                    with Ticker(session.iterate, rate) if rate else nullcontext():
                        median, _p99, longest = forker.ask(f"fork {FORKS}")
                    worst.setdefault(name, []).append(longest)
                    return median

                return measure

            names = ("untracked", "registered bare", "tracked", "tracked, 1/s", "tracked, 10/s")
            measures = (
                forks(names[0], free),
                forks(names[1], bare),
                forks(names[2], ours),
                forks(names[3], ours, 1.0),
                forks(names[4], ours, 10.0),
            )
            untracked, least, *mine = pace.in_turn(*measures)
            yield reference(f"tree: fork() of {MIB} MiB, untracked", "us", untracked)
            row = f"tree: fork() of {MIB} MiB, registered bare"
            yield peer(row, "us", untracked, least)
            for name, series in zip(names[2:], mine, strict=True):
                made = compare(f"tree: fork() of {MIB} MiB, {name}", "us", least, series)
                yield made.noted(f"longest: {max(worst[name]) / 1000:.0f} us")


def _children(count: int, pace: Pace) -> Iterator[Row]:
    with Forker(CHILD_MIB) as target, uffdtrackd.attach(target.pid, follow="fork") as session:
        session.iterate()
        target.ask(f"children {count}")
        met = timed(session.iterate)
        yield single(f"tree: {count} children, the iteration that meets them", "ms", [met])
        for pages in (0, 100):

            def iterate(pages: int = pages) -> float:
                target.ask(f"write {pages}")
                return timed(session.iterate)

            (series,) = pace.in_turn(iterate)
            row = single(f"tree: {count} children, {pages} pages dirty in each", "ms", series)
            yield row.at("tree", f"{pages} pages dirty in each", count)
        target.ask("end")


def cases(quick: bool) -> Iterator[Case]:
    yield Case("tree: fork", _forks, 15.0)
    for count in (10,) if quick else (1, 10, CHILDREN):
        yield Case(f"tree: {count} children", partial(_children, count), 8.0)
