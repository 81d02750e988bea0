"""The common part of the tests that keep a copy: follow a target, judge, let it judge itself.

    attach --> iterate + copy, `progress()` in between, `steps` times --> frozen --> judged

`progress` returns when the target has done some more of its work: iterations that nothing happened
between would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import uffdtrackd
from tests.oracle import Oracle, Report
from tests.victim import Victim

STEPS = 20


def follow(pid: int, progress: Callable[[], object], steps: int = STEPS) -> Report:
    """Track `pid` for some iterations and the final one. Raises AssertionError with the evidence.

    Returns the report, for what else a test wants of it.
    """
    with uffdtrackd.attach(pid) as session:
        oracle = Oracle(session)
        oracle.step()
        for _ in range(steps):
            progress()
            oracle.step()
        progress()
        report = oracle.final()
    report.check(iterations=steps + 2)
    assert report.dirty > 0, "nothing was ever dirty: was the target at work?"
    return report


class Counting:
    """progress() of a victim that answers any line with a line that ends in, or has, its count."""

    def __init__(self, victim: Victim, amount: int, command: str = "stats") -> None:
        self.victim = victim
        self.amount = amount
        self.command = command
        self.last = self.count()

    def count(self) -> int:
        """The first number in the answer."""
        answer = self.victim.ask(self.command)
        return next(int(word) for word in answer.split() if word.isdigit())

    def __call__(self) -> None:
        while (now := self.count()) < self.last + self.amount:
            pass
        self.last = now


def tracked_by_nobody(pid: int) -> bool:
    """Whether no mapping of the process is registered with a userfaultfd (VmFlags uw, um)."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    flags = [line.split()[1:] for line in text.splitlines() if line.startswith("VmFlags:")]
    return not any("uw" in words or "um" in words for words in flags)
