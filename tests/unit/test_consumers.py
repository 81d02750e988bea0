"""Pending sets: whatever is lost, acknowledged late or not at all, no page is missing.

The oracle is a dict a consumer: page -> number of the iteration that wrote it. A consumer that
copies what it is given holds for each page at least what the last iteration it was told of had.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.iterations import history, numbers
from uffdtrackd.model.errors import LimitReached, UsageError
from uffdtrackd.model.fold import fold
from uffdtrackd.model.iteration import Iteration
from uffdtrackd.service import consumers
from uffdtrackd.service.consumers import MOST_SEGMENTS, Consumer, Consumers


def said(iteration: Iteration | None) -> object:
    if iteration is None:
        return None
    return iteration.number, {
        pid: (numbers(p.dirty), numbers(p.discarded)) for pid, p in iteration.processes.items()
    }


def folded(parts: list[Iteration]) -> Iteration:
    whole = parts[0]
    for part in parts[1:]:
        whole = fold(whole, part)
    return whole


def ready(first: Iteration) -> Consumer:
    one = Consumer("c")
    assert one.needs_full
    one.reset(first)
    return one


def test_ack_keeps_what_came_after() -> None:
    parts = history(3, 6, pids=(10,))
    one = ready(parts[0])
    assert said(one.deliver()) == said(parts[0])
    one.add(parts[1])
    assert said(one.deliver()) == said(folded(parts[:2]))
    one.add(parts[2])  # for another consumer
    one.ack(0)
    assert said(one.peek()) == said(folded(parts[1:3]))
    one.ack(1)
    assert said(one.peek()) == said(parts[2])
    one.add(parts[3])
    assert said(one.deliver()) == said(folded(parts[2:4]))
    one.ack(3)
    assert one.peek() is None and one.deliver() is None
    one.ack(2)
    assert (one.delivered, one.acknowledged) == (3, 3)


def test_what_was_not_delivered_cannot_be_acknowledged() -> None:
    parts = history(4, 3, pids=(10,))
    one = ready(parts[0])
    with pytest.raises(UsageError, match="none was yet"):
        one.ack(0)
    one.deliver()
    one.add(parts[1])
    with pytest.raises(UsageError, match="the last was 0"):
        one.ack(1)
    one.peek()
    with pytest.raises(UsageError):
        one.ack(1)


@example(8544443)  # acknowledges the oldest of as many segments as there may be
@given(st.integers(0, 1 << 32))
def test_random_deliveries_and_acks(seed: int) -> None:
    """What is pending is always the fold of everything after the last acknowledgement."""
    rng = random.Random(seed)
    parts = history(seed, 3 * MOST_SEGMENTS, span=30, pids=(10,))
    one = ready(parts[0])
    delivered: list[int] = []
    segments: list[int] = []  # what can be acknowledged one by one
    least = -1  # everything up to here was acknowledged
    for number, part in enumerate(parts):
        if number:
            one.add(part)
        if rng.random() < 0.7:
            whole = one.deliver()
            assert whole is not None and whole.number == number
            delivered.append(number)
            segments.append(number)
            if len(segments) > MOST_SEGMENTS:
                del segments[0]  # only the number after it acknowledges it from now on
        if delivered and rng.random() < 0.4:
            acknowledged = rng.choice(delivered)
            one.ack(acknowledged)
            while segments and segments[0] <= acknowledged:
                least = segments.pop(0)
        found = one.peek()
        if number == least:
            assert found is None
            continue
        held = numbers(found.processes[10].dirty) if found else set()
        gone = numbers(found.processes[10].discarded) if found else set()
        wanted = folded(parts[least + 1 : number + 1]).processes[10]
        assert held | gone >= numbers(wanted.dirty) | numbers(wanted.discarded)
        assert not held & gone
        for page in numbers(wanted.dirty):
            assert page in held
        for page in numbers(wanted.discarded):
            assert page in gone


def test_deliveries_that_nobody_acknowledges_take_no_more_and_more() -> None:
    parts = history(5, 200, span=50, pids=(10,))
    one = ready(parts[0])
    for part in parts[1:]:
        one.add(part)
        one.deliver()
    assert len(one._closed) <= MOST_SEGMENTS
    assert said(one.peek()) == said(folded(parts))
    one.ack(parts[-1].number)
    assert one.peek() is None


def test_no_memory_to_join_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = history(5, MOST_SEGMENTS + 1, pids=(10,))
    one = ready(parts[0])
    one.deliver()
    for part in parts[1:-1]:
        one.add(part)
        one.deliver()
    one.add(parts[-1])
    folds: list[Iteration] = []

    def fails_at_last(earlier: Iteration, later: Iteration) -> Iteration:
        if len(folds) == MOST_SEGMENTS:
            raise MemoryError
        folds.append(fold(earlier, later))
        return folds[-1]

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(consumers, "fold", fails_at_last)
        one.deliver()
    assert said(one.peek()) == said(folded(parts))
    assert said(one.deliver()) == said(folded(parts))


def test_who_cannot_be_told_starts_from_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = history(6, 3, pids=(10,))
    every = Consumers(4)
    one, other = every.get_or_add("one"), every.get_or_add("other")
    for each in every:
        each.reset(parts[0])

    def fail(iteration: Iteration) -> None:
        raise MemoryError

    monkeypatch.setattr(one, "add", fail)
    with pytest.raises(MemoryError):
        every.add(parts[1])
    assert one.needs_full and one.peek() is None
    assert said(other.peek()) == said(folded(parts[:2]))


def test_names_and_their_number() -> None:
    every = Consumers(2)
    for name in ("", "x" * 65, "a\nb"):
        with pytest.raises(UsageError):
            every.get_or_add(name)
    with pytest.raises(UsageError, match="no consumer 'a'"):
        every.find("a")
    assert every.get_or_add("a") is every.get_or_add("a") is every.find("a")
    every.get_or_add("b")
    with pytest.raises(LimitReached):
        every.get_or_add("c")
    every.remove("b")
    every.remove("b")
    every.get_or_add("c")


def test_a_process_that_could_not_be_looked_at_keeps_its_pages() -> None:
    first, second, third = history(7, 3, pids=(10,))
    unseen = replace(second, processes={}, exited=(), untracked={10: "busy"})
    first, third = replace(first, exited=()), replace(third, exited=())
    assert said(fold(first, unseen)) == (1, said(first)[1])  # type: ignore[index]
    assert said(fold(fold(first, unseen), third)) == said(fold(first, fold(unseen, third)))
    gone = replace(unseen, exited=(10,))
    assert said(fold(first, gone)) == (1, {})
    assert said(fold(fold(first, gone), third)) == said(third)
    assert said(fold(first, fold(gone, third))) == said(third)
