"""Which private pages of file mappings went back to the file; see c/reverted.c."""

from __future__ import annotations

from ._native import ffi, lib
from .error import new_error, raised
from .pointer import words
from .scan import as_runs


def find_reverted(
    pagemap: int, pages: memoryview, *, swap_types: bool
) -> tuple[memoryview, memoryview]:
    """Of pages that were private: those that read as the file again, and those that may.

    pages: runs (see `native.runs`). swap_types: pagemap shows this process the types of swap
    entries (CAP_SYS_ADMIN), so nothing stays in doubt. Raises NativeError.
    """
    reverted = ffi.gc(lib.ut_regions_new(), lib.ut_regions_free)
    doubtful = ffi.gc(lib.ut_regions_new(), lib.ut_regions_free)
    error = new_error()
    at, count = words(pages), len(pages) // 2
    if lib.ut_find_reverted(pagemap, at, count, swap_types, reverted, doubtful, error):
        raise raised(error)
    return as_runs(reverted), as_runs(doubtful)
