"""A session that tracks nothing: it lists every populated page as dirty in every iteration.

By the promise that is a correct tracker, if a useless one, so the oracle must find it right; and
with a `lie` put into it, wrong. That is how the oracle itself is tested.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from tests import procfs
from tests.procfs import PAGE

#: Changes the page numbers of (iteration, dirty, discarded) in place.
Lie = Callable[[int, set[int], set[int]], None]


class FakePages:
    """Pages by number, with the face of a PageSet that a consumer uses."""

    def __init__(self, numbers: set[int]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start = last = -2
        for number in sorted(self.numbers):
            if number != last + 1:
                if start >= 0:
                    yield start * PAGE, (last + 1) * PAGE
                start = number
            last = number
        if start >= 0:
            yield start * PAGE, (last + 1) * PAGE


class FakeSession:
    """Session-like over one child of ours, which is stopped by SIGSTOP to freeze it."""

    def __init__(self, pid: int, lie: Lie | None = None, *, freeze: bool = True) -> None:
        self.pid = pid
        self.lie = lie
        self.freeze = freeze
        self.number = 0
        self.is_frozen = False
        self.before: set[int] = set()

    def iterate(self) -> Any:
        regions, dirty = [], set()
        with open(f"/proc/{self.pid}/pagemap", "rb", buffering=0) as pagemap:
            for vma in procfs.read_maps(self.pid):
                skip = vma.label.startswith("[v")
                regions.append(self._region(vma, "skip" if skip else "async"))
                if not skip:
                    dirty |= self._populated(vma, pagemap.fileno())
        discarded = self.before - dirty
        self.before = set(dirty)
        if self.lie:
            self.lie(self.number, dirty, discarded)
        self.number += 1
        pages = SimpleNamespace(
            dirty=FakePages(dirty),
            discarded=FakePages(discarded),
            always=FakePages(set()),
            regions=regions,
        )
        return SimpleNamespace(
            number=self.number - 1, frozen=self.is_frozen, processes={self.pid: pages}
        )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        if self.freeze:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)
        self.is_frozen = True
        try:
            yield
        finally:
            self.is_frozen = False
            if self.freeze:
                os.kill(self.pid, signal.SIGCONT)

    def _region(self, vma: procfs.Vma, tracking: str) -> SimpleNamespace:
        return SimpleNamespace(
            start=vma.start, end=vma.end, perms=vma.perms, tracking=tracking, reason="a fake"
        )

    def _populated(self, vma: procfs.Vma, pagemap: int) -> set[int]:
        found: set[int] = set()
        runs = procfs.runs(procfs.populated(pagemap, vma.start, vma.end), vma.start)
        if vma.shared and vma.file:
            fd = procfs.open_backing(self.pid, vma)
            try:
                size = vma.end - vma.start
                shift = vma.start - vma.offset
                data = list(procfs.data_runs(fd, vma.offset, vma.offset + size))
            finally:
                os.close(fd)
            runs = ((start + shift, end + shift) for start, end in data)
        for start, end in runs:
            found.update(range(start // PAGE, end // PAGE))
        return found
