"""A stream of iterations to one client, at the pace that the client reads.

    tick --> worker: iterate, encode, send       nothing waits, and there is room: the loop is not
               |                                 woken again
               +--> loop: queue (bounded) --sender--> connection, when it has room
                            | full
                            +--> of its own consumer: the two oldest become one (fold)
                            +--> of a named consumer: the oldest is dropped, for each later
                                 one holds all that is not acknowledged
                            both counted in `lost`: notifications, never pages

Ticks fall in step: each moves by a tenth of its interval at most towards the next whole multiple of
it, on the clock of the machine. So after a few of them all watches of one interval are due at once,
whoever has them, and what they cost is done in a row (see `crew`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial

from ..model.errors import TrackError
from ..model.fold import fold
from ..model.iteration import Iteration
from .delivery import Reply, deliver, reply
from .guest import Guest
from .held import Held

log = logging.getLogger(__name__)

# Of its interval: how much earlier or later a tick may come than a whole one after the one before.
_SHIFT = 0.1


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
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Of its own consumer: what is acknowledged next.
        self._last: int | None = None
        # Also in the worker's thread: an iteration is under way; none is wanted any more.
        self._busy = False
        self._over = False

    def start(self) -> None:
        self._due = self._loop.time()
        self._tick()

    def stop(self) -> None:
        """Ends it. A consumer of its own is forgotten. Nothing is sent after this."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if self._own:
            self._forget()

    def _forget(self) -> None:
        try:
            self.held.worker.submit(partial(self.held.do_forget, self._consumer)).add_done_callback(
                lambda future: future.cancelled() or future.exception()
            )
        except RuntimeError:
            return  # the session has ended

    def _tick(self) -> None:
        self._due = due_after(self._due, self._interval, self._loop.time())
        self._timer = self._loop.call_at(self._due, self._tick)
        if self._busy:
            return  # what a slow one runs over is left out
        self._busy = True
        waits = bool(self._queue) or self._sending is not None
        work = self._queued if waits or self._guest.connection.out.crowded else self._sent
        try:
            self.held.worker.hand(partial(self._do, work))
        except RuntimeError as error:
            self._end(error)

    def _do(self, work: Callable[[Iteration], None]) -> None:
        """In the worker's thread, as what it calls."""
        try:
            if self._over:
                return
            iteration = self.held.do_iterate(self._consumer, self._last, self._own)
            if self._own:
                self._last = iteration.number
            work(iteration)
        except Exception as error:
            # Also of what waits: it is acknowledged, and nothing later has it.
            self._post(partial(self._end, error))

    def _sent(self, iteration: Iteration) -> None:
        made = self._made(iteration)
        # Before it is sent: whoever has it may wait for the next.
        self._busy = False
        self._guest.connection.tell("iteration", made, lambda: not self._over)

    def _queued(self, iteration: Iteration) -> None:
        self._post(partial(self._take, iteration))

    def _made(self, iteration: Iteration) -> Reply:
        extra = {"watch": self.number, "session": self.held.id, "lost": self.lost}
        return deliver(iteration, self._how, self._form, self._most, extra)

    def _post(self, do: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(do)

    def _take(self, iteration: Iteration) -> None:
        if not self._over:
            self._spawn(self._push(iteration))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _push(self, iteration: Iteration) -> None:
        try:
            await self._put(iteration)
        except (TrackError, RuntimeError, OSError, MemoryError) as error:
            self._end(error)
            return
        self._busy = False
        if self._sending is None:
            self._sending = self._spawn(self._send())

    async def _put(self, iteration: Iteration) -> None:
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
        """Until nothing waits."""
        while True:
            await self._guest.connection.out.room()
            async with self._lock:
                if not self._queue:
                    self._sending = None
                    return
                iteration = self._queue.popleft()
            try:
                future = self.held.worker.submit(partial(self._made, iteration))
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
        if self._over:
            return
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
        self.stop()


def due_after(due: float, interval: float, now: float) -> float:
    """When the tick after the one at `due` comes: later than `now`, in step as far as may be."""
    next_one = due + max(1, math.floor((now - due) / interval) + 1) * interval
    step = round(next_one / interval) * interval
    most = interval * _SHIFT
    moved = min(max(step, next_one - most), next_one + most)
    return moved if moved > now else moved + interval


def _close(future: asyncio.Future[Reply]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
