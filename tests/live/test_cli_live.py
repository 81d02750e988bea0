"""The real command on real targets, as a shell runs it.

bigwriter says which pages it wrote and churn checks all of its own memory, so what the command
says is compared with the victim's word, never with the library's.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.victim import Victim

pytestmark = pytest.mark.live

PAGE = os.sysconf("SC_PAGE_SIZE")
COMMAND = [sys.executable, "-m", "uffdtrackd.cli.main"]


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *(str(word) for word in words)],
        capture_output=True,
        text=True,
        timeout=100,
        **options,
    )


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *(str(word) for word in words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def next_line(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout
    return dict(json.loads(child.stdout.readline()))


def within(runs: list[list[int]], start: int, end: int) -> set[int]:
    """Page numbers, counted from `start`, of the runs inside [start, end)."""
    return {
        (at - start) // PAGE
        for low, high in runs
        for at in range(max(low, start), min(high, end), PAGE)
    }


def test_track_names_exactly_the_pages_that_were_written(spawn: Callable[..., Victim]) -> None:
    victim = spawn("bigwriter", 16, "anon", 3)
    low, high = (int(word, 16) for word in victim.ask("where").split())
    child = start("track", victim.pid, "-i", "0.2", "--json")
    first = next_line(child)
    assert within(first["processes"][0]["dirty"], low, high) == set(range((high - low) // PAGE))
    written = {int(word) for word in victim.ask("dirty 0.05").split()[2:]}
    assert len(written) > 100
    seen: set[int] = set()
    while not written <= seen:
        more = within(next_line(child)["processes"][0]["dirty"], low, high)
        assert more <= written, "a page that nobody wrote"
        seen |= more
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, "")
    assert all(json.loads(line) for line in out.splitlines())
    victim.ask("check")
    victim.finish()


def test_verify_under_churn(spawn: Callable[..., Victim]) -> None:
    victim = spawn("churn", "-s", 11, "-t", 3, "-m", 24)
    done = run("verify", victim.pid, "-n", 12, "-i", "0.05", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    (process,) = found["processes"]
    assert found["equal"] and process["missed"] == []
    assert process["compared_pages"] > 1000
    assert victim.ask("stop").startswith("ok")


def test_a_log_says_what_the_lines_said(spawn: Callable[..., Victim], tmp_path: Path) -> None:
    victim = spawn("bigwriter", 8)
    victim.ask("run")
    path = tmp_path / "run.uft"
    done = run("track", victim.pid, "-n", 5, "-i", "0.05", "--freeze-last", "--json", "--log", path)
    assert done.returncode == 0 and done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frozen"] for line in lines] == [False] * 4 + [True]
    for line in lines:
        shown = run("log", "show", path, "--iteration", line["iteration"], "--json")
        assert json.loads(shown.stdout) == line
    assert run("dump", path, "--format", "csv", "-o", tmp_path / "csv").returncode == 0
    rows = (tmp_path / "csv").read_text().splitlines()[1:]
    dirty = {tuple(row.split(",")[2:4]) for row in rows if row.split(",")[1] == "dirty"}
    assert dirty
    about = run("log", "show", path)
    assert "/bigwriter-" in about.stdout and "records:               5" in about.stdout
    victim.ask("halt")
    victim.ask("check")
    victim.finish()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_full_disk_does_not_end_tracking(spawn: Callable[..., Victim], tmp_path: Path) -> None:
    victim = spawn("bigwriter", 64)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], check=True)
    try:
        filler = tmp_path / "filler"
        child = start("track", victim.pid, "-i", "0.05", "--log", tmp_path / "run.uft", "--json")
        assert next_line(child)["iteration"] == 0
        filler.write_bytes(bytes((os.statvfs(tmp_path).f_bavail - 1) * 4096))
        assert child.stderr
        warning = ""
        while not warning:
            victim.ask("dirty 0.4")
            next_line(child)
            if select.select([child.stderr], [], [], 0)[0]:
                warning = child.stderr.readline()
        assert "tracking goes on" in warning
        last = [next_line(child)["iteration"] for _ in range(3)][-1]
        filler.unlink()
        while "goes on with iteration" not in warning:
            warning = child.stderr.readline()
            assert warning
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
        assert child.returncode == 130
        numbers = run("log", "ls", tmp_path / "run.uft", "--json").stdout.splitlines()
        records = [json.loads(line) for line in numbers]
        covering = next(one for one in records if one["first"] <= last <= one["number"])
        assert covering["complete"] and covering["first"] < covering["number"]
        about = json.loads(run("log", "show", tmp_path / "run.uft", "--json").stdout)
        assert len(about["gaps"]) == 1
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    victim.finish()


def test_dump_of_a_process_has_its_memory(spawn: Callable[..., Victim]) -> None:
    victim = spawn("bigwriter", 8)
    low, high = (int(word, 16) for word in victim.ask("where").split())
    done = run("dump", victim.pid, "--format", "json")
    assert done.returncode == 0, done.stderr
    (process,) = json.loads(done.stdout)["processes"]
    assert within(process["dirty"], low, high) == set(range((high - low) // PAGE))
    victim.finish()


def test_target_that_ends_while_it_is_tracked(spawn: Callable[..., Victim], tmp_path: Path) -> None:
    victim = spawn("bigwriter", 4)
    path = tmp_path / "run.uft"
    # An hour between iterations: it must not take one to see that there is nothing left.
    child = start("track", victim.pid, "-i", 3600, "--json", "--log", path)
    assert next_line(child)["iteration"] == 0
    victim.kill()
    began = time.monotonic()
    out, err = child.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert (child.returncode, out) == (4, "")
    assert err.startswith("uffdtrack: error: ") and "ended" in err
    assert run("log", "ls", path, "--json").stdout.count("\n") == 1


def test_signals_end_the_command_and_not_the_target(spawn: Callable[..., Victim]) -> None:
    victim = spawn("churn", "-t", 2, "-m", 8)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        child = start("track", victim.pid, "-i", "0.01", "--json")
        for _ in range(5):
            next_line(child)
        child.send_signal(signum)
        _, err = child.communicate(timeout=30)
        expected = -signum if signum == signal.SIGKILL else 128 + signum
        assert (child.returncode, err) == (expected, "")
    status = Path(f"/proc/{victim.pid}/status").read_text()
    assert "TracerPid:\t0\n" in status
    assert not any(
        "userfaultfd" in os.readlink(f"/proc/{victim.pid}/fd/{fd}")
        for fd in os.listdir(f"/proc/{victim.pid}/fd")
    )
    assert victim.ask("stop").startswith("ok")


def test_a_terminal_gets_a_table(spawn: Callable[..., Victim]) -> None:
    victim = spawn("bigwriter", 4)
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        [*COMMAND, "track", str(victim.pid), "-n", "3", "-i", "0.05"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40", "NO_COLOR": "1"},
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # EIO: the last writer is gone
    os.close(ours)
    assert child.wait(timeout=30) == 0
    text = shown.decode()
    assert f"process {victim.pid}" in text and "3/3" in text
    assert "\x1b[31m" not in text and "\x1b[32m" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor stays hidden"
    victim.finish()


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("track", 4194304), 4, "no process"),
        (("track", 2), 6, "kernel thread"),
        (("verify", 4194304), 4, "no process"),
        (("dump", 4194304), 4, "no process"),
    ],
)
def test_what_cannot_be_tracked(words: tuple[object, ...], code: int, part: str) -> None:
    if words == ("track", 2) and not Path("/proc/2/comm").read_text().startswith("kthreadd"):
        pytest.skip("process 2 of this pid namespace is no kernel thread")
    done = run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert part in done.stderr.splitlines()[0]
