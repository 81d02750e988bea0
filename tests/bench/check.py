"""`make bench-check`: has the tracker become slower beside the kernel than it was?

    short run --> ours / bare of each row --> compared with docs/benchmarks/ratios.json

Only ratios are compared, both sides taken in turn on the same machine: it may be any machine, and
a busy one. A ratio is that of the lower quartiles: what else runs makes things slower and never
faster, so the quick quarter of the rounds is what it disturbed least. A row that is over its limit
is measured again, with twice the rounds, and again; only the third time counts as slower.

    limit = committed ratio x MARGIN

It takes some seconds, on a machine that is very busy SECONDS at most for all repetitions: a row
that there was no time to repeat is told and fails nothing. What waits for the scheduler more than
it computes (the whole attach) is only judged where we may run before everything else.

So what is found are steps (something became half as dear again), not drift; for that there is
`make bench`. Exit status: 0 nothing is slower, 1 something is. `--write` measures three times and
keeps the largest ratios as those to compare with; a whole `make bench` does too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uffdtrackd
from tests import preflight
from tests.bench import machine
from tests.bench.clock import timed
from tests.bench.pace import NotMeasured
from tests.bench.programs import CPUS, Program, Target, on_cpu
from tests.bench.rows_attach import Attaching
from tests.bench.rows_iterate import Scene
from tests.bench.rows_target import first_write
from tests.bench.sample import in_turn
from tests.bench.service import Daemon, also, attach
from tests.bench.ways import a_way
from uffdtrackd.errors import TrackError

RATIOS = Path(__file__).resolve().parent.parent.parent / "docs" / "benchmarks" / "ratios.json"

#: How many times the committed ratio is still taken for noise.
MARGIN = 1.5
ROUNDS = 15
ATTEMPTS = 3
MIB = 256
#: For all rows; after that none is begun again. One attempt takes at most ROW_SECONDS.
SECONDS = 100.0
ROW_SECONDS = 10.0

Measure = Callable[[], float]


def ratio(bare: list[float], ours: list[float]) -> float:
    """That of the lower quartiles."""
    least, mine = (sorted(series)[(len(series) - 1) // 4] for series in (bare, ours))
    return mine / least


@dataclass
class Judge:
    """Measures rows and keeps their ratios; `committed` says which of them are too large.

    committed: name -> ratio; None measures what is to be committed: the largest of all attempts.
    """

    committed: dict[str, float] | None
    rounds: int = ROUNDS
    found: dict[str, float] = field(default_factory=dict)
    slower: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    until: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    def __call__(self, name: str, bare: Measure, ours: Measure) -> None:
        known = (self.committed or {}).get(name)
        limit = float("inf") if known is None else known * MARGIN
        tried = []
        bare()
        ours()
        for attempt in range(ATTEMPTS):
            rounds = self.rounds << attempt
            series = in_turn(rounds, bare, ours, seconds=ROW_SECONDS, least=5)
            tried.append(ratio(*series))
            late = time.monotonic() > self.until
            if self.committed is not None and (tried[-1] <= limit or late):
                break
        self.found[name] = max(tried) if self.committed is None else min(tried)
        over = self.found[name] > limit
        sure = len(tried) == ATTEMPTS
        if over and sure:
            self.slower.append(name)
        word = "ok" if not over else "SLOWER" if sure else "unsure"
        shown = ", ".join(f"{one:.2f}" for one in tried)
        against = "no ratio to compare with" if known is None else f"at most {limit:.2f}"
        print(f"{word:6} {name}: {shown} ({against})", flush=True)

    @contextmanager
    def unless_missing(self, what: str) -> Iterator[None]:
        """What this machine or version does not have is said, and fails nothing."""
        try:
            yield
        except (NotMeasured, TrackError) as reason:
            self.missing.append(what)
            print(f"none   {what}: {str(reason).splitlines()[0]}", flush=True)


def _attach(judge: Judge, realtime: bool) -> None:
    with Target(16, threads=16) as target, target.stopper() as stopper:
        ways = Attaching(target, stopper)
        judge("attach: stopped", ways.bare, ways.ours)
        if realtime:
            judge("attach: whole", lambda: _whole(ways, "bare"), lambda: _whole(ways, "ours"))


def _whole(ways: Attaching, side: str) -> float:
    (ways.bare if side == "bare" else ways.ours)()
    return ways.wholes[side][-1]


def _iterate(judge: Judge) -> None:
    with (
        Target(MIB) as target,
        target.scanner() as scanner,
        uffdtrackd.attach(target.pid) as session,
    ):
        session.iterate()
        scene = Scene(target, scanner)
        for percent in (0, 1, 10, 100):
            scene.load(percent, "random")
            judge(f"iterate: {percent} % dirty", scene.bare, scene.tracker(session.iterate))


def _socket(judge: Judge) -> None:
    with (
        Daemon() as daemon,
        Target(MIB) as target,
        target.scanner() as scanner,
        daemon.connect() as client,
        attach(client, target.pid) as session,
    ):
        session.iterate()
        scene = Scene(target, scanner)
        for deliver, percent in (("memfd", 1), ("memfd", 10), ("inline", 1)):
            scene.load(percent, "random")
            same = also(client, session, deliver)
            name = f"iterate: {percent} % dirty, socket, {deliver}"
            judge(name, scene.bare, scene.tracker(same.iterate))


def _regions(judge: Judge) -> None:
    with (
        Target(16, regions=4000) as target,
        target.scanner() as scanner,
        Program("ref_layout", target.pid) as layout,
        uffdtrackd.attach(target.pid) as session,
    ):
        session.iterate()
        judge(
            "regions: 4000",
            lambda: layout.ask("new")[0] + scanner.ask("clear")[0],
            lambda: timed(session.iterate),
        )


def _first_write(judge: Judge, backend: str, mib: int) -> None:
    with a_way(f"bare {backend}", mib) as bare, a_way(backend, mib) as ours:

        def least() -> float:
            bare.collect()
            return first_write(bare.writer, "order", 1)

        def mine() -> float:
            ours.collect()
            return first_write(ours.writer, "order", 1)

        judge(f"first write, {backend}", least, mine)


def run(judge: Judge) -> None:
    """Measure everything there is."""
    with on_cpu(CPUS[-1]), machine.realtime() as granted:
        _attach(judge, granted)
        _iterate(judge)
        _regions(judge)
        with judge.unless_missing("socket"):
            _socket(judge)
        # In synchronous mode a page takes fifty times as long: fewer of them.
        for backend, mib in (("async", 64), ("sync", 4)):
            with judge.unless_missing(f"first write, {backend}"):
                _first_write(judge, backend, mib)


def write(found: dict[str, float]) -> None:
    """Keep the ratios as what is compared with."""
    RATIOS.parent.mkdir(parents=True, exist_ok=True)
    ratios = {name: round(value, 3) for name, value in found.items()}
    RATIOS.write_text(json.dumps({"margin": MARGIN, "ratios": ratios}, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench-check", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="keep the ratios of this run")
    options = parser.parse_args(argv)
    if problem := preflight.problem():
        print(f"bench-check: nothing was compared: {problem}")
        return 0
    began = time.monotonic()
    committed = None if options.write else json.loads(RATIOS.read_text())["ratios"]
    judge = Judge(committed)
    run(judge)
    seconds = time.monotonic() - began
    print(f"bench-check: {len(judge.found)} ratios in {seconds:.0f} s, margin {MARGIN} x")
    if options.write:
        write(judge.found)
        print(f"bench-check: kept in {RATIOS}")
    elif judge.slower:
        print(f"bench-check: slower than the committed ratios: {'; '.join(judge.slower)}")
        print("bench-check: if that is meant: python -m tests.bench.check --write, and say why")
    return 1 if judge.slower else 0


if __name__ == "__main__":
    sys.exit(main())
