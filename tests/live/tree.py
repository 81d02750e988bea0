"""The common part of the tests that follow a tree: a family under a session, and its oracle."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

import uffdtrackd
from tests.oracle import Oracle, Report
from tests.victim import Victim


class Followed:
    """A session that follows `pid`, judged by an oracle. To be used with `with`.

    iteration: the last one.
    """

    def __init__(self, pid: int, follow: str = "fork", **options: Any) -> None:
        self.pid = pid
        self.session = uffdtrackd.attach(pid, follow=follow, **options)
        self.oracle = Oracle(self.session)
        self.iteration: Any = None

    def step(self) -> Any:
        self.iteration = self.oracle.step()
        return self.iteration

    def final(self) -> Report:
        """The frozen iteration, judged. Raises AssertionError with the evidence."""
        report = self.oracle.final()
        self.iteration = self.oracle.last
        report.check()
        return report

    @property
    def pids(self) -> set[int]:
        return set(self.iteration.processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.close()


def make(family: Victim, what: str) -> int:
    """The pid of a new member of a family."""
    return int(family.ask(what))


def no_process_events() -> str:
    """Why a tracker here cannot hear of births, "" if it can."""
    if os.geteuid():
        return "process events need root"
    first = os.readlink("/proc/self/ns/pid"), os.readlink("/proc/self/ns/user")
    # include/linux/proc_ns.h: PROC_PID_INIT_INO, PROC_USER_INIT_INO
    if first != ("pid:[4026531836]", "user:[4026531837]"):
        return "process events are told in the first namespaces only"
    return ""
