"""How long the target stands still for an iteration: by its own clock, not by our account.

    target   dirty 1 %, then reads the clock in a loop; remembers its longest gap
    tracker  nothing | iterate() while it runs | frozen(): iterate()

The first is the machine's own noise. The second should be no more than that: an iteration stops
nobody. The third is the whole stop of a final iteration with nothing copied; a consumer that copies
the pages before it thaws adds the time of its copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import uffdtrackd
from tests.bench import table
from tests.bench.programs import Target
from tests.bench.sample import Row, Spread, in_turn

MIB = 1024
SPIN_MS = 60
PERCENT = 1


def _gaps(target: Target, session: uffdtrackd.Session, rounds: int, name: str) -> Iterator[Row]:
    count = target.pages * PERCENT // 100

    def nothing() -> float:
        target.spin(SPIN_MS)
        return target.answer()[0]

    def running() -> float:
        target.dirty(count)
        target.spin(SPIN_MS)
        session.iterate()
        return target.answer()[0]

    def frozen() -> float:
        target.dirty(count)
        target.spin(SPIN_MS)
        with session.frozen():
            session.iterate()
        return target.answer()[0]

    alone, live, final = in_turn(rounds, nothing, running, frozen)
    us = 1e3
    yield Row(f"still: {name}, no iteration", "us", Spread.of(alone, us), None)
    yield Row(f"still: {name}, iterate()", "us", None, Spread.of(live, us))
    yield Row(f"still: {name}, final iterate()", "us", None, Spread.of(final, us))


def rows(rounds: int, quick: bool) -> Iterator[Row]:
    for threads in (1, 256):
        with (
            Target(MIB, threads=threads) as target,
            uffdtrackd.attach(target.pid) as session,
        ):
            session.iterate()
            shown = f"1 GiB, {PERCENT} % dirty, {table.threads(threads)}"
            yield from _gaps(target, session, rounds, shown)
