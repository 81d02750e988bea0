"""The jobs of one session, one after the other: what may take long happens there.

    loop:    result = await worker.run(job)      never blocks
    crew:    job()  -- C, without the GIL --> result, handed back to the loop

A session that waits keeps its own jobs waiting and no other's: see `crew` for the threads. A thaw
goes before everything that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from .crew import SLOW, Crew
from .heartbeat import Heartbeat, Since

log = logging.getLogger(__name__)

T = TypeVar("T")


class Stopped(RuntimeError):
    """The worker takes no more jobs: its session has ended."""


class Worker:
    """Made on the event loop.

    name: for people. crew: whose threads do the jobs; one of its own if not given. stopping: no
    more jobs are taken.
    """

    def __init__(self, name: str, heart: Heartbeat | None = None, crew: Crew | None = None) -> None:
        self._name = name
        self._heart = heart
        self._loop = asyncio.get_running_loop()
        self._crew = crew or Crew()
        self._lock = self._crew.lock
        self._jobs: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()
        # Whether the crew has it.
        self._at_work = False
        # Since when there are jobs and none is being done.
        self._idle_since = 0.0
        self._ended = threading.Event()
        self.stopping = False
        self._began = 0.0
        self._took = 0.0

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
        one = (future, job)
        with self._lock:
            if self.stopping:
                raise Stopped(f"{self._name} has ended")
            if not self._jobs and not self._began:
                self._idle_since = time.monotonic()
            if urgent:
                self._jobs.appendleft(one)
            else:
                self._jobs.append(one)
            if self._at_work:
                return
            try:
                self._crew.add(self, first=urgent)
            except BaseException:
                self._jobs.remove(one)
                raise
            self._at_work = True
            if self._heart is not None:
                self._heart.watch(self._since)

    async def run(self, job: Callable[[], T], *, urgent: bool = False) -> T:
        """Has the job done and gives its result, or raises what it raised.

        A caller that is cancelled does not end a job that has begun.
        """
        return await self.submit(job, urgent=urgent)

    def stop(self) -> None:
        """No more jobs; it has ended after those that wait."""
        with self._lock:
            self.stopping = True
            if not self._at_work:
                self._ended.set()
        if self._heart is not None:
            self._heart.unwatch(self._since)

    def join(self, timeout: float) -> bool:
        """Waits for the last job; only after stop(). Whether it ended."""
        return self._ended.wait(timeout)

    @property
    def was_slow(self) -> bool:
        """Whether its last jobs took longer than others should wait."""
        return self._took > SLOW

    def take_turn(self) -> bool:
        """Does one job, in a thread of the crew; whether there are more."""
        future, job = self._jobs.popleft()
        if future is None or not future.cancelled():
            self._do(future, job)
        # Nothing of it may live until the next job comes.
        del future, job
        with self._lock:
            if self._jobs:
                return True
            self._at_work = False
            if self.stopping:
                self._ended.set()
            return False

    def _do(self, future: asyncio.Future[Any] | None, job: Callable[[], Any]) -> None:
        self._began = time.monotonic()
        try:
            result = job()
            if future is not None:
                self._tell(_set_result, future, result)
        except BaseException as error:
            self._tell(_set_error, future, error)
        finally:
            now = self._idle_since = time.monotonic()
            # Among many that are short one that is long comes again.
            self._took = max(now - self._began, self._took / 2)
            self._began = 0.0

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


def _set_result(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _set_error(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
