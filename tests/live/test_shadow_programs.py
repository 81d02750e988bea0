"""A copy kept from iterations equals real programs at work: redis, CPython, a shell that forks.

None of them was prepared, each goes on unharmed, and its children are nobody's concern.
"""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.follow import Counting, follow, tracked_by_nobody
from tests.victim import Victim

pytestmark = pytest.mark.live

SpawnProgram = Callable[..., Victim]
TARGETS = Path(__file__).parent.parent / "targets"


class Redis:
    """The little of the protocol that is needed: inline commands over the UNIX socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")

    def ask(self, command: str) -> str:
        self.socket.sendall(command.encode() + b"\r\n")
        head = self.file.readline().decode().rstrip()
        if head.startswith("$") and (size := int(head[1:])) >= 0:
            return self.file.read(size + 2).decode(errors="replace")[:-2]
        return head

    def commands(self) -> int:
        """Commands served so far."""
        lines = self.ask("INFO stats").splitlines()
        return next(int(line.split(":")[1]) for line in lines if "total_commands" in line)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.mark.parametrize("saving", [False, True], ids=["plain", "saving"])
def test_redis_under_load(spawn_program: SpawnProgram, tmp_path: Path, saving: bool) -> None:
    """redis-server under redis-benchmark; with `saving` it forks to save itself all the time."""
    server_program, load_program = shutil.which("redis-server"), shutil.which("redis-benchmark")
    if not server_program or not load_program:
        pytest.skip("redis-server and redis-benchmark are not installed (apt: redis)")
    path = tmp_path / "redis.sock"
    settings = ["--port", 0, "--unixsocket", path, "--dir", tmp_path, "--save", ""]
    server = spawn_program(server_program, *settings, ready="eady to accept")
    load = ["-s", path, "-c", 20, "-n", 100_000_000, "-r", 50_000, "-d", 300, "-q"]
    client = spawn_program(load_program, *load, "-t", "set,lpush,sadd,get", ready="")
    redis = Redis(path)
    try:
        redis.ask("SET keep this-value")
        last = redis.commands()

        def progress() -> None:
            nonlocal last
            if saving:
                redis.ask("BGSAVE")
            while (now := redis.commands()) < last + 2000:
                pass
            last = now

        report = follow(server.pid, progress)
        print(report)
        assert client.alive()
        assert tracked_by_nobody(server.pid)
        progress()
        assert redis.ask("GET keep") == "this-value"
        client.kill()
    finally:
        redis.close()


def test_cpython(spawn_program: SpawnProgram) -> None:
    """An interpreter that allocates, collects garbage, computes and runs threads."""
    victim = spawn_program(sys.executable, TARGETS / "pythonish.py")
    print(follow(victim.pid, Counting(victim, 20)))
    assert tracked_by_nobody(victim.pid)
    victim.finish()


def test_shell_that_forks(spawn_program: SpawnProgram) -> None:
    """Children come and go between and during iterations; only the parent is followed."""
    victim = spawn_program("bash", TARGETS / "forking.sh")
    report = follow(victim.pid, Counting(victim, 5))
    print(report)
    assert tracked_by_nobody(victim.pid)
    Counting(victim, 5)()
    victim.finish()
