"""What the daemon keeps of a call until it is answered."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgpack
import pytest

from uffdtrackd.service.connection import Connection
from uffdtrackd.service.daemon import Daemon
from uffdtrackd.service.delivery import Reply
from uffdtrackd.service.settings import Config
from uffdtrackd.service.wire import Call


def test_parameters_that_no_method_knows_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Many calls may wait, and what came with them may be large."""
    kept: list[Call] = []

    async def main() -> None:
        answered = asyncio.Event()

        def answer(connection: Connection, call: Call, reply: Reply) -> None:
            kept.append(call)
            answered.set()

        monkeypatch.setattr(Connection, "answer", answer)
        ours, theirs = socket.socketpair()
        daemon = Daemon(Config(state_dir=str(tmp_path)))
        daemon.admit(ours)
        with theirs:
            params = {"client": "this", "unknown": [{}] * 1000}
            theirs.send(msgpack.packb([0, 7, "hello", [params]]))
            await asyncio.wait_for(answered.wait(), 20)
            await daemon.close()

    asyncio.run(main())
    assert kept == [Call(7, "hello", {})]
