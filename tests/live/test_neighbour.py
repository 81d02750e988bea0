"""A region that loses its registration to a mapping that moved in beside it is not lost.

See uffdtrackd/tracking/stale.py: without the cleaning there, the second write after the move is
never reported, on Linux 6.18.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

import uffdtrackd
from tests.live.follow import follow
from tests.victim import Victim
from uffdtrackd import PageSet
from uffdtrackd.errors import TrackError
from uffdtrackd.native.error import NativeError
from uffdtrackd.tracking import stale

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]


def test_writes_after_a_neighbour_moved_in(spawn: Spawn) -> None:
    victim = spawn("neighbour")
    start, end = (int(word, 16) for word in victim.ask("where").split())
    region = PageSet.from_ranges([(start, end)])

    with uffdtrackd.attach(victim.pid) as session:

        def listed() -> PageSet:
            return session.iterate().processes[victim.pid].dirty & region

        assert listed() == region
        assert not listed()
        for value, move in enumerate(("join", "part", "join", "part"), start=2):
            victim.ask(move)
            victim.ask(f"write {value}")
            assert listed() == region, f"after {move}"
            assert not listed()
            victim.ask(f"write {value + 100}")
            assert listed() == region, f"the second write after {move}"
    victim.finish()


@pytest.mark.both_backends
def test_an_iteration_that_fails_between_registering_and_cleaning(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits that nobody stands behind are still there, and look like others."""
    victim = spawn("neighbour")
    start, end = (int(word, 16) for word in victim.ask("where").split())
    region = PageSet.from_ranges([(start, end)])

    def fail(*_: object) -> None:
        raise NativeError("made to fail", errno.EIO)

    with uffdtrackd.attach(victim.pid) as session:

        def listed() -> PageSet:
            return session.iterate().processes[victim.pid].dirty & region

        for _ in range(3):
            listed()
        victim.ask("join")
        victim.ask("write 2")
        with monkeypatch.context() as patch:
            patch.setattr(stale, "swallowed", fail)
            with pytest.raises(TrackError):
                session.iterate()
        assert listed() == region
        for value in range(3, 6):
            assert not listed()
            victim.ask(f"write {value}")
            assert listed() == region, f"write {value}"
    victim.finish()


def test_a_session_before_left_bits_behind(spawn: Spawn) -> None:
    """The registration is lost, and nobody registers again until the next session."""
    victim = spawn("neighbour")
    start, end = (int(word, 16) for word in victim.ask("where").split())
    region = PageSet.from_ranges([(start, end)])
    with uffdtrackd.attach(victim.pid) as session:
        session.iterate()
        victim.ask("join")
        victim.ask("write 5")
    with uffdtrackd.attach(victim.pid) as session:
        session.iterate()
        victim.ask("write 6")
        assert session.iterate().processes[victim.pid].dirty & region == region
    victim.finish()


def test_the_copy_is_right_all_the_same(spawn: Spawn) -> None:
    victim = spawn("neighbour")
    values = iter(range(100))
    moves = iter(["join", "part"] * 50)

    def progress() -> None:
        victim.ask(next(moves))
        victim.ask(f"write {next(values)}")

    follow(victim.pid, progress, steps=20)
    victim.finish()
