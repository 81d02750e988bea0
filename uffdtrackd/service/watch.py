"""A stream of iterations to one client, at the pace that the client reads.

tick --> worker: iterate --> queue (bounded) --sender--> connection, when it has room
                               | full
                               +--> of its own consumer: the two oldest become one (fold)
                               +--> of a named consumer: the oldest is dropped, for each later
                                    one holds all that is not acknowledged
                               both counted in `lost`: notifications, never pages
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial

from ..model.errors import TrackError
from ..model.fold import fold
from ..model.iteration import Iteration
from .delivery import Reply, deliver, reply
from .guest import Guest
from .held import Held

log = logging.getLogger(__name__)


class Watch:
    """Runs until stop(), until the connection is closed, or until collecting fails.

    consumer: "" for one of its own. depth: iterations that may wait for a slow reader.
    """

    def __init__(
        self,
        number: int,
        guest: Guest,
        held: Held,
        interval: float,
        consumer: str,
        how: str,
        form: str,
        depth: int,
        most: int,
    ) -> None:
        self.number = number
        self.held = held
        self.lost = 0
        self._guest = guest
        self._interval = interval
        self._own = not consumer
        self._consumer = consumer or f"watch {id(self):x}"
        self._how = how
        self._form = form
        self._depth = depth
        self._most = most
        self._queue: deque[Iteration] = deque()
        self._lock = asyncio.Lock()
        self._filled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._collect()), loop.create_task(self._send())]

    def stop(self) -> None:
        """Ends it. A consumer of its own is forgotten."""
        for task in self._tasks:
            task.cancel()
        if self._own and self._tasks:
            self._forget()
        self._tasks = []

    def _forget(self) -> None:
        try:
            self.held.worker.submit(partial(self.held.do_forget, self._consumer)).add_done_callback(
                lambda future: future.cancelled() or future.exception()
            )
        except RuntimeError:
            return  # the session has ended

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        last: int | None = None
        while True:
            try:
                iteration = await self.held.worker.run(
                    partial(self.held.do_iterate, self._consumer, last, self._own)
                )
                if self._own:
                    last = iteration.number
                await self._push(iteration)
            except (TrackError, RuntimeError, OSError, MemoryError) as error:
                # Also of what waits: it is acknowledged, and nothing later has it.
                self._end(error)
                return
            self._filled.set()
            # What a slow one ran over is left out.
            passed = loop.time() - due
            due += max(self._interval, passed // max(self._interval, 1e-3) * self._interval)
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _push(self, iteration: Iteration) -> None:
        # The sender must not take the later of two that are being made one.
        async with self._lock:
            self._queue.append(iteration)
            if len(self._queue) <= self._depth:
                return
            first = self._queue.popleft()
            if self._own:
                job = partial(fold, first, self._queue[0])
                self._queue[0] = await self.held.worker.run(job)
            self.lost += 1

    async def _send(self) -> None:
        while True:
            await self._filled.wait()
            await self._guest.connection.room()
            async with self._lock:
                if not self._queue:
                    self._filled.clear()
                    continue
                iteration = self._queue.popleft()
            extra = {"watch": self.number, "session": self.held.id, "lost": self.lost}
            try:
                job = partial(deliver, iteration, self._how, self._form, self._most, extra)
                future = self.held.worker.submit(job)
                try:
                    made = await asyncio.shield(future)
                except asyncio.CancelledError:
                    # It may be in the middle of it, and nobody takes what it makes.
                    future.add_done_callback(_close)
                    raise
            except (TrackError, RuntimeError, OSError, MemoryError) as error:
                self._end(error)
                return
            self._guest.connection.notify("iteration", made)

    def _end(self, error: BaseException) -> None:
        found = (
            error
            if isinstance(error, TrackError)
            else TrackError(str(error) or "no memory is left")
        )
        log.info("session %s: watch %d ended: %s", self.held.id, self.number, found.message)
        self._guest.connection.notify(
            "watch_ended",
            reply({"watch": self.number, "session": self.held.id, "error": found.to_map()}),
        )
        self._guest.watches.pop(self.number, None)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if self._own:
            self._forget()
        self._tasks = []


def _close(future: asyncio.Future[Reply]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
