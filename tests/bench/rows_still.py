"""How long the target stands still: by its own clock, not by our account.

    target   does one thing again and again and reads the clock in between: its longest gap
    tracker  nothing | iterate() | frozen(): iterate() | close()

    spin    reads the clock only: waits for the CPU, so a stop shows and nothing else does
    write   writes pages: waits for faults as well
    map     maps and unmaps a page: waits for the lock of its address space, which every walk of
            the page tables holds for reading and the end of tracking holds for writing

Without an iteration it is the machine's own noise: that is the reference, not a lower bound of
anything. The final iteration is taken with nothing copied; a consumer that copies before it thaws
adds the time of its copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import uffdtrackd
from tests.bench import table
from tests.bench.programs import Target
from tests.bench.sample import Row, Spread, compare, in_turn

MIB = 1024
BUSY_MS = 60
#: Letting go of 1 GiB takes some 40 ms.
CLOSE_MS = 150


def _gap(target: Target, how: str, milliseconds: int, act: Callable[[], object]) -> float:
    target.busy(how, milliseconds)
    act()
    return target.answer()[0]


def _nothing() -> None:
    pass


def _final(target: Target, session: uffdtrackd.Session, rounds: int) -> Iterator[Row]:
    """The stop of a final iteration, 1 % dirty: it grows with the number of threads."""

    def frozen() -> None:
        with session.frozen():
            session.iterate()

    def final() -> float:
        target.dirty(target.pages // 100)
        return _gap(target, "spin", BUSY_MS, frozen)

    (series,) = in_turn(rounds, final)
    shown = table.threads(target.threads)
    yield Row(f"still: final iterate(), {shown}", "us", None, Spread.of(series, 1e3))


def _running(target: Target, session: uffdtrackd.Session, rounds: int) -> Iterator[Row]:
    """What an iteration of a running target costs it in one piece, beside no iteration."""
    for how in ("spin", "write", "map"):
        for percent in (1, 100):

            def alone(how: str = how) -> float:
                return _gap(target, how, BUSY_MS, _nothing)

            def iterate(how: str = how, percent: int = percent) -> float:
                target.dirty(target.pages * percent // 100)
                return _gap(target, how, BUSY_MS, session.iterate)

            bare, ours = in_turn(rounds, alone, iterate)
            yield compare(f"still: iterate(), {percent} % dirty, target {how}s", "us", bare, ours)


def _closing(target: Target, rounds: int) -> Iterator[Row]:
    """The kernel resets every page table entry when the userfaultfd goes, in one piece."""
    for how in ("spin", "map"):

        def close(how: str = how) -> float:
            session = uffdtrackd.attach(target.pid)
            session.iterate()
            return _gap(target, how, CLOSE_MS, session.close)

        (series,) = in_turn(rounds, close)
        yield Row(f"still: close(), target {how}s", "us", None, Spread.of(series, 1e3))


def rows(rounds: int, quick: bool) -> Iterator[Row]:
    for threads in (1, 256):
        with Target(MIB, threads=threads) as target:
            with uffdtrackd.attach(target.pid) as session:
                session.iterate()
                if threads == 1:
                    yield from _running(target, session, rounds)
                yield from _final(target, session, rounds)
            if threads == 1:
                yield from _closing(target, rounds)
