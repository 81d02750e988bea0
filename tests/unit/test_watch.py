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
    """One whose peer reads nothing."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ended = asyncio.Event()

    async def room(self) -> None:
        await asyncio.Event().wait()

    def notify(self, method: str, made: Reply) -> None:
        made.close()
        self.said.append(method)
        self.ended.set()


class Worker:
    async def run(self, job: Callable[[], Any]) -> Any:
        return job()

    def submit(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()


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
