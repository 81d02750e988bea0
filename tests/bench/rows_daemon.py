"""What the daemon costs a machine: at rest, with many sessions, under many requests.

idle       resident memory, nobody connected but one
sessions   64 processes of 16 MiB, each iterated once a second over one connection; every one
           writes 1 % of its pages in between; beside the same number of others whose maps and
           page tables ref_rounds.c looks at, one after the other, in the same seconds
watches    the same by 64 watches, each of a connection of its own, begun at any time
requests   hello again and again over one connection: how many a second, and how long each
           takes while another connection has 8 GiB scanned
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from tests.bench import table
from tests.bench.case import Case
from tests.bench.pace import NotMeasured, Pace
from tests.bench.programs import Program, Target
from tests.bench.sample import Row, Spread, compare, single
from tests.bench.service import Daemon, attach, cpu_ns
from tests.bench.watchers import Watchers
from uffdtrackd.client import API_MAJOR, Client, ClientSession

SESSIONS = 64
SESSION_MIB = 16
IDLE_MIB = 48.0
BUSY_PERCENT = 2.0
HELLOS = 2000


def _hello(client: Client) -> float:
    before = time.perf_counter_ns()
    client.call("hello", api=API_MAJOR)
    return time.perf_counter_ns() - before


def _allowed(row: Row, most: float) -> Row:
    return Row(row.name, row.unit, None, row.ours, None, most)


def _idle(pace: Pace) -> Iterator[Row]:
    with Daemon() as daemon, daemon.connect():
        sizes = [float(daemon.resident()) for _ in range(3)]
        yield _allowed(single("daemon: resident, idle", "MiB", sizes), IDLE_MIB)


def _sessions(count: int, pace: Pace) -> Iterator[Row]:
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon())
        targets, others = (
            [stack.enter_context(Target(SESSION_MIB)) for _ in range(count)] for _ in range(2)
        )
        for other in others:
            other.ask("track")
        places = [place for one in others for place in (one.pid, one.start, one.end)]
        bare = stack.enter_context(Program("ref_rounds", *places, cpu=None))
        for index in range(count):
            bare.ask(f"round {index}")
        client = stack.enter_context(daemon.connect())
        began = time.perf_counter_ns()
        sessions = [attach(client, target.pid) for target in targets]
        for session in sessions:
            session.iterate()
        taken = time.perf_counter_ns() - began
        yield single(f"daemon: {count} sessions, attach + iteration 0 of all", "ms", [taken])
        shares, least, waits = [], [], []
        pairs = list(zip(targets, sessions, strict=True))
        for _ in range(min(pace.rounds, 5)):
            theirs, ours, waited = _seconds(daemon, pairs, bare, others)
            shares.append(ours)
            least.append(theirs)
            waits += waited
        row = compare(f"daemon: {count} sessions at 1 Hz, CPU", "%", least, shares)
        yield replace(row, allowed=BUSY_PERCENT * count / SESSIONS)
        yield single(f"daemon: {count} sessions at 1 Hz, an iteration takes", "ms", waits)
        yield from _watches(daemon, pairs, bare, others, pace)
        yield single(f"daemon: {count} sessions, resident", "MiB", [daemon.resident()])


def _watches(
    daemon: Daemon,
    pairs: list[tuple[Target, ClientSession]],
    bare: Program,
    others: list[Target],
    pace: Pace,
) -> Iterator[Row]:
    count = len(pairs)
    shares, least = [], []
    with Watchers(daemon.socket) as watchers:
        for _, session in pairs:
            watchers.add(session.name)
            time.sleep(1.0 / count)
        # Until they are in step, which takes five ticks.
        time.sleep(6.0)
        for _ in range(min(pace.rounds, 5)):
            before = watchers.came
            theirs, ours, _ = _seconds(daemon, pairs, bare, others, ask=False)
            shares.append(ours)
            least.append(theirs)
            if not 1.8 * count <= watchers.came - before <= 3.2 * count:
                raise NotMeasured(f"{watchers.came - before} iterations in two seconds")
    row = compare(f"daemon: {count} watches at 1 Hz, CPU", "%", least, shares)
    yield replace(row, allowed=BUSY_PERCENT * count / SESSIONS)


def _seconds(
    daemon: Daemon,
    pairs: list[tuple[Target, ClientSession]],
    bare: Program,
    others: list[Target],
    *,
    ask: bool = True,
) -> tuple[float, float, list[float]]:
    """Two seconds of it: the shares of one CPU that `bare` and the daemon used, and ns of each
    iteration that was asked for. Raises NotMeasured if `bare` did not see what was written."""
    cpu, least, began = daemon.cpu_ns(), cpu_ns(bare.process_id), time.monotonic()
    waits: list[float] = []
    for second in range(2):
        for index, (target, session) in enumerate(pairs):
            # Spread over the second, as sessions that know nothing of each other are.
            due = began + second + index / len(pairs)
            time.sleep(max(0.0, due - time.monotonic()))
            target.dirty(target.pages // 100)
            if ask:
                before = time.perf_counter_ns()
                session.iterate()
                waits.append(time.perf_counter_ns() - before)
            time.sleep(max(0.0, due + 0.5 / len(pairs) - time.monotonic()))
            other = others[index]
            other.dirty(other.pages // 100)
            if bare.ask(f"round {index}")[1:3] != [other.pages // 100, 1]:
                raise NotMeasured("the reference did not see what was written")
    time.sleep(max(0.0, began + 2 - time.monotonic()))
    taken = (time.monotonic() - began) * 1e9
    return (cpu_ns(bare.process_id) - least) / taken, (daemon.cpu_ns() - cpu) / taken, waits


class Scanning(threading.Thread):
    """Iterates one session again and again until `over`, its target all dirty each time."""

    def __init__(self, target: Target, session: ClientSession) -> None:
        super().__init__(name="scanning")
        self.over = threading.Event()
        self.scans = 0
        self._target = target
        self._session = session

    def run(self) -> None:
        while not self.over.is_set():
            self._target.touch()
            self._session.iterate()
            self.scans += 1


def _tail(name: str, taken: list[float]) -> Row:
    ordered = sorted(taken)
    tail = ordered[(len(ordered) - 1) * 99 // 100]
    row = Row(name, "us", None, Spread.of([tail], 1e3))
    return row.noted(f"median {statistics.median(taken) / 1000:.0f} us of {len(taken)}")


def _requests(mib: int, pace: Pace) -> Iterator[Row]:
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon())
        client = stack.enter_context(daemon.connect())
        quiet = [_hello(client) for _ in range(HELLOS)]
        yield single("daemon: hello, requests a second", "/s", [1e9 * HELLOS / sum(quiet)])
        yield _tail("daemon: hello, p99, nothing else to do", quiet)
        target = stack.enter_context(Target(mib))
        session = stack.enter_context(daemon.attach(target.pid))
        session.iterate()
        scanning = Scanning(target, session)
        scanning.start()
        busy: list[float] = []
        try:
            until = time.monotonic() + max(2.0, mib / 1024)
            while time.monotonic() < until or not scanning.scans:
                if not scanning.is_alive():
                    raise NotMeasured("the scan beside it failed")
                busy.append(_hello(client))
                time.sleep(0.0005)
        finally:
            scanning.over.set()
            scanning.join()
        name = f"daemon: hello, p99, while {table.size(mib)} are scanned"
        yield _tail(name, busy)
        yield compare(f"{name}, median", "us", quiet[: len(busy)], busy[: len(quiet)])


def cases(quick: bool) -> Iterator[Case]:
    yield Case("daemon: idle", _idle, 2.0)
    count = 8 if quick else SESSIONS
    yield Case(f"daemon: {count} sessions", partial(_sessions, count), 20.0)
    mib = 1024 if quick else 8192
    yield Case("daemon: requests", partial(_requests, mib), 20.0)
