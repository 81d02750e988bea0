"""What is behind a shared mapping: one object, however many mappings and processes show it.

    /proc/TID/map_files/START-END --> identity   which object         (name_to_handle_at(2))
                                  --> stamp      when it was changed  (stat(2))
                                  --> seals      who may write it     (F_GET_SEALS, fcntl(2))
                                  --> extents    what of it exists    (SEEK_DATA, lseek(2))
                                  --> zero pages, by reading the file

map_files opens the very object, deleted or nameless as it may be; it needs
CAP_CHECKPOINT_RESTORE (proc_pid_map_files(5)). The object is opened for a moment only: an open
descriptor would keep the memory of an object that the target has given up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from functools import cache
from types import TracebackType
from typing import NamedTuple, Self

from ..model.pageset import PageSet
from ..native import object as native
from ..native.error import NativeError
from ..native.layout import Vma

# Bytes of an object that have a hint for the search for a word that is not zero: 16 MiB of
# hints. What lies behind is searched from its first word.
_HINTED = 32 << 30

_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h

# The clock that files take their times from, clock_gettime(2); linux/time.h.
CLOCK_REALTIME_COARSE = 5


class Stamp(NamedTuple):
    """changed_ns: st_ctime, which moves with each change of the content and which, unlike mtime,
    nobody can set back (utimensat(2)). settled: whether a change from here on leaves another."""

    changed_ns: int
    size: int
    settled: bool


def stamp(fd: int) -> Stamp:
    """When the file was changed last. Raises OSError."""
    # The clock stands still between two ticks, and longer where a tick comes late, as it does in
    # virtual machines. So it is asked itself, and first: what comes later is not before `now`.
    now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    status = os.fstat(fd)
    return Stamp(status.st_ctime_ns, status.st_size, status.st_ctime_ns < now)


def path_of(tid: int, vma: Vma) -> str:
    return f"/proc/{tid}/map_files/{vma.start:x}-{vma.end:x}"


def identity(tid: int, vma: Vma) -> str:
    """A name for the object that no other object has; "" where there is none to be had."""
    return _identity(path_of(tid, vma), vma)


def _identity(path: str, vma: Vma) -> str:
    try:
        name = native.handle(path)
    except NativeError:
        return ""
    major, minor = vma.device
    return f"{major:x}:{minor:x}:{vma.inode}:{name.hex()}"


@cache
def kernel_device() -> tuple[int, int]:
    """Of the file system that has all memory without a path: unnamed, SysV segments, memfds.

    A file of another one may have a name that looks like theirs in maps.
    """
    fd = os.memfd_create("uffdtrackd", os.MFD_CLOEXEC)
    try:
        device = os.fstat(fd).st_dev
    finally:
        os.close(fd)
    return os.major(device), os.minor(device)


def born(tid: int, vma: Vma) -> int:
    """When the object was made, in ns since 1970; 0 where that is not known."""
    return native.born_ns(path_of(tid, vma))


class Backing:
    """The object behind a mapping, open. `with` it. Raises OSError if it cannot be opened."""

    def __init__(self, tid: int, vma: Vma) -> None:
        self._fd = os.open(path_of(tid, vma), os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def shows(self, name: str, vma: Vma) -> bool:
        """Whether it is the object with this identity: something else may have been mapped."""
        return _identity(f"/proc/self/fd/{self._fd}", vma) == name

    def stamp(self) -> Stamp:
        return stamp(self._fd)

    def sealed(self) -> bool:
        """Whether only the mappings that it has now can write it (F_SEAL_FUTURE_WRITE, 5.1)."""
        try:
            return bool(fcntl.fcntl(self._fd, fcntl.F_GET_SEALS) & _SEAL_FUTURE_WRITE)
        except OSError:  # a file system that knows no seals
            return False

    def data(self, start: int, end: int) -> list[tuple[int, int]]:
        """What exists of the bytes [start, end) of the object; all of it where it cannot tell."""
        try:
            return list(self._data(start, end))
        except OSError:
            return [(start, end)]

    def zero(self, pages: PageSet, hints: bytearray) -> PageSet:
        """Those of the pages that are all zero. pages: in bytes into the object.

        hints: kept by the caller for the next time, grown here. Raises NativeError (ENOMEM).
        """
        if not pages:
            return pages
        size = pages.page_size
        wanted = min(pages.runs[-1], _HINTED) // size * 2
        if len(hints) < wanted:
            hints.extend(bytes(wanted - len(hints)))
        return PageSet.from_runs(native.zero_pages(self._fd, pages.runs, hints), size)

    def _data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        at = start
        while at < end:
            try:
                at = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError as error:
                # ENXIO: no data behind `at`, as lseek(2) has it.
                if error.errno == errno.ENXIO:
                    return
                raise
            if at >= end:
                return
            stop = min(os.lseek(self._fd, at, os.SEEK_HOLE), end)
            yield at, stop
            at = stop
