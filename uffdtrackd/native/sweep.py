"""An iteration in which nothing new is mapped, in one call; see c/sweep.c."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ._native import ffi, lib
from .collect import Collected, Collector
from .descriptors import Means
from .error import new_error, raised
from .layout import Layout
from .pointer import words
from .runs import EMPTY, owned
from .scan import as_runs


class Asked(NamedTuple):
    """What a sweep has to know; as long as it is the same object, nothing in it has changed.

    settled: what is known not to be registered, as `scan.get` has it. own: runs of private pages
    of files, which may revert. fds: /proc/PID/fd, fdinfo and status, open; -1: look at none.
    also: runs to list as dirty in any case. known: runs that a consumer holds.
    """

    settled: Sequence[tuple[int, int, int]]
    own: memoryview
    fds: tuple[int, int, int]
    also: memoryview
    known: memoryview


class Swept(NamedTuple):
    """What one sweep found: as `Collector.collect`, `find_reverted` and `Descriptors.look` say.

    means: None where it could not be seen. pinned: bytes, VmPin of proc_pid_status(5).
    """

    collected: Collected
    reverted: memoryview
    doubtful: memoryview
    means: Means | None
    pinned: int


class Quiet(NamedTuple):
    """A sweep that found writes to known pages and no more: nothing else is new, emptied or
    reverted, no call failed, nothing is pinned nor could be. The rest as in `Collected`."""

    dirty: memoryview
    calls: int
    failed: int
    spans: int
    span_bytes: int

    def in_full(self) -> Swept:
        """The same for who has more to look at."""
        found = Collected(self.dirty, EMPTY, EMPTY, *self[1:])
        return Swept(found, EMPTY, EMPTY, Means.NONE, 0)


# Making a member of an IntFlag costs more than all of the Python here.
_MEANS = {number: Means(number) for number in range(sum(Means) + 1)}


class Sweep:
    """One address space.

    layout, collector: which it shares with whoever goes step by step. pagemap: a descriptor, the
    caller's. limit: first address that is not scanned. swap_types: see `find_reverted`.
    """

    def __init__(
        self, layout: Layout, collector: Collector, pagemap: int, limit: int, *, swap_types: bool
    ) -> None:
        self._c: Any = ffi.gc(lib.ut_sweep_new(), lib.ut_sweep_free)
        if not self._c:
            raise MemoryError("sweep")
        self._shared = layout, collector  # kept alive
        self._c.layout, self._c.collector = layout.address, collector.address
        self._c.pagemap, self._c.limit, self._c.swap_types = pagemap, limit, swap_types
        self._error = new_error()
        self._counts = ffi.addressof(self._c.collected, "calls")
        # What C was told last, and reads: it must live as long.
        self._asked: Asked | None = None
        self._regions: Any = None

    def _tell(self, asked: Asked) -> None:
        sweep, settled = self._c, asked.settled
        if self._asked is None or settled is not self._asked.settled:
            self._regions = ffi.new("struct page_region24[]", list(settled))
            sweep.settled, sweep.settled_count = self._regions, len(settled)
        sweep.own, sweep.own_count = words(asked.own), len(asked.own) // 2
        sweep.also, sweep.also_count = words(asked.also), len(asked.also) // 2
        sweep.known, sweep.known_count = words(asked.known), len(asked.known) // 2
        sweep.links, sweep.infos, sweep.status = asked.fds
        self._asked = asked

    def run(self, asked: Asked) -> Quiet | Swept | bool:
        """What was written; else whether maps changed (if not, something is not registered).

        Raises NativeError; what was written is unknown then: everything is dirty.
        """
        if asked is not self._asked:
            self._tell(asked)
        sweep = self._c
        result = lib.ut_sweep_run(sweep, self._error)
        if result < 0:
            raise raised(self._error)
        if result != lib.UT_SWEEP_DONE:
            return bool(result == lib.UT_SWEEP_CHANGED)
        found = sweep.collected
        count = found.dirty_count
        dirty = owned(found.dirty, count) if count else EMPTY
        counts = ffi.unpack(self._counts, 4)
        if sweep.quiet:
            return Quiet(dirty, *counts)
        return Swept(
            Collected(
                dirty, as_runs(found.file), as_runs(found.discarded, as_runs(found.voids)), *counts
            ),
            as_runs(sweep.reverted),
            as_runs(sweep.doubtful),
            _MEANS.get(sweep.means),
            sweep.pinned,
        )
