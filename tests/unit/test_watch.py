"""A stream of iterations whose reader is slow, when what waits cannot be made one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.fake_session import iteration
from uffdtrackd.model.iteration import Iteration
from uffdtrackd.service import watch
from uffdtrackd.service.delivery import Reply
from uffdtrackd.service.guest import Guest
from uffdtrackd.service.held import Held
from uffdtrackd.service.watch import Watch


class Connection:
    """reads: whether its peer reads anything. crowded: whether it has yet to."""

    def __init__(self, *, reads: bool = False, crowded: bool = True) -> None:
        self.said: list[str] = []
        self.told: list[Reply] = []
        self.ended = asyncio.Event()
        self.out = self
        self.crowded = crowded
        self._reads = reads

    async def room(self) -> None:
        if not self._reads:
            await asyncio.Event().wait()

    def tell(self, method: str, made: Reply, wanted: Callable[[], bool]) -> None:
        if wanted():
            self.told.append(made)
        else:
            made.close()

    def notify(self, method: str, made: Reply) -> None:
        made.close()
        self.said.append(method)
        self.ended.set()


class Worker:
    async def run(self, job: Callable[[], Any]) -> Any:
        return job()

    def hand(self, job: Callable[[], Any]) -> None:
        job()

    def __init__(self) -> None:
        self.submitted: asyncio.Queue[tuple[Callable[[], Any], asyncio.Future[Any]]] = (
            asyncio.Queue()
        )

    def submit(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self.submitted.put_nowait((job, future))
        return future


def test_the_reader_is_told_that_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a word of what comes later: it would lack what was lost."""

    def no_memory(earlier: Iteration, later: Iteration) -> Iteration:
        raise MemoryError

    async def run() -> list[str]:
        count = 0

        def do_iterate(*_: object) -> Iteration:
            nonlocal count
            count += 1
            return iteration(count)

        connection = Connection()
        guest = SimpleNamespace(connection=connection, watches={})
        held = SimpleNamespace(id="s1", worker=Worker(), do_iterate=do_iterate, do_forget=len)
        one = Watch(
            1, cast(Guest, guest), cast(Held, held), 0.001, "", "inline", "runs", 1, 1 << 20
        )
        one.start()
        await asyncio.wait_for(connection.ended.wait(), 10)
        assert count == 2
        return connection.said

    monkeypatch.setattr(watch, "fold", no_memory)
    assert asyncio.run(run()) == ["watch_ended"]


def test_what_nobody_takes_any_more_is_closed() -> None:
    """Its client goes while the worker makes an answer with a descriptor."""

    async def run() -> Reply:
        connection, worker = Connection(reads=True), Worker()
        guest = SimpleNamespace(connection=connection, watches={})
        held = SimpleNamespace(
            id="s1", worker=worker, do_iterate=lambda *_: iteration(0), do_forget=len
        )
        one = Watch(1, cast(Guest, guest), cast(Held, held), 9.0, "", "memfd", "runs", 1, 1 << 20)
        one.start()
        job, future = await asyncio.wait_for(worker.submitted.get(), 10)
        made: Reply = job()
        assert made.fds
        one.stop()
        await asyncio.sleep(0)
        future.set_result(made)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return made

    made = asyncio.run(run())
    assert not made.fds


def test_the_reader_is_told_that_no_memory_was_left_for_it() -> None:
    """What was to be delivered is acknowledged, and nothing later has it."""

    async def run() -> list[str]:
        connection, worker = Connection(reads=True), Worker()
        guest = SimpleNamespace(connection=connection, watches={})
        held = SimpleNamespace(
            id="s1", worker=worker, do_iterate=lambda *_: iteration(0), do_forget=len
        )
        one = Watch(1, cast(Guest, guest), cast(Held, held), 9.0, "", "inline", "runs", 1, 1 << 20)
        one.start()
        _, future = await asyncio.wait_for(worker.submitted.get(), 10)
        future.set_exception(MemoryError())
        await asyncio.wait_for(connection.ended.wait(), 10)
        return connection.said

    assert asyncio.run(run()) == ["watch_ended"]


class Turns:
    """A worker whose jobs are done when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], Any]] = []

    def hand(self, job: Callable[[], Any]) -> None:
        self.jobs.append(job)

    def submit(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()


def _watched(connection: Connection, worker: Turns, how: str = "inline") -> Watch:
    count = iter(range(1000))
    held = SimpleNamespace(
        id="s1", worker=worker, do_iterate=lambda *_: iteration(next(count)), do_forget=len
    )
    guest = SimpleNamespace(connection=connection, watches={})
    return Watch(1, cast(Guest, guest), cast(Held, held), 9.0, "", how, "runs", 1, 1 << 20)


def test_where_nothing_waits_the_worker_sends_it() -> None:
    async def run() -> None:
        connection, worker = Connection(crowded=False), Turns()
        one = _watched(connection, worker)
        one.start()
        worker.jobs.pop()()
        # The loop has not turned since.
        assert len(connection.told) == 1
        assert b"iteration" in connection.told[0].result
        one.stop()

    asyncio.run(run())


def test_nothing_is_collected_or_sent_after_the_end() -> None:
    """Its worker was at another job meanwhile; or in the middle of this one."""

    async def run() -> None:
        connection, worker = Connection(crowded=False), Turns()
        before = _watched(connection, worker)
        before.start()
        before.stop()
        worker.jobs.pop()()
        assert not connection.told

        during = _watched(connection, worker, "memfd")
        collect = during.held.do_iterate

        def and_ends(*words: Any) -> Iteration:
            found = collect(*words)
            during.stop()
            return found

        cast(Any, during.held).do_iterate = and_ends
        during.start()
        worker.jobs.pop()()
        assert not connection.told

    asyncio.run(run())


def test_what_a_slow_one_runs_over_is_left_out() -> None:
    async def run() -> None:
        connection, worker = Connection(crowded=False), Turns()
        one = _watched(connection, worker)
        one.start()
        for _ in range(3):
            one._tick()
        assert len(worker.jobs) == 1
        worker.jobs.pop()()
        one._tick()
        assert len(worker.jobs) == 1
        one.stop()

    asyncio.run(run())


@pytest.mark.parametrize("interval", [0.05, 0.3, 1.0, 7.0])
def test_ticks_fall_in_step_and_keep_their_distance(interval: float) -> None:
    """From anywhere: at most six later all are due at the same instant, to the last bit."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    begins = [1e5 + chance.random() * interval for _ in range(200)]
    late: list[float] = []
    for begin in begins:
        due = begin
        while due < 1e5 + 10 * interval:
            # A timer fires a little late, or the resolution of the clock early.
            now = due + chance.uniform(-1e-9, 0.02 * interval)
            later = watch.due_after(due, interval, now)
            assert later > now
            assert 0.9 * interval - 1e-6 < later - due < 1.1 * interval + 1e-6
            due = later
        late.append(due)
    assert len(set(late)) == 1


def test_ticks_that_were_missed_are_left_out() -> None:
    assert watch.due_after(100.0, 1.0, 107.3) == 108.0
    assert watch.due_after(100.05, 1.0, 107.3) == 108.0
