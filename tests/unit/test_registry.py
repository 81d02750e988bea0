"""Attaching for clients: what may take long is not done on the loop, and nobody is let through."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.fake_session import FakeSession
from uffdtrackd.model.errors import NotPermitted
from uffdtrackd.service import policy as rules
from uffdtrackd.service.peer import Peer
from uffdtrackd.service.policy import Policy
from uffdtrackd.service.registry import Registry, Wish
from uffdtrackd.service.settings import Config
from uffdtrackd.tracking import procfs

# Nobody's uid.
USER = 47011
PEER = Peer(os.getpid(), USER, frozenset())


class _Session(FakeSession):
    """What the registry asks of one as well."""

    start_time = 1
    follow = "fork"


def _wish(pid: int, deadline: float = 20.0) -> Wish:
    return Wish(pid, 1, -1, "auto", "fork", deadline, 1)


def _attach(pid: int, *, permit: Callable[[int], None], **how: Any) -> Any:
    return _Session(pid)


def test_the_loop_looks_at_no_thread_of_the_target() -> None:
    """There may be many thousands of them."""
    asked: list[int] = []

    class Slow(Policy):
        def permit(self, peer: Peer) -> Callable[[int], None]:
            return lambda pid: asked.append(threading.get_ident())

    async def main() -> None:
        registry = Registry(Config(), Slow(), attach=_attach)
        held = await registry.attach(PEER, _wish(7))
        assert asked and threading.get_ident() not in asked
        await registry.detach(held)

    asyncio.run(main())


def test_what_is_refused_is_not_attached_to() -> None:
    attached: list[int] = []

    class Strict(Policy):
        def permit(self, peer: Peer) -> Callable[[int], None]:
            def no(pid: int) -> None:
                raise NotPermitted("no")

            return no

    def attach(pid: int, **how: Any) -> Any:
        attached.append(pid)
        return _Session(pid)

    async def main() -> None:
        registry = Registry(Config(), Strict(), attach=attach)
        with pytest.raises(NotPermitted):
            await registry.attach(PEER, _wish(7))
        assert (len(registry), attached) == (0, [])

    asyncio.run(main())


def test_a_thread_that_vanishes_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [11]

    def privileged(peer: Peer, pid: int, tid: int) -> str:
        if tid in gone:
            raise ProcessLookupError(tid)
        return "has capabilities" if tid == 12 else ""

    monkeypatch.setattr(procfs, "threads", lambda _: [10, 11, 12])
    monkeypatch.setattr(rules, "_privileged", privileged)
    with pytest.raises(NotPermitted, match="capabilities"):
        Policy(owner=0).permit(PEER)(10)
    gone += [10, 12]
    Policy(owner=0).permit(PEER)(10)
