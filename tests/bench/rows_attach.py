"""What attaching costs: the one thread that is stopped, and the caller that waits.

    caller   |---- choose --|-- child --|==== stop ====|-- registers memory ---|
    thread   |-- runs ------------------|   stopped    |-- runs ---------------
                                        |<-stopped_ns->|   from the request to stop
             |<------------------- whole attach ------------------------------>|

The stop is compared with ref_attach.c: a stop and three calls that do nothing. The whole is
compared with the least that makes a tracker, by the same program: an injected userfaultfd(), taken
by pidfd_getfd(), and every mapping registered; it has no parasite, no care and no way back.
A busy target also times its stop by itself, as the longest gap between two of its readings of the
clock: that number is true whatever the tracker says about itself, but it has the scheduler's noise
in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import uffdtrackd
from tests.bench import table
from tests.bench.case import Case
from tests.bench.pace import Pace
from tests.bench.programs import Program, Target
from tests.bench.sample import Row, compare, reference

#: Long enough for an attach on a slow machine, short enough to repeat.
SPIN_MS = 20
FACTOR = 1.5
FLOOR_US = 500.0


class Attaching:
    """Attaches to one target in three ways; each measure returns the stop in ns.

    The time of the whole call is kept beside it, in wholes["bare"] and wholes["ours"].
    """

    def __init__(self, target: Target, stopper: Program) -> None:
        self.target = target
        self.stopper = stopper
        self.wholes: dict[str, list[float]] = {"bare": [], "ours": []}

    def three_calls(self) -> float:
        return self.stopper.ask("attach")[0]

    def bare(self) -> float:
        stopped, whole, _registered = self.stopper.ask("userfaultfd")
        self.wholes["bare"].append(whole)
        return stopped

    def ours(self) -> float:
        """The first iteration tells how long the stop was; only it knows."""
        before = time.perf_counter_ns()
        with uffdtrackd.attach(self.target.pid) as session:
            self.wholes["ours"].append(time.perf_counter_ns() - before)
            return session.iterate().stopped_ns


def _idle(mib: int, target: Target, stopper: Program, pace: Pace) -> Iterator[Row]:
    """All threads asleep in calls that restart by themselves."""
    ways = Attaching(target, stopper)
    calls, bare, ours = pace.in_turn(ways.three_calls, ways.bare, ways.ours)
    name = f"{table.size(mib)}, {table.threads(target.threads)}"
    yield compare(f"attach: stopped, {name}", "us", calls, ours, factor=FACTOR, floor=FLOOR_US).at(
        "attach-stopped", table.threads(target.threads), mib
    )
    injected = f"attach: stopped, bare injected userfaultfd, {name}"
    yield compare(injected, "us", bare, ours)
    wholes = (ways.wholes[side][1:] for side in ("bare", "ours"))
    yield compare(f"attach: whole, beside a bare injected userfaultfd, {name}", "ms", *wholes).at(
        "attach-whole", table.threads(target.threads), mib
    )


def _size(mib: int, pace: Pace) -> Iterator[Row]:
    with Target(mib) as target, target.stopper() as stopper:
        for threads in (1, 16, 256):
            if threads > 1:
                target.more_threads(threads)
            yield from _idle(mib, target, stopper, pace)


def _busy(pace: Pace) -> Iterator[Row]:
    """The thread runs in user mode all the time and times its own stop."""
    with Target(16) as target, target.stopper() as stopper:

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

        nothing, least, mine = pace.in_turn(alone, bare, ours)
        name = "attach: gap seen by a busy target"
        yield reference(f"{name}, no attach", "us", nothing)
        yield compare(name, "us", least, mine, factor=FACTOR, floor=FLOOR_US)


def cases(quick: bool) -> Iterator[Case]:
    for mib, seconds in ((16, 5.0), (1024, 15.0), (8192, 60.0))[: 1 if quick else 3]:
        yield Case(f"attach: {table.size(mib)}", partial(_size, mib), seconds)
    yield Case("attach: busy", _busy, 5.0)
