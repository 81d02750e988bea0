"""The processes of a session: who is there, who shares memory, and how all of them are stopped.

    Follower.find() --> shares memory with its parent or a member?  --> sharing   (theirs is its)
                        cannot be attached to?                      --> untracked (tried again)
                        else                                        --> members
    pidfd ------------> ended                                       --> exited, reported once

The freeze goes on until it finds nobody new:

    freeze members --> all at rest --> who else is there? --> freeze them as well --+
                            ^                                                       |
                            +-------------------------------------------------------+

What a stopping process forks is stopped from birth (PTRACE_O_TRACEFORK), so only lines that nobody
of is held yet can grow. A child of vfork() runs in its parent's memory while the parent waits and
cannot be stopped: such a child is left running until its parent is at rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from ..model.errors import TargetGone, TimedOut, TrackError
from ..model.pageset import PageSet
from ..native.error import NativeError
from ..native.freeze import Frozen, freeze
from ..native.kin import same_memory
from . import procfs
from .failure import translated
from .follow import Follower
from .identify import Identity, has_ended
from .member import Member, Permit, permit_all

# A process in vfork() cannot be attached to until its child runs exec(): the others do not wait.
_CHILD_DEADLINE = 0.5


class Tree:
    """The members of a session, by pid.

    sharing: processes that run in the memory of another: pid -> the other. untracked: those that
    could not be attached to in the last update: pid -> why.
    """

    def __init__(
        self,
        first: Member,
        follower: Follower | None,
        page_size: int,
        deadline: float,
        most: int,
        permit: Permit = permit_all,
    ) -> None:
        self.members = {first.pid: first}
        self.sharing: dict[int, int] = {}
        self.untracked: dict[int, str] = {}
        self._first = first
        self._follower = follower
        self._page_size = page_size
        self._deadline = min(deadline, _CHILD_DEADLINE)
        self._most = most
        self._permit = permit
        self._notes: list[str] = []
        # What consumers hold of a pid whose process has ended, or has not been found again: who has
        # the pid now takes it over, else they are told once that it ended.
        self._left: dict[int, PageSet] = {}

    def status(self) -> list[str]:
        lines = [self._follower.status] if self._follower and self._follower.status else []
        lines += self._notes
        return lines + [f"process {pid}: {why}" for pid, why in self.untracked.items()]

    @property
    def exited(self) -> tuple[int, ...]:
        """Members that ended and were not told of; none that another process has the pid of."""
        return tuple(pid for pid in self._left if pid not in self.untracked)

    def forget(self, exited: Iterable[int]) -> None:
        """Readers were told that these ended."""
        for pid in exited:
            self._left.pop(pid, None)

    @classmethod
    def of_members(
        cls,
        members: Sequence[Member],
        follower: Follower | None,
        page_size: int,
        deadline: float,
        most: int,
        permit: Permit,
    ) -> Tree:
        """One whose members are known already, by age. At least one."""
        tree = cls(members[0], follower, page_size, deadline, most, permit)
        tree.members = {member.pid: member for member in members}
        return tree

    def resume(self, known: Mapping[int, PageSet]) -> None:
        """Takes over what consumers of an earlier session hold, by process."""
        for pid, pages in known.items():
            if pid in self.members:
                self.members[pid].inherit(pages)
            elif self._follower is not None:
                self._left[pid] = pages

    def drop(self, pid: int) -> None:
        """A member has ended. Nobody is told of one that nobody ever heard of."""
        member = self.members[pid]
        if member.reported:
            self._left[pid] = member.known
        del self.members[pid]
        member.close()
        self.untracked.pop(pid, None)

    @property
    def left(self) -> dict[int, PageSet]:
        """What consumers hold of processes that ended without their knowing, or were not found."""
        return dict(self._left)

    @property
    def group(self) -> str:
        """The control group that is followed, "" for none."""
        return self._follower.group if self._follower is not None else ""

    @property
    def most(self) -> int:
        return self._most

    def note(self, line: str) -> None:
        """One line more in the status, for good."""
        self._notes.append(line)

    def close(self, *, leave: bool = False) -> None:
        """leave: whoever has the descriptors of the members will go on."""
        for member in self.members.values():
            member.close(leave=leave)
        if self._follower is not None:
            self._follower.close()

    def update(self, *, frozen: bool) -> None:
        """Finds out who ended and who is new, and attaches to those.

        frozen: the freeze has found everybody, and nobody may be attached to. Raises TrackError
        if there are too many.
        """
        self.untracked.clear()
        if self._follower is None or frozen:
            return
        self._drop_ended()
        found = self._follower.find(self.members)
        self.sharing = {pid: of for pid, of in self.sharing.items() if pid in found}
        self._share(found)
        self._check_number(len(self.members) + len(found) - len(self.sharing))
        for pid, start_time in found.items():
            # Again: a process attached to a moment ago may share with this one.
            if pid in self.sharing or self._shares(pid) is not None:
                continue
            try:
                member = self._member(pid, start_time)
            except TargetGone:
                continue
            except TrackError as error:
                self.untracked[pid] = error.message
                continue
            self._enlist(member)

    def freeze(self, deadline: float, lease: float | None = None) -> Frozen:
        """Stops everybody, for `lease` seconds at most.

        Raises TimedOut, NotPermitted, TargetGone, TrackError.
        """
        end = time.monotonic() + deadline
        for pid in self.members:
            self._permit(pid)
        follow = self._follower is not None
        if follow:
            self._drop_ended()
        some = self._somebody() if follow else self._first.identity()
        asked = list(self.members.values())
        with translated(some):
            frozen = freeze(list(self.members), deadline=deadline, lease=lease, follow=follow)
        try:
            if follow:
                with translated(some):
                    self._freeze_rest(frozen, end)
            self._refuse_strangers(asked)
        except BaseException:
            frozen.thaw()
            raise
        return frozen

    def _refuse_strangers(self, asked: Iterable[Member]) -> None:
        """Frozen was who had their pids: raises TargetGone if that is nobody of ours any more."""
        for member in asked:
            pid = member.pid
            now = self.members.get(pid)
            if pid in self.sharing or (now is not None and not now.ended()):
                continue
            if _lives(pid):
                raise TargetGone(
                    f"process {pid} has ended, and another one has its pid",
                    hint="that one runs on; try again",
                    pid=pid,
                )

    def _freeze_rest(self, frozen: Frozen, end: float) -> None:
        assert self._follower is not None
        # Whoever has the pid of one that ended meanwhile is somebody new.
        self._drop_ended()
        held = set(self.members)
        while found := self._follower.find(held, walk=True):
            self._check_number(len(held) + len(found))
            left = end - time.monotonic()
            if left <= 0:
                raise TimedOut(
                    f"the processes of {self._first.pid} fork faster than they can be frozen",
                    hint="try again, or with a longer deadline",
                    pid=self._first.pid,
                )
            # Not the child of a vfork() whose parent is yet to be stopped.
            ready = [pid for pid in found if not self._parent_in(pid, found)]
            for pid in ready:
                self._permit(pid)
            frozen.add(ready, deadline=left)
            held.update(ready)
            self._share({pid: found[pid] for pid in ready})
            for pid in ready:
                if pid not in self.sharing:
                    self._add_frozen(pid, found[pid])

    def _somebody(self) -> Identity:
        """Whoever of the members is still there. Raises TargetGone."""
        for member in self.members.values():
            with suppress(TargetGone):
                return member.identity()
        raise TargetGone(f"process {self._first.pid} and all it left have ended")

    def _member(self, pid: int, start_time: int) -> Member:
        return Member(pid, start_time, self._page_size, self._permit, self._first.backend)

    def _add_frozen(self, pid: int, start_time: int) -> None:
        with suppress(TargetGone):
            self._add(self._member(pid, start_time))

    def _add(self, member: Member) -> None:
        if member.pid in self._left:
            member.inherit(self._left[member.pid])
        self.members[member.pid] = member
        self._left.pop(member.pid, None)
        self.untracked.pop(member.pid, None)

    def _drop_ended(self) -> None:
        for pid in [pid for pid, one in self.members.items() if one.ended()]:
            self.drop(pid)

    def _enlist(self, member: Member) -> None:
        try:
            member.attach(self._deadline)
        except TargetGone:
            member.close()
        except TrackError as error:
            member.close()
            self.untracked[member.pid] = error.message
        except BaseException:
            member.close()
            raise
        else:
            self._add(member)

    def _share(self, found: dict[int, int]) -> None:
        """Finds those that run in the memory of their parent, or of a member."""
        for pid in found:
            of = self._shares(pid)
            parent = self._parent_in(pid, found) if of is None else None
            if of is not None or parent is not None:
                self.sharing[pid] = of or parent or 0
            else:
                self.sharing.pop(pid, None)

    def _shares(self, pid: int) -> int | None:
        return next((one for one in self.members if one != pid and _same(pid, one)), None)

    def _parent_in(self, pid: int, found: dict[int, int]) -> int | None:
        """Its parent, if that is among `found` and has the same memory."""
        try:
            parent = procfs.read_stat(pid).ppid
        except ProcessLookupError:
            return None
        return parent if parent in found and _same(pid, parent) else None

    def _check_number(self, number: int) -> None:
        if number > self._most:
            raise TrackError(
                f"{number} processes to follow, more than the limit of {self._most}",
                hint="a fork bomb? else give a higher limit (most_processes, --most-processes)",
                pid=self._first.pid,
            )


def _lives(pid: int) -> bool:
    """Whether a process has that pid that has not ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return not has_ended(pidfd)
    finally:
        os.close(pidfd)


def _same(one: int, other: int) -> bool:
    try:
        # The memory of a thread that has ended is none, and all those are the same to kcmp(2).
        return same_memory(one, other) and same_memory(
            procfs.live_thread(one), procfs.live_thread(other)
        )
    except (NativeError, ProcessLookupError):
        # One of them has gone, or may not be looked at: attaching will say which.
        return False
