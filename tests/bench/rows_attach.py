"""What attaching costs: the one thread that is stopped, and the caller that waits.

    caller   |---- choose --|-- child --|== stop window ==|-- registers memory ---|
    thread   |-- runs ------------------|     stopped     |-- runs ----------------
                                        |<- stopped_ns -->|   from the request to stop
             |<------------------- whole attach --------------------------------->|

The stop window is compared with ref_attach.c (a stop and three calls that do nothing). A busy
target also times it by itself, as the longest gap between two of its readings of the clock: that
number is true whatever the tracker says about itself, but it has the scheduler's noise in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import uffdtrackd
from tests.bench import table
from tests.bench.programs import Program, Target
from tests.bench.sample import UNITS, Row, Spread, compare, in_turn

#: Long enough for an attach on a slow machine, short enough to repeat.
SPIN_MS = 20
FACTOR = 1.5
FLOOR_US = 500.0


@dataclass(frozen=True, slots=True)
class Attached:
    """One attach: the stop by the tracker's own account, and the whole call, in ns."""

    stopped: int
    whole: int


def attach_once(pid: int) -> Attached:
    """Attach, let the first iteration tell how long the stop was, let go."""
    before = time.perf_counter_ns()
    with uffdtrackd.attach(pid) as session:
        whole = time.perf_counter_ns() - before
        return Attached(session.iterate().stopped_ns, whole)


def idle(name: str, target: Target, stopper: Program, rounds: int) -> Iterator[Row]:
    """All threads asleep in calls that restart by themselves."""
    wholes: list[float] = []

    def ours() -> float:
        attached = attach_once(target.pid)
        wholes.append(attached.whole)
        return attached.stopped

    bare, mine = in_turn(rounds, lambda: stopper.ask("attach")[0], ours)
    yield compare(f"attach: stopped, {name}", "us", bare, mine, factor=FACTOR, floor=FLOOR_US)
    yield Row(f"attach: whole call, {name}", "us", None, Spread.of(wholes, UNITS["us"]))


def busy(target: Target, stopper: Program, rounds: int) -> Iterator[Row]:
    """The thread runs in user mode all the time and times its own stop."""

    def alone() -> float:
        target.busy("spin", SPIN_MS)
        return target.answer()[0]

    def bare() -> float:
        target.busy("spin", SPIN_MS)
        stopper.ask("attach")
        return target.answer()[0]

    def ours() -> float:
        target.busy("spin", SPIN_MS)
        with uffdtrackd.attach(target.pid):
            return target.answer()[0]

    nothing, least, mine = in_turn(rounds, alone, bare, ours)
    yield Row("attach: gap seen by a busy target, no attach", "us", Spread.of(nothing, 1e3), None)
    yield compare(
        "attach: gap seen by a busy target", "us", least, mine, factor=FACTOR, floor=FLOOR_US
    )


def rows(rounds: int, quick: bool) -> Iterator[Row]:
    for mib, threads in ((16, 1), (16, 256)) if quick else ((16, 1), (16, 256), (4096, 1)):
        with Target(mib, threads=threads) as target, target.stopper() as stopper:
            shown = f"{mib} MiB" if mib < 1024 else f"{mib >> 10} GiB"
            yield from idle(f"{shown}, {table.threads(target.threads)}", target, stopper, rounds)
            if (mib, threads) == (16, 1):
                yield from busy(target, stopper, rounds)
