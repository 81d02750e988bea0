"""Whether the workers still get anywhere: what the watchdog of the service manager hangs on.

    worker   has a job since ..., or one waits since ... and it does not begin    <--asked-- late()
    loop     every half WatchdogSec:  late() is None --> WATCHDOG=1
                                      late() is text --> not fed: killed, restarted, restored

An event loop that turns proves little where all work is done by threads. The workers are asked, and
tell nothing by themselves: that would be in the way of every job, and is wanted every few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Since when (of time.monotonic) a worker is at something, and at what; None: at nothing.
Since = tuple[float, str] | None


class Heartbeat:
    """All workers; for one thread. patience: seconds after which who is at the same is stuck."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience = patience
        self._clock = clock
        self._watched: set[Callable[[], Since]] = set()

    def watch(self, since: Callable[[], Since]) -> None:
        """Asks from now on. since: called from any thread but the worker's."""
        self._watched.add(since)

    def unwatch(self, since: Callable[[], Since]) -> None:
        self._watched.discard(since)

    def late(self) -> str | None:
        """At what the one that is longest at it is stuck, with the seconds; None: all is well."""
        now = self._clock()
        longest = min(
            (one for ask in tuple(self._watched) if (one := ask()) is not None), default=None
        )
        if longest is None or now - longest[0] <= self.patience:
            return None
        return f"{longest[1]} ({now - longest[0]:.1f} s)"
