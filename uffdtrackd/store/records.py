"""Iterations as rows, and rows as iterations: what writer and reader of a log share.

    Iteration --insert--> iterations, processes, page_sets, regions --load--> Iteration

What seldom changes is stored when it changes: a region has one row for its whole life, and the
`always` set of a process is written again only when it differs from that of the newest record
(Known remembers both).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ..model.errors import LogError, UsageError
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from ..model.region import Kind, Region, Tracking
from .schema import FOREVER, signed, unsigned


@dataclass(frozen=True, slots=True)
class Layout:
    """The regions of a process in the newest record, and by start: (region, its `since`)."""

    regions: list[Region]
    rows: dict[int, tuple[Region, int]]


@dataclass(frozen=True, slots=True)
class Known:
    """What the newest record refers to, by pid: its layout, its always set and the id of that.

    Only of processes in that record: ids of others may be deleted with the records that used them.
    """

    layouts: dict[int, Layout] = field(default_factory=dict)
    always: dict[int, tuple[PageSet, int]] = field(default_factory=dict)


def insert_set(database: sqlite3.Connection, pages: PageSet) -> int:
    """Stores a page set, gives its id."""
    cursor = database.execute(
        "INSERT INTO page_sets (pages, runs, roaring) VALUES (?, ?, ?)",
        (len(pages), pages.run_count, pages.to_roaring()),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def load_set(database: sqlite3.Connection, number: int, page_size: int) -> PageSet:
    """A page set by id. LogError: it is missing or damaged."""
    row = database.execute(
        "SELECT pages, runs, roaring FROM page_sets WHERE id = ?", (number,)
    ).fetchone()
    if row is None or not isinstance(row[2], bytes):
        raise LogError(f"the log is damaged: page set {number} is missing")
    try:
        pages = PageSet.from_roaring(row[2], page_size)
    except UsageError as error:
        raise LogError(f"the log is damaged: page set {number}: {error}") from error
    # SQLite has no checksums: the counts find a good part of what a bad disk can do to a set.
    if (len(pages), pages.run_count) != row[:2]:
        raise LogError(f"the log is damaged: page set {number} is not what was stored")
    return pages


def insert(
    database: sqlite3.Connection, iteration: Iteration, first: int, complete: bool, known: Known
) -> Known:
    """Stores a record that covers iterations first..iteration.number, inside a transaction.

    complete: it lists everything populated. Returns what the next call is to be given as `known`,
    if the transaction commits.
    """
    database.execute(
        "INSERT INTO iterations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            iteration.number,
            first,
            complete,
            iteration.frozen,
            iteration.time_ns,
            iteration.duration_ns,
            iteration.stopped_ns,
            json.dumps(dict(iteration.stats)),
        ),
    )
    layouts: dict[int, Layout] = {}
    always: dict[int, tuple[PageSet, int]] = {}
    for pid in known.layouts.keys() - iteration.processes.keys():
        _end_regions(database, pid, iteration.number, known.layouts[pid].rows)
    for pid, pages in iteration.processes.items():
        layouts[pid] = _update_regions(
            database, pid, iteration.number, known.layouts.get(pid), pages.regions
        )
        old_always, always_id = known.always.get(pid, (None, 0))
        if old_always != pages.always:
            always_id = insert_set(database, pages.always)
        always[pid] = (pages.always, always_id)
        database.execute(
            "INSERT INTO processes VALUES (?, ?, ?, ?, ?)",
            (
                iteration.number,
                pid,
                insert_set(database, pages.dirty),
                insert_set(database, pages.discarded),
                always_id,
            ),
        )
    return Known(layouts, always)


def _update_regions(
    database: sqlite3.Connection, pid: int, number: int, old: Layout | None, regions: list[Region]
) -> Layout:
    """Ends the rows of what is gone or changed, begins those of what is new."""
    if old is not None and (old.regions is regions or old.regions == regions):
        return old
    ended = dict(old.rows) if old is not None else {}
    rows: dict[int, tuple[Region, int]] = {}
    for region in regions:
        row = ended.get(region.start)
        if row is not None and (row[0] is region or row[0] == region):
            del ended[region.start]
        else:
            row = (region, number)
        rows[region.start] = row
    _end_regions(database, pid, number, ended)
    database.executemany(
        "INSERT INTO regions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                pid,
                number,
                FOREVER,
                signed(one.start),
                signed(one.end),
                one.perms,
                signed(one.offset),
                *one.device,
                signed(one.inode),
                _label(one.label),
                one.kind.value,
                one.tracking.value,
                one.reason,
                one.page_size,
            )
            for one, since in rows.values()
            if since == number
        ),
    )
    return Layout(regions, rows)


def _end_regions(
    database: sqlite3.Connection, pid: int, number: int, rows: dict[int, tuple[Region, int]]
) -> None:
    database.executemany(
        "UPDATE regions SET until = ? WHERE pid = ? AND start = ? AND since = ?",
        ((number, pid, signed(start), since) for start, (_, since) in rows.items()),
    )


def _label(label: str) -> str | bytes:
    """SQLite text must be UTF-8: a path that is not goes in as a blob of its bytes."""
    raw = label.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def load_regions(database: sqlite3.Connection, pid: int, number: int) -> list[Region]:
    """The regions of a process in a record, by address. LogError: damaged."""
    found = []
    try:
        for row in database.execute(
            "SELECT * FROM regions WHERE pid = ? AND since <= ? AND until > ?",
            (pid, number, number),
        ):
            _, _, _, start, end, perms, offset, major, minor, inode, label, *rest = row
            if isinstance(label, bytes):
                label = label.decode("utf-8", "surrogateescape")
            kind, tracking, reason, page_size = rest
            found.append(
                Region(
                    unsigned(start),
                    unsigned(end),
                    perms,
                    unsigned(offset),
                    (major, minor),
                    unsigned(inode),
                    label,
                    Kind(kind),
                    Tracking(tracking),
                    reason,
                    page_size,
                )
            )
    except (ValueError, TypeError) as error:
        raise LogError(f"the log is damaged: regions of iteration {number}: {error}") from error
    return sorted(found, key=lambda region: region.start)


def load(
    database: sqlite3.Connection,
    number: int,
    page_size: int,
    regions: Callable[[int, int], list[Region]],
) -> Iteration:
    """The record with this number; `regions(pid, number)` is called when somebody asks.

    LogError: there is none, or it is damaged.
    """
    row = database.execute(
        "SELECT frozen, time_ns, duration_ns, stopped_ns, stats FROM iterations WHERE number = ?",
        (number,),
    ).fetchone()
    if row is None:
        raise LogError(f"the log has no iteration {number}")
    if not all(isinstance(value, int) for value in row[:4]):
        raise LogError(f"the log is damaged: iteration {number}")
    frozen, time_ns, duration_ns, stopped_ns, stats = row
    processes = {}
    for pid, *sets in database.execute(
        "SELECT pid, dirty, discarded, always FROM processes WHERE iteration = ? ORDER BY pid",
        (number,),
    ).fetchall():
        dirty, discarded, always = (load_set(database, one, page_size) for one in sets)
        processes[pid] = ProcessPages(dirty, discarded, always, partial(regions, pid, number))
    try:
        counters = dict(json.loads(stats))
    except (ValueError, TypeError) as error:
        raise LogError(f"the log is damaged: stats of iteration {number}: {error}") from error
    return Iteration(
        number, bool(frozen), time_ns, duration_ns, stopped_ns, page_size, processes, counters
    )
