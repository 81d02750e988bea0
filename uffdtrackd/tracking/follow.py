"""Which processes belong to a session, beside the target.

    follow="fork"     births of the connector, in order     `connector`   misses nobody
                      or walks from parent to child         `children`    misses orphans
    follow="cgroup"   members of a control group            `cgroup`

A follower only says who is there. Whether somebody can be tracked, shares memory with another, or
is one too many is the session's to decide. It is asked at each iteration, and again and again
while the tree is being frozen, until it names nobody who is not held.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from .cgroup import ControlGroup, living
from .children import descendants
from .connector import Connector

FOLLOWS = ("none", "fork", "cgroup")


class Follower(Protocol):
    """status: what it cannot see, "" if it sees everything. group: its path, or ""."""

    status: str
    group: str

    def find(self, known: Collection[int], *, walk: bool = False) -> dict[int, int]:
        """Living processes that belong to the session, but for `known` (living ones, by pid).

        walk: look for children also where events should have told of them, as a freeze does: of
        a frozen tree nobody may be missing. pid -> start time in clock ticks; parents before
        their children.
        """

    def close(self) -> None: ...


class ByFork:
    """The descendants of a process."""

    group = ""

    def __init__(self, pid: int) -> None:
        self._family: dict[int, None] = {pid: None}  # in the order of birth
        self._connector: Connector | None = None
        self.status = ""
        try:
            # Before the first walk: whoever is born after it is announced.
            self._connector = Connector()
        except OSError as error:
            self.status = (
                "children whose parent ends before they are seen escape:"
                f" no process events from the kernel ({error.strerror})"
            )
        self._walked = False

    def find(self, known: Collection[int], *, walk: bool = False) -> dict[int, int]:
        # Before the births are read: what the dead announced is among them then.
        held = set(known)
        unknown = [pid for pid in self._family if pid not in held]
        dead = set(unknown) - living(unknown).keys()
        births = self._connector.births() if self._connector else None
        if births is None or walk or not self._walked:
            self._walked = True
            for pid in [*held, *descendants([*self._family, *held])]:
                self._family.setdefault(pid)
        for parent, child in births or ():
            # In order, so a pid that comes to life elsewhere is no longer ours.
            self._family.pop(child, None)
            dead.discard(child)
            if parent in self._family:
                self._family[child] = None
        for pid in dead:
            self._family.pop(pid, None)
        return living([pid for pid in self._family if pid not in held])

    def close(self) -> None:
        if self._connector is not None:
            self._connector.close()
            self._connector = None


class ByControlGroup:
    """The processes of a control group: the one that a process is in now, or a path.

    Raises UsageError.
    """

    def __init__(self, pid: int, path: str = "") -> None:
        self._group = ControlGroup(pid, path)
        self.group = self._group.path
        self.status = ""

    def find(self, known: Collection[int], *, walk: bool = False) -> dict[int, int]:
        held = set(known)
        return living([pid for pid in self._group.pids() if pid not in held])

    def close(self) -> None:
        pass


def follower(kind: str, pid: int, group: str = "") -> Follower | None:
    """The one for `follow=kind`; None for "none". group: not the one that `pid` is in, but this.

    Raises UsageError.
    """
    if kind == "fork":
        return ByFork(pid)
    return ByControlGroup(pid, group) if kind == "cgroup" else None
