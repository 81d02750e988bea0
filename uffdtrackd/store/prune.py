"""Keeps a log below a size: the oldest records become one, and what they say stays true.

    before   | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
    after    |     0..3      | 4 | 5 | 6 | 7 |      0..3 is fold(0, 1, 2, 3)

What is lost is the time at which a page of the oldest records was written, never that it was:
the union of all records is the same before and after. The freed pages of the file are used again,
so the file stops growing; it does not shrink.
"""

from __future__ import annotations

import sqlite3

from ..model.fold import fold_sets
from .records import insert_set, load_set

# Of the records, the oldest part that is folded at a time: few enough to keep a history, enough
# that a log at its limit does not fold at each append.
PART = 4


def prune(database: sqlite3.Connection, max_bytes: int, page_size: int) -> None:
    """Folds the oldest records until the log is below max_bytes with one more like the newest.

    Inside the caller's transaction. Stops with one record left.
    """
    while _used(database) + _newest(database) > max_bytes:
        numbers = [n for (n,) in database.execute("SELECT number FROM iterations ORDER BY number")]
        if len(numbers) < 2:
            return
        _fold(database, numbers[: max(2, len(numbers) // PART)], page_size)


def _used(database: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    pages, free, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _newest(database: sqlite3.Connection) -> int:
    """Bytes of the sets of the newest record, a guess at those of the next."""
    row = database.execute(
        "SELECT sum(length(d.roaring) + length(x.roaring)) FROM processes p"
        " JOIN page_sets d ON d.id = p.dirty JOIN page_sets x ON x.id = p.discarded"
        " WHERE p.iteration = (SELECT max(number) FROM iterations)"
    ).fetchone()
    return int(row[0] or 0)


def _fold(database: sqlite3.Connection, numbers: list[int], page_size: int) -> None:
    """Makes the last of `numbers` say what all of them say, and deletes the others."""
    last = numbers[-1]
    for pid, *ids in database.execute(
        "SELECT pid, dirty, discarded FROM processes WHERE iteration = ?", (last,)
    ).fetchall():
        sets = (load_set(database, ids[0], page_size), load_set(database, ids[1], page_size))
        # Newest first: a process that is missing in one record had ended before it, and what an
        # older one of the same pid wrote is gone.
        for number in reversed(numbers[:-1]):
            row = database.execute(
                "SELECT dirty, discarded FROM processes WHERE iteration = ? AND pid = ?",
                (number, pid),
            ).fetchone()
            if row is None:
                break
            older = (load_set(database, row[0], page_size), load_set(database, row[1], page_size))
            sets = fold_sets(older, sets)
        database.execute(
            "UPDATE processes SET dirty = ?, discarded = ? WHERE iteration = ? AND pid = ?",
            (insert_set(database, sets[0]), insert_set(database, sets[1]), last, pid),
        )
    database.execute(
        "UPDATE iterations SET (first, complete, duration_ns, stopped_ns) ="
        " (SELECT min(first), max(complete), sum(duration_ns), sum(stopped_ns)"
        "  FROM iterations WHERE number <= ?) WHERE number = ?",
        (last, last),
    )
    database.execute("DELETE FROM processes WHERE iteration < ?", (last,))
    database.execute("DELETE FROM iterations WHERE number < ?", (last,))
    database.execute(
        "DELETE FROM page_sets WHERE id NOT IN (SELECT dirty FROM processes UNION"
        " SELECT discarded FROM processes UNION SELECT always FROM processes)"
    )
    database.execute("DELETE FROM regions WHERE until <= ?", (last,))
