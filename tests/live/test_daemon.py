"""The daemon with real targets: what clients get through the socket is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import uffdtrackd
from tests.daemon import Daemon
from tests.oracle import Oracle
from tests.victim import Victim
from uffdtrackd.errors import AlreadyTracked, NoSuchSession, TargetGone, UsageError

pytestmark = pytest.mark.live
Spawn = Callable[..., Victim]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as one:
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Iterator[uffdtrackd.Client]:
    with daemon.connect() as one:
        yield one


class Reader:
    """A session as a consumer uses it: each iteration is acknowledged when it has been copied.

    Numbered anew: the oracle wants them without gaps, and other consumers make some.
    """

    def __init__(self, session: uffdtrackd.ClientSession) -> None:
        self._session = session
        self._last = -1
        self._count = 0

    def iterate(self) -> uffdtrackd.Iteration:
        if self._last >= 0:
            self._session.ack(self._last)
        iteration = self._get()
        self._last = iteration.number
        self._count += 1
        return replace(iteration, number=self._count - 1)

    def _get(self) -> uffdtrackd.Iteration:
        return self._session.iterate()

    def frozen(self) -> AbstractContextManager[Any]:
        return self._session.frozen()


@pytest.mark.parametrize("deliver", ["memfd", "inline"])
def test_exact(client: uffdtrackd.Client, spawn: Spawn, deliver: str) -> None:
    victim = spawn("churn")
    with client.attach(victim.pid, deliver=deliver) as session:
        assert (session.pid, session.pids, session.status) == (victim.pid, [victim.pid], [])
        oracle = Oracle(Reader(session))
        for _ in range(5):
            oracle.step()
        oracle.final().check(iterations=6)
    victim.finish()


def test_two_consumers_of_one_session_are_both_exact(
    daemon: Daemon, client: uffdtrackd.Client, spawn: Spawn
) -> None:
    victim = spawn("churn")
    with client.attach(victim.pid) as session, daemon.connect() as other:
        late = other.session(session.name, consumer="late")
        first = Oracle(Reader(session))
        first.step()
        first.step()
        second = Oracle(Reader(late))
        for _ in range(3):
            second.step()
            first.step()
            first.step()
        second.final().check()
        first.final().check()
    victim.finish()


def test_what_was_not_acknowledged_comes_again(client: uffdtrackd.Client, spawn: Spawn) -> None:
    victim = spawn("churn")
    with client.attach(victim.pid) as session:
        oracle = Oracle(Lossy(session))
        for _ in range(6):
            oracle.step()
        oracle.final().check()
    victim.finish()


class Lossy(Reader):
    """Every other reply gets lost."""

    def _get(self) -> uffdtrackd.Iteration:
        self._session.iterate()
        return self._session.iterate()


def test_a_second_attach_is_told_the_session(client: uffdtrackd.Client, spawn: Spawn) -> None:
    victim = spawn("idle")
    with client.attach(victim.pid) as session:
        with pytest.raises(AlreadyTracked) as caught:
            client.attach(victim.pid)
        assert caught.value.session == session.name


def test_a_session_ends_with_its_target(client: uffdtrackd.Client, spawn: Spawn) -> None:
    victim = spawn("idle")
    session = client.attach(victim.pid)
    session.iterate()
    victim.kill()
    with pytest.raises(TargetGone):
        session.iterate()
    with pytest.raises(TargetGone):
        session.iterate()
    session.close()
    with pytest.raises(NoSuchSession):
        session.iterate()


def test_acknowledging_what_was_not_delivered(client: uffdtrackd.Client, spawn: Spawn) -> None:
    with client.attach(spawn("idle").pid) as session:
        with pytest.raises(UsageError):
            session.ack(0)
        session.iterate()
        with pytest.raises(UsageError):
            session.ack(1)
        session.ack(0)
        session.ack(0)
        assert session.pending() is None
