r"""One process of a session, through everything that may become of it.

                    attach            exec()
    found  ------>  tracked  <------->  not tracked  (attached again by the next iteration)
       \                                    |
        \--- while the tree is frozen ------+---> Snapshot: all of it is dirty
                                                  (it stands still, so that is exact)

`known` is what a consumer that followed every iteration holds of the process, whichever of these
said so: what is in it and no longer there is reported as discarded.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..model.errors import AlreadyTracked, NotSupported, TargetExecuted, TimedOut
from ..model.pageset import PageSet
from ..model.region import Tracking
from ..native.copy import Memory
from ..native.error import NativeError
from . import procfs
from .attach import Target, open_target
from .collection import Collection, Remembered
from .failure import translated
from .identify import Identity, gone, has_ended, pidfd_open
from .object import View
from .shared import SharedPages
from .snapshot import Snapshot
from .sync import SyncTracker
from .tracker import Tracker

# A shell script runs exec() once and is another program for good.
_EXEC_TRIES = 3

# What UFFDIO_API and PAGEMAP_SCAN say to what they do not know.
_UNKNOWN = frozenset({errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP})

# Told a pid whose memory was just opened; raises NotPermitted if its owner may not have it.
Permit = Callable[[int], None]


def permit_all(pid: int) -> None:
    """The kernel has decided already."""


class Member:
    """One process, by pid and start time (clock ticks after boot); nothing is attached to yet.

    permit: asked each time that memory of the process was opened, for it may run another program
    than before, with other rights. Opening waits for an exec() that is under way, so what permit
    then sees of the process belongs to that memory or to a later one (mm_access(), exec_update_lock
    in fs/exec.c).
    backend: how it will be tracked. pidfd: of the process, taken over; -1: one is opened.
    Raises TargetGone if it has ended, TrackError if there is no descriptor left.
    """

    def __init__(
        self,
        pid: int,
        start_time: int,
        page_size: int,
        permit: Permit = permit_all,
        backend: Tracking = Tracking.ASYNC,
        pidfd: int = -1,
    ) -> None:
        self.pid = pid
        self.backend = backend
        self.start_time = start_time
        self._page_size = page_size
        self._permit = permit
        self._target: Target | None = None
        self._tracker: Tracker | None = None
        self._memory: Memory | None = None
        self._none = PageSet(page_size)
        self._held = self._none  # known, but not to the tracker
        self._was_held = self._held  # before the last collection
        self._snapshot: Snapshot | None = None  # between gather() and finish()
        self._stopped_ns = 0
        self.reported = False  # in an iteration
        self._generation = 0  # how often it was attached to
        self._pidfd = pidfd if pidfd >= 0 else pidfd_open(pid)
        try:
            if self.ended() or procfs.same_process(pid, start_time) is None:
                raise gone(pid)
        except BaseException:
            self.close()
            raise

    @classmethod
    def of_target(
        cls,
        target: Target,
        page_size: int,
        permit: Permit = permit_all,
        backend: Tracking = Tracking.ASYNC,
    ) -> Member:
        """A member that is attached to already. Raises as `attach`; the target is closed then."""
        try:
            member = cls(target.pid, target.start_time, page_size, permit, backend)
        except BaseException:
            target.close()
            raise
        try:
            member._adopt(target)
        except BaseException:
            member.close()
            raise
        return member

    @property
    def known(self) -> PageSet:
        """What a consumer of all iterations so far holds."""
        return self._held | self._tracker.known if self._tracker else self._held

    @property
    def tracked(self) -> bool:
        return self._tracker is not None

    def ended(self) -> bool:
        """Whether its last thread has exited."""
        return has_ended(self._pidfd)

    def alive(self) -> bool:
        """Whether it is tracked and still runs the program that is."""
        return self._tracker is not None and self._tracker.alive()

    def inherit(self, known: PageSet) -> None:
        """Takes over what a consumer holds of an earlier process with this pid."""
        self._held |= known
        self.reported = True

    def attach(self, deadline: float) -> None:
        """Begins to track it. deadline: seconds to find a moment to stop one thread.

        Raises as session.attach().
        """
        for _ in range(_EXEC_TRIES):
            target = open_target(
                self.pid, deadline=deadline, kernel_faults=self.backend is Tracking.SYNC
            )
            if target.start_time != self.start_time:
                target.close()
                raise gone(self.pid)
            try:
                self._adopt(target)
            except TargetExecuted:
                continue
            return
        raise self._too_often()

    def gather(self, deadline: float, frozen: bool) -> View:
        """The first half of an iteration: what it found of shared memory, for the session.

        frozen: nothing may be attached to, and nothing need be. Raises TargetGone, NotPermitted,
        TimedOut, and what attaching raises.
        """
        for _ in range(_EXEC_TRIES):
            if frozen and not self.alive():
                return self._take_snapshot()
            if self._tracker is None:
                self.attach(deadline)
            assert self._tracker is not None
            try:
                try:
                    return self._tracker.gather(frozen)
                except OSError:
                    with translated(self.identity()):
                        raise
            except TargetExecuted:
                self._let_go()
        raise self._too_often()

    def finish(self, shared: SharedPages) -> Collection:
        """The second half. shared: the answer to the View. Raises TargetGone, TrackError."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            with translated(self.identity()):
                collection = snapshot.finish(shared)
        else:
            assert self._tracker is not None, "gather() first"
            try:
                collection = self._tracker.finish(shared)
            except OSError:
                with translated(self.identity()):
                    raise
        self.reported = True
        held = self._was_held = self._held
        self._held = self._none if snapshot is None else collection.dirty
        return collection if held is self._none else _with_discarded(collection, held)

    def relist(self) -> None:
        """What the last collection said was not told to anybody: the next one says everything."""
        self._held |= self._was_held
        if self._tracker is not None:
            self._tracker.relist()

    def stopped_ns(self) -> int:
        """How long a thread was stopped by attaching, since last asked."""
        stopped, self._stopped_ns = self._stopped_ns, 0
        return stopped

    def read(self, start: int, length: int) -> bytes:
        """Its memory. Raises TrackError with the address that cannot be read, TargetGone,
        NotPermitted."""
        try:
            return self._read(start, length)
        except TargetExecuted:
            # What it runs now may have other rights: that is another memory, to be permitted anew.
            self._close_memory()
            return self._read(start, length)

    def _read(self, start: int, length: int) -> bytes:
        identity = self.identity()
        with translated(identity):
            if self._memory is None:
                memory = Memory(identity.live_tid, bound=True)
                try:
                    # Opened by number: it was this process as long as that has not ended.
                    if self.ended():
                        raise gone(self.pid)
                    self._permit(self.pid)
                except BaseException:
                    memory.close()
                    raise
                self._memory = memory
            return self._memory.read(start, length)

    def identity(self) -> Identity:
        """Who it is now; its pidfd is the member's own. Raises TargetGone.

        One that is not attached to may have become another program at any time.
        """
        if self._target is not None:
            return self._target.identity
        try:
            live = [one for one in procfs.thread_stats(self.pid) if not one.dead]
        except ProcessLookupError:
            live = []
        if not live or self.ended():
            raise gone(self.pid)
        tid, name, image = live[0].tid, live[0].name, live[0].image
        return Identity(self.pid, self.start_time, self._pidfd, tid, name, 0, 0, image)

    def descriptors(self) -> dict[str, int]:
        """What take_over() wants, by a name that no other tracking ever has."""
        if self._target is None:
            return {}
        which = f"{self.pid}.{self.start_time}.{self._generation}"
        target = self._target
        fds = {"uffd": target.uffd, "pagemap": target.pagemap, "pidfd": self._pidfd}
        return {f"{what}.{which}": fd for what, fd in fds.items()}

    def remembered(self) -> tuple[dict[str, Any], PageSet]:
        """What to know of it to go on later: a map for JSON, and what a consumer holds."""
        found: dict[str, Any] = {
            "pid": self.pid,
            "start_time": self.start_time,
            "generation": self._generation,
            "reported": self.reported,
        }
        if self._tracker is not None and self._target is not None:
            remembered = self._tracker.remembered
            found["image"] = self._target.identity.image
            found["pinned"] = remembered.pinned
            found["owed"] = remembered.owed or bool(self._held)
        return found, self.known

    def take_over(
        self,
        uffd: int,
        pagemap: int,
        generation: int,
        image: tuple[int, int, int],
        earlier: Remembered,
    ) -> None:
        """Goes on with what an earlier tracker had: see remembered(). Takes the descriptors over.

        If the process runs another program by now they are of no use, and it is attached to in
        the next iteration. Raises TargetGone, TrackError.
        """
        self._generation = generation
        self._held = earlier.known
        with ExitStack() as stack:
            for fd in (uffd, pagemap):
                stack.callback(os.close, fd)
            identity = self.identity()
            if identity.image != image:
                return
            self._permit(self.pid)
            try:
                kind = SyncTracker if self.backend is Tracking.SYNC else Tracker
                tracker = kind(self.pid, identity.live_tid, uffd, pagemap, self._page_size, earlier)
                stack.callback(tracker.close)
                # What was opened by name may be of the memory after an exec().
                identity.check()
            except (OSError, TargetExecuted):
                return
            stack.pop_all()
        identity = replace(identity, pidfd=os.dup(self._pidfd))
        self._target = Target(identity, uffd, pagemap, None)
        self._tracker = tracker
        self._held = PageSet(self._page_size)

    def close(self, *, leave: bool = False) -> None:
        """Ends the tracking and gives everything back. May be called twice.

        leave: whoever has the descriptors will go on.
        """
        self._let_go(leave=leave)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _adopt(self, target: Target) -> None:
        try:
            self._permit(self.pid)
            self._tracker = _track(target, self._page_size, self.backend)
        except BaseException:
            target.close()
            raise
        self._target = target
        self._generation += 1
        self._close_memory()
        self._stopped_ns += target.stopped_ns

    def _let_go(self, *, leave: bool = False) -> None:
        self._close_memory()
        if self._tracker is not None:
            self._held |= self._tracker.known
            if leave:
                self._tracker.leave()
            else:
                self._tracker.close()
            self._tracker = None
        if self._target is not None:
            self._target.close()
            self._target = None

    def _too_often(self) -> TimedOut:
        return TimedOut(
            f"process {self.pid} runs exec() too often to be collected in between",
            hint="try again when it has settled",
            pid=self.pid,
        )

    def _close_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _take_snapshot(self) -> View:
        self._let_go()
        identity = self.identity()
        with translated(identity):
            snapshot = Snapshot(self.pid, identity.live_tid, self._page_size)
        self._permit(self.pid)
        self._snapshot = snapshot
        return snapshot.view


def _with_discarded(collection: Collection, held: PageSet) -> Collection:
    discarded = (held | collection.discarded) - collection.dirty
    return collection._replace(discarded=discarded)


def _track(target: Target, page_size: int, backend: Tracking) -> Tracker:
    """A tracker with everything registered. Raises as `attach`."""
    kind = SyncTracker if backend is Tracking.SYNC else Tracker
    # It may end, or run exec(), at any of these steps: its files in /proc are gone then.
    with translated(target.identity):
        try:
            tracker = kind(target.pid, target.tid, target.uffd, target.pagemap, page_size)
        except NativeError as error:
            if error.errno not in _UNKNOWN:
                raise
            how = "synchronously" if backend is Tracking.SYNC else "asynchronously"
            raise NotSupported(
                f"this kernel cannot track process {target.pid} {how} ({error.step})",
                hint="`uffdtrack check` shows what is missing",
                pid=target.pid,
            ) from error
        try:
            tracker.register()
            if tracker.owned_elsewhere() and not _has_userfaultfd(target.tid):
                raise AlreadyTracked(f"process {target.pid} is tracked already", pid=target.pid)
        except BaseException:
            tracker.close()
            raise
    return tracker


def _has_userfaultfd(tid: int) -> bool:
    """Whether the process itself has a userfaultfd open, so that a region may be its own.

    Raises OSError.
    """
    folder = f"/proc/{tid}/fd"
    for name in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{name}") == "anon_inode:[userfaultfd]":
                return True
        except FileNotFoundError:
            continue
    return False
