"""The handler of synchronous faults; see api/faults.h and c/faults.c."""

from __future__ import annotations

from enum import IntFlag
from typing import Any, NamedTuple

from ._native import ffi, lib
from .error import NativeError, new_error, raised


class Feature(IntFlag):
    """Features of a userfaultfd (ioctl_userfaultfd(2), linux/userfaultfd.h)."""

    NONE = 0
    PAGEFAULT_FLAG_WP = lib.UT_FEATURE_PAGEFAULT_FLAG_WP
    WP_HUGETLBFS_SHMEM = lib.UT_FEATURE_WP_HUGETLBFS_SHMEM
    WP_UNPOPULATED = lib.UT_FEATURE_WP_UNPOPULATED
    WP_ASYNC = lib.UT_FEATURE_WP_ASYNC


def features() -> Feature:
    """What the userfaultfd of this kernel can do. Raises NativeError where there is none for us."""
    error = new_error()
    found = int(lib.ut_uffd_features(error))
    if not found:
        raise raised(error)
    return Feature(found)


def enable_sync(uffd: int) -> Feature:
    """UFFDIO_API for synchronous write protection, once in a userfaultfd's life.

    Returns what was enabled: without WP_HUGETLBFS_SHMEM shared memory and huge pages cannot be
    registered. Raises NativeError.
    """
    error = new_error()
    enabled = int(lib.ut_uffd_enable_sync(uffd, error))
    if not enabled:
        raise raised(error)
    return Feature(enabled)


def unregister(uffd: int, start: int, end: int) -> None:
    """UFFDIO_UNREGISTER of bytes [start, end), and wakes who waits there. Raises NativeError."""
    error = new_error()
    if lib.ut_uffd_unregister(uffd, start, end, error):
        raise raised(error)


class Counts(NamedTuple):
    """What a handler has done. faults: resolved. batches: reads that brought some.

    most: in one read. refused: pages whose mapping had changed meanwhile.
    """

    faults: int
    batches: int
    most: int
    refused: int


class Faults:
    """A running handler thread for a userfaultfd, which the caller keeps open meanwhile.

    Raises NativeError if the thread cannot be started.
    """

    def __init__(self, uffd: int) -> None:
        error = new_error()
        self._c: Any = lib.ut_faults_start(uffd, error)
        if not self._c:
            raise raised(error)
        self._out = ffi.new("struct ut_faults_count *")

    def counts(self) -> Counts:
        """Raises NativeError if the thread cannot read the userfaultfd."""
        lib.ut_faults_count(self._c, self._out)
        out = self._out
        if out.err:
            raise NativeError("read faults", out.err)
        return Counts(out.faults, out.batches, out.most, out.refused)

    def stop(self) -> None:
        """Ends it, once nothing is protected any more. May be called twice."""
        if self._c:
            lib.ut_faults_stop(self._c)
            self._c = ffi.NULL

    def __del__(self) -> None:
        if hasattr(self, "_c"):
            self.stop()
