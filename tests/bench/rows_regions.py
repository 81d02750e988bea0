"""How an iteration grows with the number of regions, with nothing dirty: the price of looking.

The bare side is what no tracker can leave out: one scan for memory that is not registered
(ref_layout "new") and one get+clear of the arena and of the stretch of regions. Reading
/proc/PID/maps is shown beside it: the tracker does that too, because only maps tells what was
unmapped. Nothing is asked for here but that a region does not get dearer with their number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import uffdtrackd
from tests.bench.case import Case, guarded
from tests.bench.clock import timed
from tests.bench.pace import Pace
from tests.bench.programs import Program, Target
from tests.bench.sample import Row, compare, reference, single
from tests.bench.service import Daemon

MIB = 64
FIGURE = "regions"


def _steady(
    target: Target, iterate: Callable[[], object], name: str, series: str, pace: Pace
) -> Iterator[Row]:
    """Iterations of a target that does nothing."""
    with target.scanner() as scanner, Program("ref_layout", target.pid) as layout:
        count = len(Path(f"/proc/{target.pid}/maps").read_text().splitlines())

        def bare() -> float:
            return layout.ask("new")[0] + scanner.ask("clear")[0]

        def maps() -> float:
            return layout.ask("maps")[0]

        least, mine, text = pace.in_turn(bare, lambda: timed(iterate), maps)
        yield compare(f"{name}, nothing dirty, {series}", "ms", least, mine).at(
            FIGURE, series, count
        )
        if series == "in process":
            yield reference(f"{name}, reading maps alone", "ms", text)


def _rows(regions: int, pace: Pace) -> Iterator[Row]:
    name = f"regions: {regions or 27}"
    yield from guarded(f"{name}, socket", _socket(name, regions, pace))
    with Target(MIB, regions=regions) as target:
        before = time.perf_counter_ns()
        with uffdtrackd.attach(target.pid) as session:
            session.iterate()
            taken = time.perf_counter_ns() - before
            yield single(f"{name}, attach + iteration 0", "ms", [taken])
            yield from _steady(target, session.iterate, name, "in process", pace)


def _socket(name: str, regions: int, pace: Pace) -> Iterator[Row]:
    with (
        Daemon() as daemon,
        Target(MIB, regions=regions) as target,
        daemon.attach(target.pid) as session,
    ):
        session.iterate()
        yield from _steady(target, session.iterate, name, "socket, memfd", pace)


def cases(quick: bool) -> Iterator[Case]:
    for regions in (0, 4000) if quick else (0, 4000, 60000):
        yield Case(
            f"regions: {regions or 27}",
            partial(_rows, regions),
            5.0 if regions < 60000 else 20.0,
        )
