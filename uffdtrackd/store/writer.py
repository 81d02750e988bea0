"""Writes an iteration log, and goes on when the disk is full.

    append(it) --> state = fold(state, it)         all that is populated, kept in memory
               --> one transaction: prune if too large, insert
                     | ok                  | fails
                     v                     v
                   stored              a gap begins: LogError once, needs_full
                                           | every further append tries again
                                           v
                                       the first that succeeds stores `state`, a complete
                                       record that covers the gap, and a row in `gaps`

So no write of the target is ever missing from a log: what could not be stored is in the complete
record after it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from types import TracebackType
from typing import Self

from ..model.errors import LogError, UsageError
from ..model.fold import fold
from ..model.iteration import Iteration
from .database import create, finish
from .meta import LogMeta
from .prune import prune
from .records import Known, insert

# The log is brought home from the -wal file when that has this many pages of 4 KiB.
CHECKPOINT_PAGES = 1000


class LogWriter:
    """One new log. Not for two threads at a time; a context manager that closes it.

    path: must not exist, or be empty. max_bytes: the oldest iterations are folded into one when
    the file would become larger (it cannot become smaller than that one and the newest); None:
    never. LogError: the file exists or cannot be made. UsageError: max_bytes is not positive.
    """

    def __init__(
        self, path: str | os.PathLike[str], meta: LogMeta, max_bytes: int | None = None
    ) -> None:
        if max_bytes is not None and max_bytes <= 0:
            raise UsageError(f"a log cannot be limited to {max_bytes} bytes")
        self.path = os.fspath(path)
        self.meta = meta
        self._max_bytes = max_bytes
        self._known = Known()
        self._state: Iteration | None = None
        self._from_zero = False
        self._gap: tuple[int, int, str] | None = None
        self._last = -1
        self._database: sqlite3.Connection | None = create(self.path, meta.rows())
        pages = CHECKPOINT_PAGES
        if max_bytes is not None:
            pages = max(16, min(pages, max_bytes // 4096 // 4))
        self._database.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        self._database.execute(f"PRAGMA journal_size_limit = {pages * 4096}")

    @property
    def needs_full(self) -> bool:
        """Whether iterations could not be stored: the next record will be a complete one."""
        return self._gap is not None

    def append(self, iteration: Iteration) -> bool:
        """Stores an iteration; True if it is in the log now.

        LogError: it cannot be stored (disk full, ...). Raised for the first of a gap only; while
        the gap lasts, append() returns False. In both cases nothing is lost: the next record that
        can be stored makes up for it. UsageError: numbers do not rise or the page size changed,
        or the log is closed.
        """
        database = self._open()
        sizes = {iteration.page_size, self.meta.page_size}
        for pages in iteration.processes.values():
            sizes |= {one.page_size for one in (pages.dirty, pages.discarded, pages.always)}
        if len(sizes) > 1:
            raise UsageError(f"a log has one page size, not {sorted(sizes)}")
        if iteration.number <= self._last:
            raise UsageError(f"iteration {iteration.number} comes after {self._last} in the log")
        if self._state is None:
            self._from_zero = iteration.number == 0
        self._state = fold(self._state, iteration) if self._state is not None else iteration
        self._last = iteration.number
        try:
            self._store(database, iteration)
        except BaseException as error:
            if database.in_transaction:
                database.rollback()
            began = self._gap is None
            if self._gap is None:
                self._gap = (iteration.number, time.time_ns(), str(error) or type(error).__name__)
            if not isinstance(error, sqlite3.Error):
                raise
            if began:
                raise LogError(
                    f"iteration {iteration.number} is not in {self.path}: {error}",
                    hint="make room: the next record is a full one and covers the gap",
                ) from error
            return False
        return True

    def _store(self, database: sqlite3.Connection, iteration: Iteration) -> None:
        assert self._state is not None
        first, complete = iteration.number, iteration.number == 0
        database.execute("BEGIN IMMEDIATE")
        if self._max_bytes is not None:
            prune(database, self._max_bytes, self.meta.page_size)
        if self._gap is not None:
            first, time_ns, reason = self._gap
            complete = self._from_zero
            if first < iteration.number:
                row = (first, iteration.number - 1, time_ns, reason)
                database.execute("INSERT INTO gaps VALUES (?, ?, ?, ?)", row)
            iteration = self._state
        known = insert(database, iteration, first, complete, self._known)
        database.execute("COMMIT")
        self._known, self._gap = known, None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            raise UsageError(f"the log {self.path} is closed")
        return self._database

    def close(self) -> None:
        """Leaves one ordinary file. What a gap still holds back is tried once more.

        LogError: it cannot be stored even now; the file is closed all the same.
        """
        if self._database is None:
            return
        database = self._database
        try:
            if self._gap is not None and self._state is not None:
                first = self._gap[0]
                try:
                    self._store(database, self._state)
                except sqlite3.Error as error:
                    if database.in_transaction:
                        database.rollback()
                    raise LogError(
                        f"iterations {first} to {self._last} are not in {self.path}: {error}"
                    ) from error
        finally:
            self._database = None
            database.close()
            finish(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
