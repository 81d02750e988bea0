"""What real servers pay: throughput and latency under load, untracked and tracked.

    untracked | 1 iteration a second | 10 a second     the same server, in turn, by its own load
                                                       generator's account

The server, its load and the tracker share all CPUs, as on a machine of that size. PostgreSQL is
tracked with all its processes. A longest latency is the longest of one load: it varies by its
nature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import uffdtrackd
from tests.bench.case import Case
from tests.bench.pace import Pace
from tests.bench.sample import Row, compare, reference, single
from tests.bench.servers import Load, Postgres, Redis, postgres, redis
from tests.bench.ticker import Ticker

SECONDS = 3.0
RATES = (1.0, 10.0)
#: What is told of a load: its name, field, unit.
TOLD = (
    ("throughput", "per_second", "/s"),
    ("p50", "p50", "us"),
    ("p99", "p99", "us"),
    ("longest", "longest", "ms"),
)


class Measured:
    """Loads of one server, untracked (rate 0) or tracked; each is kept."""

    def __init__(self, server: Redis | Postgres, follow: str) -> None:
        self.server = server
        self.follow = follow
        self.loads: dict[float, list[Load]] = {rate: [] for rate in (0.0, *RATES)}
        self.busy: dict[float, list[float]] = {rate: [] for rate in RATES}

    def at(self, rate: float) -> Callable[[], float]:
        def untracked() -> float:
            return self._keep(rate)

        def tracked() -> float:
            with uffdtrackd.attach(self.server.pid, follow=self.follow) as session:
                session.iterate()
                with Ticker(session.iterate, rate) as ticker:
                    per_second = self._keep(rate)
                self.busy[rate].append(ticker.busy_ns / ticker.elapsed_ns)
                return per_second

        return tracked if rate else untracked

    def _keep(self, rate: float) -> float:
        load = self.server.load()
        self.loads[rate].append(load)
        return load.per_second


def _rows(
    name: str,
    start: Callable[[], AbstractContextManager[Redis | Postgres]],
    follow: str,
    pace: Pace,
) -> Iterator[Row]:
    with start() as server:
        server.last_for(1.0 if pace.quick else SECONDS)
        measured = Measured(server, follow)
        pace.few(5).cold(*(measured.at(rate) for rate in (0.0, *RATES)))
        for what, field, unit in TOLD:
            series = {
                rate: [getattr(load, field) for load in loads]
                for rate, loads in measured.loads.items()
            }
            yield reference(f"servers: {name}, {what}, untracked", unit, series[0.0])
            for rate in RATES:
                row = f"servers: {name}, {what}, {rate:g} iterations/s"
                made = compare(row, unit, series[0.0], series[rate])
                yield made.at(f"servers: {name}", what, rate) if what == "throughput" else made
        for rate in RATES:
            row = f"servers: {name}, CPU of the tracker, {rate:g} iterations/s"
            yield single(row, "%", measured.busy[rate])


def cases(quick: bool) -> Iterator[Case]:
    keys = 50_000 if quick else 300_000
    yield Case(
        "servers: redis",
        partial(_rows, "redis", partial(redis, keys, 1024), "none"),
        60.0,
    )
    yield Case("servers: postgres", partial(_rows, "postgres", postgres, "fork"), 70.0)
