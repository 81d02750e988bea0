"""Attaches of one process, one after the other: of two at once both may find it untracked.

    worker: turns.of(pid).take() --> attach --> loop: the session can be found --> leave()
    worker: turns.of(pid).take() ... waits ...................................... --> attach

Who waits is a worker, which has nothing else to do.
"""

from __future__ import annotations

import threading
import time

from ..model.errors import TimedOut


class Turns:
    """Of all processes."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        # Pids that somebody is at.
        self.taken: set[int] = set()

    def of(self, pid: int) -> Turn:
        return Turn(self, pid)


class Turn:
    """One attach of one process. Everything is for any thread."""

    def __init__(self, turns: Turns, pid: int) -> None:
        self._turns = turns
        self._pid = pid
        self._mine = False

    def take(self, seconds: float) -> float:
        """Waits until no other has it; what is left of the seconds then. Raises TimedOut."""
        began = time.monotonic()
        with self._turns.changed:
            if not self._turns.changed.wait_for(self._free, seconds):
                raise TimedOut(
                    f"process {self._pid} is being attached to for somebody else",
                    hint="try again, or with a longer deadline",
                    pid=self._pid,
                )
            self._turns.taken.add(self._pid)
            self._mine = True
        return max(seconds - (time.monotonic() - began), 0.0)

    def leave(self) -> None:
        """The next one may go on. May be called without take()."""
        with self._turns.changed:
            if self._mine:
                self._mine = False
                self._turns.taken.remove(self._pid)
                self._turns.changed.notify_all()

    def _free(self) -> bool:
        return self._pid not in self._turns.taken
