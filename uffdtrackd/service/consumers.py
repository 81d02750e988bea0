"""What each consumer of a session has not yet acknowledged.

    collected 7, 8 --> every consumer:   | ..5 | 6..7 | 8        segments, oldest first
                                           ^      ^     ^
                        delivered as 5 ----+      |     +---- the open one: not delivered
                        delivered as 7 -----------+

    deliver()  the open segment is closed; what is returned is the fold of all of them
    ack(5)     the segments up to 5 go; what was collected after 5 stays

A delivery whose reply got lost is in the next one again. Nothing is dropped but by ack(): where
there are too many segments the two oldest become one, which only the later number acknowledges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..model.errors import LimitReached, UsageError
from ..model.fold import fold
from ..model.iteration import Iteration
from .memento import Parts, of_iteration, to_iteration

DEFAULT = "default"
LONGEST_NAME = 64
# Deliveries that can be acknowledged one by one; more are kept together.
MOST_SEGMENTS = 16


class Marks(NamedTuple):
    """How far a consumer was, for any thread. pending: what it had not acknowledged."""

    name: str
    delivered: int
    acknowledged: int
    pending: tuple[Iteration, ...]

    @property
    def pending_bytes(self) -> int:
        """Dirty, of all segments: what it would copy, or more where they overlap."""
        return sum(pages.dirty.bytes for part in self.pending for pages in part.processes.values())


class Consumer:
    """The pending set of one consumer. delivered, acknowledged: numbers, -1 if none yet.

    passing: it ends with its connection, and with the daemon.
    """

    def __init__(self, name: str, *, passing: bool = False) -> None:
        self.name = name
        self.passing = passing
        self.delivered = -1
        self.acknowledged = -1
        self._closed: deque[Iteration] = deque()
        self._open: Iteration | None = None
        self._needs_full = True

    @property
    def needs_full(self) -> bool:
        """Whether it must be given everything that is known: it is new, or something went wrong."""
        return self._needs_full

    @property
    def marks(self) -> Marks:
        """As of now."""
        pending = (*self._closed, self._open) if self._open is not None else tuple(self._closed)
        return Marks(self.name, self.delivered, self.acknowledged, pending)

    @property
    def pending_bytes(self) -> int:
        """See Marks."""
        return self.marks.pending_bytes

    def add(self, iteration: Iteration) -> None:
        """What was just collected. One that needs everything anyway is not burdened with it."""
        if self._needs_full:
            return
        self._open = fold(self._open, iteration) if self._open is not None else iteration

    def reset(self, full: Iteration) -> None:
        """Everything that is known, in place of all that was pending."""
        self._closed.clear()
        self._open = full
        self._needs_full = False

    def forget(self) -> None:
        """What is pending cannot be trusted: the next delivery is of everything."""
        self._closed.clear()
        self._open = None
        self._needs_full = True

    def deliver(self) -> Iteration | None:
        """All that is pending as one iteration, by the number of the last; None if nothing is.

        It stays pending until ack() of that number.
        """
        whole = self.peek()
        if self._open is not None:
            self._closed.append(self._open)
            self._open = None
            self.delivered = self._closed[-1].number
            if len(self._closed) > MOST_SEGMENTS:
                joined = fold(self._closed[0], self._closed[1])
                self._closed.popleft()
                self._closed[0] = joined
        return whole

    def peek(self) -> Iteration | None:
        """The same without closing the open segment: it cannot be acknowledged by this."""
        whole: Iteration | None = None
        for part in (*self._closed, *([self._open] if self._open else [])):
            whole = part if whole is None else fold(whole, part)
        return whole

    def ack(self, number: int) -> None:
        """What was delivered up to `number` is taken care of. Raises UsageError: it never was."""
        if number > self.delivered:
            last = f"the last was {self.delivered}" if self.delivered >= 0 else "none was yet"
            raise UsageError(
                f"iteration {number} was not delivered to consumer {self.name!r}: {last}"
            )
        while self._closed and self._closed[0].number <= number:
            self._closed.popleft()
        self.acknowledged = max(self.acknowledged, number)

    def save(self, parts: Parts, prefix: str) -> dict[str, Any]:
        """All of it as a map and parts, for put_back(). prefix: no other consumer's."""
        return {
            "name": self.name,
            "delivered": self.delivered,
            "acknowledged": self.acknowledged,
            "full": self._needs_full,
            "closed": [of_iteration(one, parts, prefix) for one in self._closed],
            "open": None
            if self._open is None
            else of_iteration(self._open, parts, f"{prefix}.open"),
        }

    @classmethod
    def put_back(cls, saved: Mapping[str, Any], parts: Mapping[str, bytes]) -> Consumer:
        """What save() made a map of. Raises memento.MISREAD."""
        one = cls(saved["name"])
        one.delivered, one.acknowledged = saved["delivered"], saved["acknowledged"]
        one._needs_full = saved["full"]
        one._closed.extend(to_iteration(each, parts) for each in saved["closed"])
        one._open = None if saved["open"] is None else to_iteration(saved["open"], parts)
        return one


class Consumers:
    """All of a session. most: how many there may be."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: dict[str, Consumer] = {}

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def marks(self) -> tuple[Marks, ...]:
        """Of all."""
        return tuple([one.marks for one in self._all.values()])

    def find(self, name: str) -> Consumer:
        """Raises UsageError if there is none of this name."""
        if name not in self._all:
            raise UsageError(
                f"no consumer {name!r}", hint="its first iterate makes one, and gives it everything"
            )
        return self._all[name]

    def get_or_add(self, name: str, *, passing: bool = False) -> Consumer:
        """Raises LimitReached, UsageError for what is no name. passing: see Consumer."""
        if name not in self._all:
            if not name or len(name) > LONGEST_NAME or not name.isprintable():
                raise UsageError(f"a consumer has a name of 1 to {LONGEST_NAME} letters")
            if len(self._all) >= self._most:
                raise LimitReached(
                    f"the session has {len(self._all)} consumers, and may not have more",
                    hint="use one of those, or raise limits.consumers",
                )
            self._all[name] = Consumer(name, passing=passing)
        return self._all[name]

    def put_back(self, saved: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
        """One of before the daemon was started. Raises memento.MISREAD."""
        one = Consumer.put_back(saved, parts)
        self._all[one.name] = one

    def remove(self, name: str) -> None:
        self._all.pop(name, None)

    def add(self, iteration: Iteration) -> None:
        """What was just collected, to all. Whoever it cannot be added to starts from everything."""
        failed: BaseException | None = None
        for one in self._all.values():
            try:
                one.add(iteration)
            except BaseException as error:
                one.forget()
                failed = error
        if failed is not None:
            raise failed
