"""Synchronous write protection as a state of pages; see api/protect.h and c/protect.c."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import runs
from ._native import ffi, lib
from .error import new_error, raised
from .layout import Layout
from .pointer import words
from .scan import as_runs


class Vmas:
    """VMAs by address, none of them merged with its neighbour."""

    def __init__(self, words: Any, count: int) -> None:
        self.words = words
        self.count = count

    @classmethod
    def of(cls, layout: Layout, skipped: memoryview) -> Vmas:
        """Those of `layout` that do not begin in the runs `skipped`."""
        made = ffi.new("uint64_t[]", 2 * len(layout) or 1)
        gone, count = words(skipped), len(skipped) // 2
        return cls(made, lib.ut_layout_pairs(layout.c, gone, count, made))


def register_whole(
    uffd: int, registered: int | Vmas, layout: Layout, start: int, end: int
) -> memoryview | None:
    """UFFDIO_REGISTER of bytes [start, end), without leaving a VMA in two pieces.

    registered: a pagemap where PAGEMAP_SCAN tells it; else the VMAs that are, as far as anybody
    knows. Returns what had to be registered besides, as runs; None if nothing was done, for an end
    is inside of a VMA that is not registered. `layout` is refreshed. Raises NativeError as
    scan.register().
    """
    also = ffi.gc(lib.ut_regions_new(), lib.ut_regions_free)
    if isinstance(registered, int):
        by = ffi.new("struct ut_registered *", {"pagemap": registered})
    else:
        known = {"pagemap": -1, "known": registered.words, "count": registered.count}
        by = ffi.new("struct ut_registered *", known)
    error = new_error()
    done = lib.ut_register_whole(uffd, by, layout.c, start, end, also, error)
    if done < 0:
        raise raised(error)
    return as_runs(also) if done == 0 else None


class Swept(NamedTuple):
    """Populated pages, as runs: without the bit, of a file or not, and with it.

    unregistered: VMAs with bits that mean nothing.
    """

    written: memoryview
    written_file: memoryview
    clean: memoryview
    unregistered: memoryview


def sweep(pagemap: int, uffd: int, vmas: Vmas) -> Swept:
    """Looks at every page of the VMAs. Raises NativeError: ESRCH when all of it is gone."""
    out = ffi.gc(lib.ut_swept_new(), lib.ut_swept_free)
    error = new_error()
    if lib.ut_sweep(pagemap, uffd, vmas.words, vmas.count, out, error):
        raise raised(error)
    return Swept(
        as_runs(out.written),
        as_runs(out.written_file),
        as_runs(out.clean),
        as_runs(out.unregistered),
    )


def protect(uffd: int, vmas: Vmas, pages: memoryview) -> memoryview:
    """Protects runs of pages, VMA by VMA. Returns the VMAs where that is refused, as runs.

    Raises NativeError (ESRCH) when the address space is gone.
    """
    if not len(pages):
        return runs.EMPTY
    refused = ffi.gc(lib.ut_regions_new(), lib.ut_regions_free)
    error = new_error()
    at, count = words(pages), len(pages) // 2
    if lib.ut_protect(uffd, vmas.words, vmas.count, at, count, refused, error):
        raise raised(error)
    return as_runs(refused)
