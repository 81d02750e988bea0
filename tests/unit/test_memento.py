"""Pending sets survive as maps and arrays: what comes out is what went in."""

from __future__ import annotations

import msgpack
import pytest

from tests.unit.fake_session import BASE, PAGE, iteration, pages
from uffdtrackd.model.iteration import Iteration, ProcessPages
from uffdtrackd.model.region import Window
from uffdtrackd.service import memento
from uffdtrackd.service.consumers import Consumer


def through_bytes(saved: object, parts: memento.Parts) -> tuple[object, dict[str, bytes]]:
    found = msgpack.unpackb(msgpack.packb(saved), strict_map_key=False)
    return found, {name: bytes(part) for name, part in parts.items()}


def same(one: Iteration, other: Iteration) -> bool:
    def sets(pages: ProcessPages) -> tuple[object, ...]:
        return pages.dirty, pages.discarded, pages.always, list(pages.windows)

    return one.head() == other.head() and {
        pid: sets(found) for pid, found in one.processes.items()
    } == {pid: sets(found) for pid, found in other.processes.items()}


@pytest.mark.parametrize("number", [0, 1, 700])
def test_an_iteration(number: int) -> None:
    before = iteration(number, frozen=number == 1)
    parts = memento.Parts()
    found, kept = through_bytes(memento.of_iteration(before, parts, "p"), parts)
    assert isinstance(found, dict)
    assert same(memento.to_iteration(found, kept), before)


def test_windows_on_shared_objects() -> None:
    before = iteration(1)
    before.processes[1].windows = (Window(BASE, BASE + PAGE, "memfd 1:2", 0),)
    parts = memento.Parts()
    found, kept = through_bytes(memento.of_iteration(before, parts, "p"), parts)
    assert isinstance(found, dict)
    after = memento.to_iteration(found, kept)
    assert same(after, before) and after.processes[1].windows


def consumer(acknowledged: bool) -> Consumer:
    one = Consumer("reader")
    one.reset(iteration(0))
    one.deliver()
    for number in (1, 2):
        one.add(iteration(number))
    one.deliver()
    if acknowledged:
        one.ack(0)
    one.add(iteration(3))
    return one


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_consumer(acknowledged: bool) -> None:
    before = consumer(acknowledged)
    parts = memento.Parts()
    found, kept = through_bytes(before.save(parts, "0"), parts)
    assert isinstance(found, dict)
    after = Consumer.put_back(found, kept)
    for name in ("name", "delivered", "acknowledged", "needs_full", "pending_bytes"):
        assert getattr(after, name) == getattr(before, name)
    for one in (before, after):
        one.add(iteration(4))
    first, second = before.deliver(), after.deliver()
    assert first is not None and second is not None and same(first, second)
    # What can be acknowledged one by one still can.
    after.ack(2)
    left = after.peek()
    assert left is not None and pages(4) & left.processes[1].dirty == pages(4)
    assert not pages(5) & left.processes[1].dirty


def test_what_did_not_change_is_the_same_object() -> None:
    """So that it is not written again."""
    one = consumer(False)
    first, second = memento.Parts(), memento.Parts()
    one.save(first, "0")
    one.add(iteration(4))
    one.save(second, "0")
    unchanged = [name for name in first if second.get(name) is first[name]]
    assert len(unchanged) == 6, "two closed segments of three sets each"


def test_a_new_consumer_needs_everything() -> None:
    parts = memento.Parts()
    after = Consumer.put_back(Consumer("new").save(parts, "0"), {})
    assert after.needs_full and after.peek() is None and not parts


@pytest.mark.parametrize("broken", [{}, {"name": 1}, {"name": "x", "delivered": 0}, []])
def test_nonsense(broken: object) -> None:
    with pytest.raises(memento.MISREAD):
        Consumer.put_back(broken, {})  # type: ignore[arg-type]
