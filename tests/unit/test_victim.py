"""The test harness itself: a victim that fails must fail its test, whatever way it fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import preflight
from tests.victim import Victim, VictimFailed


def test_build_once(build_target: Callable[..., Path]) -> None:
    first = build_target("idle")
    before = first.stat().st_mtime_ns
    assert build_target("idle") == first
    assert first.stat().st_mtime_ns == before
    assert build_target("idle", ["-DOTHER"]) != first


def test_ask_and_finish(spawn: Callable[..., Victim]) -> None:
    idle = spawn("idle")
    assert idle.alive()
    assert idle.ask("hello") == "hello"
    assert idle.finish() == ["ok"]
    assert not idle.alive()


def test_end_of_stdin_ends_it(spawn: Callable[..., Victim]) -> None:
    idle = spawn("idle")
    assert idle.process.stdin is not None
    idle.process.stdin.close()
    assert idle.line() == "ok"


def test_damage_fails(spawn: Callable[..., Victim]) -> None:
    idle = spawn("idle")
    maps = Path(f"/proc/{idle.pid}/maps").read_text().splitlines()
    # malloc of 1 MiB is a mapping of its own: 1 MiB, a header, and the end of a page.
    sizes = {
        int(line.split("-")[0], 16): line for line in maps if "rw-p" in line and line.endswith("0 ")
    }
    start = next(
        begin
        for begin, line in sizes.items()
        if int(line.split()[0].split("-")[1], 16) - begin >= 1 << 20
    )
    fd = os.open(f"/proc/{idle.pid}/mem", os.O_RDWR)
    try:
        os.pwrite(fd, b"\xee", start + 0x5000)
    finally:
        os.close(fd)
    with pytest.raises(VictimFailed, match=r"byte \d+ is 238"):
        idle.finish()


def test_death_and_silence_fail(spawn: Callable[..., Victim]) -> None:
    idle = spawn("idle")
    with pytest.raises(VictimFailed, match="said nothing"):
        idle.line(timeout=0.01)
    os.kill(idle.pid, signal.SIGKILL)
    with pytest.raises(VictimFailed, match=r"ended|died"):
        idle.ask("hello")


def test_never_ready_fails(spawn_program: Callable[..., Victim]) -> None:
    with pytest.raises(VictimFailed, match="gone wrong"):
        spawn_program("sh", "-c", "echo gone wrong >&2; exit 3")


def test_preflight_is_clear() -> None:
    problem = preflight.problem()
    assert problem == "" or len(problem.splitlines()) == 1
