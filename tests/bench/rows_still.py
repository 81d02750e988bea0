"""How long the target stands still: by its own clock, not by our account.

    target   does one thing again and again and reads the clock in between: its longest gap
    tracker  nothing | attach() | iterate() | frozen(): iterate() | close()

    spin    reads the clock only: waits for the CPU, so a stop shows and nothing else does
    write   writes pages: waits for faults as well
    map     maps and unmaps a page: waits for the lock of its address space, which every walk of
            the page tables holds for reading and the end of tracking holds for writing

Without an iteration it is the machine's own noise: that is the reference, not a lower bound of
anything. A median says nothing of a stall, so what is allowed is asked of the very longest, without
the time that the target was ready to run and others, or the hypervisor, had its CPU (as the kernel
counts it): that is not a wait for us. What it then missed, a gap between two calls, is; and so is
what the tracker waited for a CPU while it held the lock: nothing tells that wait from its others.

The final iteration is taken with nothing copied; a consumer that copies before it thaws adds the
time of its copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import uffdtrackd
from tests.bench import table
from tests.bench.case import Case
from tests.bench.pace import Pace
from tests.bench.programs import Target
from tests.bench.sample import Row, Spread, compare, single

#: What the longest stall of a target may be, in us.
MOST_US = 5000.0


@dataclass(slots=True)
class Stalls:
    """The longest gap of each round in ns, and the longest of all without waits for a CPU."""

    gaps: list[float] = field(default_factory=list)
    left: float = 0.0

    def measure(
        self, target: Target, how: str, milliseconds: int, act: Callable[[], object]
    ) -> float:
        target.busy(how, milliseconds)
        act()
        return self.take(target)

    def take(self, target: Target) -> float:
        """What a busy target answers; the gap."""
        gap, left = target.answer()
        self.gaps.append(gap)
        self.left = max(self.left, left)
        return gap

    def forget(self) -> None:
        """What was measured so far was to warm up."""
        self.gaps.clear()
        self.left = 0.0

    def told(self, row: Row) -> Row:
        """The row, with the longest of all as what is judged, and as a remark."""
        gap, left = (f"{longest / 1000:.0f} us" for longest in (max(self.gaps), self.left))
        row = row.noted(f"longest {gap}, without waits for a CPU {left}")
        if row.allowed is None:
            return row
        return replace(row, share=Spread.of([self.left / 1000 / row.allowed]))


def _nothing() -> None:
    pass


def _running(target: Target, session: uffdtrackd.Session, mib: int, pace: Pace) -> Iterator[Row]:
    """What an iteration of a running target costs it in one piece, beside no iteration."""
    # All dirty takes some 15 ms a GiB; twice that, and the target is busy for all of it.
    busy_ms = 60 + mib // 32
    for how in ("spin", "write", "map"):
        for percent in (1, 100):
            stalls = Stalls()

            def alone(how: str = how) -> float:
                return Stalls().measure(target, how, busy_ms, _nothing)

            def iterate(how: str = how, percent: int = percent, stalls: Stalls = stalls) -> float:
                if percent == 100:
                    target.touch()
                else:
                    target.dirty(target.pages * percent // 100)
                return stalls.measure(target, how, busy_ms, session.iterate)

            alone()
            iterate()
            stalls.forget()
            bare, ours = pace.cold(alone, iterate)
            name = f"still: {table.size(mib)}, iterate(), {percent} % dirty, target {how}s"
            row = compare(name, "us", bare, ours, factor=0.0, floor=MOST_US)
            yield stalls.told(row).at("still", f"{how}s, {percent} % dirty", mib / 1024)


def _beginning(target: Target, mib: int, pace: Pace) -> Iterator[Row]:
    """The first looks at all memory, each by the target that waits for the lock."""
    busy_ms = 100 + mib // 32
    alone = Stalls()
    taken = {"attach": Stalls(), "iteration 0": Stalls()}
    for _ in range(max(2, pace.few(5).rounds)):
        alone.measure(target, "map", busy_ms, _nothing)
        target.busy("map", busy_ms)
        with uffdtrackd.attach(target.pid) as session:
            taken["attach"].take(target)
            taken["iteration 0"].measure(target, "map", busy_ms, session.iterate)
    for name, stalls in taken.items():
        name = f"still: {table.size(mib)}, {name}, target maps"
        row = compare(name, "us", alone.gaps, stalls.gaps, factor=0.0, floor=MOST_US)
        yield stalls.told(row)


def _closing(target: Target, mib: int, pace: Pace) -> Iterator[Row]:
    """The kernel resets every page table entry when the userfaultfd goes, in one piece."""
    for how in ("spin", "write", "map"):
        stalls = Stalls()

        def close(how: str = how, stalls: Stalls = stalls) -> float:
            session = uffdtrackd.attach(target.pid)
            session.iterate()
            return stalls.measure(target, how, 100 + mib // 8, session.close)

        (series,) = pace.few(5).cold(close)
        yield stalls.told(single(f"still: {table.size(mib)}, close(), target {how}s", "us", series))


def _rows(mib: int, pace: Pace) -> Iterator[Row]:
    with Target(mib) as target:
        with uffdtrackd.attach(target.pid) as session:
            session.iterate()
            yield from _running(target, session, mib, pace)
        yield from _beginning(target, mib, pace)
        yield from _closing(target, mib, pace)


def _final(pace: Pace) -> Iterator[Row]:
    """The stop of a final iteration, 1 % dirty, by the target's clock."""
    with Target(1024) as target:
        for threads in (1, 256):
            if threads > 1:
                target.more_threads(threads)
            with uffdtrackd.attach(target.pid) as session:
                session.iterate()

                def frozen(session: uffdtrackd.Session = session) -> None:
                    with session.frozen():
                        session.iterate()

                def final(frozen: Callable[[], None] = frozen) -> float:
                    target.dirty(target.pages // 100)
                    return Stalls().measure(target, "spin", 60, frozen)

                (series,) = pace.in_turn(final)
                name = f"still: final iterate(), {table.threads(threads)}"
                yield Row(name, "us", None, Spread.of(series, 1e3))


def cases(quick: bool) -> Iterator[Case]:
    for mib in (1024,) if quick else (1024, 8192, 16384):
        yield Case(f"still: {table.size(mib)}", partial(_rows, mib), 10.0 + mib / 200)
    yield Case("still: final", _final, 10.0)
