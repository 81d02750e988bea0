"""What one iteration costs the tracker: session.iterate() beside one bare scan in plain C.

    target.dirty(n) -> session.iterate()   timed here, from the call to the returned Iteration
    target.dirty(n) -> ref_scan "clear"    timed in C, one ioctl

Both clear the same memory of the same process, registered once by the tracker: neither the place of
the pages nor their number can differ. The bare scan takes pages away that the session never hears
of; nothing of its state depends on them. Each result must name exactly the pages that were written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import uffdtrackd
from tests.bench.programs import PAGE, Program, Target
from tests.bench.sample import UNITS, Row, Spread, compare, in_turn
from uffdtrackd import PageSet

FACTOR = 1.25
FIXED_MS = 0.15


class WrongCount(Exception):
    """A scan did not report the pages that were written: its time means nothing."""


def check(what: str, found: int, written: int) -> None:
    """Raises WrongCount."""
    if found != written:
        raise WrongCount(f"{what} reported {found} pages of the arena, {written} were written")


class Pair:
    """A target tracked by a session and scanned bare; both measures return ns."""

    def __init__(self, target: Target, session: uffdtrackd.Session, scanner: Program) -> None:
        self.target = target
        self.session = session
        self.scanner = scanner
        self.arena = PageSet.from_ranges([(target.start, target.end)], PAGE)
        self.count = 0

    def ours(self) -> float:
        self.target.dirty(self.count)
        before = time.perf_counter_ns()
        iteration = self.session.iterate()
        taken = time.perf_counter_ns() - before
        dirty = iteration.processes[self.target.pid].dirty
        check("iterate", len(dirty & self.arena), self.count)
        return taken

    def bare(self) -> float:
        self.target.dirty(self.count)
        taken, pages, _runs = self.scanner.ask("clear")
        check("the bare scan", pages, self.count)
        return taken

    def compare(self, name: str, percent: float, rounds: int) -> Row:
        """One row at `percent` of the arena dirty; the first round of each side is not counted."""
        self.count = int(self.target.pages * percent / 100)
        bare, ours = (series[1:] for series in in_turn(rounds + 1, self.bare, self.ours))
        return compare(name, "ms", bare, ours, factor=FACTOR, fixed=FIXED_MS)


def rows(rounds: int, quick: bool) -> Iterator[Row]:
    for mib in (1024,) if quick else (1024, 4096):
        size = f"{mib >> 10} GiB"
        with (
            Target(mib) as target,
            target.scanner() as scanner,
            uffdtrackd.attach(target.pid) as session,
        ):
            before = time.perf_counter_ns()
            session.iterate()
            first = Spread.of([time.perf_counter_ns() - before], UNITS["ms"])
            yield Row(f"iterate: {size}, iteration 0 (all)", "ms", None, first)
            pair = Pair(target, session, scanner)
            for percent in (0, 1, 10, 100) if mib == 1024 else (0, 1):
                yield pair.compare(f"iterate: {size}, {percent} % dirty", percent, rounds)
