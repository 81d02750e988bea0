"""Huge pages of the machine's pool, for as long as a test needs them.

The pool belongs to everybody: what is added is taken away again, under a lock, rather than a value
put back that somebody else has changed meanwhile.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
SETTING = POOL / "nr_hugepages"


@contextmanager
def huge_pages(count: int) -> Iterator[bool]:
    """Whether the pool has `count` pages of 2 MiB more inside the block."""
    added = _change(count)
    try:
        yield added == count
    finally:
        _change(-added)


def _change(by: int) -> int:
    """By how many pages the pool grew."""
    if not by or not SETTING.exists():
        return 0
    try:
        with SETTING.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = _size()
            SETTING.write_text(str(max(0, before + by)))
            return _size() - before
    except OSError:
        return 0


def _size() -> int:
    """How many pages the pool is meant to have.

    What was taken away while a process that is just ending still had it is told in nr_hugepages
    until then, as surplus. Counted in, the next test would keep it for good.
    """
    return int(SETTING.read_text()) - int((POOL / "surplus_hugepages").read_text())
