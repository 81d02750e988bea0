"""Workers that share threads: in a row where they are quick, apart where one is slow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import TypeVar

import pytest

from uffdtrackd.service import crew as module
from uffdtrackd.service import worker
from uffdtrackd.service.crew import Crew
from uffdtrackd.service.worker import Stopped, Worker

T = TypeVar("T")
PATIENCE = 60


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job of a busy machine is taken for slow."""
    monkeypatch.setattr(module, "SLOW", 30.0)
    monkeypatch.setattr(worker, "SLOW", 30.0)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def _answered(job: asyncio.Future[T]) -> T:
    return await asyncio.wait_for(job, PATIENCE)


@pytest.mark.usefixtures("patient")
def test_many_that_are_quick_take_one_thread() -> None:
    async def run() -> None:
        crew = Crew()
        workers = [Worker(f"session {n}", crew=crew) for n in range(64)]
        for _ in range(3):
            jobs = [one.submit(threading.get_ident) for one in workers]
            assert len(set(await asyncio.gather(*jobs))) == 1
        assert crew.threads == 1

    asyncio.run(run())


def test_nobody_waits_for_a_slow_one(gate: threading.Event) -> None:
    """Whether it came first, or in the midst of the others, or was slow before."""

    async def run() -> None:
        crew = Crew()
        slow, *others = [Worker(f"session {n}", crew=crew) for n in range(9)]
        for _ in range(2):
            gate.clear()
            before = [one.submit(threading.get_ident) for one in others[:4]]
            stuck = slow.submit(partial(gate.wait, PATIENCE))
            after = [one.submit(threading.get_ident) for one in others[4:]]
            await asyncio.wait_for(asyncio.gather(*before, *after), PATIENCE)
            assert not stuck.done()
            gate.set()
            assert await _answered(stuck) is True

    asyncio.run(run())


def test_as_many_are_slow_as_there_are(gate: threading.Event) -> None:
    """Each waits for all: with one thread less none of them would end."""

    async def run() -> None:
        crew = Crew()
        workers = [Worker(f"session {n}", crew=crew) for n in range(12)]
        all_there = threading.Barrier(len(workers))
        jobs = [one.submit(partial(all_there.wait, PATIENCE)) for one in workers]
        await asyncio.wait_for(asyncio.gather(*jobs), PATIENCE)
        assert crew.threads == len(workers)

    asyncio.run(run())


def test_a_second_job_of_one_waits_for_nobody_else(gate: threading.Event) -> None:
    """It was ready behind another one that is stuck now."""

    async def run() -> None:
        crew = Crew()
        one, stuck = Worker("session 1", crew=crew), Worker("session 2", crew=crew)
        inside = threading.Event()
        first = one.submit(partial(inside.wait, PATIENCE))
        waits = stuck.submit(partial(gate.wait, PATIENCE))
        second = one.submit(lambda: "done")
        inside.set()
        assert await _answered(first) is True
        assert await _answered(second) == "done"
        assert not waits.done()

    asyncio.run(run())


def test_jobs_of_one_keep_their_order_and_never_meet() -> None:
    async def run() -> None:
        crew = Crew()
        workers = [Worker(f"session {n}", crew=crew) for n in range(8)]
        done: dict[Worker, list[int]] = {one: [] for one in workers}
        inside: dict[Worker, int] = dict.fromkeys(workers, 0)
        met = []
        pause = threading.Event()

        def job(one: Worker, number: int) -> None:
            inside[one] += 1
            if inside[one] != 1:
                met.append(number)
            if number % 40 == 7:
                pause.wait(3 * module.SLOW)  # others go on elsewhere
            done[one].append(number)
            inside[one] -= 1

        for number in range(200):
            for one in workers:
                one.hand(partial(job, one, number))
            if number % 10 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*(one.submit(int) for one in workers))
        assert not met
        assert all(found == list(range(200)) for found in done.values())

    asyncio.run(run())


@pytest.mark.usefixtures("patient")
def test_what_is_urgent_goes_before_all_others(gate: threading.Event) -> None:
    async def run() -> None:
        crew = Crew()
        workers = [Worker(f"session {n}", crew=crew) for n in range(3)]
        order: list[str] = []
        first = workers[0].submit(partial(gate.wait, PATIENCE))
        waits = workers[1].submit(partial(order.append, "waits"))
        urgent = workers[2].submit(partial(order.append, "urgent"), urgent=True)
        gate.set()
        await asyncio.gather(first, waits, urgent)
        assert order == ["urgent", "waits"]

    asyncio.run(run())


def test_threads_that_nobody_needs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for one, which is there for the next job."""
    monkeypatch.setattr(module, "_IDLE", 0.01)

    async def run() -> None:
        crew = Crew()
        workers = [Worker(f"session {n}", crew=crew) for n in range(6)]
        for _ in range(3):
            all_there = threading.Barrier(len(workers))

            def meet(all_there: threading.Barrier = all_there) -> threading.Thread:
                all_there.wait(PATIENCE)
                return threading.current_thread()

            threads = await asyncio.gather(*(one.submit(meet) for one in workers))
            assert len(set(threads)) == len(workers)
            alive = list(threads)
            limit = time.monotonic() + PATIENCE
            while (len(alive) > 1 or crew.threads > 1) and time.monotonic() < limit:
                await asyncio.sleep(0.01)
                alive = [one for one in alive if one.is_alive()]
            assert len(alive) <= crew.threads == 1
            assert await _answered(workers[0].submit(lambda: "done")) == "done"

    asyncio.run(run())


def test_without_a_thread_to_be_had_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what could not begin is forgotten: nobody waits for it."""

    async def run() -> None:
        one = Worker("session 1", crew=Crew())
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", _no_thread)
            with pytest.raises(RuntimeError, match="no thread"):
                one.submit(lambda: "never")
        assert one.waiting == 0
        assert await _answered(one.submit(lambda: "done")) == "done"

    asyncio.run(run())


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("no thread")


def test_an_ended_worker_takes_nothing_and_is_waited_for(gate: threading.Event) -> None:
    async def run() -> None:
        one = Worker("session 1", crew=Crew())
        job = one.submit(partial(gate.wait, PATIENCE))
        one.stop()
        with pytest.raises(Stopped):
            one.submit(int)
        assert not one.join(0.01)
        gate.set()
        assert one.join(PATIENCE)
        assert await job

    asyncio.run(run())
