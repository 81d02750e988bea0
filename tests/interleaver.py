"""Events of a target between any two steps of an iteration, by chance: what no timing would hit.

    step of the tracker (a C call, mostly)  <-- Steps wraps it --> Arena.act(): one event
    step of the tracker                                            of a puppet, or none

An event at real speed falls between two steps once in a million; here it falls between each pair of
them every few iterations. All events are of a few pages that lie where two page tables meet.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.procfs import PAGE
from tests.puppet import (
    ANON,
    HUGE,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_REMOVE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_NONE,
    PROT_READ,
    RW,
    Puppet,
)
from uffdtrackd.native import protect, scan
from uffdtrackd.native.collect import Collector
from uffdtrackd.native.layout import Layout
from uffdtrackd.native.sweep import Sweep
from uffdtrackd.tracking import registrar, stale, sync, tracker
from uffdtrackd.tracking.huge import HugePages
from uffdtrackd.tracking.pinned import Pinned
from uffdtrackd.tracking.shared import SharedMemory
from uffdtrackd.tracking.space import Space

#: Where tracked memory is asked, protected or listed: a name in a module or class.
STEPS: tuple[tuple[Any, str], ...] = (
    (scan, "get"),
    (scan, "unprotect"),
    (protect, "sweep"),
    (protect, "protect"),
    (Layout, "refresh"),
    (Layout, "text"),
    (Sweep, "run"),
    (Collector, "collect"),
    (Collector, "forget"),
    (Collector, "arm"),
    (registrar, "register_whole"),
    (stale, "clean"),
    (tracker, "find_reverted"),
    (tracker, "populated"),
    (sync, "populated"),
    (HugePages, "collect"),
    (Pinned, "look"),
    (Space, "__init__"),
    (SharedMemory, "settle"),
)

#: Pages of the arena. Each place lies across the border of two page tables that have nothing else,
#: and there are many: how a tracker meets the first page of a page table happens once for each.
PLACES = tuple(range(at + 496, at + 530) for at in range(0, 12 * 1024, 1024))


class Arena:
    """Some pages of a puppet, and what is known to be mapped there.

    log: the events so far, to tell a failure by.
    """

    def __init__(self, puppet: Puppet, rng: random.Random, file: int, read_only: int) -> None:
        self.puppet = puppet
        self.rng = rng
        self.log: list[str] = []
        self._files = {"file": file, "read only": read_only}
        size = PLACES[-1].stop + HUGE // PAGE
        whole = puppet.mmap(size, PROT_NONE)
        puppet.munmap(whole, size)
        self._base = (whole + HUGE - 1) & -HUGE
        self._last = range(0)
        #: page -> what it is of, and whether it can be written now
        self._pages: dict[int, tuple[str, bool]] = {}

    def act(self) -> None:
        """One event."""
        name = self.rng.choice(
            ("write",) * 5
            + ("map",) * 3
            + ("dontneed",) * 3
            + ("unmap", "move", "move", "leave", "grow", "protect", "read", "guard", "advise")
        )
        pages = self._some()
        self.log.append(f"{name} {pages.start}+{len(pages)}")
        getattr(self, f"_{name}")(pages)

    def _some(self) -> range:
        # Mostly what something has just happened to: that is where it takes several events.
        if self._last and self.rng.random() < 0.6:
            return self._last
        place = self.rng.choice(PLACES)
        first = self.rng.randrange(place.start, place.stop)
        self._last = range(first, min(first + self.rng.choice((1, 3, 8, 40)), place.stop))
        return self._last

    def _at(self, page: int) -> int:
        return self._base + page * PAGE

    def _runs(self, pages: range, fits: Callable[[str, bool], bool]) -> list[range]:
        """The stretches of these pages that are mapped and of one sort, as `fits` has it."""
        runs: list[range] = []
        for page in pages:
            known = self._pages.get(page)
            if known is None or not fits(*known):
                continue
            if runs and runs[-1].stop == page and self._pages[page - 1][0] == known[0]:
                runs[-1] = range(runs[-1].start, page + 1)
            else:
                runs.append(range(page, page + 1))
        return runs

    def _write(self, pages: range) -> None:
        for run in self._runs(pages, lambda _, writable: writable):
            self.puppet.fill(self._at(run.start), len(run))

    def _read(self, pages: range) -> None:
        for run in self._runs(pages, lambda _, writable: writable):
            self.puppet.touch(self._at(run.start), len(run))

    def _map(self, pages: range) -> None:
        kind = self.rng.choice(("anon", "anon", "anon", "file", "shared", "read only"))
        flags = {"anon": ANON, "shared": MAP_SHARED | MAP_ANONYMOUS, "file": MAP_PRIVATE}
        prot = PROT_READ if kind == "read only" else RW
        fd = self._files.get(kind, -1)
        self.log[-1] += f" {kind}"
        where = self._at(pages.start)
        how = flags.get(kind, MAP_SHARED) | MAP_FIXED
        assert self.puppet.call("mmap", where, len(pages) * PAGE, prot, how, fd, 0) == where
        self._pages |= dict.fromkeys(pages, (kind, prot == RW))

    def _unmap(self, pages: range) -> None:
        self.puppet.munmap(self._at(pages.start), len(pages))
        for page in pages:
            self._pages.pop(page, None)

    def _advised(self, pages: range, kinds: tuple[str, ...], *advice: int) -> None:
        for run in self._runs(pages, lambda kind, _: kind in kinds):
            for one in advice:
                self.puppet.try_call("madvise", self._at(run.start), len(run) * PAGE, one)

    def _dontneed(self, pages: range) -> None:
        self._advised(pages, ("anon", "file", "shared"), MADV_DONTNEED)

    def _guard(self, pages: range) -> None:
        self._advised(pages, ("anon",), MADV_GUARD_INSTALL, MADV_GUARD_REMOVE)

    def _advise(self, pages: range) -> None:
        kind, *advice = self.rng.choice(
            (
                ("anon", MADV_FREE),
                ("anon", MADV_FREE, MADV_PAGEOUT),
                ("shared", MADV_REMOVE),
                ("anon", MADV_POPULATE_READ),
            )
        )
        self._advised(pages, (str(kind),), *map(int, advice))

    def _protect(self, pages: range) -> None:
        prot = self.rng.choice((PROT_NONE, PROT_READ, RW, RW))
        for run in self._runs(pages, lambda kind, _: kind != "read only"):
            self.puppet.call("mprotect", self._at(run.start), len(run) * PAGE, prot)
            self._pages |= {page: (self._pages[page][0], prot == RW) for page in run}

    def _move(self, pages: range, flags: int = 0) -> None:
        for run in self._runs(pages, lambda kind, _: not flags or kind == "anon")[:1]:
            place = self.rng.choice(PLACES)
            run = run[: len(place)]
            first = self.rng.randrange(place.start, place.stop - len(run) + 1)
            there = range(first, first + len(run))
            if set(run) & set(there):
                return
            size = len(run) * PAGE
            how = MREMAP_MAYMOVE | MREMAP_FIXED | flags
            old, new = self._at(run.start), self._at(first)
            # Of more than one mapping some may have moved, and what was there may have gone.
            if self.puppet.try_call("mremap", old, size, size, how, new) != new:
                self._unmap(run)
                self._unmap(there)
                return
            for page, other in zip(run, there, strict=True):
                self._pages[other] = self._pages[page]
                if not flags:
                    del self._pages[page]

    def _leave(self, pages: range) -> None:
        self._move(pages, MREMAP_DONTUNMAP)

    def _grow(self, pages: range) -> None:
        for run in self._runs(pages, lambda kind, _: kind == "anon")[:1]:
            more = range(run.stop, run.stop + self.rng.choice((1, 4, 12)))
            old, new = len(run) * PAGE, (len(run) + len(more)) * PAGE
            at = self._at(run.start)
            if self.puppet.try_call("mremap", at, old, new, 0) == at:
                self._pages |= dict.fromkeys(more, self._pages[run.stop - 1])


class Steps:
    """Wraps the tracker's steps: before and after each, by chance, `act`."""

    def __init__(self, patch: pytest.MonkeyPatch, rng: random.Random, act: Callable[[], None]):
        self.on = False
        self.between = 0  # events that fell between steps
        self._rng = rng
        self._act = act
        for owner, name in STEPS:
            patch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def maybe(self) -> None:
        if self.on and self._rng.random() < 0.2:
            self.on = False  # an event is no step
            self._act()
            self.between += 1
            self.on = True

    def _wrapped(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.maybe()
            result = step(*args, **more)
            self.maybe()
            return result

        return call


def files(folder: str) -> tuple[str, str]:
    """A file to be mapped privately, and one that the puppet may only read."""
    names = (os.path.join(folder, "file"), os.path.join(folder, "read-only"))
    for name in names:
        with open(name, "wb") as file:
            file.write(os.urandom(64 * PAGE))
    return names
