"""Reads a target's memory, and keeps a copy of it in a sparse file.

    Memory(pid) --- read(start, length) ------------------> bytes
        |     \\--- read_runs(runs) -----------------------> bytes of all runs
        |
        +---------- copy_to(fd, runs) --> fd at offset == address; returns what is unreadable
        +---------- compare(fd, runs) --> pages that differ, pages that are unreadable
    punch(fd, runs), nonzero(fd, runs): on the file alone

Runs go in and come out as flat buffers of native unsigned 64-bit integers start, end, start,
end, ...: bytes, sorted, disjoint, page aligned; what comes out is also merged. The GIL is
released while C works.

Reading a page that the target never touched may allocate one (shmem, hugetlb): callers read
populated pages only.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from ._native import ffi, lib
from .error import new_error, raised
from .pointer import words

Runs = bytes | bytearray | memoryview
"""A buffer of u64 pairs."""

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """Reads the memory of one process.

    pid: of the target; the caller makes sure that it is still the same process. bound: reads what
    it has as memory now and nothing else, also when it runs another program by then, with other
    rights, or when its pid is another's; not as fast.
    Raises NativeError: EPERM where ptrace access is refused (ptrace(2), PTRACE_MODE_ATTACH),
    ESRCH when the process, or that memory, is gone; OSError, for one that is bound, where its
    /proc/PID/mem cannot be opened.
    """

    def __init__(self, pid: int, *, bound: bool = False) -> None:
        self.pid = pid
        self.source: Any = ffi.new("struct ut_copy_source *")
        # process_vm_readv(2) goes by pid.
        self.source.pid = 0 if bound else pid
        self.source.page_size = PAGE_SIZE
        # Without it PROT_NONE pages are unreadable and all else still works.
        try:
            self._mem_fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            if bound:
                raise
            self._mem_fd = -1
        self.source.mem_fd = self._mem_fd

    def close(self) -> None:
        """Closes its file; may be called twice."""
        if self._mem_fd >= 0:
            os.close(self._mem_fd)
        self._mem_fd = self.source.mem_fd = -1

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, start: int, length: int) -> bytes:
        """The bytes [start, start + length), any alignment.

        Raises NativeError (EFAULT) with the address of the first byte that cannot be read,
        ValueError if the range is negative or leaves the address space.
        """
        if start < 0 or length < 0 or start + length > 1 << 64:
            raise ValueError(f"not a range of addresses: {start:#x}+{length:#x}")
        buffer = bytearray(length)
        error = new_error()
        if lib.ut_copy_read(self.source, start, length, ffi.from_buffer(buffer), error):
            raise raised(error)
        return bytes(buffer)

    def read_runs(self, runs: Runs) -> bytes:
        """The bytes of all runs, one after the other. Raises as read()."""
        view = memoryview(runs).cast("B").cast("Q")
        buffer = bytearray(sum(view[1::2]) - sum(view[::2]))
        error = new_error()
        pointer, count = pairs_of(runs)
        if lib.ut_copy_read_runs(self.source, pointer, count, ffi.from_buffer(buffer), error):
            raise raised(error)
        return bytes(buffer)

    def copy_to(self, fd: int, runs: Runs) -> memoryview:
        """Copies the pages of the runs to the same offsets of fd.

        Returns the runs that could not be read; fd has zeros there.
        """
        unreadable = new_runs()
        error = new_error()
        pointer, count = pairs_of(runs)
        if lib.ut_copy_to_fd(self.source, pointer, count, fd, unreadable, error):
            raise raised(error)
        return view_of(unreadable)

    def compare(self, fd: int, runs: Runs, shift: int = 0) -> tuple[memoryview, memoryview]:
        """Compares the pages of the runs with fd at offset address + shift; a hole reads zero.

        shift: 0 for a shadow; for the file that a region maps, its offset minus its start.

        Returns the runs that differ and those that cannot be read in the target; a page that
        cannot be read differs if fd holds something there.
        """
        differ = new_runs()
        unreadable = new_runs()
        error = new_error()
        pointer, count = pairs_of(runs)
        if lib.ut_copy_compare(self.source, pointer, count, fd, shift, differ, unreadable, error):
            raise raised(error)
        return view_of(differ), view_of(unreadable)


def punch(fd: int, runs: Runs) -> None:
    """Makes the runs holes of fd again (fallocate(2)). Raises NativeError."""
    error = new_error()
    pointer, count = pairs_of(runs)
    if lib.ut_copy_punch(pointer, count, fd, error):
        raise raised(error)


def nonzero(fd: int, runs: Runs) -> memoryview:
    """The pages of the runs that hold a byte other than zero in fd. Raises NativeError."""
    found = new_runs()
    error = new_error()
    pointer, count = pairs_of(runs)
    if lib.ut_copy_nonzero(pointer, count, PAGE_SIZE, fd, found, error):
        raise raised(error)
    return view_of(found)


def pairs_of(runs: Runs) -> tuple[Any, int]:
    """The runs as C takes them: a pointer and how many."""
    return words(runs), memoryview(runs).nbytes // 16


def new_runs() -> Any:
    return ffi.gc(ffi.new("struct ut_copy_runs *"), lib.ut_copy_free)


def view_of(found: Any) -> memoryview:
    """The runs of a struct ut_copy_runs."""
    if not found.n:
        return memoryview(b"").cast("Q")
    # Copied: lists of differences are short, and a view must not outlive the C memory.
    return memoryview(bytes(ffi.buffer(found.runs, found.n * 16))).cast("Q")
