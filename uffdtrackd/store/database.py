"""Opens SQLite files as iteration logs, and says no to all others.

Written in WAL mode: a reader never waits for the tracker and the tracker never for a reader, and a
kill -9 at any instruction loses nothing that was committed. Two more files (-wal, -shm) stand
beside the log meanwhile. finish() makes one ordinary file of the three, which can be copied, sent
and read from a read-only place.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from urllib.parse import quote

from ..model.errors import LogError
from .schema import APPLICATION_ID, TABLES, VERSION

DAMAGED = "it is damaged, or cut off"
HOW = "uffdtrack track PID --log FILE makes one"
# A transaction of ours takes milliseconds: who holds the file longer is stuck.
BUSY_SECONDS = 2.0


def connect(path: str, mode: str) -> sqlite3.Connection:
    """A connection in autocommit mode. mode: that of SQLite's URI: "ro", "rw", ....

    It may be used by any thread, one at a time.
    """
    # A URI that began with two slashes would name a host.
    absolute = os.fsencode("/" + os.path.abspath(path).lstrip("/"))
    return sqlite3.connect(
        f"file:{quote(absolute)}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def create(path: str, meta: list[tuple[str, int | str]]) -> sqlite3.Connection:
    """A new log without iterations. Only its owner may read it: it tells where things are.

    meta: rows of the table. An existing file is never overwritten, unless it is empty (mktemp(1)
    makes such). LogError: it exists, or cannot be created.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.path.isfile(path) or os.path.getsize(path):
            raise LogError(f"{path} exists", hint="choose another name, or remove it") from None
    except (OSError, ValueError) as error:
        raise LogError(f"cannot create {path}: {reason(error)}") from error
    database: sqlite3.Connection | None = None
    try:
        database = connect(path, "rw")
        database.execute("PRAGMA journal_mode = WAL")
        # No fsync for each iteration: a power failure may lose the last ones, a crash none.
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
            f"{TABLES}"
        )
        database.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        database.execute("COMMIT")
    except sqlite3.Error as error:
        if database is not None:
            database.close()
        for name in (path, f"{path}-wal", f"{path}-shm"):
            if os.path.exists(name):
                os.unlink(name)
        raise LogError(f"cannot create {path}: {error}") from error
    return database


def reason(error: Exception) -> str:
    """What went wrong, in one line: a damaged file can have anything in SQLite's message."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(text.split())


def open_read(path: str) -> sqlite3.Connection:
    """An existing log, for reading, also while it is written.

    LogError: there is none, or it is not one that we can read.
    """
    # The file is never opened but by SQLite: to close another fd of it would drop the locks that
    # this process holds as its writer (fcntl_locking(2)), and the log could be torn.
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        raise LogError(f"cannot read {path}: {reason(error)}") from error
    if not regular:
        raise LogError(f"{path} is not a file")
    database = _open_ours(path)
    if os.path.exists(f"{path}-wal") and os.access(path, os.W_OK):
        database.close()
        finish(path)
        database = _open_ours(path)
    return database


def _open_ours(path: str) -> sqlite3.Connection:
    # A log that was killed and lies in a read-only place has no room for the lock file.
    frozen = not os.path.exists(f"{path}-wal") and not os.access(
        os.path.dirname(path) or ".", os.W_OK
    )
    database: sqlite3.Connection | None = None
    try:
        database = connect(path, "ro&immutable=1" if frozen else "ro")
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
    except (sqlite3.Error, ValueError) as error:
        if database is not None:
            database.close()
        if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB":
            raise LogError(f"{path} is not an iteration log", hint=HOW) from error
        raise LogError(f"cannot read {path}: {reason(error)}", hint=DAMAGED) from error
    if application == APPLICATION_ID and version == VERSION:
        return database
    database.close()
    if application != APPLICATION_ID:
        raise LogError(f"{path} is not an iteration log, but of another program", hint=HOW)
    raise LogError(
        f"{path} has version {version} of the log format, this program reads {VERSION}",
        hint="read it with the program that wrote it, or a newer one",
    )


def finish(path: str) -> None:
    """Brings what is in the -wal file home and removes it, unless somebody uses the log.

    After a kill -9 of the writer the next reader does this; the lock of a live writer prevents it.
    Errors are left to whoever reads next.
    """
    try:
        database = connect(path, "rw")
    except sqlite3.Error:
        return
    try:
        database.execute("PRAGMA busy_timeout = 0")
        database.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error:
        pass
    finally:
        database.close()
