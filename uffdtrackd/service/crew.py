"""The threads that do the workers' jobs: as few as will do, and more as soon as one is slow.

    Worker (one a session, its jobs in turn) --> ready --> a hand: worker, worker, worker, ...
                                                   |
             a hand is at one job for long --------+--> one more hand goes on with the rest

Sixty-four sessions that are due together are done in a row by one thread that is awake already,
with code and stack in its caches: half of what it costs to wake a thread for each of them. Nobody
waits for a slow one: a job that has taken SLOW, or that did so the last time, counts as none that
the others could wait for, and they are gone on with by another thread. So there may be as many
threads as sessions; those that nobody needs end after a while.

The event loop looks after it, and only while something waits.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import Protocol

# Seconds that one job may keep others waiting.
SLOW = 0.002
# Seconds after which a thread that nobody needed ends; the last one stays.
_IDLE = 2.0
# Enough for SQLite and for every call into C; the default of 8 MiB is only address space, but
# counts where that is limited.
_STACK = 1 << 20


class Turns(Protocol):
    """What is needed of a worker."""

    def take_turn(self) -> bool:
        """Does one job; whether there are more. Called with no lock held."""

    @property
    def was_slow(self) -> bool:
        """Whether its last job took longer than others should wait."""


class Hand:
    """One thread. began: of what it is at, in time.monotonic(); slow: nobody waits for that.

    began is inf until it has come to what it was called for.
    """

    __slots__ = ("began", "slow", "tokens")

    def __init__(self) -> None:
        self.began = inf
        self.slow = False
        self.tokens: SimpleQueue[None] = SimpleQueue()


class Crew:
    """Made on the event loop. `lock` is of all that its workers have in hand, too."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._ready: deque[Turns] = deque()
        self._busy: set[Hand] = set()
        # The last one is the one to take: it has been idle for the shortest time.
        self._idle: list[Hand] = []
        self._looking = False

    @property
    def threads(self) -> int:
        """That there are now."""
        return len(self._busy) + len(self._idle)

    def add(self, worker: Turns, *, first: bool = False) -> None:
        """It has jobs and did not have any; with the lock held. first: before all others.

        Raises RuntimeError if no thread can be had for it.
        """
        if first:
            self._ready.appendleft(worker)
        else:
            self._ready.append(worker)
        try:
            self._call(time.monotonic())
        except BaseException:
            self._ready.remove(worker)
            raise

    def _call(self, now: float) -> None:
        """Sees to it that what is ready is done: by who is awake, or by one more."""
        for hand in self._busy:
            if not hand.slow:
                if now - hand.began < SLOW:
                    self._look_soon()
                    return
                hand.slow = True
        try:
            hand = self._idle.pop() if self._idle else self._made()
        except RuntimeError:
            if not self._busy:
                raise
            self._look_soon()  # one of those will have time
            return
        # No second one is called before it is there, however late: it would be as late as that.
        hand.began, hand.slow = inf, False
        self._busy.add(hand)
        hand.tokens.put(None)

    def _made(self) -> Hand:
        hand = Hand()
        before = threading.stack_size(_STACK)
        try:
            threading.Thread(target=self._run, args=(hand,), name="hand", daemon=True).start()
        finally:
            threading.stack_size(before)
        return hand

    def _look_soon(self) -> None:
        if self._looking:
            return
        self._looking = True
        # The loop has closed: its workers were waited for, nothing that matters is left.
        with suppress(RuntimeError):
            if threading.get_ident() == self._loop_thread:
                self._loop.call_later(SLOW, self._look)
            else:
                self._loop.call_soon_threadsafe(self._loop.call_later, SLOW, self._look)

    def _look(self) -> None:
        with self.lock:
            self._looking = False
            if self._ready:
                self._call(time.monotonic())
                self._look_soon()

    def _run(self, hand: Hand) -> None:
        while self._wait(hand):
            worker = self._next(hand)
            while worker is not None:
                more = worker.take_turn()
                worker = self._next(hand, worker if more else None)

    def _next(self, hand: Hand, again: Turns | None = None) -> Turns | None:
        """again: was done and has more to do, after the others. None: the hand is idle."""
        with self.lock:
            if again is not None:
                self._ready.append(again)
            if not self._ready:
                self._busy.discard(hand)
                self._idle.append(hand)
                return None
            worker = self._ready.popleft()
            hand.began, hand.slow = time.monotonic(), worker.was_slow
            if self._ready:
                self._call(hand.began)
            return worker

    def _wait(self, hand: Hand) -> bool:
        """Whether it is called; False: it is wanted no more."""
        try:
            hand.tokens.get(timeout=_IDLE)
        except Empty:
            with self.lock:
                if hand in self._idle and len(self._idle) > 1:
                    self._idle.remove(hand)
                    return False
            hand.tokens.get()
        return True
