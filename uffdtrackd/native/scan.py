"""userfaultfd registration and PAGEMAP_SCAN, one function a call; see api/scan.h."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

from . import runs
from ._native import ffi, lib
from .error import new_error, raised
from .pointer import words


class Page(IntFlag):
    """Categories of a page (Documentation/admin-guide/mm/pagemap.rst, PAGEMAP_SCAN)."""

    NONE = 0
    WPALLOWED = 0x1  # in a region registered for asynchronous write protection
    WRITTEN = 0x2  # not write-protected: written, or never protected
    FILE = 0x4  # not anonymous: page cache or shared memory
    PRESENT = 0x8
    SWAPPED = 0x10  # swapped, or empty with a protection marker
    PFNZERO = 0x20
    HUGE = 0x40


def as_runs(regions: Any, also: memoryview = runs.EMPTY) -> memoryview:
    """The runs of a `struct ut_regions *`, whatever its categories, together with `also`.

    also: runs (see `native.runs`).
    """
    count, others = int(regions.count), len(also) // 2
    if not count:
        return also
    out = runs.allocate(count + others)
    at = words(also)
    return runs.adopt(out, lib.ut_runs_union_regions(regions.data, count, at, others, out))


def _match(mask: Page, anyof: Page, inverted: Page, ret: Page) -> Any:
    return ffi.new(
        "struct ut_match *",
        {"inverted": int(inverted), "mask": int(mask), "anyof": int(anyof), "ret": int(ret)},
    )


def _walk(
    call: Any,
    pagemap: int,
    start: int,
    end: int,
    match: Any,
    *limit: int,
) -> list[tuple[int, int, int]]:
    regions = ffi.gc(lib.ut_regions_new(), lib.ut_regions_free)
    error = new_error()
    if call(pagemap, start, end, match, *limit, regions, error):
        raise raised(error)
    data = regions.data
    return [(data[i].start, data[i].end, data[i].categories) for i in range(regions.count)]


def get(
    pagemap: int,
    start: int,
    end: int,
    *,
    mask: Page = Page.NONE,
    anyof: Page = Page.NONE,
    inverted: Page = Page.NONE,
    ret: Page = Page.NONE,
) -> list[tuple[int, int, int]]:
    """What matches in bytes [start, end): (start, end, categories of `ret`). Protects nothing.

    A page matches if ((categories ^ inverted) & mask) == mask and, unless anyof is empty, it has
    one of anyof. Raises NativeError.
    """
    match = _match(mask, anyof, inverted, ret)
    return _walk(lib.ut_scan_get, pagemap, start, end, match, 0)


def forgo(yes: bool) -> None:
    """For tests: from now on as if there were no PAGEMAP_SCAN, or as it is."""
    lib.ut_scan_forgo(yes)


def clear(
    pagemap: int,
    start: int,
    end: int,
    *,
    mask: Page = Page.WRITTEN,
    anyof: Page = Page.NONE,
    ret: Page = Page.NONE,
) -> list[tuple[int, int, int]]:
    """As `get`, and write-protects what is reported.

    After a NativeError the whole range is dirty.
    """
    match = _match(mask, anyof, Page.NONE, ret)
    return _walk(lib.ut_scan_clear, pagemap, start, end, match)


def limit(pagemap: int) -> int:
    """The end of what PAGEMAP_SCAN takes here, in bytes. Raises NativeError where there is none."""
    error = new_error()
    value = int(lib.ut_scan_limit(pagemap, error))
    if not value:
        raise raised(error)
    return value


def enable_async(uffd: int) -> None:
    """UFFDIO_API with UFFD_FEATURE_WP_ASYNC, once in a userfaultfd's life. Raises NativeError."""
    error = new_error()
    if lib.ut_uffd_enable_async(uffd, error):
        raise raised(error)


def register(uffd: int, start: int, end: int) -> None:
    """UFFDIO_REGISTER of bytes [start, end) for write protection.

    One call may span many VMAs and holes; one unsuitable VMA fails the whole of it. Raises
    NativeError with EINVAL, EPERM or EBUSY then.
    """
    error = new_error()
    if lib.ut_uffd_register(uffd, start, end, error):
        raise raised(error)


def unprotect(uffd: int, start: int, end: int) -> None:
    """UFFDIO_WRITEPROTECT of bytes [start, end) with mode 0: its pages count as written.

    Raises NativeError; ENOENT where part of it is not registered, with what lies before done.
    """
    error = new_error()
    if lib.ut_uffd_unprotect(uffd, start, end, error):
        raise raised(error)


def wake(uffd: int, start: int, end: int) -> None:
    """UFFDIO_WAKE of bytes [start, end): who waits there for a handler faults again.

    Raises NativeError.
    """
    error = new_error()
    if lib.ut_uffd_wake(uffd, start, end, error):
        raise raised(error)
