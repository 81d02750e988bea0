"""The judge: does a copy kept from what a session reports equal the target, byte for byte?

    session.iterate() --dirty, discarded--> Shadow <--preadv-- /proc/PID/mem     (every step)
                                               |
    session.frozen(): iterate, copy, then      +--compare-- tests.truth of PID   (final)

Nothing of uffdtrackd's C code is used: pages come from /proc/PID/mem, the truth from
/proc/PID/maps, /proc/PID/pagemap and the files behind the mappings. The rules, beside equality of
every page: a page the shadow does not hold reads as its backing; no page is held where nothing is
mapped; dirty and discarded are disjoint, sorted, merged and aligned; `always` is a part of dirty;
regions are the mappings as /proc has them; only what cannot have content of its own may be `skip`;
and while frozen every thread is stopped.

A test: `oracle = Oracle(session)`, some `oracle.step()`, `oracle.final().check()`.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from tests.procfs import PAGE, Vma, idle_worker, read_maps, shown_by, thread_states, vm_flags
from tests.shadow import Shadow
from tests.truth import Difference, compare

#: Misses that are described one by one; the others are only counted.
DESCRIBED = 40


class Pages(Protocol):
    """The part of PageSet that a consumer needs."""

    def __iter__(self) -> Iterator[tuple[int, int]]: ...
    def __len__(self) -> int: ...


class ProcessLike(Protocol):
    @property
    def dirty(self) -> Pages: ...
    @property
    def discarded(self) -> Pages: ...
    @property
    def always(self) -> Pages: ...
    @property
    def regions(self) -> Sequence[Any]: ...


class IterationLike(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def processes(self) -> Mapping[int, ProcessLike]: ...


class SessionLike(Protocol):
    """What is judged: uffdtrackd.Session, or a stand-in."""

    def iterate(self) -> IterationLike: ...
    def frozen(self) -> AbstractContextManager[Any]: ...


@dataclass(slots=True)
class Past:
    """The ranges one iteration listed, kept to tell a missed page's history."""

    number: int
    dirty: list[tuple[int, int]]
    discarded: list[tuple[int, int]]
    unread: list[int]

    def says(self, address: int) -> str:
        """`d` dirty, `D` discarded, `d?` dirty but unmapped when it was copied, "" not listed."""
        if _within(self.discarded, address):
            return f"{self.number}:D"
        if _within(self.dirty, address):
            return f"{self.number}:d" + ("?" if address in self.unread else "")
        return ""


@dataclass(slots=True)
class Report:
    """What the final comparison found.

    missed: the first pages that differ. missed_pages: how many differ. extra: pages listed dirty
    after iteration 0 that were held and equal. dirty: pages listed dirty after iteration 0.
    compared: pages looked at. faults: rules broken other than content.
    """

    missed: list[tuple[int, Difference, str]] = field(default_factory=list)
    missed_pages: int = 0
    extra: int = 0
    dirty: int = 0
    compared: int = 0
    iterations: int = 0
    faults: list[str] = field(default_factory=list)

    def check(self, iterations: int = 1) -> None:
        """Raise AssertionError with the evidence unless all is equal after enough iterations."""
        assert self.compared > 0, "nothing was compared"
        assert self.iterations >= iterations, f"only {self.iterations} iterations"
        if self.missed_pages or self.faults:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        lines = [
            f"{self.missed_pages} pages missed of {self.compared}, {len(self.faults)} faults, "
            f"{self.iterations} iterations, {self.dirty} listed dirty, {self.extra} of them equal"
        ]
        lines += self.faults[:DESCRIBED]
        for pid, difference, past in self.missed:
            lines.append(f"pid {pid} {difference}; listed: {past}")
        return "\n".join(lines)


class Oracle:
    """Follows a session as a consumer does. One per session, from its iteration 0.

    last: the iteration that was applied last.
    """

    def __init__(self, session: SessionLike) -> None:
        self.session = session
        self.shadows: dict[int, Shadow] = {}
        self.past: dict[int, list[Past]] = {}
        self.report = Report()
        self.last: IterationLike | None = None

    def step(self) -> IterationLike:
        """One iteration, applied. Broken rules are kept for the report."""
        iteration = self.session.iterate()
        self._apply(iteration)
        return iteration

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def final(self) -> Report:
        """Freeze, iterate, copy, compare with the whole target. Call .check() on the result."""
        with self.session.frozen():
            iteration = self.session.iterate()
            if not iteration.frozen:
                self._fault(f"iteration {iteration.number} inside frozen() is not frozen")
            for pid in iteration.processes:
                self._check_stopped(pid)
            self._apply(iteration)
            for pid, pages in iteration.processes.items():
                self._compare(pid, pages)
        return self.report

    def _apply(self, iteration: IterationLike) -> None:
        if iteration.number != self.report.iterations:
            self._fault(f"iteration {iteration.number} follows {self.report.iterations - 1}")
        self.report.iterations += 1
        self.last = iteration
        for pid in [pid for pid in self.shadows if pid not in iteration.processes]:
            del self.shadows[pid]
        for pid, pages in iteration.processes.items():
            first = pid not in self.shadows
            shadow = self.shadows.setdefault(pid, Shadow())
            dirty, discarded = list(pages.dirty), list(pages.discarded)
            where = f"iteration {iteration.number} pid {pid}"
            self._check_runs(f"{where} dirty", dirty, len(pages.dirty))
            self._check_runs(f"{where} discarded", discarded, len(pages.discarded))
            for start, end in discarded:
                if _overlaps(dirty, start, end):
                    self._fault(f"{where}: {start:x}-{end:x} both dirty and discarded")
            for start, end in pages.always:
                if not _covers(dirty, start, end):
                    self._fault(f"{where}: {start:x}-{end:x} always, but not dirty")
            unread: list[int] = []
            for start, end in discarded:
                shadow.drop(start, end)
            try:
                mem = os.open(shown_by(pid) / "mem", os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended since: the next iteration says so
            try:
                for start, end in dirty:
                    missing, same = shadow.copy(mem, start, end)
                    unread += missing
                    self.report.extra += 0 if first else same
            finally:
                os.close(mem)
            self.report.dirty += 0 if first else len(pages.dirty)
            self.past.setdefault(pid, []).append(Past(iteration.number, dirty, discarded, unread))

    def _compare(self, pid: int, pages: ProcessLike) -> None:
        maps = read_maps(pid)
        flags = vm_flags(pid)
        skipped = self._check_regions(pid, maps, flags, pages.regions)
        differences, compared = compare(pid, self.shadows[pid], maps, flags, skipped)
        self.report.compared += compared
        room = DESCRIBED - len(self.report.missed)
        for difference in islice(differences, room):
            self.report.missed.append((pid, difference, self._history(pid, difference.address)))
            self.report.missed_pages += 1
        self.report.missed_pages += sum(1 for _ in differences)

    def _check_regions(
        self,
        pid: int,
        maps: list[Vma],
        flags: Mapping[int, frozenset[str]],
        regions: Sequence[Any],
    ) -> set[int]:
        """Regions must be the mappings. Returns the starts of those that are rightly `skip`."""
        # [vsyscall] is in the kernel's half: in maps, but not of this address space.
        wanted = {(vma.start, vma.end, vma.perms): vma for vma in maps if vma.start < 1 << 63}
        given = {(one.start, one.end, one.perms): one for one in regions if one.start < 1 << 63}
        for start, end, perms in sorted(wanted.keys() - given.keys()):
            self._fault(f"pid {pid}: mapping {start:x}-{end:x} {perms} is not a region")
        for start, end, perms in sorted(given.keys() - wanted.keys()):
            self._fault(f"pid {pid}: region {start:x}-{end:x} {perms} is not mapped")
        starts = {key[0] for key, one in given.items() if str(one.tracking) == "skip"}
        for key in sorted(wanted.keys() & given.keys()):
            vma, region = wanted[key], given[key]
            if str(region.tracking) in ("skip", "always") and not region.reason:
                self._fault(f"pid {pid}: {vma} is {region.tracking} without a reason")
            if key[0] in starts and not _may_skip(vma, flags.get(vma.start, frozenset())):
                self._fault(f"pid {pid}: {vma} has content, but is skip ({region.reason})")
                starts.discard(key[0])
        return starts

    def _check_stopped(self, pid: int) -> None:
        for thread, state in thread_states(pid).items():
            # An idle worker of io_uring never leaves the kernel, and cannot be stopped.
            if state not in "tTZX" and not idle_worker(pid, thread):
                self._fault(f"pid {pid}: thread {thread} is in state {state} while frozen")

    def _check_runs(self, what: str, runs: list[tuple[int, int]], pages: int) -> None:
        last = -1
        for start, end in runs:
            if start % PAGE or end % PAGE or start >= end or start <= last:
                self._fault(f"{what}: run {start:x}-{end:x} after {last:x} is not as it must be")
            last = end
        if (count := sum(end - start for start, end in runs) // PAGE) != pages:
            self._fault(f"{what}: len() is {pages}, the runs have {count} pages")

    def _history(self, pid: int, address: int) -> str:
        past = self.past.get(pid, [])
        says = [word for word in (one.says(address) for one in past) if word]
        return " ".join(says[-30:]) or f"never in {len(past)} iterations"

    def _fault(self, text: str) -> None:
        self.report.faults.append(text)


def _may_skip(vma: Vma, flags: Iterable[str]) -> bool:
    """Whether a mapping cannot have content of its own that a copy would need."""
    if vma.label.startswith(("[vvar", "[vdso", "[uprobes")):
        return True
    # What the target cannot write is the file's, if there is a file that will outlive it.
    nameless = vma.label.startswith(("/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage"))
    if vma.shared and vma.file and "mw" not in flags and not nameless:
        return True
    # io, pf: device memory. dp: the kernel may drop its pages at any time.
    return bool({"io", "pf", "dp"} & set(flags))


def _find(runs: Sequence[tuple[int, int]], address: int) -> int:
    return bisect_right(runs, address, key=lambda run: run[0]) - 1


def _within(runs: Sequence[tuple[int, int]], address: int) -> bool:
    at = _find(runs, address)
    return at >= 0 and address < runs[at][1]


def _covers(runs: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    at = _find(runs, start)
    return at >= 0 and end <= runs[at][1]


def _overlaps(runs: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    at = _find(runs, end - 1)
    return at >= 0 and runs[at][1] > start
