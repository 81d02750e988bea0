"""One thread a session: what may take long happens there, one job after the other.

    loop:    result = await worker.run(job)      never blocks
    thread:  job()  -- C, without the GIL --> result, handed back to the loop

A thread of its own, not one of a pool: a target that cannot be stopped for ten seconds keeps its
own session waiting and no other. A thaw goes before everything that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from .heartbeat import Heartbeat, Since

log = logging.getLogger(__name__)

T = TypeVar("T")

# Enough for SQLite and for every call into C; the default of 8 MiB is only address space, but
# counts where that is limited.
_STACK = 1 << 20


class Stopped(RuntimeError):
    """The worker takes no more jobs: its session has ended."""


class Worker:
    """Made on the event loop; starts its thread with the first job.

    name: of the thread. stopping: no more jobs are taken.
    """

    def __init__(self, name: str, heart: Heartbeat | None = None) -> None:
        self._name = name
        self._heart = heart
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()
        # Since when there are jobs and none is being done.
        self._idle_since = 0.0
        self._lock = threading.Lock()
        # One token a job, and one for the end: cheaper to wait for than a Condition.
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.stopping = False
        self._began = 0.0

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._jobs)

    @property
    def busy_seconds(self) -> float:
        """How long the present job has been running; 0 between jobs."""
        began = self._began
        return time.monotonic() - began if began else 0.0

    def submit(self, job: Callable[[], T], *, urgent: bool = False) -> asyncio.Future[T]:
        """Has the job done; urgent: before all others. A future that is cancelled is skipped."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._put(future, job, urgent=urgent)
        return future

    def hand(self, job: Callable[[], object]) -> None:
        """Has the job done after those that wait; it tells by itself whoever waits for it."""
        self._put(None, job)

    def post(self, job: Callable[[], object]) -> None:
        """As hand(), but before those that wait, and from any thread; not if the worker ended."""
        with contextlib.suppress(Stopped):
            self._put(None, job, urgent=True)

    def _put(
        self,
        future: asyncio.Future[Any] | None,
        job: Callable[[], object],
        *,
        urgent: bool = False,
    ) -> None:
        with self._lock:
            if self.stopping:
                raise Stopped(f"{self._name} has ended")
            if not self._jobs and not self._began:
                self._idle_since = time.monotonic()
            if urgent:
                self._jobs.appendleft((future, job))
            else:
                self._jobs.append((future, job))
            if self._thread is None:
                self._thread = _started(self._run, self._name)
                if self._heart is not None:
                    self._heart.watch(self._since)
        self._tokens.put(None)

    async def run(self, job: Callable[[], T], *, urgent: bool = False) -> T:
        """Has the job done and gives its result, or raises what it raised.

        A caller that is cancelled does not end a job that has begun.
        """
        return await self.submit(job, urgent=urgent)

    def stop(self) -> None:
        """No more jobs; the thread ends after those that wait."""
        with self._lock:
            self.stopping = True
        self._tokens.put(None)
        if self._heart is not None:
            self._heart.unwatch(self._since)

    def join(self, timeout: float) -> bool:
        """Waits for the thread; only after stop(). Whether it ended."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _run(self) -> None:
        while True:
            self._tokens.get()
            try:
                future, job = self._jobs.popleft()
            except IndexError:
                return  # the token of stop(), which comes last
            if future is not None and future.cancelled():
                continue
            self._began = time.monotonic()
            try:
                result = job()
                if future is not None:
                    self._tell(_set_result, future, result)
                del result
            except BaseException as error:
                self._tell(_set_error, future, error)
            finally:
                self._idle_since = time.monotonic()
                self._began = 0.0
            # Nothing of it may live until the next job comes.
            del future, job

    def _since(self) -> Since:
        """For the heartbeat: a thread that does not take up its next job is stuck as well."""
        if began := self._began:
            return began, self._name
        if not self._jobs:
            return None
        return self._idle_since, f"{self._name}, which does not begin"

    def _tell(
        self, how: Callable[..., None], future: asyncio.Future[Any] | None, value: Any
    ) -> None:
        if future is None:
            if isinstance(value, BaseException):
                log.error("%s: a job failed", self._name, exc_info=value)
            return
        try:
            self._loop.call_soon_threadsafe(how, future, value)
        except RuntimeError:
            return  # the loop has closed: nobody waits any more


def _started(run: Callable[[], None], name: str) -> threading.Thread:
    before = threading.stack_size(_STACK)
    try:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
    finally:
        threading.stack_size(before)
    return thread


def _set_result(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _set_error(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
