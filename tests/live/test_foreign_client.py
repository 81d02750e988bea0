"""A MessagePack-RPC client that this project did not write: pynvim's, made for Neovim's socket.

It knows nothing of this daemon but the path, the names of methods and their parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pynvim.msgpack_rpc import socket_session

from tests.daemon import Daemon
from tests.procfs import read_maps
from tests.victim import Victim

pytestmark = pytest.mark.live
Spawn = Callable[..., Victim]


def test_it_attaches_iterates_and_detaches(tmp_path: Path, spawn: Spawn) -> None:
    victim = spawn("bigwriter", 16)
    start, end = (int(word, 16) for word in victim.ask("where").split())
    with Daemon(tmp_path) as daemon:
        rpc: Any = socket_session(str(daemon.socket))
        try:
            assert rpc.request("hello", {"api": 1})["product"] == "uffdtrackd"
            session = rpc.request("attach", {"pid": victim.pid})["session"]
            first = rpc.request("iterate", {"session": session})
            (process,) = first["processes"]
            assert process["pid"] == victim.pid
            assert any(low <= start and end <= high for low, high in process["dirty"])
            mapped = read_maps(victim.pid)
            assert all(
                any(one.start <= low < one.end for one in mapped) for low, _ in process["dirty"]
            )
            rpc.request("ack", {"session": session, "iteration": first["iteration"]})
            _, count, *numbers = victim.ask("dirty 0.01").split()
            later = rpc.request("iterate", {"session": session})
            runs = later["processes"][0]["dirty"]
            found = {
                (page - start) // 4096
                for low, high in runs
                for page in range(max(low, start), min(high, end), 4096)
            }
            assert found >= {int(number) for number in numbers} and len(numbers) == int(count)
            assert rpc.request("detach", {"session": session}) == {"iterations": 2}
        finally:
            rpc.close()
    victim.ask("check")
    victim.finish()
