"""A shadow of digests: 8 bytes of each page, in a sparse file; see c/digest.c.

The functions of `native.copy`, for a file that has the digest of the page at `address` at offset
address / page size * 8. A hole is the digest of a page of zeros.
"""

from __future__ import annotations

from ._native import lib
from .copy import PAGE_SIZE, Memory, Runs, new_runs, pairs_of, view_of
from .error import new_error, raised

BYTES = int(lib.UT_DIGEST_BYTES)


def copy_to(memory: Memory, fd: int, runs: Runs) -> memoryview:
    """Digests of the target's pages, to fd. Returns the runs that could not be read."""
    unreadable = new_runs()
    error = new_error()
    pointer, count = pairs_of(runs)
    if lib.ut_digest_to_fd(memory.source, pointer, count, fd, unreadable, error):
        raise raised(error)
    return view_of(unreadable)


def compare(memory: Memory, fd: int, runs: Runs) -> tuple[memoryview, memoryview]:
    """The runs whose digests are not those in fd, and those that cannot be read in the target."""
    differ, unreadable = new_runs(), new_runs()
    error = new_error()
    pointer, count = pairs_of(runs)
    if lib.ut_digest_compare(memory.source, pointer, count, fd, differ, unreadable, error):
        raise raised(error)
    return view_of(differ), view_of(unreadable)


def nonzero(fd: int, runs: Runs) -> memoryview:
    """The pages of the runs that are not the digest of zeros in fd. Raises NativeError."""
    found = new_runs()
    error = new_error()
    pointer, count = pairs_of(runs)
    if lib.ut_digest_nonzero(pointer, count, PAGE_SIZE, fd, found, error):
        raise raised(error)
    return view_of(found)


def punch(fd: int, runs: Runs) -> None:
    """Makes the runs zero again. Raises NativeError."""
    error = new_error()
    pointer, count = pairs_of(runs)
    if lib.ut_digest_punch(pointer, count, PAGE_SIZE, fd, error):
        raise raised(error)


def of_file(contents: int, runs: Runs, fd: int) -> None:
    """Digests of pages of a shadow of contents, to fd. Raises NativeError."""
    error = new_error()
    pointer, count = pairs_of(runs)
    if lib.ut_digest_file(contents, pointer, count, PAGE_SIZE, fd, error):
        raise raised(error)
