"""What one iteration costs the tracker: session.iterate() beside one bare scan in plain C.

    target writes n pages -> session.iterate()   timed here, from the call to the Iteration
    target writes n pages -> ref_scan "clear"    timed in C, one ioctl

Both clear the same memory of the same process, registered once by the tracker: neither the place
of the pages nor their number can differ. The bare scan takes pages away that the session never
hears of; nothing of its state depends on them. Each result must name all the pages that were
written, and hardly one more. The session lives in this process, or in a daemon that is asked
through its socket.

With huge pages the first write to one splits its mapping, for good while it is tracked: so what is
clean comes first, then what is dirty in one block, and what is strewn comes last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import uffdtrackd
from tests.bench import table
from tests.bench.case import Case, guarded
from tests.bench.pace import Pace
from tests.bench.programs import PAGE, Program, Target
from tests.bench.sample import Row, compare, single
from tests.bench.service import Daemon, also, attach
from uffdtrackd import Iteration, PageSet

#: What is allowed beside the bare scan: factor and ms.
IN_PROCESS = (1.25, 0.15)
MEMFD = (1.4, 0.4)

#: Percent dirty and how, in the order that huge pages ask for.
LOADS = (
    (0, "random"),
    (1, "block"),
    (10, "block"),
    (50, "block"),
    (1, "random"),
    (10, "random"),
    (50, "random"),
    (100, "random"),
)


class WrongCount(Exception):
    """A scan did not report the pages that were written: its time means nothing."""


#: The kernel may call a clean page written (seen: the bare scan, one of a million): one in so many.
SURPLUS = 1000


def check(what: str, found: int, written: int) -> None:
    """Raises WrongCount."""
    if not written <= found <= written + written // SURPLUS:
        raise WrongCount(f"{what} reported {found} pages of the arena, {written} were written")


@dataclass
class Scene:
    """A target that writes `count` pages `how` before each measure, and who is measured.

    scanner: the bare one. Measures return ns.
    """

    target: Target
    scanner: Program
    count: int = 0
    how: str = "random"

    def __post_init__(self) -> None:
        self.arena = PageSet.from_ranges([(self.target.start, self.target.end)], PAGE)

    def load(self, percent: float, how: str) -> None:
        self.count = int(self.target.pages * percent / 100)
        self.how = how

    def write(self) -> None:
        if self.how == "block":
            self.target.block(self.count)
        elif self.count == self.target.pages:
            self.target.touch()
        else:
            self.target.dirty(self.count)

    def bare(self) -> float:
        self.write()
        taken, pages, _runs = self.scanner.ask("clear")
        check("the bare scan", pages, self.count)
        return taken

    def tracker(self, iterate: Callable[[], Iteration]) -> Callable[[], float]:
        """A measure of iterate()."""

        def measure() -> float:
            self.write()
            before = time.perf_counter_ns()
            iteration = iterate()
            taken = time.perf_counter_ns() - before
            dirty = iteration.processes[self.target.pid].dirty
            check("iterate", len(dirty & self.arena), self.count)
            return taken

        return measure


def load_name(percent: float, how: str) -> str:
    """ "10 % at random": as a row has it."""
    return f"{percent} % dirty" + ("" if percent in (0, 100) else f", {how}")


def _first(name: str, iterate: Callable[[], Iteration]) -> Row:
    before = time.perf_counter_ns()
    iterate()
    return single(f"iterate: {name}, iteration 0 (all)", "ms", [time.perf_counter_ns() - before])


def _in_process(name: str, scene: Scene, pace: Pace) -> Iterator[Row]:
    with uffdtrackd.attach(scene.target.pid) as session:
        yield _first(f"{name}, in process", session.iterate)
        ours = scene.tracker(session.iterate)
        for percent, how in LOADS:
            scene.load(percent, how)
            bare, mine = pace.in_turn(scene.bare, ours)
            factor, fixed = IN_PROCESS
            row = f"iterate: {name}, {load_name(percent, how)}, in process"
            yield compare(row, "ms", bare, mine, factor=factor, fixed=fixed).at(
                f"iterate: {name}, {how}", "in process", percent
            )


def _socket(name: str, mib: int, huge: bool, pace: Pace) -> Iterator[Row]:
    with (
        Daemon() as daemon,
        Target(mib, huge=huge) as target,
        target.scanner() as scanner,
        daemon.connect() as client,
        attach(client, target.pid) as session,
    ):
        scene = Scene(target, scanner)
        yield _first(f"{name}, socket", session.iterate)
        for percent, how in LOADS:
            scene.load(percent, how)
            for deliver in ("memfd", "inline"):
                row = f"iterate: {name}, {load_name(percent, how)}, socket, {deliver}"
                same = also(client, session, deliver)
                rows = _delivered(row, scene, same.iterate, deliver, pace)
                for one in guarded(row, rows):
                    yield one.at(f"iterate: {name}, {how}", f"socket, {deliver}", percent)


def _delivered(
    row: str, scene: Scene, iterate: Callable[[], Iteration], deliver: str, pace: Pace
) -> Iterator[Row]:
    bare, mine = pace.in_turn(scene.bare, scene.tracker(iterate))
    factor, fixed = MEMFD if deliver == "memfd" else (None, 0.0)
    yield compare(row, "ms", bare, mine, factor=factor, fixed=fixed)


def _memory(mib: int, huge: bool, pace: Pace) -> Iterator[Row]:
    name = f"{table.size(mib)} {'THP' if huge else '4K'}"
    large = pace.few(9) if mib > 1024 else pace
    with Target(mib, huge=huge) as target, target.scanner() as scanner:
        yield from _in_process(name, Scene(target, scanner), large)
    yield from guarded(f"iterate: {name}, socket", _socket(name, mib, huge, large))


def cases(quick: bool) -> Iterator[Case]:
    for mib in (1024,) if quick else (1024, 8192):
        for huge in (False, True):
            name = f"iterate: {table.size(mib)} {'THP' if huge else '4K'}"
            yield Case(
                name,
                partial(_memory, mib, huge),
                30.0 if mib == 1024 else 150.0,
            )
