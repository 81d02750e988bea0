"""A session that the daemon holds for its clients: the tracker, its worker and its consumers.

    request --> worker --> iterate:  Session.iterate() --> all consumers' pending sets
                           (C, no GIL)                     --> the fold for the one that asked
                    \\--> pending, ack, read, freeze, thaw: in turn with it

Everything named `do_*` runs in the worker's thread and nowhere else; the loop sees `facts`, made
when asked for of what is replaced as a whole after each job.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol

from ..model.errors import AlreadyFrozen, TargetExecuted, TargetGone, TrackError, UsageError
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from ..model.region import Region, Window
from . import journal, messages
from .consumers import Consumers
from .facts import Facts, Told
from .keeper import Kept
from .worker import Worker

# Regions, when asked for; always; windows.
_Layout = tuple[Callable[[], Sequence[Region]], PageSet, Sequence[Window]]
# No process has memory beyond (x86-64 with five levels of page tables: 2^56).
_ADDRESSES = 1 << 56


class Tracked(Protocol):
    """What is needed of tracking.Session."""

    pid: int
    start_time: int
    page_size: int
    backend: str
    follow: str

    @property
    def pids(self) -> list[int]: ...
    @property
    def known(self) -> Mapping[int, PageSet]: ...
    @property
    def status(self) -> list[str]: ...
    def iterate(self) -> Iteration: ...
    def frozen(
        self, deadline: float = ..., lease: float | None = ...
    ) -> AbstractContextManager[Any]: ...
    @property
    def is_frozen(self) -> bool: ...
    def let_go(self) -> None: ...
    def keep_in(self, fd: int) -> None: ...
    def keep(self, also: Mapping[str, Any]) -> None: ...
    def descriptors(self) -> dict[str, int]: ...
    def leave(self) -> None: ...
    def read(self, pid: int, start: int, length: int) -> bytes: ...
    def close(self) -> None: ...


class Held:
    """id: the session's name on the wire. owner: uid of whom it belongs to."""

    def __init__(
        self, id: str, session: Tracked, worker: Worker, owner: int, most_consumers: int
    ) -> None:
        self.id = id
        self.session = session
        self.worker = worker
        self.owner = owner
        self.made_ns = time.time_ns()
        # Whether it outlives the connection that made it; where its iteration log is.
        self.keep = True
        self.log_path = ""
        self._told = Told(Facts(pids=tuple(session.pids)))
        # In the worker's thread: with each iteration after it was answered, and at the end.
        self.on_iteration: Callable[[Iteration], None] | None = None
        self.on_close: Callable[[], None] | None = None
        # What keeps it over a restart of the daemon, None if nothing does.
        self.kept: Kept | None = None
        # Whether readers, also those that are new to us, may hold what nobody knows of.
        self.in_doubt = False
        self._consumers = Consumers(most_consumers)
        # Of the last iteration, without its pages.
        self._layouts: dict[int, _Layout] = {}
        self._returned_ns = 0
        self._freeze: contextlib.ExitStack | None = None
        self._closed = False
        # Of facts, by all iterations; as of the last.
        self._changed: Mapping[str, Any] | None = None

    @property
    def facts(self) -> Facts:
        """As of the end of the last job, or of the last iteration."""
        return self._told.facts()

    @facts.setter
    def facts(self, facts: Facts) -> None:
        self._told = Told(facts)

    @property
    def ended(self) -> bool:
        """As in facts, for who asks often."""
        return self._told.before.ended

    @property
    def rate(self) -> float | None:
        """As in facts, for who asks often."""
        told = self._told
        return told.changed["rate"] if told.changed else told.before.rate

    @property
    def consumers(self) -> Consumers:
        return self._consumers

    def do_iterate(self, consumer: str, ack: int | None = None, passing: bool = False) -> Iteration:
        """Collects, and gives that consumer all it has not acknowledged.

        ack: first acknowledges this one. passing: of a consumer that is new (see Consumer).
        Raises what Session.iterate() does, and UsageError.
        """
        with self._job():
            one = self._consumers.get_or_add(consumer, passing=passing)
            if ack is not None:
                one.ack(ack)
            self._collect()
            whole = one.deliver()
            assert whole is not None
            # Before anybody is answered: what was delivered is delivered again, or nothing was.
            if self.kept is not None:
                self.kept.save()
            return whole

    def do_pending(self, consumer: str) -> Iteration | None:
        """What that consumer has not acknowledged, without a look at the target."""
        with self._job(ended=True):
            return self._consumers.find(consumer).peek()

    def do_ack(self, consumer: str, number: int) -> int:
        """The highest number acknowledged so far."""
        with self._job(ended=True):
            one = self._consumers.find(consumer)
            one.ack(number)
            return one.acknowledged

    def do_touch(self) -> None:
        """Raises TargetGone if the session has ended."""
        with self._job():
            pass

    def do_forget(self, consumer: str) -> None:
        """That consumer will not come again."""
        with self._job(ended=True):
            self._consumers.remove(consumer)

    def do_freeze(self, deadline: float, lease: float) -> None:
        """Stops the target until do_thaw(), for `lease` seconds at most."""
        with self._job():
            if self._freeze is not None:
                raise AlreadyFrozen(f"session {self.id} is frozen", session=self.id)
            stack = contextlib.ExitStack()
            stack.enter_context(self.session.frozen(deadline, lease))
            self._freeze = stack

    def do_thaw(self) -> bool:
        """Whether it was frozen until now."""
        with self._job():
            frozen, self._freeze = self._freeze, None
            if frozen is None:
                return False
            held = self.session.is_frozen
            frozen.close()
            return held

    def do_read(self, pid: int, start: int, length: int) -> bytes:
        with self._job():
            return self.session.read(pid, start, length)

    def do_regions(self, pid: int) -> Sequence[Region]:
        """The layout of one process as the last iteration found it."""
        with self._job():
            if pid not in self._layouts:
                raise UsageError(
                    f"process {pid} was not in the last iteration of session {self.id}", pid=pid
                )
            return self._layouts[pid][0]()

    def do_close(self, *, leave: bool = False) -> None:
        """Thaws and lets go of the target. May be called twice.

        leave: the daemon ends, and the next one goes on with the session.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._freeze is not None:
                self._freeze.close()
        finally:
            self._freeze = None
            self._end(None)
            if self.kept is not None and leave:
                self.kept.leave()
            else:
                self.session.close()
            if self.kept is not None and not leave:
                self.kept.end()
            if self.on_close is not None:
                self.on_close()

    def _collect(self) -> Iteration:
        try:
            iteration = self.session.iterate()
        except TargetGone as error:
            if not isinstance(error, TargetExecuted):
                self.facts = self.facts._replace(ended=True)
            raise
        try:
            self._layouts = {
                pid: (one.load_regions, one.always, one.windows)
                for pid, one in iteration.processes.items()
            }
            for one in self._consumers:
                if one.needs_full:
                    again = one.delivered >= 0 or self.in_doubt
                    one.reset(self._everything(iteration, again=again))
                else:
                    one.add(iteration)
        except BaseException:
            # What was collected is known to nobody but the tracker: ask that one next time.
            for one in self._consumers:
                one.forget()
            raise
        self._note(iteration)
        if journal.LOGGER.isEnabledFor(messages.ITERATED.level):
            self._tell(iteration)
        if self.on_iteration is not None:
            self.worker.post(partial(self.on_iteration, iteration))
        return iteration

    def _everything(self, last: Iteration, *, again: bool) -> Iteration:
        """What a reader of all iterations up to `last` holds: all of it dirty.

        again: for a reader that holds something already, nobody knows what any more: whatever is
        not there is said to be discarded.
        """
        if last.number == 0 and not again:
            return last
        empty = PageSet(last.page_size)
        rest = PageSet.from_ranges([(0, _ADDRESSES)], last.page_size) if again else empty
        known = {pid: pages for pid, pages in self.session.known.items() if pages}
        for pid, pages in last.processes.items():
            known[pid] = known.get(pid, empty) | pages.dirty
        return replace(
            last,
            processes={
                pid: _everything_of(pages, rest - pages, self._layouts.get(pid))
                for pid, pages in known.items()
            },
        )

    def _tell(self, iteration: Iteration) -> None:
        pages = sum(len(one.dirty) for one in iteration.processes.values())
        journal.log(
            messages.ITERATED,
            f"session {self.id}: iteration {iteration.number}, {pages} dirty pages,"
            f" {iteration.duration_ns / 1e6:.2f} ms",
            session=self.id,
            pid=self.session.pid,
            iteration=iteration.number,
            dirty_pages=pages,
        )

    def _note(self, iteration: Iteration) -> None:
        dirty = gone = 0
        for pages in iteration.processes.values():
            dirty += pages.dirty.bytes
            gone += pages.discarded.bytes
        now = time.monotonic_ns()
        passed = now - self._returned_ns if self._returned_ns else 0
        self._returned_ns = now
        so_far = self._changed or self._told.before._asdict()
        self._changed = {
            "pids": tuple(self.session.pids),
            "status": tuple(self.session.status),
            "iterations": so_far["iterations"] + 1,
            "last": iteration.head(),
            "dirty_bytes": dirty,
            "dirty_bytes_total": so_far["dirty_bytes_total"] + (dirty if iteration.number else 0),
            "discarded_bytes_total": so_far["discarded_bytes_total"] + gone,
            "collect_ns_total": so_far["collect_ns_total"] + iteration.duration_ns,
            "stopped_ns_total": so_far["stopped_ns_total"] + iteration.stopped_ns,
            "rate": dirty * 1e9 / passed if passed else None,
        }
        # Already now: they are kept before the job ends.
        self._told = self._told._replace(changed=self._changed)

    def note_error(self, error: TrackError) -> None:
        """Shown by `status` until the next one."""
        said = error.to_map() | {"time_ns": time.time_ns()}
        self.facts = self.facts._replace(error=said, errors=self.facts.errors + 1)

    def _job(self, ended: bool = False) -> _Job:
        """ended: what needs no target goes on after its end."""
        return _Job(self, ended)

    def _begin(self) -> None:
        if self._closed:
            raise TargetGone(
                f"session {self.id} has ended, as process {self.session.pid} has",
                pid=self.session.pid,
                session=self.id,
            )

    def _end(self, error: BaseException | None) -> None:
        if isinstance(error, TrackError) and not isinstance(error, UsageError):
            self.note_error(error)
        self._told = Told(
            self._told.before,
            self._changed,
            self._freeze is not None and self.session.is_frozen,
            self._consumers.marks(),
        )


class _Job:
    """Around each job, and so no generator, which costs several times as much."""

    __slots__ = ("_ended", "_held")

    def __init__(self, held: Held, ended: bool) -> None:
        self._held = held
        self._ended = ended

    def __enter__(self) -> None:
        if not self._ended:
            self._held._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held._end(error)


def _everything_of(dirty: PageSet, discarded: PageSet, layout: _Layout | None) -> ProcessPages:
    """layout: None if the last iteration had nothing of the process."""
    if layout is None:
        return ProcessPages(dirty, discarded, PageSet(dirty.page_size))
    regions, always, windows = layout
    return ProcessPages(dirty, discarded, always, regions, windows)
