"""Did a process fork since we last looked? Its children may have come, written, and gone.

the connector, where the kernel lets us listen     who forked, exactly
else the count of all forks, /proc/stat            somebody on the machine forked, or nobody
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from . import procfs
from .connector import Connector


class Born(NamedTuple):
    """some: whether there was a birth, or may have been. pids: those that are known."""

    some: bool
    pids: frozenset[int]


class Births:
    """Counts from when it was made. `close()` it."""

    def __init__(self) -> None:
        self._connector: Connector | None = None
        with suppress(OSError):  # then /proc/stat has to do
            self._connector = Connector()
        self._count = _forks_so_far()
        # Read ahead by meanwhile(), for since(); None: some were lost.
        self._read: list[tuple[int, int]] | None = []

    @property
    def exact(self) -> bool:
        """Whether it knows who forked, not only that somebody did."""
        return self._connector is not None

    def since(self, pids: Collection[int]) -> Born:
        """What was born to the processes, and to their children, since last asked."""
        count, self._count = self._count, _forks_so_far()
        if self._connector is None:
            return Born(count < 0 or count != self._count, frozenset())
        births, self._read = self._read_on(self._connector), []
        if births is None:
            return Born(True, frozenset())
        born: set[int] = set()
        for parent, child in births:
            if parent in pids or parent in born:
                born.add(child)
        if born or not births:
            return Born(bool(born), frozenset(born))
        # clone(CLONE_PARENT) makes a child of the caller's parent; ours are known to be others.
        parents = {parent for parent, _ in births} - {os.getpid()}
        return Born(bool(parents & _parents(pids)), frozenset())

    def meanwhile(self) -> frozenset[int] | None:
        """Whoever was born, to anybody, since since() was last asked; None where nobody knows."""
        if self._connector is None:
            return None
        self._read = self._read_on(self._connector)
        return None if self._read is None else frozenset(child for _, child in self._read)

    def _read_on(self, connector: Connector) -> list[tuple[int, int]] | None:
        births = connector.births()
        return None if births is None or self._read is None else self._read + births

    def close(self) -> None:
        """May be called twice."""
        if self._connector is not None:
            self._connector.close()
            self._connector = None


def _parents(pids: Collection[int]) -> set[int]:
    found = set()
    for pid in pids:
        try:
            found.add(procfs.read_stat(pid).ppid)
        except ProcessLookupError:
            continue
    return found


def _forks_so_far() -> int:
    """Forks since boot, threads included (proc_stat(5)); -1 where that cannot be read."""
    try:
        with open("/proc/stat", "rb") as file:
            for line in file:
                if line.startswith(b"processes "):
                    return int(line.split()[1])
    except OSError:
        pass
    return -1
