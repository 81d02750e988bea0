"""How time and memory grow: with populated memory, threads, open files, runs in a set.

Regions have a file of their own (`rows_regions`). The memory is what this process, the tracker,
holds more after an iteration than before it was attached, as the kernel counts it (VmRSS); a
target that is tracked pays for nothing but markers in page tables that exist.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from functools import partial

import uffdtrackd
from tests.bench import table
from tests.bench.case import Case
from tests.bench.clock import timed
from tests.bench.pace import Pace
from tests.bench.programs import Target
from tests.bench.rows_iterate import IN_PROCESS, Scene
from tests.bench.sample import Row, compare, single
from tests.bench.service import resident


def _memory(mib: int, pace: Pace) -> Iterator[Row]:
    """Attach, iterations and detach against populated memory."""
    gc.collect()
    empty = resident(os.getpid())
    name = f"growth: {table.size(mib)}"
    gib = mib / 1024
    with Target(mib) as target, target.scanner() as scanner:
        before = time.perf_counter_ns()
        session = uffdtrackd.attach(target.pid)
        attached = time.perf_counter_ns() - before
        first = timed(session.iterate)
        yield single(f"{name}, attach", "ms", [attached]).at("growth: once", "attach", gib)
        yield single(f"{name}, iteration 0", "ms", [first]).at("growth: once", "iteration 0", gib)
        scene = Scene(target, scanner)
        factor, fixed = IN_PROCESS
        for percent in (0, 1):
            scene.load(percent, "random")
            bare, ours = pace.few(9).in_turn(scene.bare, scene.tracker(session.iterate))
            yield compare(
                f"{name}, {percent} % dirty", "ms", bare, ours, factor=factor, fixed=fixed
            ).at("growth: memory", f"{percent} % dirty", gib)
        grown = max(0, resident(os.getpid()) - empty)
        yield single(f"{name}, memory of the tracker", "MiB", [grown])
        closed = timed(session.close)
        yield single(f"{name}, detach", "ms", [closed]).at("growth: once", "detach", gib)


def _threads(pace: Pace) -> Iterator[Row]:
    """Attach looks at every thread, a freeze stops every one."""
    with Target(64) as target:
        for count in (1, 16, 256) if pace.quick else (1, 16, 64, 256, 1024):
            if count > 1:
                target.more_threads(count)

            def attach() -> float:
                before = time.perf_counter_ns()
                with uffdtrackd.attach(target.pid):
                    return time.perf_counter_ns() - before

            (attached,) = pace.in_turn(attach)
            name = f"growth: {table.threads(count)}"
            yield single(f"{name}, attach", "ms", attached).at("growth: threads", "attach", count)
            with uffdtrackd.attach(target.pid) as session:
                session.iterate()

                def final(session: uffdtrackd.Session = session) -> float:
                    with session.frozen():
                        return session.iterate().stopped_ns

                (stopped,) = pace.in_turn(final)
                row = single(f"{name}, stopped by a final iteration", "ms", stopped)
                yield row.at("growth: threads", "stopped by a final iteration", count)


def _descriptors(pace: Pace) -> Iterator[Row]:
    """Every iteration looks for what can write to pinned pages: at each descriptor."""
    for what in ("sockets", "files"):
        with Target(16) as target, uffdtrackd.attach(target.pid) as session:
            session.iterate()
            opened = 0
            for count in (100, 1000) if pace.quick else (100, 1000, 10000):
                target.open_more(what, count - opened)
                opened = count
                (taken,) = pace.in_turn(partial(timed, session.iterate))
                row = single(f"growth: {count} {what} open, nothing dirty", "ms", taken)
                yield row.at("growth: descriptors", what, count)


def _runs(pace: Pace) -> Iterator[Row]:
    """The same target, more and more pages dirty that do not touch each other."""
    with (
        Target(1024) as target,
        target.scanner() as scanner,
        uffdtrackd.attach(target.pid) as session,
    ):
        session.iterate()
        scene = Scene(target, scanner)
        for pages in (1, 1000, 10000, 30000, 60000, 131072):
            scene.count = pages
            empty = resident(os.getpid())
            bare, ours = pace.in_turn(scene.bare, scene.tracker(session.iterate))
            target.dirty(pages)
            held = session.iterate()
            runs = held.processes[target.pid].dirty.run_count
            row = compare(f"growth: {runs} runs in the set", "ms", bare, ours)
            yield row.at("growth: runs", "in process", runs)
            grown = max(0, resident(os.getpid()) - empty)
            yield single(f"growth: {runs} runs in the set, memory of the tracker", "MiB", [grown])


def cases(quick: bool) -> Iterator[Case]:
    for mib in (256, 1024) if quick else (1024, 2048, 4096, 8192, 16384):
        yield Case(
            f"growth: {table.size(mib)}",
            partial(_memory, mib),
            4.0 + mib / 400,
        )
    yield Case("growth: threads", _threads, 15.0)
    yield Case("growth: descriptors", _descriptors, 10.0)
    yield Case("growth: runs", _runs, 15.0)
