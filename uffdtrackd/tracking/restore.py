"""A session that goes on in another process: after an upgrade of the tracker, or its death.

    first process                          holder (systemd's fd store)        second process
    -------------                          ---------------------------        --------------
    session.keep_in(memfd)
    session.iterate(), keep() --+--------> memfd: the state          -------> restore(memfd, {...})
    session.descriptors() ------+--------> uffd, pagemap, pidfd      ------->     |
    killed, or session.leave()             of each process                        v
                                           the kernel goes on noting          session.iterate()
                                           what is written                    as if nothing had been

A userfaultfd lives as long as somebody has it open, and with it all notes. What else a tracker
knows of a process is what a reader holds: what is in it and not there any more is discarded, and
it says where pages are. Descriptors are matched with the state by their names. Whatever does not
fit any more is tracked anew, and listed in full:

    the state says "collecting"            all of it: some notes were taken off, and never told
    no descriptors, or exec() since        that process: it is attached to again
    the process has ended                  told once, as exited
    its pid is another process by now      the same (pidfd, start time)
    children born meanwhile                found as always, but for those whose parents ended
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from ..model.errors import TargetGone, TrackError
from ..model.pageset import PageSet
from ..model.region import Tracking
from . import statefile
from .collection import Remembered
from .follow import FOLLOWS, follower
from .member import Member, Permit, permit_all
from .session import Session
from .statefile import State
from .tree import Tree

_ORPHANS = "children born while no tracker ran, whose parents have ended since, are not followed"


class Restored(NamedTuple):
    """A session that goes on. also: what the caller had kept with it (see Session.keep).

    complete: nothing is owed. Else the next iteration lists everything, of one process at least.
    """

    session: Session
    also: dict[str, bytes]
    complete: bool


def restore(
    state: int,
    descriptors: Mapping[str, int],
    *,
    deadline: float = 10.0,
    permit: Permit = permit_all,
) -> Restored:
    """Goes on with a session whose process has ended, or called leave().

    state: the file of keep_in(); it stays the caller's. descriptors: what there is of what
    descriptors() named; all of them are taken over, those that are of no use are closed, also if
    this raises. deadline, permit: as for attach(). keep_in() has to be called again.
    Nobody else may go on with the same descriptors. With the synchronous backend the target runs
    on as soon as this returns.
    Raises TargetGone if no process is left, TrackError for a state that is none, NotPermitted.
    """
    with ExitStack() as stack:
        left = dict(descriptors)
        stack.callback(_close_all, left)
        return _restore(statefile.read(state), left, deadline, permit)


def _close_all(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def _restore(state: State, fds: dict[str, int], deadline: float, permit: Permit) -> Restored:
    meta, page_size = state.meta, os.sysconf("SC_PAGE_SIZE")
    try:
        backend, follow = Tracking(meta["backend"]), str(meta["follow"])
        pid, start_time, most = (
            int(meta[name]) for name in ("pid", "start_time", "most_processes")
        )
        kept = [_Kept(one, state, page_size) for one in meta["members"]]
        left = {
            int(name.partition(".")[2]): PageSet.from_runs(part, page_size)
            for name, part in state.parts.items()
            if name.startswith("left.")
        }
        if meta["page_size"] != page_size or follow not in FOLLOWS:
            raise ValueError("it is of another machine")
    except (KeyError, TypeError, ValueError, TrackError) as error:
        raise TrackError(
            f"not the state of a kept session: {error}",
            hint="attach again: the first iteration lists everything",
        ) from error
    members: list[Member] = []
    complete = not state.collecting
    try:
        for one in kept:
            member = one.member(fds, page_size, backend, permit, state.collecting)
            if member is None:
                left[one.pid] = left.get(one.pid, PageSet(page_size)) | one.known
                continue
            members.append(member)
            complete &= member.tracked and not one.owed
        if not members:
            raise TargetGone(f"process {pid} and all it left have ended", pid=pid)
        group = str(meta["group"])
        tree = Tree.of_members(
            members, follower(follow, members[0].pid, group), page_size, deadline, most, permit
        )
    except BaseException:
        for member in members:
            member.close(leave=True)
        raise
    tree.resume(left)
    if follow == "fork":
        tree.note(_ORPHANS)
    session = Session(
        pid,
        start_time,
        tree,
        backend=str(backend),
        follow=follow,
        deadline=deadline,
        number=state.number,
    )
    also = {
        name.partition(".")[2]: part
        for name, part in state.parts.items()
        if name.startswith("also.")
    }
    return Restored(session, also, complete)


class _Kept:
    """What the state says of one process. Raises KeyError, TypeError, ValueError, TrackError."""

    def __init__(self, found: dict[str, Any], state: State, page_size: int) -> None:
        self.pid = int(found["pid"])
        self.start_time = int(found["start_time"])
        self.known = PageSet.from_runs(state.parts[f"known.{self.pid}"], page_size)
        self.owed = bool(found.get("owed", True))
        self._generation = int(found["generation"])
        self._reported = bool(found["reported"])
        self._image: tuple[int, int, int] | None = None
        if "image" in found:
            first, last, stack = (int(number) for number in found["image"])
            means, pinned = found["pinned"]
            self._image = first, last, stack
            self._pinned = int(means), bool(pinned)

    def member(
        self,
        fds: dict[str, int],
        page_size: int,
        backend: Tracking,
        permit: Permit,
        collecting: bool,
    ) -> Member | None:
        """The process, tracked if it can be; None if it has ended. Takes its descriptors."""
        which = f"{self.pid}.{self.start_time}.{self._generation}"
        uffd, pagemap, pidfd = (
            fds.pop(f"{what}.{which}", -1) for what in ("uffd", "pagemap", "pidfd")
        )
        with ExitStack() as stack:
            for fd in (uffd, pagemap):
                if fd >= 0:
                    stack.callback(os.close, fd)
            try:
                member = Member(self.pid, self.start_time, page_size, permit, backend, pidfd)
            except TargetGone:
                return None
            if self._reported:
                member.inherit(self.known)
            if self._image is None or uffd < 0 or pagemap < 0:
                return member
            stack.pop_all()  # they are the member's
        try:
            earlier = Remembered(self.known, self._pinned, self.owed or collecting)
            member.take_over(uffd, pagemap, self._generation, self._image, earlier)
        except TargetGone:
            member.close()
            return None
        except BaseException:
            member.close(leave=True)
            raise
        return member
