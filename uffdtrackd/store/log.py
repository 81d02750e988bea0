"""The iteration log, `*.uft`: one SQLite file a session that says what each iteration found.

    schema.py     tables, versions                     database.py   files: create, open, finish
    meta.py       whom and what it is about            records.py    iterations <-> rows
    writer.py     append, gaps when the disk is full   prune.py      the oldest as one
    reader.py     records, iterations, union

docs/log.md is the reference for people who query it with SQL.
"""

from __future__ import annotations

from .meta import LogMeta
from .reader import Gap, LogReader, Record
from .writer import LogWriter

__all__ = ["Gap", "LogMeta", "LogReader", "LogWriter", "Record"]
