"""Ctrl-C and SIGTERM end a command between two steps, never in the middle of one.

    signal --+-- inside `with stop.allowed()` (attaching, waiting) --> Interrupted, at once
             +-- elsewhere (collecting, writing) -----------------> remembered until the next such
             +-- a second one ------------------------------------> Interrupted, wherever it is

So a line of output is never cut, a session is always left by its `with`, and a command that is
stuck can still be ended. Ending it in any way is safe for the target: docs/how-it-works.md.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stay_awake() -> None:
    """The terminal stops us no more (Ctrl-Z, output in the background).

    For sessions in which the target waits for us at each first write: it would stop as well.
    """
    for signum in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(signum, signal.SIG_IGN)


class Interrupted(BaseException):
    """A signal asks the command to end; like KeyboardInterrupt no ordinary handler stops it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Stop:
    """Where the command may be ended by a signal."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._open = False

    def install(self) -> None:
        """Takes the signals over; what was ignored (nohup) stays ignored."""
        for signum in _CAUGHT:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._caught)

    def _caught(self, signum: int, frame: FrameType | None) -> None:
        second = self._signum is not None
        self._signum = signum
        if self._open or second:
            raise Interrupted(signum)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Within it a signal raises Interrupted; one that came earlier does on entry."""
        # Opened before the look: a signal in between is then raised by the handler.
        self._open = True
        try:
            if self._signum is not None:
                raise Interrupted(self._signum)
            yield
        finally:
            self._open = False
