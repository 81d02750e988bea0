"""A copy of a target that knows only what iterations say: the proof that they say enough.

    iteration 0..n -- apply() --> copy `dirty`, drop `discarded`      (the target runs)
    final          -- finish() -> the same, then every page of the    (the target is frozen)
                                  target is compared with the copy

Contents are kept as long as they fit the limit, then digests of them, 1/512 of the size, the
largest process first (`keep`). Only pages that exist are ever read: nothing is allocated in the
target, and nothing of it is changed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType

import psutil

from ..model.errors import TargetGone, TrackError
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from ..model.region import Region
from ..native import copy
from . import procfs
from .comparison import Comparison, Miss, reasons
from .expectation import expect, union
from .keep import Contents, Keep

_MIB = 1 << 20


# Missed ranges that are described: enough to see a pattern.
_DESCRIBED = 10


class Shadow:
    """The copies of all processes of a session.

    memory_limit: bytes that they may take together; by default a quarter of what is free.
    peak: the most that they took. bytes_read: of the target's memory.
    """

    def __init__(self, memory_limit: int | None = None) -> None:
        if memory_limit is None:
            memory_limit = int(psutil.virtual_memory().available) // 4
        self.memory_limit = memory_limit
        self.peak = 0
        self._read_before = 0  # by copies that are closed
        self._copies: dict[int, _Copy] = {}

    @property
    def bytes(self) -> int:
        """Bytes of the target that are held, in all processes."""
        return sum(one.held.bytes for one in self._copies.values())

    @property
    def memory(self) -> int:
        """Bytes of memory that the copies take."""
        return sum(one.keep.bytes() for one in self._copies.values())

    @property
    def bytes_read(self) -> int:
        return self._read_before + sum(one.bytes_read for one in self._copies.values())

    def apply(self, iteration: Iteration) -> None:
        """Does what a consumer does with an iteration.

        Raises TargetGone if a process has ended, TrackError if even digests would exceed the limit
        (nothing is copied then) or a process cannot be read.
        """
        gone = self._copies.keys() - iteration.processes.keys()
        # A pid that ended and is there again: another process has it now.
        for pid in gone | (self._copies.keys() & set(iteration.exited or ())):
            self._close(pid)
        for pid, pages in iteration.processes.items():
            if pid not in self._copies:
                self._copies[pid] = _Copy(pid, pages.dirty.page_size)
        self._make_room(iteration)
        for pid, pages in iteration.processes.items():
            self._copies[pid].apply(pages)
            self.peak = max(self.peak, self.memory)

    def finish(self, final: Iteration) -> list[Comparison]:
        """Applies the final iteration and compares every page, one Comparison a process.

        The target must be frozen since before `final` was taken. Raises as apply().
        """
        same = {
            pid: self._copies[pid].same(pages)
            for pid, pages in final.processes.items()
            if pid in self._copies
        }
        self.apply(final)
        none = PageSet(final.page_size)
        return [
            self._copies[pid].compare(pages, same.get(pid, none))
            for pid, pages in final.processes.items()
        ]

    def _make_room(self, iteration: Iteration) -> None:
        """Keeps digests of the largest copies, until the rest fits."""
        wanted = {
            pid: (self._copies[pid].held | self._copies[pid].owed) - pages.discarded | pages.dirty
            for pid, pages in iteration.processes.items()
        }
        while True:
            needs = {pid: self._copies[pid].keep.need(pages) for pid, pages in wanted.items()}
            need = sum(needs.values())
            if need <= self.memory_limit:
                return
            exact = [pid for pid in wanted if self._copies[pid].keep.exact]
            if not exact:
                raise TrackError(
                    f"digests of the target take {need / _MIB:.1f} MiB, more than the limit of"
                    f" {self.memory_limit / _MIB:.1f} MiB",
                    hint="give it more with --memory MIB",
                )
            self._copies[max(exact, key=needs.__getitem__)].digest()

    def _close(self, pid: int) -> None:
        one = self._copies.pop(pid)
        self._read_before += one.bytes_read
        one.close()

    def close(self) -> None:
        """Gives the memory back; may be called twice."""
        while self._copies:
            self._close(next(iter(self._copies)))

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
        #: Listed, but nobody may read them for now: PROT_NONE, where only a debugger reads that.
        self.owed = PageSet(page_size)
        self.page_size = page_size
        self.bytes_read = 0
        self.keep: Keep = Contents(pid)

    def close(self) -> None:
        self.keep.close()

    def digest(self) -> None:
        """Keeps digests from now on."""
        assert isinstance(self.keep, Contents)
        self.keep = self.keep.digested(self.pid, self.held)

    def apply(self, pages: ProcessPages) -> None:
        # First drop, then copy: a page in both sets was emptied and filled again.
        self._drop(pages.discarded)
        wanted = (self.owed - pages.discarded) | pages.dirty
        with self._memory() as memory:
            unreadable = self.keep.take(memory, wanted)
        self.bytes_read += wanted.bytes
        self.held |= wanted
        # Unmapped since the iteration returned, so the next one will say so; or tried again then.
        self._drop(unreadable)
        self.owed = unreadable

    def _drop(self, pages: PageSet) -> None:
        gone = self.held & pages
        self.keep.drop(gone)
        self.held -= gone

    def same(self, pages: ProcessPages) -> PageSet:
        """Pages of `dirty` that are held with the content that they have now."""
        known = pages.dirty & self.held
        differ, unreadable = self._compare(known)
        return known - differ - unreadable

    def compare(self, pages: ProcessPages, same: PageSet) -> Comparison:
        size = self.page_size
        with self._memory() as memory:
            wanted = expect(memory.pid, pages.regions, self.held)
        compared = union(wanted.compare, size)
        zero = union(wanted.zero, size)
        missed, unreadable = self._compare(compared)
        missed |= self.keep.nonzero(zero)
        missed |= union(wanted.untracked, size)
        of_file = 0
        for path, shift, own in wanted.of_file:
            differ, bad = self._compare_with_file(path, shift, own)
            of_file += len(own)
            missed |= differ
            unreadable |= bad
        missed -= unreadable
        return Comparison(
            pid=self.pid,
            compared=len(compared) + len(zero) + of_file,
            missed=missed,
            over_reported=len(same),
            final_dirty=len(pages.dirty),
            unreadable=unreadable,
            unverified=union(wanted.unverified, size),
            misses=tuple(self._misses(missed, compared, pages.regions)),
            why=reasons(same, pages),
            exact=self.keep.exact,
        )

    def _misses(
        self, missed: PageSet, compared: PageSet, regions: Sequence[Region]
    ) -> Iterator[Miss]:
        if not missed:
            return
        with self._memory() as memory:
            for start, end in islice(missed, _DESCRIBED):
                region = next((one for one in regions if one.start <= start < one.end), None)
                # Other pages were not read in the target, and must not be.
                exists = start in compared
                byte = self.keep.first_difference(memory, start) if exists else None
                yield Miss(start, end, region, byte)

    def _compare(self, pages: PageSet) -> tuple[PageSet, PageSet]:
        with self._memory() as memory:
            found = self.keep.compare(memory, pages)
        self.bytes_read += pages.bytes
        return found

    def _compare_with_file(self, path: str, shift: int, pages: PageSet) -> tuple[PageSet, PageSet]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return PageSet(self.page_size), pages
        try:
            with self._memory() as memory:
                differ, unreadable = memory.compare(fd, pages.runs, shift)
        finally:
            os.close(fd)
        self.bytes_read += pages.bytes
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
