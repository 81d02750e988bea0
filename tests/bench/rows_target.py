"""What the target itself pays: the first write to a page after each iteration.

Three processes do the same writes in turn: one untracked, one that registered its own memory and is
scanned bare (the price of the kernel's write-protection), one tracked by us. If ours were dearer
than the bare one, something of the tracker would be on the path of a fault; nothing should be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import uffdtrackd
from tests.bench.programs import Program, Target
from tests.bench.sample import Row, Spread, compare, in_turn

MIB = 256
FACTOR = 1.05
#: One page in ten at random: scattered, so that each write is alone in its cache lines and tables.
SCATTERED = 10


def in_order(target: Target) -> float:
    return target.touch() / target.pages


def scattered(target: Target) -> float:
    count = target.pages // SCATTERED
    return target.dirty(count) / count


def rows(rounds: int, quick: bool) -> Iterator[Row]:
    with (
        Target(MIB) as free,
        Target(MIB) as bare,
        Target(MIB) as ours,
        bare.scanner() as scanner,
        uffdtrackd.attach(ours.pid) as session,
    ):
        bare.ask("track")
        writes: tuple[tuple[str, Callable[[Target], float]], ...] = (
            ("in order", in_order),
            ("at random", scattered),
        )
        for name, write in writes:
            yield from _compare(name, write, rounds, free, bare, ours, scanner, session)


def _compare(
    name: str,
    write: Callable[[Target], float],
    rounds: int,
    free: Target,
    bare: Target,
    ours: Target,
    scanner: Program,
    session: uffdtrackd.Session,
) -> Iterator[Row]:
    def after_bare() -> float:
        scanner.ask("clear")
        return write(bare)

    def after_ours() -> float:
        session.iterate()
        return write(ours)

    untracked, least, mine = in_turn(rounds, lambda: write(free), after_bare, after_ours)
    yield Row(f"first write to a page, {name}, untracked", "ns", Spread.of(untracked), None)
    yield compare(f"first write to a page, {name}", "ns", least, mine, factor=FACTOR)
