"""A copy of a target that knows only what iterations say: the proof that they say enough.

    iteration 0..n -- apply() --> copy `dirty`, drop `discarded`      (the target runs)
    final          -- finish() -> the same, then every page of the    (the target is frozen)
                                  target is compared with the copy

The copy of a process is a sparse file in memory whose offsets are addresses: a page that is not
held is a hole and reads zero. It costs as much memory as the target has populated.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import psutil

from ..model.errors import TargetGone, TrackError
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from ..native import copy
from . import procfs
from .expectation import expect, union

_MIB = 1 << 20


@dataclass(frozen=True)
class Comparison:
    """What the comparison of one process with its copy has shown.

    compared: pages read in the target and found in the copy, or not.
    missed: pages that differ although the copy followed every report: none, or tracking failed.
    over_reported: pages of the final `dirty` that the copy already held with the same content.
    final_dirty: pages of the final `dirty`.
    unreadable: pages that nobody can read in the target (guard pages, memfd_secret).
    unverified: pages held of which no one can say whether they still exist.
    """

    pid: int
    compared: int
    missed: PageSet
    over_reported: int
    final_dirty: int
    unreadable: PageSet
    unverified: PageSet

    @property
    def equal(self) -> bool:
        return not self.missed


class Shadow:
    """The copies of all processes of a session.

    memory_limit: bytes that they may take together; by default half of what is free.
    """

    def __init__(self, memory_limit: int | None = None) -> None:
        if memory_limit is None:
            memory_limit = int(psutil.virtual_memory().available) // 2
        self.memory_limit = memory_limit
        self._copies: dict[int, _Copy] = {}

    @property
    def bytes(self) -> int:
        """Held, in all processes."""
        return sum(one.held.bytes for one in self._copies.values())

    def apply(self, iteration: Iteration) -> None:
        """Does what a consumer does with an iteration.

        Raises TargetGone if a process has ended, TrackError if the copy would exceed the limit
        (nothing is copied then) or a process cannot be read.
        """
        gone = self._copies.keys() - iteration.processes.keys()
        # A pid that ended and is there again: another process has it now.
        for pid in gone | (self._copies.keys() & set(iteration.exited or ())):
            self._copies.pop(pid).close()
        for pid, pages in iteration.processes.items():
            if pid not in self._copies:
                self._copies[pid] = _Copy(pid, pages.dirty.page_size)
        need = sum(
            (self._copies[pid].held - pages.discarded | pages.dirty).bytes
            for pid, pages in iteration.processes.items()
        )
        if need > self.memory_limit:
            raise TrackError(
                f"a copy of the target takes {need / _MIB:.0f} MiB, more than the limit of"
                f" {self.memory_limit / _MIB:.0f} MiB",
                hint="give it more with --memory MIB",
            )
        for pid, pages in iteration.processes.items():
            self._copies[pid].apply(pages)

    def finish(self, final: Iteration) -> list[Comparison]:
        """Applies the final iteration and compares every page, one Comparison a process.

        The target must be frozen since before `final` was taken. Raises as apply().
        """
        same = {
            pid: self._copies[pid].count_same(pages)
            for pid, pages in final.processes.items()
            if pid in self._copies
        }
        self.apply(final)
        return [
            self._copies[pid].compare(pages, same.get(pid, 0))
            for pid, pages in final.processes.items()
        ]

    def close(self) -> None:
        """Gives the memory back; may be called twice."""
        while self._copies:
            self._copies.popitem()[1].close()

    def __enter__(self) -> Shadow:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Copy:
    """The copy of one process."""

    def __init__(self, pid: int, page_size: int) -> None:
        self.pid = pid
        self.held = PageSet(page_size)
        self.page_size = page_size
        self._fd = os.memfd_create(f"shadow of {pid}", os.MFD_CLOEXEC)
        # As large as an address space may be; costs nothing until written.
        os.ftruncate(self._fd, 1 << 62)

    def close(self) -> None:
        os.close(self._fd)

    def apply(self, pages: ProcessPages) -> None:
        # First drop, then copy: a page in both sets was emptied and filled again.
        self._drop(pages.discarded)
        with self._memory() as memory:
            unreadable = memory.copy_to(self._fd, pages.dirty.runs)
        self.held |= pages.dirty
        # Unmapped since the iteration returned, so the next one will say so.
        self._drop(PageSet.from_runs(unreadable, self.page_size))

    def _drop(self, pages: PageSet) -> None:
        gone = self.held & pages
        copy.punch(self._fd, gone.runs)
        self.held -= gone

    def count_same(self, pages: ProcessPages) -> int:
        """Pages of `dirty` that are held with the content that they have now."""
        known = pages.dirty & self.held
        differ, unreadable = self._compare(known)
        return len(known) - len(differ | unreadable)

    def compare(self, pages: ProcessPages, same: int) -> Comparison:
        size = self.page_size
        with self._memory() as memory:
            wanted = expect(memory.pid, pages.regions, self.held)
        compared = union(wanted.compare, size)
        zero = union(wanted.zero, size)
        missed, unreadable = self._compare(compared)
        missed |= PageSet.from_runs(copy.nonzero(self._fd, zero.runs), size)
        missed |= union(wanted.untracked, size)
        of_file = 0
        for path, shift, own in wanted.of_file:
            differ, bad = self._compare_with_file(path, shift, own)
            of_file += len(own)
            missed |= differ
            unreadable |= bad
        return Comparison(
            pid=self.pid,
            compared=len(compared) + len(zero) + of_file,
            missed=missed - unreadable,
            over_reported=same,
            final_dirty=len(pages.dirty),
            unreadable=unreadable,
            unverified=union(wanted.unverified, size),
        )

    def _compare(self, pages: PageSet) -> tuple[PageSet, PageSet]:
        return self._compare_with(self._fd, 0, pages)

    def _compare_with_file(self, path: str, shift: int, pages: PageSet) -> tuple[PageSet, PageSet]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return PageSet(self.page_size), pages
        try:
            return self._compare_with(fd, shift, pages)
        finally:
            os.close(fd)

    def _compare_with(self, fd: int, shift: int, pages: PageSet) -> tuple[PageSet, PageSet]:
        with self._memory() as memory:
            differ, unreadable = memory.compare(fd, pages.runs, shift)
        return (
            PageSet.from_runs(differ, self.page_size),
            PageSet.from_runs(unreadable, self.page_size),
        )

    @contextmanager
    def _memory(self) -> Iterator[copy.Memory]:
        """The target's memory, opened anew as exec() gives it another; errors are explained."""
        try:
            with copy.Memory(_live_thread(self.pid)) as memory:
                yield memory
        except OSError as error:
            if isinstance(error, TrackError):
                raise
            gone = isinstance(error, (ProcessLookupError, FileNotFoundError))
            if gone or error.errno == errno.ESRCH:
                raise TargetGone(f"process {self.pid} has ended", pid=self.pid) from error
            raise TrackError(
                f"the memory of process {self.pid} cannot be copied: {error}", pid=self.pid
            ) from error


def _live_thread(pid: int) -> int:
    """A thread that still has the memory: the leader may have exited without the others."""
    if not procfs.read_stat(pid).dead:
        return pid
    live = [stat.tid for stat in procfs.thread_stats(pid) if not stat.dead]
    if not live:
        raise ProcessLookupError(f"no thread of process {pid} is left")
    return live[0]
