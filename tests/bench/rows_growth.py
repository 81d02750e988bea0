"""How an iteration grows with the number of regions, with nothing dirty: the price of looking.

The bare side is what no tracker can leave out: one scan for memory that is not registered
(ref_layout "new") and one get+clear of the arena and of the stretch of regions. Reading
/proc/PID/maps is shown beside it: the tracker does that too, because only maps tells what was
unmapped. Nothing is asked for here but that a region does not get dearer with their number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import uffdtrackd
from tests.bench.programs import Program, Target
from tests.bench.sample import UNITS, Row, Spread, compare, in_turn

MIB = 64


def _first(target: Target, count: int) -> tuple[Row, uffdtrackd.Session]:
    """Attach and iteration 0: every region is met for the first time."""
    before = time.perf_counter_ns()
    session = uffdtrackd.attach(target.pid)
    session.iterate()
    taken = Spread.of([time.perf_counter_ns() - before], UNITS["ms"])
    return Row(f"growth: {count} regions, attach + iteration 0", "ms", None, taken), session


def _steady(
    session: uffdtrackd.Session, layout: Program, scanner: Program, count: int, rounds: int
) -> Iterator[Row]:
    def bare() -> float:
        return layout.ask("new")[0] + scanner.ask("clear")[0]

    def ours() -> float:
        before = time.perf_counter_ns()
        session.iterate()
        return time.perf_counter_ns() - before

    def maps() -> float:
        return layout.ask("maps")[0]

    least, mine, text = (series[1:] for series in in_turn(rounds + 1, bare, ours, maps))
    yield compare(f"growth: {count} regions, nothing dirty", "ms", least, mine)
    reading = Spread.of(text, UNITS["ms"])
    yield Row(f"growth: {count} regions, reading maps", "ms", reading, None)


def rows(rounds: int, quick: bool) -> Iterator[Row]:
    for count in (0, 4000) if quick else (0, 4000, 60000):
        with (
            Target(MIB, regions=count) as target,
            target.scanner() as scanner,
            Program("ref_layout", target.pid) as layout,
        ):
            row, session = _first(target, count)
            with session:
                yield row
                yield from _steady(session, layout, scanner, count, rounds)
