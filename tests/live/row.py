"""One event between two iterations, and proof that the event was one: what all row tests do.

    row = Row(puppet)
    row.watch()                 attach, iterate until nothing moves any more
    ... the event ...
    row.judge((at, pages))      frozen final: copy == target, and there it was not so before

The second half keeps a test from passing because nothing happened: the copy of each page named
must have changed in the final iteration, so what it had before was out of date.
"""

from __future__ import annotations

import errno
import os
import struct
import time

import pytest

import uffdtrackd
from tests.oracle import IterationLike, Oracle
from tests.procfs import PAGE
from tests.puppet import Puppet

#: Shared memory that changed in the last tick of the clock is looked at again, once.
SETTLED_NS = 30_000_000

Range = tuple[int, int]


class Row:
    """A puppet under a session. `close()` it."""

    def __init__(self, puppet: Puppet) -> None:
        self.puppet = puppet
        self._session: uffdtrackd.Session | None = None
        self._oracle: Oracle | None = None
        self._began = time.monotonic_ns()
        #: How what the events changed was tracked: async, sync, always or skip, and why.
        self.tracking: dict[str, list[str]] = {}

    @property
    def session(self) -> uffdtrackd.Session:
        assert self._session is not None, "watch() first"
        return self._session

    @property
    def oracle(self) -> Oracle:
        assert self._oracle is not None, "watch() first"
        return self._oracle

    def watch(self) -> None:
        """Begin to track: from here on, everything known so far is old and clean."""
        self._session = uffdtrackd.attach(self.puppet.pid)
        self._oracle = Oracle(self._session)
        self._oracle.step()
        while time.monotonic_ns() < self._began + SETTLED_NS:
            self._oracle.step()
        self._oracle.step()

    def step(self) -> IterationLike:
        """One iteration while the target runs, applied."""
        return self.oracle.step()

    def judge(self, *changed: Range) -> None:
        """The frozen final. changed: (address, pages) that had to be copied or dropped in it."""
        before = {page: self._held(page) for page in _pages(changed)}
        self.oracle.final().check()
        same = [hex(page) for page, old in before.items() if self._held(page) == old]
        assert not same, f"no event at all: these pages were as the copy had them: {same[:8]}"
        self._note_tracking(changed)

    def writes_are_seen(self, at: int, pages: int = 1) -> None:
        """The row is behind us: is the memory still tracked as before?"""
        self.puppet.fill(at, pages)
        self.judge((at, pages))

    def listed(self, iteration: IterationLike, at: int, pages: int = 1) -> int:
        """How many pages of a range an iteration lists as dirty."""
        end = at + pages * PAGE
        ranges = iteration.processes[self.puppet.pid].dirty
        return sum(max(0, min(stop, end) - max(start, at)) for start, stop in ranges) // PAGE

    def region(self, at: int) -> uffdtrackd.Region:
        """The region of an address, as one more iteration has it."""
        for region in self.step().processes[self.puppet.pid].regions:
            if region.start <= at < region.end:
                assert isinstance(region, uffdtrackd.Region)
                return region
        raise LookupError(f"no region at {at:#x}")

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _note_tracking(self, changed: tuple[Range, ...]) -> None:
        last = self.oracle.last
        assert last is not None
        for region in last.processes[self.puppet.pid].regions:
            if any(at < region.end and region.start < at + pages * PAGE for at, pages in changed):
                reasons = self.tracking.setdefault(str(region.tracking), [])
                if region.reason and region.reason not in reasons:
                    reasons.append(region.reason)

    def _held(self, page: int) -> tuple[bytes, bytes]:
        content, held = self.oracle.shadows[self.puppet.pid].content(page, page + PAGE)
        return bytes(content), held


def _pages(ranges: tuple[Range, ...]) -> list[int]:
    return [page for at, count in ranges for page in range(at, at + count * PAGE, PAGE)]


#: Features of linux/userfaultfd.h.
MARKS_HOLES = 1 << 12  # WP_HUGETLBFS_SHMEM
ASYNCHRONOUS = 1 << 15 | 1 << 13  # WP_ASYNC, WP_UNPOPULATED: as a tracker would


def own_userfaultfd(
    puppet: Puppet, at: int, pages: int, mode: int, features: int = MARKS_HOLES
) -> int:
    """Registered by the target itself, for what is missing (1) and for writes (2)."""
    scratch = puppet.mmap(1)
    fd = puppet.try_call("userfaultfd", 1 | os.O_CLOEXEC)
    if fd < 0:
        assert fd in (-errno.EPERM, -errno.ENOSYS)
        pytest.skip(f"the target may have no userfaultfd: {os.strerror(-fd)}")
    puppet.store(scratch, struct.pack("QQQ", 0xAA, features, 0))
    if puppet.try_call("ioctl", fd, 0xC018AA3F, scratch) < 0:
        pytest.skip(f"no userfaultfd of the features {features:#x} here")
    puppet.store(scratch, struct.pack("QQQQ", at, pages * PAGE, mode, 0))
    puppet.call("ioctl", fd, 0xC020AA00, scratch)
    return fd
