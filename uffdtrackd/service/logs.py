"""Iteration logs of the daemon: one file a session in STATE/logs, limited by size and age.

    attach {log: true}, or as configured --> begin() --> STATE/logs/20261125T030405-s1a2b-PID.uft
    an iteration was answered -------------> the worker appends it
    start, end of a session, each hour ----> prune(): too old goes, then the oldest until the rest
                                             is small enough; never a file that is being written

What cannot be stored is said once, and covered by the record after it (store/writer.py). Logs are
for people: no client waits for one, and a full disk stops no session.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ..model.errors import LogError, TrackError
from ..model.iteration import Iteration
from ..store.log import LogMeta, LogWriter
from . import journal, messages, settings
from .held import Held

log = logging.getLogger(__name__)

_SUFFIX = ".uft"
# SQLite's companions of a file.
_COMPANIONS = ("-wal", "-shm", "-journal")


class SessionLog:
    """The log of one session; everything in the thread of the session's worker."""

    def __init__(self, path: Path, held: Held, most: int) -> None:
        """Raises LogError, TargetGone."""
        tracked = held.session
        meta = LogMeta.of_process(tracked.pid, tracked.page_size)
        self._writer = LogWriter(path, meta, most)
        self._held = held

    def append(self, iteration: Iteration) -> None:
        """Never raises: tracking goes on."""
        try:
            self._writer.append(iteration)
        except (TrackError, OSError) as error:
            self._failed(error)

    def close(self) -> None:
        try:
            self._writer.close()
        except (TrackError, OSError) as error:
            self._failed(error)

    def _failed(self, error: TrackError | OSError) -> None:
        self._held.note_error(error if isinstance(error, TrackError) else LogError(str(error)))
        journal.log(
            messages.LOG_FAILED,
            f"session {self._held.id}: {error}",
            session=self._held.id,
            pid=self._held.session.pid,
        )


class Logs:
    """All below one state folder."""

    def __init__(self, state: str, config: settings.Log) -> None:
        self.config = config
        self._folder = Path(state) / "logs"
        self._open: set[str] = set()

    def begin(self, held: Held) -> None:
        """In the worker's thread: makes the log and hangs it into the session. Raises LogError."""
        when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        path = self._folder / f"{when}-{held.id}-{held.session.pid}{_SUFFIX}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise LogError(
                f"cannot make {self._folder}: {error.strerror}",
                hint="choose another state folder with --state DIR, or attach without a log",
            ) from error
        self._open.add(path.name)
        try:
            one = SessionLog(path, held, self.config.file_bytes)
        except BaseException:
            self._open.discard(path.name)
            raise

        def close() -> None:
            one.close()
            self._open.discard(path.name)

        held.log_path = str(path)
        held.on_iteration = one.append
        held.on_close = close

    def prune(self) -> None:
        """Removes what is too old or too much. Blocks: not for the loop."""
        try:
            found = [one for one in self._folder.iterdir() if one.suffix == _SUFFIX]
        except OSError:
            return  # no log yet, or a folder that nothing can be done about
        sizes = {one: _size(one) for one in found}
        ages = {one: _changed(one) for one in found}
        total = sum(sizes.values())
        limit = time.time() - self.config.age_max
        for one in sorted(found, key=lambda path: ages[path]):
            if one.name in self._open:
                continue
            if ages[one] >= limit and total <= self.config.total_bytes:
                continue
            total -= sizes[one]
            log.info("removing the log %s: too old, or all logs are too large", one.name)
            for name in (one.name, *(one.name + more for more in _COMPANIONS)):
                with suppress(OSError):
                    os.unlink(self._folder / name)


def _size(path: Path) -> int:
    return sum(
        os.stat(f"{path}{more}").st_size
        for more in ("", *_COMPANIONS)
        if os.path.exists(f"{path}{more}")
    )


def _changed(path: Path) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
