"""The verbs of the command line that talk to a daemon, and those that use one if it is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.procfs import thread_states
from tests.victim import PATIENCE, Victim

pytestmark = pytest.mark.live
Spawn = Callable[..., Victim]
UFFDTRACK = Path(sys.executable).parent / "uffdtrack"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as one:
        yield one


class Cli:
    """uffdtrack with $UFFDTRACKD_SOCKET set; a failure shows what it said."""

    def __init__(self, socket: Path) -> None:
        self.env = {**os.environ, "UFFDTRACKD_SOCKET": str(socket)}

    def __call__(self, *words: object, code: int = 0) -> str:
        done = subprocess.run(
            [str(UFFDTRACK), *map(str, words)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code, (words, done)
        return done.stdout if code == 0 else done.stderr

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(UFFDTRACK), *map(str, words)], env=self.env, stdout=subprocess.PIPE, text=True
        )


@pytest.fixture
def cli(daemon: Daemon) -> Cli:
    return Cli(daemon.socket)


def test_the_life_of_a_session(cli: Cli, spawn: Spawn, tmp_path: Path) -> None:
    victim = spawn("churn")
    name = cli("attach", victim.pid).strip()
    assert cli("list").split()[-1] == name
    first = json.loads(cli("iterate", name, "--json"))
    assert (first["iteration"], first["frozen"]) == (0, False)
    again = json.loads(cli("iterate", victim.pid, "--json"))
    assert again["iteration"] == 1
    assert len(again["processes"][0]["dirty"]) > 0
    cli("ack", name, 0)
    pending = json.loads(cli("iterate", name, "--pending", "--json"))
    cli("ack", name, 1)
    assert pending["iteration"] == 1 and cli("iterate", name, "--pending") == ""
    assert cli("iterate", name, "--ack").startswith("iteration=2 ")
    out = tmp_path / "ranges"
    cli("iterate", name, "--format", "ranges", "-o", out)
    assert out.read_text()
    everything = cli("dump", name, "--format", "json")
    assert str(victim.pid) in everything
    about = cli("status", name)
    assert f"process {victim.pid}" in about and "consumer default" in about
    assert json.loads(cli("status", "--json"))["sessions"][0]["session"] == name
    lines = cli("watch", name, "-i", 0.05, "-n", 3, "--json").splitlines()
    assert len(lines) == 3 and all(json.loads(line)["processes"] for line in lines)
    cli("detach", name)
    assert cli("list") == ""
    assert "no session" in cli("iterate", name, code=2)
    victim.finish()


def test_freeze_holds_until_thaw(cli: Cli, spawn: Spawn) -> None:
    victim = spawn("idle")
    name = cli("attach", victim.pid).strip()
    with cli.start("freeze", name) as frozen:
        assert frozen.stdout is not None
        assert "is frozen" in frozen.stdout.readline()
        assert set(thread_states(victim.pid).values()) <= {"t", "T"}
        assert json.loads(cli("iterate", name, "--json"))["frozen"]
        cli("thaw", name)
        assert frozen.wait(PATIENCE) == 0
    assert victim.alive() and not set(thread_states(victim.pid).values()) & {"t", "T"}
    with cli.start("freeze", name) as frozen:
        assert frozen.stdout is not None
        frozen.stdout.readline()
        frozen.send_signal(signal.SIGINT)
        assert frozen.wait(PATIENCE) == 128 + signal.SIGINT
    _await_running(victim)
    assert "lease" in cli("freeze", name, "--lease", 0.05, code=7)
    _await_running(victim)
    victim.finish()


def _await_running(victim: Victim) -> None:
    """The daemon notices the end of a connection after we do."""
    for _ in range(1000):
        if not set(thread_states(victim.pid).values()) & {"t", "T"}:
            return
        os.sched_yield()
        signal.sigtimedwait([], 0.005)
    raise AssertionError(f"still stopped: {thread_states(victim.pid)}")


@pytest.mark.parametrize("verb", ["track", "verify", "dump"])
def test_the_daemon_is_used_where_it_is(cli: Cli, spawn: Spawn, verb: str, daemon: Daemon) -> None:
    victim = spawn("churn")
    words = {
        "track": ["-n", 3, "-i", 0, "--json", "--freeze-last"],
        "verify": ["-n", 3, "-i", 0],
        "dump": [],
    }[verb]
    assert cli(verb, victim.pid, *words)
    assert f"process {victim.pid} is tracked" in daemon.errors()
    assert f"process {victim.pid} is not tracked any more" in daemon.errors()
    assert cli(verb, victim.pid, *words, "--embedded")
    assert daemon.errors().count("is tracked") == 1
    victim.finish()


def test_no_daemon(tmp_path: Path, spawn: Spawn) -> None:
    cli = Cli(tmp_path / "nothing")
    for words in (["list"], ["track", spawn("idle").pid, "-n", 1]):
        assert "hint: start uffdtrackd, or use --embedded" in cli(*words, code=3)
