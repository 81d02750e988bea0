"""A session: its processes, the numbering of its iterations, and the freeze for the final one.

    attach(pid) --> Member, and a Follower if asked for
        |
        iterate()   ended? new?  `tree`  --> each Member collects --> Iteration
        frozen()    every thread of every process stopped until the block ends

A process that appears is attached to like the first and is full in its first iteration. One that
appears while the rest is being frozen, or runs exec() just then, needs no tracking: it stands
still, and all of it is listed (`member`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from ..model.errors import TargetExecuted, TargetGone, TrackError, UsageError
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from ..model.region import Tracking
from ..native.freeze import Frozen
from .attach import open_target
from .backend import BACKENDS, choose
from .collection import Collection
from .follow import FOLLOWS, follower
from .keeper import Keeper
from .member import Member, Permit, permit_all
from .object import View
from .shared import SharedMemory
from .tree import Tree

if TYPE_CHECKING:
    from typing_extensions import Buffer

# More processes than this look like a fork bomb.
MOST_PROCESSES = 1024


class Session:
    """Tracks a process, or a tree of them; made by `attach()`, ended by `close()` or by `with`.

    pid: the first target. start_time: its, in clock ticks after boot. page_size: bytes.
    backend: in use. follow: as given to attach().
    Safe to use from several threads: calls take turns.
    """

    def __init__(
        self,
        pid: int,
        start_time: int,
        tree: Tree,
        *,
        backend: str,
        follow: str,
        deadline: float,
        number: int = 0,
    ) -> None:
        self.page_size = os.sysconf("SC_PAGE_SIZE")
        self.pid = pid
        self.start_time = start_time
        self.follow = follow
        self.backend = backend
        self._deadline = deadline
        self._tree = tree
        self._shared = SharedMemory(self.page_size)
        self._number = number
        self._frozen: Frozen | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._keeper: Keeper | None = None

    @property
    def pids(self) -> list[int]:
        """The processes of the session as of the last iteration, by age in it."""
        return list(self._tree.members)

    @property
    def known(self) -> Mapping[int, PageSet]:
        """What a consumer of all iterations so far holds, by process; also of one whose end it was
        not told of yet."""
        with self._lock:
            members = self._tree.members.items()
            return self._tree.left | {pid: one.known for pid, one in members if one.reported}

    @property
    def status(self) -> list[str]:
        """What is not seen, and why: one line each; empty if all is well."""
        return self._tree.status()

    def iterate(self) -> Iteration:
        """What was written since the previous iteration; number 0 lists everything populated.

        Raises TargetGone when every process has ended, NotPermitted, TimedOut, TrackError if there
        are more processes than allowed. A process that could not be attached to is in
        `Iteration.untracked`, and tried again next time; of a frozen tree nothing may be left out.
        """
        with self._lock:
            self._check_open()
            began = time.monotonic_ns()
            frozen = self.is_frozen
            if self._keeper is not None:
                self._keeper.begin()
            self._tree.update(frozen=frozen)
            try:
                iteration = self._iteration(self._collect(frozen), began)
            except BaseException:
                # Nobody will hear of what was collected.
                self._shared.relist()
                for member in self._tree.members.values():
                    member.relist()
                raise
            self._number += 1
            if iteration.exited:
                self._tree.forget(iteration.exited)
            return iteration

    def _iteration(self, collections: dict[int, Collection], began: int) -> Iteration:
        """began: CLOCK_MONOTONIC, in ns."""
        ended = time.monotonic_ns()
        stopped = 0
        for member in self._tree.members.values():
            stopped += member.stopped_ns()
        holder = None if self._frozen is None else self._still_frozen()
        if holder is not None:
            stopped += ended - holder.stopped_at_ns
        return Iteration(
            number=self._number,
            frozen=holder is not None,
            time_ns=time.time_ns(),
            duration_ns=ended - began,
            stopped_ns=stopped,
            page_size=self.page_size,
            processes={
                pid: ProcessPages(
                    one.dirty, one.discarded, one.always, one.load_regions, one.windows
                )
                for pid, one in collections.items()
            },
            stats=_sum(collections),
            exited=self._tree.exited if self.follow != "none" else None,
            sharing=dict(self._tree.sharing),
            untracked=dict(self._tree.untracked),
        )

    @contextmanager
    def frozen(self, deadline: float = 10.0, lease: float | None = None) -> Iterator[Session]:
        """Stops every thread of every process of the session until the block ends.

        An iteration taken inside is final: with what it lists copied inside the block too, the
        copy is exact. `Iteration.frozen` is False if the freeze was lost (its holder was killed).
        deadline: seconds to get everything stopped. lease: seconds after which the target is let go
        whatever this process does then, None for never. Raises TimedOut with the target running on,
        TargetGone, NotPermitted.
        """
        with self._lock:
            self._check_open()
            if self._frozen is not None:
                raise UsageError("the session is frozen already", pid=self.pid)
            self._frozen = self._tree.freeze(deadline, lease)
        try:
            yield self
        finally:
            with self._lock:
                frozen, self._frozen = self._frozen, None
                if frozen is not None:
                    frozen.thaw()

    @property
    def is_frozen(self) -> bool:
        """Whether the target stands still now."""
        return self._still_frozen() is not None

    def let_go(self) -> None:
        """Ends a freeze at once, from any thread, also while another call is under way.

        The block of frozen() is to be left as always.
        """
        frozen = self._frozen
        if frozen is not None:
            frozen.let_go()

    def read(self, pid: int, start: int, length: int) -> bytes:
        """Memory of a process of the session, also while it runs.

        start, length: bytes, any alignment. Raises UsageError for a process of no concern to the
        session, TrackError with the address where memory cannot be read, TargetGone.
        """
        with self._lock:
            self._check_open()
            member = self._tree.members.get(pid)
            if member is None:
                raise UsageError(f"process {pid} is not of this session", pid=pid)
            return member.read(start, length)

    def resume(self, number: int, known: Mapping[int, PageSet]) -> None:
        """Goes on where another session of the same processes ended; before the first iterate().

        number: of the next iteration. known: what that session had as `known`. The next iteration
        lists everything as dirty, and as discarded what is in `known` and no longer there: applied
        to the copy that a consumer of the other session holds, it makes that exact.
        """
        with self._lock:
            self._check_open()
            self._number = number
            self._tree.resume(known)

    def keep_in(self, fd: int) -> None:
        """From now on the session can be restored by another process: see `restore`.

        fd: where its state goes, a memfd or a file; it stays the caller's and must stay open.
        Nothing is written before the next keep().
        """
        with self._lock:
            fixed = {
                "pid": self.pid,
                "start_time": self.start_time,
                "page_size": self.page_size,
                "backend": self.backend,
                "follow": self.follow,
                "most_processes": self._tree.most,
            }
            self._keeper = Keeper(fd, fixed)

    def keep(self, also: Mapping[str, Buffer] | None = None) -> None:
        """Writes the state: what the iterations so far said is where it will survive.

        To be called after each iterate(), when the caller has put away what it said and before
        anybody hears of it: an iteration without a keep() is one that nobody ever heard of, and
        after a restore() the next one lists everything.
        also: data of the caller's, by name, kept in the same instant. Of what is the same object
        as the last time nothing is written anew.
        Raises UsageError without keep_in(), OSError; the state before stands then.
        """
        with self._lock:
            self._check_open()
            if self._keeper is None:
                raise UsageError("keep_in() comes before keep()", pid=self.pid)
            self._keeper.keep(self._number, self._tree, also or {})

    def descriptors(self) -> dict[str, int]:
        """What somebody must hold for restore(), by name: of each process uffd, pagemap and pidfd.

        They change when a process appears, ends or runs exec(), in an iterate(). A name (letters,
        digits and dots) never comes again with another meaning. The descriptors stay the session's.
        """
        with self._lock:
            members = self._tree.members.values()
            return {name: fd for one in members for name, fd in one.descriptors().items()}

    def leave(self) -> None:
        """As close(), for one who will be restored: takes no protection off.

        With the synchronous backend the target waits, at its next write, for the one who restores.
        """
        self._end(leave=True)

    def close(self) -> None:
        """Thaws, lets go of the target and frees what the session holds. May be called twice."""
        self._end(leave=False)

    def _end(self, *, leave: bool) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._frozen is not None:
                self._frozen.thaw()
                self._frozen = None
            self._shared.close()
            self._tree.close(leave=leave)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the session is closed", pid=self.pid)

    def _still_frozen(self) -> Frozen | None:
        """The freeze, if it held until now: whoever kills its holder thaws the target."""
        frozen = self._frozen
        if frozen is None:
            return None
        try:
            frozen.check()
        except OSError:
            return None
        return frozen

    def _collect(self, frozen: bool) -> dict[int, Collection]:
        tree = self._tree
        collections: dict[int, Collection] = {}
        views: dict[int, View] = {}
        for pid, member in list(tree.members.items()):
            try:
                views[pid] = member.gather(self._deadline, frozen)
            except TrackError as error:
                self._bear(error, pid, frozen)
        answers = self._shared.settle(list(views.values()), tree.sharing)
        for pid, answer in zip(views, answers, strict=True):
            try:
                collections[pid] = tree.members[pid].finish(answer)
            except TrackError as error:
                self._bear(error, pid, frozen)
        if not collections and not tree.untracked:
            raise TargetGone(f"process {self.pid} and all it left have ended", pid=self.pid)
        return collections

    def _bear(self, error: TrackError, pid: int, frozen: bool) -> None:
        """What befalls one process of a tree must not harm the others. Raises the error else."""
        if self.follow == "none":
            raise error
        # Whoever runs another program has not ended, and is attached to again.
        if isinstance(error, TargetGone) and not isinstance(error, TargetExecuted):
            self._tree.drop(pid)
            return
        if frozen:
            raise error
        self._tree.untracked[pid] = error.message
        self._shared.relist()  # it was not told its part


def attach(
    pid: int,
    backend: str = "auto",
    follow: str = "none",
    *,
    deadline: float = 10.0,
    most_processes: int = MOST_PROCESSES,
    permit: Permit = permit_all,
) -> Session:
    """Begins to track a running process, in this process and without a daemon.

    backend: "async" (needs UFFD_FEATURE_WP_ASYNC and PAGEMAP_SCAN, Linux 6.7), "sync" (Linux 5.14
    and privilege; the target waits for a handler of ours at each first write), or "auto".
    follow: "none": this process only; "fork": its descendants too; "cgroup": all processes of its
    control group. deadline: seconds to find a moment to stop one thread. most_processes: of the
    session; with more of them iterate() and frozen() fail. permit: told each pid whose memory was
    opened or that is to be frozen; raises NotPermitted where the kernel allows more than the user
    of this function may have.
    Raises TargetGone, NotPermitted, BeingTraced, NotSupported, AlreadyTracked, TimedOut,
    UsageError.
    """
    _check_choice("backend", backend, BACKENDS)
    _check_choice("follow", follow, FOLLOWS)
    page_size = os.sysconf("SC_PAGE_SIZE")
    how = choose(backend)
    target = open_target(pid, deadline=deadline, kernel_faults=how is Tracking.SYNC)
    member = Member.of_target(target, page_size, permit, how)
    try:
        tree = Tree(member, follower(follow, pid), page_size, deadline, most_processes, permit)
    except BaseException:
        member.close()
        raise
    return Session(pid, member.start_time, tree, backend=str(how), follow=follow, deadline=deadline)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"no {name} {value!r}", hint=f"known: {', '.join(known)}")


def _sum(collections: dict[int, Collection]) -> dict[str, int]:
    if len(collections) == 1:
        return next(iter(collections.values())).stats
    total: Counter[str] = Counter()
    for one in collections.values():
        total.update(one.stats)
    return dict(total)
