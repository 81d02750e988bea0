"""Refusals in the log: none is left out, and none can flood it."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from uffdtrackd.model.errors import LimitReached, NoSuchSession, NotPermitted, TrackError
from uffdtrackd.service.connection import Connection
from uffdtrackd.service.crowd import Crowd
from uffdtrackd.service.peer import Peer
from uffdtrackd.service.policy import Policy
from uffdtrackd.service.settings import Limits

ONE, TWO = Peer(5, 47011, frozenset()), Peer(6, 47012, frozenset())


def test_the_first_is_told_and_the_rest_counted(caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd()
    for _ in range(100):
        crowd.add(ONE, NotPermitted("not that", pid=7))
    crowd.add(TWO, NotPermitted("nor that"))
    crowd.tell()
    assert caplog.messages == [
        "refused pid 5 of uid 47011: not that",
        "refused pid 6 of uid 47012: nor that",
        "refused uid 47011 99 times more",
    ]
    fields = vars(caplog.records[0])
    assert (fields["UFFDTRACK_TARGET_PID"], fields["UFFDTRACK_PEER_PID"]) == ("7", "5")
    assert fields["UFFDTRACK_ERROR"] == "uffdtrack.NotPermitted"
    crowd.tell()
    assert len(caplog.messages) == 3
    crowd.add(ONE, NotPermitted("again"))
    assert caplog.messages[3:] == ["refused pid 5 of uid 47011: again"]


def test_what_the_policy_refuses_is_in_the_crowd(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(owner=0)
    for _ in range(100):
        with pytest.raises(NoSuchSession):
            policy.check_session(ONE, 0, "s1")
        with pytest.raises(NotPermitted):
            policy.check_peer(ONE)
        with pytest.raises(NotPermitted):
            policy.permit(ONE)(os.getpid())
    assert len(caplog.messages) == 1


def test_what_a_connection_refuses_is_told() -> None:
    told: list[TrackError] = []

    async def main() -> None:
        closed = asyncio.Event()
        ours, theirs = socket.socketpair()
        connection = Connection(ours, ONE, Limits(), lambda *_: None, lambda _: closed.set())
        connection.on_refusal = lambda peer, error: told.append(error)
        connection.refuse(None, LimitReached("too much"))
        connection.refuse(None, TrackError("nothing that anybody must know"))
        with theirs:
            theirs.send(b"\xc1")
            await asyncio.wait_for(closed.wait(), 20)

    asyncio.run(main())
    assert [str(one)[:8] for one in told] == ["too much", "this is "]
