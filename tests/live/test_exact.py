"""What was written is listed, and little else: to list everything is right, but useless.

bigwriter says which pages it wrote; no other thread runs in it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

import uffdtrackd
from tests.procfs import PAGE
from tests.victim import Victim

pytestmark = [pytest.mark.live, pytest.mark.both_backends]

Spawn = Callable[..., Victim]

#: Pages listed in vain for one question: none is the aim, the kernel may move or merge some.
SPARE = 8


class Writer:
    """A bigwriter under a session, its pages by number."""

    def __init__(self, victim: Victim, session: uffdtrackd.Session) -> None:
        self.victim = victim
        self.session = session
        start, end = victim.ask("where").split()
        self.first, self.last = int(start, 16) // PAGE, int(end, 16) // PAGE

    def listed(self) -> set[int]:
        """One iteration; the numbers of the dirty pages of the writer's memory."""
        pages = self.session.iterate().processes[self.victim.pid]
        inside = set()
        for start, end in pages.dirty:
            inside |= set(range(max(start // PAGE, self.first), min(end // PAGE, self.last)))
        for start, end in pages.discarded:
            assert end // PAGE <= self.first or start // PAGE >= self.last, "nothing was dropped"
        return {number - self.first for number in inside}

    def settle(self) -> None:
        """Iterations until nothing is listed: nothing is written meanwhile."""
        limit = time.monotonic() + 2
        while len(self.listed()) > SPARE:
            assert time.monotonic() < limit, "listed again and again, though not written"

    def write(self, fraction: float) -> set[int]:
        _, count, *numbers = self.victim.ask(f"dirty {fraction}").split()
        assert int(count) == len(numbers)
        return {int(number) for number in numbers}


@pytest.mark.parametrize("kind", ["anon", "thp", "file"])
def test_exactly_what_was_written(spawn: Spawn, kind: str, backend: str) -> None:
    if (kind, backend) == ("file", "sync"):
        pytest.skip("private pages of a file are always listed with synchronous protection")
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    victim = spawn("bigwriter", 32, kind, seed)
    with uffdtrackd.attach(victim.pid) as session:
        writer = Writer(victim, session)
        everything = set(range(writer.last - writer.first))
        assert writer.listed() == everything, "iteration 0 lists all that is populated"
        writer.settle()
        for fraction in (0.0, 0.0002, 0.01, 0.3, 1.0, 0.05, 0.0):
            written = writer.write(fraction)
            listed = writer.listed()
            assert written <= listed, f"missed at {fraction}: {sorted(written - listed)[:20]}"
            assert len(listed - written) <= SPARE, (
                f"in vain at {fraction}: {sorted(listed - written)[:20]}"
            )
    victim.finish()


def test_shared_memory_is_never_missed(spawn: Spawn) -> None:
    """Who else writes an object cannot always be seen, so more may be listed: less may not."""
    victim = spawn("bigwriter", 16, "memfd", random.randrange(1 << 30))
    with uffdtrackd.attach(victim.pid) as session:
        writer = Writer(victim, session)
        assert writer.listed() == set(range(writer.last - writer.first))
        for fraction in (0.01, 0.3, 0.0, 1.0, 0.01):
            assert writer.write(fraction) <= writer.listed()
    victim.finish()


def test_what_two_iterations_saw_is_what_one_would(spawn: Spawn) -> None:
    """Written twice, between three iterations: listed in both, and then no more."""
    victim = spawn("bigwriter", 4)
    with uffdtrackd.attach(victim.pid) as session:
        writer = Writer(victim, session)
        writer.listed()
        for _ in range(2):
            assert victim.ask("span 100 50").startswith("span 50")
            assert set(range(100, 150)) <= writer.listed()
        assert len(writer.listed()) <= SPARE
    victim.finish()


def test_the_always_pages_are_few(spawn: Spawn, backend: str) -> None:
    """Only what the kernel itself made (vdso) may be listed every time in a plain process.

    With synchronous protection also what it has of its own in mappings of files: the data of
    the program and its libraries.
    """
    victim = spawn("bigwriter", 4)
    with uffdtrackd.attach(victim.pid) as session:
        session.iterate()
        pages = session.iterate().processes[victim.pid]
        assert len(pages.always) <= (8 if backend == "async" else 32)
        for region in pages.regions:
            if region.tracking == "always":
                of_file = backend == "sync" and region.kind == "file"
                assert region.label.startswith("[v") or of_file, region
    victim.finish()
