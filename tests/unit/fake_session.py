"""A session without a target, for tests of what is above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from uffdtrackd.model.errors import TrackError
from uffdtrackd.model.iteration import Iteration, ProcessPages
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.model.region import Kind, Region, Tracking

PAGE = 4096
BASE = 0x7F00_0000_0000
# 2026-01-02T03:04:05Z
TIME_NS = 1_767_323_045_000_000_000


def region(start: int = BASE, pages: int = 1024) -> Region:
    end = start + pages * PAGE
    return Region(start, end, "rw-p", 0, (0, 0), 0, "", Kind.ANON, Tracking.ASYNC)


def pages(*numbers: int) -> PageSet:
    """Pages by their distance from BASE."""
    return PageSet.from_ranges((BASE + n * PAGE, BASE + (n + 1) * PAGE) for n in numbers)


def iteration(number: int, frozen: bool = False, pid: int = 1) -> Iteration:
    """Number 0 has 1024 pages, every other one page and one discarded."""
    dirty = pages(*range(1024)) if number == 0 else pages(number)
    discarded = pages() if number == 0 else pages(number + 512)
    made = ProcessPages(dirty, discarded, pages(), lambda: [region()])
    return Iteration(
        number,
        frozen,
        TIME_NS + number,
        1_500_000,
        200_000 if frozen or number == 0 else 0,
        PAGE,
        {pid: made},
        {"calls": number},
    )


class FakeSession:
    """Gives iterations; `ends` says at which number, with which error."""

    def __init__(
        self,
        pid: int,
        ends: tuple[int, TrackError] | None = None,
        at: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.pid = pid
        self.page_size = PAGE
        self.pids = [pid]
        self.backend = "async"
        self.status: list[str] = []
        self.closed = 0
        self.thawed = 0
        self._ends = ends
        self._at = at
        self._number = 0
        self._frozen = False

    def iterate(self) -> Iteration:
        if self._ends and self._number == self._ends[0]:
            raise self._ends[1]
        self._at(self._number)
        made = iteration(self._number, self._frozen, self.pid)
        self._number += 1
        return made

    @contextmanager
    def frozen(self, deadline: float = 10.0, lease: float | None = None) -> Iterator[None]:
        self._frozen = True
        try:
            yield
        finally:
            self._frozen = False
            self.thawed += 1

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
