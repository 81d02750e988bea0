"""Random sequences of memory operations with iterations in between, for hypothesis to shrink.

    rules --commands--> puppet, its threads, its forked children and theirs
          --step----->  iterate, copy what is listed, of all that the session follows
          --judge---->  frozen final: the copy must equal the memory
    after each sequence: judge once more

What fails is made small by hypothesis, and printed as the calls that lead there.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import uffdtrackd
from tests import victim
from tests.hugepool import huge_pages
from tests.oracle import Oracle
from tests.procfs import PAGE
from tests.puppet import (
    ANON,
    HUGE,
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_REMOVE,
    MAP_ANONYMOUS,
    MAP_HUGETLB,
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

PAGES = 24
MOST = 12

#: A part of an area, as first page and count; cut to fit.
parts = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES))
which = st.integers(0, MOST - 1)
#: Iterations often: what happens between the same two hides, more often than not, behind a write.
afterwards = st.sampled_from(["", "step", "judge"])

KINDS = ["anon", "anon", "shared", "memfd", "private memfd", "private memfd"]

#: Pages in a huge one, and how many huge ones the family may come to need.
PER_HUGE = HUGE // PAGE
HUGE_PAGES = 24


@dataclass
class Area:
    """A mapping, or what is left of it. of_file: there is nothing behind its end but SIGBUS.

    huge: of huge pages, which cannot be cut.
    """

    at: int
    pages: int
    of_file: bool
    prot: int = RW
    huge: bool = False

    def part(self, part: tuple[int, int]) -> tuple[int, int]:
        first = part[0] % self.pages
        count = min(part[1], self.pages - first)
        if self.huge:
            return self.at + (part[1] % 2) * HUGE, PER_HUGE
        return self.at + first * PAGE, count


def mapped(pid: int) -> set[int]:
    """Where mappings begin."""
    with open(f"/proc/{pid}/maps") as file:
        return {int(line.partition("-")[0], 16) for line in file}


@dataclass
class Child:
    """A forked process: what it has of its own, and who forked it (None: the first)."""

    puppet: Puppet
    areas: list[Area]
    parent: Child | None


@dataclass
class Counts:
    """What was done by all sequences together."""

    sequences: int = 0
    iterations: int = 0
    compared: int = 0
    forked: int = 0


class Sequences(RuleBasedStateMachine):
    """One process under one session; see the module.

    attach: what makes the session. huge: whether huge pages can be mapped. counts: of all.
    """

    attach: Callable[..., Any] = staticmethod(uffdtrackd.attach)
    huge = False
    counts = Counts()

    def __init__(self) -> None:
        super().__init__()
        self.victim = victim.Victim([str(victim.build("obey"))])
        try:
            self.puppet = Puppet(self.victim)
            self.threads = [self.puppet, self.puppet.agent("thread")]
            self.busy = self.puppet.agent("thread")
            self.children: list[Child] = []
            self.births = 0
            self.areas: list[Area] = []
            self.ended: Callable[[], str] | None = None
            self.session: Any = None
            for kind in KINDS:
                self.map(kind, PAGES, True, "")
        except BaseException:
            self.victim.kill()
            raise

    @initialize(
        follow=st.sampled_from(["fork", "none"]), huge=st.sampled_from([False, False, True])
    )
    def begin(self, follow: str, huge: bool) -> None:
        """Children are in the session, or are strangers that write to the same objects."""
        if huge and self.huge:
            at = self.puppet.mmap(2 * PER_HUGE, RW, ANON | MAP_HUGETLB)
            self.areas.append(Area(at, 2 * PER_HUGE, True, huge=True))
            self.puppet.fill(at, 2 * PER_HUGE)
        self.session = self.attach(self.victim.pid, follow=follow)
        self.oracle = Oracle(self.session)
        self.oracle.step()

    def teardown(self) -> None:
        try:
            if self.session is not None:
                self.judge()
                self.rest()
                self.judge()
                self.counts.sequences += 1
                self.counts.iterations += self.oracle.report.iterations
                self.counts.compared += self.oracle.report.compared
                self.counts.forked += self.births
            self.victim.finish()
        finally:
            if self.session is not None:
                self.session.close()
            self.victim.kill()

    def then(self, what: str) -> None:
        if what:
            {"step": self.step, "judge": self.judge}[what]()

    def area(self, index: int) -> Area:
        return self.areas[index % len(self.areas)]

    def writable(self, index: int) -> Area | None:
        """The area, if a store to it would not kill the target."""
        area = self.area(index)
        return area if area.prot == RW else None

    def place(self, pages: int) -> int:
        return self.puppet.alone(pages, PROT_NONE)

    @precondition(lambda self: len(self.areas) < MOST)
    @rule(
        kind=st.sampled_from(KINDS),
        pages=st.integers(1, PAGES),
        written=st.booleans(),
        then=afterwards,
    )
    def map(self, kind: str, pages: int, written: bool, then: str) -> None:
        if kind == "anon":
            at = self.puppet.mmap(pages)
        elif kind == "shared":
            at = self.puppet.mmap(pages, RW, MAP_SHARED | MAP_ANONYMOUS)
        else:
            fd = self.puppet.memfd(pages)
            private = kind == "private memfd"
            at = self.puppet.mmap(pages, RW, MAP_PRIVATE if private else MAP_SHARED, fd)
            self.puppet.close(fd)
        self.areas.append(Area(at, pages, kind != "anon"))
        if written:
            self.puppet.fill(at, pages)
        self.then(then)

    @precondition(lambda self: self.areas)
    @rule(index=which, part=parts, who=st.integers(0, 1), then=afterwards)
    def write(self, index: int, part: tuple[int, int], who: int, then: str) -> None:
        if area := self.writable(index):
            self.threads[who].fill(*area.part(part))
        self.then(then)

    @precondition(lambda self: self.areas)
    @rule(index=which, part=parts)
    def read(self, index: int, part: tuple[int, int]) -> None:
        area = self.area(index)
        if area.prot != PROT_NONE:
            self.puppet.touch(*area.part(part))

    @precondition(lambda self: self.areas)
    @rule(
        index=which,
        part=parts,
        advice=st.sampled_from(
            [
                MADV_DONTNEED,
                MADV_DONTNEED,
                MADV_FREE,
                MADV_REMOVE,
                MADV_PAGEOUT,
                MADV_POPULATE_READ,
                MADV_POPULATE_WRITE,
                MADV_HUGEPAGE,
                MADV_COLLAPSE,
            ]
        ),
        then=afterwards,
    )
    def advise(self, index: int, part: tuple[int, int], advice: int, then: str) -> None:
        at, pages = self.area(index).part(part)
        # Refused where it does not fit the mapping: that is an event too.
        self.puppet.try_call("madvise", at, pages * PAGE, advice)
        self.then(then)

    @precondition(lambda self: self.areas)
    @rule(index=which, prot=st.sampled_from([PROT_NONE, PROT_READ, RW]))
    def protect(self, index: int, prot: int) -> None:
        area = self.area(index)
        if area is not getattr(self, "churned", None):
            self.puppet.call("mprotect", area.at, area.pages * PAGE, prot)
            area.prot = prot

    @precondition(lambda self: self.areas)
    @rule(index=which, part=parts, written=st.booleans())
    def map_over(self, index: int, part: tuple[int, int], written: bool) -> None:
        if (area := self.writable(index)) and not area.huge:
            at, pages = area.part(part)
            self.puppet.mmap(pages, RW, ANON, at=at)
            if written:
                self.puppet.fill(at, pages)

    @precondition(lambda self: self.areas)
    @rule(index=which)
    def unmap(self, index: int) -> None:
        area = self.area(index)
        if area is not getattr(self, "churned", None):
            self.puppet.munmap(area.at, area.pages)
            self.areas.remove(area)

    @precondition(lambda self: self.areas)
    @rule(index=which, beside=st.booleans(), keep=st.booleans())
    def move(self, index: int, beside: bool, keep: bool) -> None:
        """To a place of its own, or right behind another area; `keep`: the old one stays, empty."""
        area = self.area(index)
        if area is getattr(self, "churned", None) or area.huge or self.areas[0].huge:
            return
        other = self.areas[0]
        there = other.at + other.pages * PAGE if beside else self.place(area.pages)
        end = there + area.pages * PAGE
        if any(one.at < end and there < one.at + one.pages * PAGE for one in self.areas):
            return
        if beside:
            # MAP_FIXED_NOREPLACE: whatever else is there stays there.
            size = area.pages * PAGE
            got = self.puppet.try_call("mmap", there, size, PROT_NONE, ANON | 0x100000, -1, 0)
            if got != there:
                return
        flags = MREMAP_MAYMOVE | MREMAP_FIXED | (MREMAP_DONTUNMAP if keep else 0)
        size = area.pages * PAGE
        if self.puppet.try_call("mremap", area.at, size, size, flags, there) == there:
            area.at = there

    @precondition(lambda self: self.areas)
    @rule(index=which, part=parts, meanwhile=afterwards, then=afterwards)
    def away_and_back(self, index: int, part: tuple[int, int], meanwhile: str, then: str) -> None:
        """A part leaves and comes home, and merges with the rest again."""
        area = self.area(index)
        if area is getattr(self, "churned", None) or area.huge:
            return
        at, pages = area.part(part)
        there, flags = self.place(pages), MREMAP_MAYMOVE | MREMAP_FIXED
        size = pages * PAGE
        if self.puppet.try_call("mremap", at, size, size, flags, there) != there:
            # A part of it was replaced: EFAULT. Since Linux 6.17 what comes first may have gone
            # all the same, if it was not registered yet (see docs/soundness.md).
            if there in mapped(self.puppet.pid):
                self.lose(area, there, pages)
            return
        self.then(meanwhile)
        back = self.puppet.try_call("mremap", there, size, size, flags, at)
        if back != at:
            assert back == -errno.EFAULT, f"mremap: {os.strerror(-back)}"
            # All of it had gone before it was registered; now that it is, EFAULT.
            self.lose(area, there, pages)
            return
        if area.prot == RW:
            self.puppet.fill(area.at, 1)
        self.then(then)

    def lose(self, area: Area, there: int, pages: int) -> None:
        """An area of which some is at `there`: nothing of it is left."""
        self.puppet.munmap(there, pages)
        self.puppet.munmap(area.at, area.pages)
        self.areas.remove(area)

    @precondition(lambda self: self.areas)
    @rule(index=which, pages=st.integers(1, PAGES))
    def resize(self, index: int, pages: int) -> None:
        area = self.area(index)
        if area.of_file or area is getattr(self, "churned", None):
            return
        old, new = area.pages * PAGE, pages * PAGE
        at = self.puppet.try_call("mremap", area.at, old, new, MREMAP_MAYMOVE)
        if at > 0:
            area.at, area.pages = at, pages

    @precondition(lambda self: len(self.children) < 3 and self.births < 8)
    @rule(by=which, then=afterwards)
    def fork(self, by: int, then: str) -> None:
        """By the first process, or by one of its children."""
        # A copy made while a thread holds a lock of libc would hang.
        self.rest()
        parent = ([None, *self.children])[by % (len(self.children) + 1)]
        puppet, areas = (parent.puppet, parent.areas) if parent else (self.puppet, self.areas)
        child = Child(puppet.agent("child"), [replace(area) for area in areas], parent)
        self.children.append(child)
        self.births += 1
        self.then(then)

    @precondition(lambda self: self.children)
    @rule(
        by=which,
        index=which,
        part=parts,
        what=st.sampled_from(["write", "write", "write", "dontneed", "remove", "unmap", "over"]),
        then=afterwards,
    )
    def in_child(self, by: int, index: int, part: tuple[int, int], what: str, then: str) -> None:
        """Copy-on-write there, or, in shared memory, what the object has for everybody."""
        child = self.children[by % len(self.children)]
        if not child.areas:
            return
        puppet, area = child.puppet, child.areas[index % len(child.areas)]
        at, pages = area.part(part)
        if what == "unmap":
            puppet.munmap(area.at, area.pages)
            child.areas.remove(area)
        elif what == "over" and not area.huge:
            if area.prot == RW:
                puppet.mmap(pages, RW, ANON, at=at)
                puppet.fill(at, pages)
        elif what in ("dontneed", "remove"):
            advice = MADV_DONTNEED if what == "dontneed" else MADV_REMOVE
            puppet.try_call("madvise", at, pages * PAGE, advice)
        elif area.prot == RW:
            puppet.fill(at, pages)
        self.then(then)

    @precondition(lambda self: self.children)
    @rule(by=which, then=afterwards)
    def child_ends(self, by: int, then: str) -> None:
        """By SIGKILL, and what it forked with it."""
        child = self.children[by % len(self.children)]
        os.kill(child.puppet.pid, signal.SIGKILL)
        gone = [child]
        for one in self.children:
            if one.parent in gone:
                gone.append(one)
        self.children = [one for one in self.children if one not in gone]
        self.then(then)

    @rule(pages=st.integers(1, 8))
    def grow_heap(self, pages: int) -> None:
        end = self.puppet.call("brk", 0)
        if self.puppet.call("brk", end + pages * PAGE) == end + pages * PAGE:
            self.puppet.fill((end + PAGE - 1) & -PAGE, pages - 1)

    @rule(pages=st.integers(1, 64))
    def deep_stack(self, pages: int) -> None:
        self.puppet.ask(f"deep {pages * PAGE}")

    @precondition(lambda self: self.areas and self.ended is None)
    @rule(index=which)
    def churn(self, index: int) -> None:
        """From now on a thread writes to an area all the time."""
        if area := self.writable(index):
            self.churned = area
            self.ended = self.busy.begin(f"churn {area.at} {area.pages * PAGE} 300000")

    @rule()
    def rest(self) -> None:
        if self.ended is not None:
            self.ended()
            self.ended = None
            del self.churned

    @rule()
    def step(self) -> None:
        self.oracle.step()

    @rule()
    def judge(self) -> None:
        self.oracle.final().check()


def run(
    seed: int,
    examples: int,
    steps: int,
    shrink: bool = True,
    attach: Callable[..., Any] = uffdtrackd.attach,
) -> Counts:
    """So many sequences of at most so many steps. Raises what the smallest failing one raises.

    shrink: make what fails small, which takes minutes; else the first is raised as it was.
    attach: what makes the session of each.
    """
    with huge_pages(HUGE_PAGES) as some:
        return _run(seed, examples, steps, shrink, attach, some)


def _run(
    seed: int, examples: int, steps: int, shrink: bool, attaching: Callable[..., Any], some: bool
) -> Counts:
    class Seeded(Sequences):
        attach = staticmethod(attaching)
        huge = some
        counts = Counts()

    settings: Any = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=False,
        phases=[hypothesis.Phase.generate] + [hypothesis.Phase.shrink] * shrink,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(hypothesis.seed(seed)(Seeded), settings=settings)
    return Seeded.counts
