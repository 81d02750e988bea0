"""Whether the workers get anywhere, with a clock that the test holds."""

from __future__ import annotations

import asyncio
import threading

import pytest

from uffdtrackd.service.heartbeat import Heartbeat, Since
from uffdtrackd.service.worker import Worker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    """What a worker would say."""

    since: Since = None

    def __call__(self) -> Since:
        return self.since


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heart(clock: Clock) -> Heartbeat:
    return Heartbeat(10.0, clock)


def test_nobody_works(heart: Heartbeat, clock: Clock) -> None:
    heart.watch(Work())
    clock.now = 1e6
    assert heart.late() is None


def test_a_long_silence_is_told(heart: Heartbeat, clock: Clock) -> None:
    work = Work()
    heart.watch(work)
    work.since = (0.0, "collecting s-1")
    clock.now = 10.0
    assert heart.late() is None
    clock.now = 10.5
    assert heart.late() == "collecting s-1 (10.5 s)"
    work.since = (10.5, "the next job")
    assert heart.late() is None
    clock.now = 100.0
    heart.unwatch(work)
    assert heart.late() is None


def test_the_longest_silent_of_several(heart: Heartbeat, clock: Clock) -> None:
    mine, other = Work(), Work()
    heart.watch(mine)
    heart.watch(other)
    mine.since, other.since = (5.0, "mine"), (0.0, "other")
    clock.now = 16.0
    assert heart.late() == "other (16.0 s)"
    other.since = None
    assert heart.late() == "mine (11.0 s)"


def test_a_worker_is_watched_from_its_first_job_to_its_end() -> None:
    heart = Heartbeat(-1.0)  # whoever is at anything at all is late
    go, inside = threading.Event(), threading.Event()

    def job() -> None:
        inside.set()
        go.wait(60)

    async def run() -> None:
        worker = Worker("session s1", heart)
        assert heart.late() is None
        first = worker.submit(job)
        second = worker.submit(lambda: None)
        try:
            inside.wait(60)
            late = heart.late()
            assert late is not None and late.startswith("session s1 (")
        finally:
            go.set()
        await first
        await second
        failing = worker.submit(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await failing
        worker.stop()
        assert worker.join(60)
        assert heart.late() is None

    asyncio.run(run())
