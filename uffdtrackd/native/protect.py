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


def register_whole(uffd: int, layout: Layout, start: int, end: int) -> memoryview | None:
    """UFFDIO_REGISTER of bytes [start, end), without leaving a VMA in two pieces.

    Returns what had to be registered besides, as runs; None if nothing was done, for an end is
    inside of a VMA. `layout` is refreshed. Raises NativeError as scan.register().
    """
    also = ffi.gc(lib.ut_regions_new(), lib.ut_regions_free)
    error = new_error()
    done = lib.ut_register_whole(uffd, layout.c, start, end, also, error)
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
