"""Where descriptors of strangers are closed: close(2) may wait for as long as they like.

    FdSet, Connection --put()--> waiting --a thread, while there are any--> close(2)

The last close of a TCP socket waits for its other end if SO_LINGER says so (socket(7)), each close
of a file of FUSE for whoever serves it. A UNIX socket takes with it what nobody read from it, with
the descriptors in that. None of this may be done by who serves everybody.

There is one for each user, so that whoever makes it wait waits alone.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

# Descriptors that may wait until no more are taken from the user.
_MOST = 512


class Disposal:
    """Of one user. Everything is for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()
        self._at_work = False

    @property
    def full(self) -> bool:
        """Whether so many wait that whoever sends them should be stopped; put() still works."""
        return len(self._waiting) > _MOST

    def put(self, fds: Iterable[int]) -> None:
        """Has them closed, and returns at once."""
        with self._lock:
            self._waiting.extend(fds)
            if self._at_work or not self._waiting:
                return
            try:
                # The end of the daemon does not wait for it.
                threading.Thread(target=self._run, name="disposal", daemon=True).start()
            except RuntimeError:
                return  # no thread can be had: they wait for the next one
            self._at_work = True

    def _run(self) -> None:
        while (fd := self._next()) >= 0:
            # close(2): whatever it says, the descriptor is gone.
            with suppress(OSError):
                os.close(fd)

    def _next(self) -> int:
        with self._lock:
            self._at_work = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else -1
