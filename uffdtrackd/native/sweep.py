"""An iteration in which nothing new is mapped, in one call; see c/sweep.c."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ._native import ffi, lib
from .collect import Collected, Collector, collected
from .descriptors import Means
from .error import new_error, raised
from .layout import Layout
from .pointer import words
from .runs import EMPTY
from .scan import as_runs


class Swept(NamedTuple):
    """What one sweep found: as `Collector.collect`, `find_reverted` and `Descriptors.look` say.

    means: None where it could not be seen. pinned: bytes, VmPin of proc_pid_status(5).
    """

    collected: Collected
    reverted: memoryview
    doubtful: memoryview
    means: Means | None
    pinned: int


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
        # What C was told last, each with the object that it came from.
        self._settled: tuple[object, Any] = (None, None)
        self._own: tuple[object, Any] = (None, None)
        self._fds: object = None

    def _tell(
        self,
        settled: Sequence[tuple[int, int, int]],
        own: memoryview,
        fds: tuple[int, int, int],
    ) -> None:
        sweep = self._c
        if settled is not self._settled[0]:
            self._settled = settled, ffi.new("struct page_region24[]", list(settled))
            sweep.settled, sweep.settled_count = self._settled[1], len(settled)
        if own is not self._own[0]:
            self._own = own, words(own)
            sweep.own, sweep.own_count = self._own[1], len(own) // 2
        if fds is not self._fds:
            self._fds = fds
            sweep.links, sweep.infos, sweep.status = fds

    def run(
        self,
        settled: Sequence[tuple[int, int, int]],
        own: memoryview,
        fds: tuple[int, int, int],
        also: memoryview = EMPTY,
    ) -> Swept | bool:
        """What was written; else whether maps changed (if not, something is not registered).

        settled: what is known not to be registered, as `scan.get` has it. own: runs of private
        pages of files, which may revert. fds: /proc/PID/fd, fdinfo and status, open; -1: look at
        none. also: runs to list as dirty in any case. What is the same object as the last time is
        taken to be unchanged. Raises NativeError; what was written is unknown then: everything is
        dirty.
        """
        sweep = self._c
        self._tell(settled, own, fds)
        result = lib.ut_sweep_run(sweep, self._error)
        if result < 0:
            raise raised(self._error)
        if result != lib.UT_SWEEP_DONE:
            return bool(result == lib.UT_SWEEP_CHANGED)
        if not sweep.others:
            # To find each of the lists empty costs more than to make the one that is not.
            found = sweep.collected
            dirty = as_runs(found.dirty, also)
            return Swept(
                Collected(
                    dirty,
                    EMPTY,
                    EMPTY,
                    found.calls,
                    found.failed,
                    found.spans,
                    found.span_bytes,
                ),
                EMPTY,
                EMPTY,
                _MEANS.get(sweep.means),
                sweep.pinned,
            )
        return Swept(
            collected(sweep.collected, also),
            as_runs(sweep.reverted),
            as_runs(sweep.doubtful),
            _MEANS.get(sweep.means),
            sweep.pinned,
        )
