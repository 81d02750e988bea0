"""Reads an iteration log, finished or still being written.

    with LogReader("redis.uft") as log:
        log.meta, log.records, log.gaps
        log.iteration(3)            one record as it was collected
        log.fold(2, 5)              2..5 as one iteration
        log.union()                 {pid: pages to copy to have what the last iteration had}

Records that were folded to keep the log small cover several iterations: what was asked for is
widened to whole records, so an answer may name too many pages, never too few.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..model.errors import LogError, UsageError
from ..model.fold import fold
from ..model.iteration import Iteration
from ..model.pageset import PageSet
from ..model.region import Region
from .database import DAMAGED, open_read, reason
from .meta import LogMeta
from .records import load, load_regions


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the log: iterations first..number, and how much they say.

    complete: it lists everything populated (iteration 0, the first after a gap, folded ones).
    duration_ns, stopped_ns: of all iterations it covers. Pages are those of all processes.
    """

    number: int
    first: int
    complete: bool
    frozen: bool
    time_ns: int
    duration_ns: int
    stopped_ns: int
    pids: int
    dirty_pages: int
    discarded_pages: int
    always_pages: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Iterations first..last could not be stored at time_ns; the record after them covers them."""

    first: int
    last: int
    time_ns: int
    reason: str


class LogReader:
    """A log, for one thread at a time; a context manager that closes it.

    LogError, from here and from every method: no such file, not a log, of a newer version, cut
    off or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._database: sqlite3.Connection | None = open_read(self.path)
        try:
            with self._reading() as database:
                self.meta = LogMeta.from_rows(dict(database.execute("SELECT * FROM meta")))
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the file; SQLite's errors become ours."""
        database = self._database
        if database is None:
            raise LogError(f"the log {self.path} is closed")
        outer = not database.in_transaction
        try:
            if outer:
                database.execute("BEGIN")
            yield database
        except (sqlite3.Error, ValueError, TypeError, OverflowError, MemoryError) as error:
            # Damage has many faces: text that is not UTF-8, a blob for a number, a size of 2^40.
            raise LogError(f"cannot read {self.path}: {reason(error)}", hint=DAMAGED) from error
        finally:
            if outer and database.in_transaction:
                database.rollback()

    @property
    def records(self) -> list[Record]:
        """All records, oldest first."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT i.number, i.first, i.complete, i.frozen, i.time_ns, i.duration_ns,"
                " i.stopped_ns, count(s.pid), ifnull(sum(s.dirty_pages), 0),"
                " ifnull(sum(s.discarded_pages), 0), ifnull(sum(s.always_pages), 0)"
                " FROM iterations i LEFT JOIN summary s ON s.iteration = i.number"
                " GROUP BY i.number ORDER BY i.number"
            ).fetchall()
        if not all(isinstance(value, int) for row in rows for value in row):
            raise LogError(f"cannot read {self.path}: a number is none", hint=DAMAGED)
        return [
            Record(number, first, bool(complete), bool(frozen), *rest)
            for number, first, complete, frozen, *rest in rows
        ]

    @property
    def gaps(self) -> list[Gap]:
        """What could not be stored, oldest first."""
        with self._reading() as database:
            return [Gap(*row) for row in database.execute("SELECT * FROM gaps ORDER BY first")]

    @property
    def numbers(self) -> list[int]:
        """The numbers that iteration() takes, rising."""
        with self._reading() as database:
            rows = database.execute("SELECT number FROM iterations ORDER BY number")
            return [number for (number,) in rows]

    def iteration(self, number: int) -> Iteration:
        """The record with this number. LogError also: there is none, or it was folded."""
        with self._reading() as database:
            covering = database.execute(
                "SELECT number, first FROM iterations WHERE number >= ? ORDER BY number LIMIT 1",
                (number,),
            ).fetchone()
            if covering is None or number < covering[1]:
                raise LogError(f"{self.path} has no iteration {number}", hint=self._range(database))
            if covering[0] != number:
                raise LogError(
                    f"iteration {number} is not in {self.path} by itself",
                    hint=f"record {covering[0]} covers iterations {covering[1]} to {covering[0]}",
                )
            return load(database, number, self.meta.page_size, self._regions)

    def fold(self, first: int | None = None, last: int | None = None) -> Iteration:
        """Iterations first..last as one (model.fold); None: the oldest, the newest.

        LogError also: there are none. UsageError: first > last.
        """
        if first is not None and last is not None and first > last:
            raise UsageError(f"iterations {first} to {last}: the first comes after the last")
        with self._reading() as database:
            numbers = [
                number
                for (number,) in database.execute(
                    "SELECT number FROM iterations WHERE number >= ifnull(?1, number)"
                    " AND first <= ifnull(?2, first) ORDER BY number",
                    (first, last),
                )
            ]
            if not numbers:
                raise LogError(f"{self.path} has no such iterations", hint=self._range(database))
            result = load(database, numbers[0], self.meta.page_size, self._regions)
            for number in numbers[1:]:
                result = fold(result, load(database, number, self.meta.page_size, self._regions))
            return result

    def union(self, first: int | None = None, last: int | None = None) -> dict[int, PageSet]:
        """Pages that were written in iterations first..last and still hold something, by pid."""
        folded = self.fold(first, last)
        return {pid: pages.dirty for pid, pages in folded.processes.items()}

    def _regions(self, pid: int, number: int) -> list[Region]:
        with self._reading() as database:
            return load_regions(database, pid, number)

    def _range(self, database: sqlite3.Connection) -> str:
        low, high = database.execute("SELECT min(first), max(number) FROM iterations").fetchone()
        return "it has none yet" if high is None else f"it has {low} to {high}"

    def close(self) -> None:
        """Regions of iterations that were not looked at yet cannot be loaded afterwards."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
