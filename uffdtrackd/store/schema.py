"""The SQLite schema of an iteration log, and how files that have it are told from others.

    iterations 1--n processes n--1 page_sets    three sets a process: dirty, discarded, always
                    processes n--n regions      a row for each life of a region: since, until
    meta, gaps

A file is a log if it is an SQLite database whose application_id is ours; user_version is the
version of this schema. docs/log.md is the reference for people who query it.
"""

from __future__ import annotations

# "UFTL" in the header of the file, for file(1) and for us.
APPLICATION_ID = 0x5546544C
VERSION = 1
# `until` of what is still there.
FOREVER = (1 << 63) - 1

TABLES = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;
CREATE TABLE iterations (
    number      INTEGER PRIMARY KEY,
    first       INTEGER NOT NULL,
    complete    INTEGER NOT NULL,
    frozen      INTEGER NOT NULL,
    time_ns     INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL,
    stopped_ns  INTEGER NOT NULL,
    stats       TEXT NOT NULL
);
CREATE TABLE processes (
    iteration INTEGER NOT NULL REFERENCES iterations,
    pid       INTEGER NOT NULL,
    dirty     INTEGER NOT NULL REFERENCES page_sets,
    discarded INTEGER NOT NULL REFERENCES page_sets,
    always    INTEGER NOT NULL REFERENCES page_sets,
    PRIMARY KEY (iteration, pid)
) WITHOUT ROWID;
CREATE TABLE page_sets (
    id      INTEGER PRIMARY KEY,
    pages   INTEGER NOT NULL,
    runs    INTEGER NOT NULL,
    roaring BLOB NOT NULL
);
CREATE TABLE regions (
    pid          INTEGER NOT NULL,
    since        INTEGER NOT NULL,
    until        INTEGER NOT NULL,
    start        INTEGER NOT NULL,
    "end"        INTEGER NOT NULL,
    perms        TEXT NOT NULL,
    offset       INTEGER NOT NULL,
    device_major INTEGER NOT NULL,
    device_minor INTEGER NOT NULL,
    inode        INTEGER NOT NULL,
    label        NOT NULL,
    kind         TEXT NOT NULL,
    tracking     TEXT NOT NULL,
    reason       TEXT NOT NULL,
    page_size    INTEGER NOT NULL,
    PRIMARY KEY (pid, start, since)
) WITHOUT ROWID;
CREATE TABLE gaps (
    first   INTEGER PRIMARY KEY,
    last    INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    reason  TEXT NOT NULL
);
CREATE VIEW summary AS
    SELECT i.number AS iteration, i.first, i.complete, i.frozen, i.time_ns, i.duration_ns,
           i.stopped_ns, p.pid, d.pages AS dirty_pages, x.pages AS discarded_pages,
           a.pages AS always_pages
    FROM iterations i
    JOIN processes p ON p.iteration = i.number
    JOIN page_sets d ON d.id = p.dirty
    JOIN page_sets x ON x.id = p.discarded
    JOIN page_sets a ON a.id = p.always;
"""


def signed(value: int) -> int:
    """An unsigned 64-bit number as SQLite can store it: 2^63 and above wrap to negative."""
    return value - (1 << 64) if value >= 1 << 63 else value


def unsigned(value: int) -> int:
    """The inverse of signed()."""
    return value & ((1 << 64) - 1)
