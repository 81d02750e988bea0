"""A session: a target, the numbering of its iterations, and the freeze for the final one.

    attach(pid) --> Target (userfaultfd, pagemap, pidfd) --> Tracker
                                                               |
        iterate() --- number, clock ---------------------------+--> Iteration
        frozen()  --- every thread stopped until the block ends

If the target runs exec() its memory is another: the session attaches again and the next iteration
lists the new memory in full and discards the old.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from ..model.errors import (
    AlreadyTracked,
    NotSupported,
    TargetExecuted,
    TargetGone,
    TimedOut,
    TrackError,
    UsageError,
)
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from ..native.copy import Memory
from ..native.error import NativeError
from ..native.freeze import Frozen, freeze
from .attach import Target, open_target
from .failure import translated
from .tracker import Collection, Tracker

BACKENDS = ("auto", "async")
FOLLOWS = ("none",)

# A shell script runs exec() once and is another program for good.
_EXEC_TRIES = 3


class Session:
    """Tracks one process; made by `attach()`, ended by `close()` or the end of a `with` block.

    pid: the target. page_size: bytes. backend: in use.
    Safe to use from several threads: calls take turns.
    """

    def __init__(self, target: Target, deadline: float) -> None:
        self.page_size = os.sysconf("SC_PAGE_SIZE")
        self.pid = target.pid
        self._deadline = deadline
        self._target = target
        self._tracker = _track(target, self.page_size)
        self._memory = Memory(target.tid)
        self._number = 0
        self._stopped_ns = target.stopped_ns
        self._frozen: Frozen | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._lost = PageSet(self.page_size)  # discarded by exec(), not reported yet

    @property
    def pids(self) -> list[int]:
        """The processes of the session."""
        return [self.pid]

    @property
    def backend(self) -> str:
        return str(self._tracker.backend)

    def iterate(self) -> Iteration:
        """What was written since the previous iteration; number 0 lists everything populated.

        Raises TargetGone when the target has ended, NotPermitted, TimedOut.
        """
        with self._lock:
            self._check_open()
            began = time.monotonic_ns()
            collection = self._collect()
            ended = time.monotonic_ns()
            stopped, self._stopped_ns = self._stopped_ns, 0
            frozen = self._still_frozen()
            if frozen is not None:
                stopped += ended - frozen.stopped_at_ns
            iteration = Iteration(
                number=self._number,
                frozen=frozen is not None,
                time_ns=time.time_ns(),
                duration_ns=ended - began,
                stopped_ns=stopped,
                page_size=self.page_size,
                processes={
                    self.pid: ProcessPages(
                        collection.dirty,
                        collection.discarded,
                        collection.always,
                        collection.load_regions,
                    )
                },
                stats=collection.stats,
            )
            self._number += 1
            return iteration

    @contextmanager
    def frozen(self, deadline: float = 10.0) -> Iterator[Session]:
        """Stops every thread of the target until the block ends.

        An iteration taken inside is final: with what it lists copied inside the block too, the
        copy is exact. `Iteration.frozen` is False if the freeze was lost (its holder was killed).
        deadline: seconds to get everything stopped. Raises TimedOut with the target running on,
        TargetGone, NotPermitted.
        """
        with self._lock:
            self._check_open()
            if self._frozen is not None:
                raise UsageError("the session is frozen already", pid=self.pid)
            self._frozen = self._freeze(deadline)
        try:
            yield self
        finally:
            with self._lock:
                frozen, self._frozen = self._frozen, None
                if frozen is not None:
                    frozen.thaw()

    def read(self, pid: int, start: int, length: int) -> bytes:
        """Memory of a process of the session, also while it runs.

        start, length: bytes, any alignment. Raises UsageError for a process of no concern to the
        session, TrackError with the address where memory cannot be read, TargetGone.
        """
        with self._lock:
            self._check_open()
            if pid != self.pid:
                raise UsageError(f"process {pid} is not of this session", pid=pid)
            with translated(self._target.identity):
                return self._memory.read(start, length)

    def close(self) -> None:
        """Thaws, lets go of the target and frees what the session holds. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._frozen is not None:
                self._frozen.thaw()
                self._frozen = None
            self._memory.close()
            self._tracker.close()
            self._target.close()

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
        if self._frozen is None:
            return None
        try:
            self._frozen.check()
        except NativeError:
            return None
        return self._frozen

    def _freeze(self, deadline: float) -> Frozen:
        """Stops the target, attached again if it ran exec() in the meantime."""
        for _ in range(_EXEC_TRIES):
            with translated(self._target.identity):
                frozen = freeze([self.pid], deadline=deadline)
            if self._tracker.alive():
                return frozen
            frozen.thaw()
            self._attach_again()
        raise TimedOut(
            f"process {self.pid} runs exec() too often to be frozen in between",
            hint="try again when it has settled",
            pid=self.pid,
        )

    def _collect(self) -> Collection:
        for _ in range(_EXEC_TRIES):
            try:
                with translated(self._target.identity):
                    collection = self._tracker.iterate()
            except TargetExecuted:
                self._attach_again()
                continue
            lost, self._lost = self._lost, PageSet(self.page_size)
            if lost:
                discarded = (lost | collection.discarded) - collection.dirty
                collection = collection._replace(discarded=discarded)
            return collection
        raise TimedOut(
            f"process {self.pid} runs exec() too often to be collected in between",
            hint="try again when it has settled",
            pid=self.pid,
        )

    def _attach_again(self) -> None:
        """After exec(): what was known is lost, and the next iteration is a full one."""
        target = open_target(self.pid, deadline=self._deadline)
        try:
            if target.identity.start_time != self._target.identity.start_time:
                raise TargetGone(f"process {self.pid} has ended", pid=self.pid)
            tracker = _track(target, self.page_size)
        except BaseException:
            target.close()
            raise
        self._lost |= self._tracker.known
        self._memory.close()
        self._tracker.close()
        self._target.close()
        self._target, self._tracker = target, tracker
        self._memory = Memory(target.tid)
        self._stopped_ns += target.stopped_ns


def attach(
    pid: int, backend: str = "auto", follow: str = "none", *, deadline: float = 10.0
) -> Session:
    """Begins to track a running process, in this process and without a daemon.

    backend: "auto" or "async" (needs UFFD_FEATURE_WP_ASYNC and PAGEMAP_SCAN, Linux 6.7).
    follow: "none": this process only. deadline: seconds to find a moment to stop one thread.
    Raises TargetGone, NotPermitted, BeingTraced, NotSupported, AlreadyTracked, TimedOut,
    UsageError.
    """
    _check_choice("backend", backend, BACKENDS)
    _check_choice("follow", follow, FOLLOWS)
    target = open_target(pid, deadline=deadline)
    try:
        return Session(target, deadline)
    except BaseException:
        target.close()
        raise


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"no {name} {value!r}", hint=f"known: {', '.join(known)}")


def _track(target: Target, page_size: int) -> Tracker:
    """A tracker with everything registered. Raises as `attach`."""
    try:
        tracker = Tracker(target.pid, target.tid, target.uffd, target.pagemap, page_size)
    except NativeError as error:
        # UFFDIO_API and PAGEMAP_SCAN say EINVAL or ENOTTY to what they do not know.
        raise NotSupported(
            f"this kernel cannot track process {target.pid} asynchronously ({error.step})",
            hint="Linux 6.7 or later is needed; `uffdtrack check` shows what is missing",
            pid=target.pid,
        ) from error
    try:
        with translated(target.identity):
            tracker.register()
            if tracker.owned_elsewhere() and not _has_userfaultfd(target.pid):
                raise AlreadyTracked(f"process {target.pid} is tracked already", pid=target.pid)
    except BaseException:
        tracker.close()
        raise
    return tracker


def _has_userfaultfd(pid: int) -> bool:
    """Whether the process itself has a userfaultfd open, so that a region may be its own."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError as error:
        message = f"process {pid}: cannot look at its descriptors: {error}"
        raise TrackError(message, pid=pid) from error
    for name in names:
        try:
            if os.readlink(f"{folder}/{name}") == "anon_inode:[userfaultfd]":
                return True
        except FileNotFoundError:
            continue
    return False
