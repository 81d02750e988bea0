"""Iterations at a fixed pace beside something else that is measured.

    with Ticker(session.iterate, 10.0) as ticker:     10 times a second, in a thread of its own
        ...
    ticker.count, ticker.busy_ns                      how often; CPU time of all of them
    ticker.elapsed_ns                                 how long the block took

The first one comes at once: a target is then protected when its measurement begins. What a tick
raises ends the ticking and is raised again at the end of the block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Ticker:
    """per_second: 0 does not tick at all."""

    def __init__(self, tick: Callable[[], object], per_second: float) -> None:
        self.count = 0
        self.busy_ns = 0
        self.longest_ns = 0
        self.elapsed_ns = 0
        self._tick = tick
        self._per_second = per_second
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ticker")

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while True:
                cpu, before = time.thread_time_ns(), time.perf_counter_ns()
                self._tick()
                self.longest_ns = max(self.longest_ns, time.perf_counter_ns() - before)
                self.busy_ns += time.thread_time_ns() - cpu
                self.count += 1
                # Never two for one: a machine that fell behind does not catch up.
                due = max(due + 1 / self._per_second, time.monotonic())
                if self._over.wait(due - time.monotonic()):
                    return
        except BaseException as error:  # the thread's own end: handed to who waits for it
            self._error = error

    def __enter__(self) -> Self:
        self._began = time.monotonic_ns()
        if self._per_second:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.elapsed_ns = time.monotonic_ns() - self._began
        self._over.set()
        if self._per_second:
            self._thread.join()
        if self._error is not None and error is None:
            raise self._error
