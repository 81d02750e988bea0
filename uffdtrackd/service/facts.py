"""What a session has done so far, for `status`, metrics and whoever else asks.

    worker: after each job --> Told, replaced as a whole --> the loop: facts(), when asked for

Most jobs are over before anybody asks, so the worker keeps only what facts are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .consumers import Marks


class ConsumerFacts(NamedTuple):
    """delivered, acknowledged: numbers, -1 if none yet. pending_bytes: dirty."""

    name: str
    delivered: int
    acknowledged: int
    pending_bytes: int


# A tuple, for one is made after every job.
class Facts(NamedTuple):
    """What a session has done so far. Sums are since its beginning.

    last: the head of the last iteration (`Iteration.head()`), None before the first.
    dirty_bytes: of the last iteration. rate: dirty bytes a second between the last two.
    error: the last that a job raised, as the wire has it, and its time_ns (CLOCK_REALTIME).
    ended: every process has: nothing more will come.
    """

    pids: tuple[int, ...] = ()
    status: tuple[str, ...] = ()
    iterations: int = 0
    last: Mapping[str, Any] | None = None
    dirty_bytes: int = 0
    dirty_bytes_total: int = 0
    discarded_bytes_total: int = 0
    collect_ns_total: int = 0
    stopped_ns_total: int = 0
    rate: float | None = None
    frozen: bool = False
    error: Mapping[str, Any] | None = None
    errors: int = 0
    ended: bool = False
    consumers: tuple[ConsumerFacts, ...] = ()


class Told(NamedTuple):
    """What facts are made of: most jobs are over before anybody asks for them.

    before: earlier facts. changed: what the iterations since made of some of them. consumers:
    None: those of before.
    """

    before: Facts
    changed: Mapping[str, Any] | None = None
    frozen: bool = False
    consumers: tuple[Marks, ...] | None = None

    def facts(self) -> Facts:
        facts = self.before._replace(**self.changed) if self.changed else self.before
        if self.consumers is None:
            return facts
        consumers = tuple(
            ConsumerFacts(one.name, one.delivered, one.acknowledged, one.pending_bytes)
            for one in self.consumers
        )
        return facts._replace(frozen=self.frozen, consumers=consumers)
