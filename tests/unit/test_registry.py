"""Attaching for clients: what may take long is not done on the loop, and nobody is let through."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.fake_session import FakeSession
from uffdtrackd.model.errors import AlreadyTracked, NotPermitted, TimedOut
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


def test_attaches_of_one_process_take_turns() -> None:
    """Both would find it untracked else."""
    inside, most = 0, 0
    lock, entered, go_on = threading.Lock(), threading.Semaphore(0), threading.Event()
    tracked: set[int] = set()

    def attach(pid: int, **how: Any) -> Any:
        nonlocal inside, most
        if pid in tracked:
            raise AlreadyTracked("it has a userfaultfd")
        with lock:
            inside += 1
            most = max(most, inside)
        entered.release()
        assert go_on.wait(20)
        with lock:
            inside -= 1
        tracked.add(pid)
        return _Session(pid)

    async def main() -> None:
        registry = Registry(Config(), Policy(owner=USER), attach=attach)
        asked = [asyncio.ensure_future(registry.attach(PEER, _wish(7))) for _ in range(3)]
        assert await asyncio.to_thread(entered.acquire, timeout=20)
        # Who has no time does not wait, and another process is nobody's business.
        with pytest.raises(TimedOut, match="somebody else"):
            await registry.attach(PEER, _wish(7, deadline=0.05))
        other = asyncio.ensure_future(registry.attach(PEER, _wish(8)))
        assert await asyncio.to_thread(entered.acquire, timeout=20)
        go_on.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        held = [one for one in found if not isinstance(one, BaseException)]
        assert len(held) == 1 and most == 2
        for one in found:
            if one is not held[0]:
                assert isinstance(one, AlreadyTracked) and one.session == held[0].id
        # An attach that failed left its turn, too.
        with pytest.raises(AlreadyTracked):
            await registry.attach(PEER, _wish(7, deadline=0.05))
        for each in (held[0], await other):
            await registry.detach(each)

    asyncio.run(main())


def test_the_end_does_not_wait_for_a_worker_that_is_stuck(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("uffdtrackd.service.registry._END", 0.2)
    stuck, go_on = threading.Event(), threading.Event()
    sessions: dict[int, _Session] = {}

    def attach(pid: int, **how: Any) -> Any:
        return sessions.setdefault(pid, _Session(pid))

    def wait() -> None:
        stuck.set()
        go_on.wait(60)

    async def main() -> None:
        registry = Registry(Config(), Policy(owner=USER), attach=attach)
        bad = await registry.attach(PEER, _wish(7))
        await registry.attach(PEER, _wish(8))
        bad.worker.hand(wait)
        assert await asyncio.to_thread(stuck.wait, 20)
        try:
            await asyncio.wait_for(registry.close(), 20)
            assert (sessions[7].closed, sessions[8].closed) == (0, 1)
            assert f"session {bad.id} does not end" in caplog.text
        finally:
            go_on.set()

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
