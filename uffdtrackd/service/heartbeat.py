"""Whether the workers still get anywhere: what the watchdog of the service manager hangs on.

    worker   with heartbeat.working("collecting s-3"): ...beat()...
    loop     every half WatchdogSec:  late() is None --> WATCHDOG=1
                                      late() is text --> not fed: killed, restarted, restored

An event loop that turns proves little where all work is done by threads. A worker that does not
begin what waits for it (watch()) is as late as one that does not end what it began. Work that
takes long in steps calls beat() between them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Heartbeat:
    """Pieces of work under way. patience: seconds after which one without a beat is stuck."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        # Thread --> (when it last got somewhere, at what it works), innermost work last.
        self._work: dict[int, list[tuple[float, str]]] = {}
        self._waiting: set[Callable[[], tuple[float, str] | None]] = set()

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """A piece of work of this thread; may be nested."""
        self.begin(what)
        try:
            yield
        finally:
            self.end()

    def begin(self, what: str) -> None:
        """As working(), for who calls end() for certain: with less to do around short work."""
        me = threading.get_ident()
        with self._lock:
            self._work.setdefault(me, []).append((self._clock(), what))

    def end(self) -> None:
        me = threading.get_ident()
        with self._lock:
            stack = self._work[me]
            stack.pop()
            if stack:
                stack[-1] = (self._clock(), stack[-1][1])
            else:
                del self._work[me]

    def watch(self, waiting: Callable[[], tuple[float, str] | None]) -> None:
        """Asks from now on since when (of time.monotonic) something waits, and for what."""
        self._waiting.add(waiting)

    def unwatch(self, waiting: Callable[[], tuple[float, str] | None]) -> None:
        self._waiting.discard(waiting)

    def beat(self) -> None:
        """This thread got somewhere; harmless where it is in no piece of work."""
        with self._lock:
            stack = self._work.get(threading.get_ident())
            if stack:
                stack[-1] = (self._clock(), stack[-1][1])

    def late(self) -> str | None:
        """At what the longest silent worker is stuck, with the seconds; None: all is well."""
        now = self._clock()
        with self._lock:
            # Only the innermost counts: what is around it waits for it.
            silent = [stack[-1] for stack in self._work.values()]
        silent += [one for ask in tuple(self._waiting) if (one := ask()) is not None]
        longest = min(silent, default=None)
        if longest is None or now - longest[0] <= self.patience:
            return None
        return f"{longest[1]} ({now - longest[0]:.1f} s)"
