"""A session of the daemon where something goes wrong half way: what its consumers are told then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

import pytest

from tests.unit.fake_session import BASE, PAGE, FakeSession, pages
from uffdtrackd.model.iteration import Iteration
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.service.consumers import Consumer
from uffdtrackd.service.held import Held
from uffdtrackd.service.keeper import Kept
from uffdtrackd.service.worker import Worker


class Session(FakeSession):
    """With what it says the readers of all of it hold."""

    follow = "none"
    start_time = 1

    def __init__(self) -> None:
        super().__init__(1)
        self.holds = pages()

    def iterate(self) -> Iteration:
        found = super().iterate()
        one = found.processes[1]
        self.holds = (self.holds - one.discarded) | one.dirty
        return found

    @property
    def known(self) -> Mapping[int, PageSet]:
        return {1: self.holds}


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def held(session: Session) -> Iterator[Held]:
    yield Held("s1", cast(Any, session), cast(Worker, None), 0, 4)


def apply(copy: PageSet, iteration: Iteration) -> PageSet:
    return (copy - iteration.processes[1].discarded) | iteration.processes[1].dirty


def test_a_pending_set_that_got_lost(
    held: Held, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was discarded in it must be dropped too: the reader holds it."""
    copy = apply(pages(), held.do_iterate("reader"))
    assert copy == session.holds

    def no_memory(self: Consumer, iteration: Iteration) -> None:
        raise MemoryError

    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr(Consumer, "add", no_memory)
        held.do_iterate("reader", 0)
    assert session.holds != copy, "the iteration that got lost discards a page"
    full = held.do_iterate("reader")
    assert apply(copy, full) == session.holds
    assert BASE + 513 * PAGE not in session.holds


def test_where_readers_may_hold_what_nobody_knows_of(held: Held, session: Session) -> None:
    """The state of an earlier daemon was not the whole truth, not even of who its readers are."""
    held.in_doubt = True
    copy = pages(5, 4000)
    for reader in ("first", "second"):
        assert apply(copy, held.do_iterate(reader)) == session.holds


def test_a_new_consumer_is_told_of_nothing_discarded(held: Held, session: Session) -> None:
    for _ in range(3):
        held.do_iterate("first")
    late = held.do_iterate("late")
    assert not late.processes[1].discarded
    assert late.processes[1].dirty == session.holds


def test_what_is_kept_counts_the_iteration_it_is_kept_for(held: Held) -> None:
    counts: list[int] = []

    class Keeps:
        def save(self) -> None:
            counts.append(held.facts.iterations)

    held.kept = cast(Kept, Keeps())
    held.do_iterate("one")
    held.do_iterate("one")
    assert counts == [1, 2]
    assert held.facts.iterations == 2


def test_the_log_gets_all_iterations_before_the_end(session: Session) -> None:
    """Also one that was asked for together with the end."""
    told: list[object] = []

    async def main() -> None:
        worker = Worker("session s1")
        held = Held("s1", cast(Any, session), worker, 0, 4)
        held.on_iteration = lambda iteration: told.append(iteration.number)
        held.on_close = lambda: told.append("end")
        both_wait = threading.Event()
        jobs: list[asyncio.Future[Any]] = [
            worker.submit(partial(both_wait.wait, 20)),
            worker.submit(partial(held.do_iterate, "one")),
            worker.submit(held.do_close),
        ]
        both_wait.set()
        await asyncio.gather(*jobs)
        worker.stop()
        assert worker.join(20)

    asyncio.run(main())
    assert told == [0, "end"]


def test_what_has_ended_is_not_frozen(
    held: Held, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "is_frozen", property(lambda one: one._frozen), raising=False)
    held.do_freeze(1.0, 1.0)
    assert held.facts.frozen
    held.do_close()
    assert not held.facts.frozen and session.thawed == 1
