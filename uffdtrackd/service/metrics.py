"""What the daemon counts, as OpenMetrics text; reading it looks at no target.

    sessions' facts, the daemon's counters --collect()--> families --> text
                                                             method `metrics`, or HTTP (http.py)

Labels are bounded: a session's name and pid (there are at most limits.sessions_total), a kind of
page set, nothing that a target chooses. prometheus-client is loaded when first asked for: it
weighs more than an idle daemon needs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .facts import Facts
from .held import Held

if TYPE_CHECKING:
    from .daemon import Daemon

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True)
class Snapshot:
    """All that is shown, taken on the loop; rendered elsewhere. counts: of the daemon, by name."""

    counts: dict[str, float]
    sessions: Sequence[tuple[str, int, str, Facts]]


# (name, kind, help); the value of a session is that attribute of SESSION_VALUES.
DAEMON = (
    ("uffdtrack_sessions", "gauge", "Sessions held for clients."),
    ("uffdtrack_connections", "gauge", "Connections open now."),
    ("uffdtrack_requests", "counter", "Requests answered since the start."),
    ("uffdtrack_refused", "counter", "Requests answered with an error since the start."),
    ("uffdtrack_queued_bytes", "gauge", "Answers that clients have not taken yet."),
    ("uffdtrack_uptime_seconds", "gauge", "Since the start of the daemon."),
)
SESSION = (
    ("uffdtrack_iterations", "counter", "Collected by the session."),
    ("uffdtrack_target_dirty_bytes", "counter", "Listed as dirty, the first iteration left out."),
    ("uffdtrack_target_discarded_bytes", "counter", "Listed as discarded."),
    ("uffdtrack_iteration_dirty_bytes", "gauge", "Dirty in the last iteration."),
    ("uffdtrack_target_dirty_rate_bytes_per_second", "gauge", "Between the last two iterations."),
    ("uffdtrack_scan_duration_seconds", "counter", "Time that collecting took."),
    ("uffdtrack_stopped_seconds", "counter", "Time that a thread of the target was stopped."),
    ("uffdtrack_session_errors", "counter", "Requests on the session that failed."),
    ("uffdtrack_session_frozen", "gauge", "1 while the target is frozen."),
    ("uffdtrack_session_processes", "gauge", "Processes tracked."),
    ("uffdtrack_session_consumers", "gauge", "Consumers of the session."),
    (
        "uffdtrack_session_pending_bytes",
        "gauge",
        "Not acknowledged, of the consumer that has most.",
    ),
)


def _values(facts: Facts) -> tuple[float, ...]:
    """In the order of SESSION."""
    return (
        facts.iterations,
        facts.dirty_bytes_total,
        facts.discarded_bytes_total,
        facts.dirty_bytes,
        facts.rate or 0.0,
        facts.collect_ns_total / 1e9,
        facts.stopped_ns_total / 1e9,
        facts.errors,
        float(facts.frozen),
        len(facts.pids),
        len(facts.consumers),
        max((one.pending_bytes for one in facts.consumers), default=0),
    )


def snapshot(daemon: Daemon, sessions: Iterable[Held]) -> Snapshot:
    shown = [(one.id, one.session.pid, one.session.backend, one.facts) for one in sessions]
    counts = (
        len(shown),
        daemon.connections,
        daemon.requests,
        daemon.refused,
        daemon.queued,
        (time.time_ns() - daemon.started_ns) / 1e9,
    )
    return Snapshot({row[0]: value for row, value in zip(DAEMON, counts, strict=True)}, shown)


async def text(daemon: Daemon, sessions: Iterable[Held]) -> str:
    """The exposition, ending in # EOF."""
    return await asyncio.to_thread(render, snapshot(daemon, sessions))


def render(found: Snapshot) -> str:
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(found))
    made: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return made.decode()


class _Collector:
    """As prometheus_client wants it."""

    def __init__(self, found: Snapshot) -> None:
        self._found = found

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds: dict[str, Any] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for name, kind, about in DAEMON:
            family = kinds[kind](name, about, unit=_unit(name))
            family.add_metric([], self._found.counts[name])
            yield family
        labels = ["session", "pid", "backend"]
        rows = [
            ([name, str(pid), backend], _values(facts))
            for name, pid, backend, facts in self._found.sessions
        ]
        for index, (name, kind, about) in enumerate(SESSION):
            family = kinds[kind](name, about, labels=labels, unit=_unit(name))
            for values, numbers in rows:
                family.add_metric(values, numbers[index])
            yield family


def _unit(name: str) -> str:
    """OpenMetrics: the unit is the end of the name."""
    if name.endswith("_bytes_per_second"):
        return "bytes_per_second"
    return next((unit for unit in ("bytes", "seconds") if name.endswith(f"_{unit}")), "")
