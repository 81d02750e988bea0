"""The hot loop of an iteration over one address space; see c/collect.c."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._native import ffi, lib
from .error import new_error, raised
from .pointer import words
from .runs import EMPTY, owned, union
from .scan import as_runs


class Collected(NamedTuple):
    """What one collection found, each as runs (see `native.runs`).

    dirty: written, or part of a range whose scan failed. file: clean pages of a file, seen for
    the first time. discarded: blocks that were populated and are empty now.
    calls, failed: ioctls made, and how many of them failed. spans, span_bytes: stretches of
    blocks known to have pages.
    """

    dirty: memoryview
    file: memoryview
    discarded: memoryview
    calls: int
    failed: int
    spans: int
    span_bytes: int


def collected(out: Any, also: memoryview) -> Collected:
    """What a `struct ut_collected` says, with the runs of `also` among the dirty ones."""
    dirty = owned(out.dirty, out.dirty_count) if out.dirty_count else EMPTY
    return Collected(
        union(dirty, also) if also else dirty,
        as_runs(out.file),
        as_runs(out.discarded, as_runs(out.voids)),
        out.calls,
        out.failed,
        out.spans,
        out.span_bytes,
    )


class Collector:
    """Collects what was written through one /proc/PID/pagemap, the caller's to close."""

    def __init__(self, pagemap: int, limit: int, silent_holes: bool = False) -> None:
        """silent_holes: this kernel says nothing where there is no page table (c/collect.c)."""
        self._c: Any = ffi.gc(lib.ut_collector_new(pagemap, limit), lib.ut_collector_free)
        if not self._c:
            raise MemoryError("collector")
        lib.ut_collector_silent_holes(self._c, silent_holes)
        self._out = ffi.new("struct ut_collected *")

    def exclude(self, ranges: memoryview) -> None:
        """Ranges to leave alone from now on: somebody else scans them."""
        self._set(lib.ut_collector_exclude, ranges)

    def shared(self, ranges: memoryview) -> None:
        """Ranges of shared objects, where a page that is not mapped may still have content."""
        self._set(lib.ut_collector_shared, ranges)

    def adopt(self, pages: memoryview) -> None:
        """Runs of pages that another collector has seen, for one that has not collected yet."""
        self._set(lib.ut_collector_adopt, pages)

    def arm(self, uffd: int, pages: memoryview) -> None:
        """Runs of pages that a shared object has: every hole there is protected from now on.

        To be called before the pages are told. Raises NativeError: ENOENT where mappings come and
        go too fast, and some is not protected then.
        """
        error = new_error()
        if lib.ut_collector_arm(self._c, uffd, words(pages), len(pages) // 2, error):
            raise raised(error)

    def _set(self, call: Any, ranges: memoryview) -> None:
        if call(self._c, words(ranges), len(ranges) // 2):
            raise MemoryError("collector")

    def forget(self, ranges: memoryview) -> None:
        """Ranges that were unmapped, or mapped anew: no page there is known any more."""
        for i in range(0, len(ranges), 2):
            lib.ut_collector_forget(self._c, ranges[i], ranges[i + 1])

    def collect(self, also: memoryview = EMPTY) -> Collected:
        """One collection.

        also: runs to list as dirty in any case. Raises NativeError with ESRCH when the address
        space is gone; after any NativeError what was written is unknown: everything is dirty.
        """
        error = new_error()
        out = self._out
        if lib.ut_collect(self._c, out, error):
            raise raised(error)
        return collected(out, also)

    @property
    def address(self) -> Any:
        """The C half, for `native.sweep`."""
        return self._c

    @property
    def span_bytes(self) -> int:
        """Bytes in blocks known to have pages."""
        return int(lib.ut_collector_span_bytes(self._c))
