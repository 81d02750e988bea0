"""A stream of iterations whose reader is slow, when what waits cannot be made one."""

from __future__ import annotations

import asyncio
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
    """reads: whether its peer reads anything."""

    def __init__(self, *, reads: bool = False) -> None:
        self.said: list[str] = []
        self.ended = asyncio.Event()
        self._reads = reads

    async def room(self) -> None:
        if not self._reads:
            await asyncio.Event().wait()

    def notify(self, method: str, made: Reply) -> None:
        made.close()
        self.said.append(method)
        self.ended.set()


class Worker:
    async def run(self, job: Callable[[], Any]) -> Any:
        return job()

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
        one = Watch(1, cast(Guest, guest), cast(Held, held), 0.0, "", "inline", "runs", 1, 1 << 20)
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
