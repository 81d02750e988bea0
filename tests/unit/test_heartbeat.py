"""Whether the workers get anywhere, with a clock that the test holds."""

from __future__ import annotations

import threading

import pytest

from uffdtrackd.service.heartbeat import Heartbeat


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heart(clock: Clock) -> Heartbeat:
    return Heartbeat(10.0, clock)


def test_nobody_works(heart: Heartbeat, clock: Clock) -> None:
    clock.now = 1e6
    assert heart.late() is None


def test_a_long_silence_is_told(heart: Heartbeat, clock: Clock) -> None:
    with heart.working("collecting s-1"):
        clock.now = 10.0
        assert heart.late() is None
        clock.now = 10.5
        assert heart.late() == "collecting s-1 (10.5 s)"
        heart.beat()
        assert heart.late() is None
    clock.now = 100.0
    assert heart.late() is None


def test_what_is_inside_counts(heart: Heartbeat, clock: Clock) -> None:
    with heart.working("outer"):
        clock.now = 9.0
        with heart.working("inner"):
            clock.now = 18.0
            assert heart.late() is None
        # The end of the inner is a step of the outer.
        clock.now = 27.0
        assert heart.late() is None
        clock.now = 29.0
        assert heart.late() == "outer (11.0 s)"


def test_what_nobody_begins(heart: Heartbeat, clock: Clock) -> None:
    since: list[tuple[float, str]] = []

    def waiting() -> tuple[float, str] | None:
        return since[0] if since else None

    heart.watch(waiting)
    clock.now = 100.0
    assert heart.late() is None
    since.append((95.0, "the next job"))
    assert heart.late() is None
    clock.now = 106.0
    assert heart.late() == "the next job (11.0 s)"
    heart.unwatch(waiting)
    assert heart.late() is None


def test_it_ends_with_a_failure_too(heart: Heartbeat, clock: Clock) -> None:
    with pytest.raises(ValueError, match="x"), heart.working("failing"):
        raise ValueError("x")
    clock.now = 100.0
    assert heart.late() is None


def test_the_longest_silent_of_several(heart: Heartbeat, clock: Clock) -> None:
    go, inside = threading.Event(), threading.Event()

    def other() -> None:
        with heart.working("other"):
            inside.set()
            go.wait(60)

    worker = threading.Thread(target=other)
    worker.start()
    inside.wait(60)
    clock.now = 5.0
    with heart.working("mine"):
        clock.now = 16.0
        assert heart.late() == "other (16.0 s)"
        go.set()
        worker.join()
        assert heart.late() == "mine (11.0 s)"
