"""Which pages of a target exist, as its page tables say; the face of c/presence.c."""

from __future__ import annotations

from ._native import lib
from .copy import PAGE_SIZE, new_runs, view_of
from .error import new_error, raised


def presence(pagemap: int, start: int, end: int) -> tuple[memoryview, memoryview]:
    """(own, file): runs of pages of [start, end), as flat u64 pairs of bytes.

    pagemap: fd of /proc/PID/pagemap. own: pages present or swapped out with content of their
    own, and places where the kernel keeps only a write-protect marker. file: pages of a file or
    of shared memory. Raises NativeError; ESRCH when the address space is gone.
    """
    own, file = new_runs(), new_runs()
    error = new_error()
    if lib.ut_presence(pagemap, start, end, PAGE_SIZE, own, file, error):
        raise raised(error)
    return view_of(own), view_of(file)
