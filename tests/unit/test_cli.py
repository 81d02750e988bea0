"""The command line: words, exit codes, and what goes to which stream; no target is attached to."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import uffdtrackd
from tests.unit.fake_session import BASE, PAGE, FakeSession, iteration
from uffdtrackd.cli.main import VERBS, build_parser, main
from uffdtrackd.cli.terminal import Terminal
from uffdtrackd.errors import NotPermitted, TargetGone, TrackError
from uffdtrackd.store.log import LogMeta, LogReader, LogWriter

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    """What attach() gives, in turn; a plain one for each more. Ends with all that were given."""
    ready: list[FakeSession] = []
    monkeypatch.setattr(uffdtrackd, "attach", _attach(ready), raising=False)
    return ready


def _attach(ready: list[FakeSession]) -> Callable[..., FakeSession]:
    given = iter(range(1000))

    def attach(pid: int, **unused: Any) -> FakeSession:
        index = next(given)
        if index == len(ready):
            ready.append(FakeSession(pid))
        return ready[index]

    return attach


@pytest.fixture
def run() -> Run:
    """run("track", 1) -> (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        raw = io.BytesIO()
        out, err = io.TextIOWrapper(raw, write_through=True), io.StringIO()
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            code = main([str(word) for word in words], Terminal(out, err, dumb=True))
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        return code, raw.getvalue().decode("utf-8", "surrogateescape"), err.getvalue()

    return run


def spawned(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real command, as a shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", "uffdtrackd.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "run.uft"
    meta = LogMeta(77, PAGE, command=("redis-server", "a b"), host="h", created_ns=1)
    with LogWriter(path, meta) as writer:
        for number in range(4):
            writer.append(iteration(number, frozen=number == 3, pid=77))
    return path


# Words


@pytest.mark.parametrize(
    "words",
    [
        "",
        "frobnicate",
        "track",
        "track 0",
        "track -5",
        "track x",
        "track 1.5",
        "track 1 -n 0",
        "track 1 -n -1",
        "track 1 -n x",
        "track 1 -i nan",
        "track 1 -i inf",
        "track 1 -i -1",
        "track 1 -i 1e300",
        "track 1 --follow dogs",
        "track 1 --unknown",
        "verify 1 -n 0",
        "verify 1 --memory 0",
        "dump",
        "dump 0",
        "dump 1 --format nonsense",
        "dump 1 --iteration 3",
        "dump 1 --union",
        "dump f.uft --iteration 1 --union",
        "dump f.uft --iteration -1",
        "log",
        "log ls",
        "log export f.uft --format nonsense",
    ],
)
def test_bad_words_are_a_usage_error(run: Run, sessions: list[FakeSession], words: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert lines[0].startswith("uffdtrack: error: ")
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines) == 2
    assert not sessions, "attached to a process for a command that makes no sense"


def test_every_verb_has_help_with_an_example() -> None:
    for verb in VERBS:
        done = spawned(verb.name, "--help")
        assert done.returncode == 0 and not done.stderr
        assert f"uffdtrack {verb.name}" in done.stdout.split("example:")[1]


def test_version() -> None:
    done = spawned("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("uffdtrack ") and len(done.stdout.split()) == 2


@pytest.mark.parametrize("words", ["track 5 --debug", "--debug track 5", "track -v 5"])
def test_debug_may_stand_anywhere(words: str) -> None:
    args = build_parser().parse_args(words.split())
    assert args.debug and args.pid == 5


# track


def test_track_prints_a_line_an_iteration(run: Run, sessions: list[FakeSession]) -> None:
    code, out, err = run("track", 1, "-n", 3, "-i", 0)
    assert (code, err) == (0, "")
    first, second, third = out.splitlines()
    assert first == (
        "iteration=0 dirty=4.0MiB pages=1024 discarded=0B rate=- window=- always=0B"
        " took=1.50ms stopped=200us"
    )
    words = dict(word.split("=") for word in second.split())
    assert words["dirty"] == "4.0KiB" and words["discarded"] == "4.0KiB"
    assert words["rate"].endswith("B/s") and words["window"] != "-"
    assert third.startswith("iteration=2 ")
    assert sessions[0].closed == 1


def test_rate_is_dirty_by_window(run: Run, sessions: list[FakeSession]) -> None:
    _, out, _ = run("track", 1, "-n", 2, "-i", 0.2)
    words = dict(word.split("=") for word in out.splitlines()[1].split())
    window = float(words["window"].removesuffix("ms"))
    assert 190 < window < 1000
    assert float(words["rate"].removesuffix("KiB/s")) == pytest.approx(4000 / window, rel=0.02)


def test_track_json_is_the_map_of_the_iteration(run: Run, sessions: list[FakeSession]) -> None:
    code, out, err = run("track", 1, "-n", 2, "-i", 0, "--json")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines == [iteration(0).to_map(), iteration(1).to_map()]
    assert list(lines[0]) == [
        "iteration",
        "frozen",
        "time_ns",
        "duration_ns",
        "stopped_ns",
        "page_size",
        "processes",
        "stats",
    ]
    assert lines[1]["processes"][0]["dirty"] == [[BASE + PAGE, BASE + 2 * PAGE]]


def test_freeze_last_freezes_only_the_last(run: Run, sessions: list[FakeSession]) -> None:
    _, out, _ = run("track", 1, "-n", 3, "-i", 0, "--freeze-last", "--json")
    assert [json.loads(line)["frozen"] for line in out.splitlines()] == [False, False, True]
    assert sessions[0].thawed == 1


def test_target_that_ends_leaves_what_was_collected(
    run: Run, sessions: list[FakeSession], tmp_path: Path
) -> None:
    sessions.append(FakeSession(1, ends=(2, TargetGone("process 1 has ended", pid=1))))
    path = tmp_path / "x.uft"
    code, out, err = run("track", 1, "-i", 0, "--log", path)
    assert code == 4
    assert [line.split()[0] for line in out.splitlines()] == ["iteration=0", "iteration=1"]
    assert err == "uffdtrack: error: process 1 has ended\n"
    assert sessions[0].closed == 1
    with LogReader(path) as log:
        assert log.numbers == [0, 1]


def test_track_writes_a_log(run: Run, sessions: list[FakeSession], tmp_path: Path) -> None:
    path = tmp_path / "x.uft"
    assert run("track", os.getpid(), "-n", 3, "-i", 0, "--log", path)[0] == 0
    with LogReader(path) as log:
        assert log.meta.pid == os.getpid()
        assert log.iteration(2).to_map() == iteration(2, pid=os.getpid()).to_map()


def test_an_existing_log_is_not_overwritten(
    run: Run, sessions: list[FakeSession], log: Path
) -> None:
    before = log.read_bytes()
    code, out, err = run("track", 1, "-n", 1, "--log", log)
    assert (code, out) == (1, "") and "exists" in err
    assert log.read_bytes() == before
    assert sessions[0].closed == 1


def test_full_disk_does_not_end_tracking(
    run: Run, sessions: list[FakeSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    stored = LogWriter._store

    def full(self: LogWriter, database: sqlite3.Connection, taken: Any) -> None:
        if taken.number in (1, 2):
            raise sqlite3.OperationalError("database or disk is full")
        stored(self, database, taken)

    monkeypatch.setattr(LogWriter, "_store", full)
    path = tmp_path / "x.uft"
    code, out, err = run("track", 1, "-n", 5, "-i", 0, "--log", path)
    assert code == 0
    assert len(out.splitlines()) == 5
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("uffdtrack: warning: iteration 1 is not in")
    assert "tracking goes on" in lines[0] and lines[1].startswith("hint: ")
    assert "goes on with iteration 3" in lines[2]


def test_errors_of_the_tree_have_their_own_codes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, **unused: Any) -> None:
        raise NotPermitted("no", hint="do this")

    monkeypatch.setattr(uffdtrackd, "attach", refused, raising=False)
    assert run("track", 1) == (5, "", "uffdtrack: error: no\nhint: do this\n")


def test_a_bug_is_one_line_and_a_traceback_only_on_request(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(pid: int, **unused: Any) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(uffdtrackd, "attach", broken, raising=False)
    code, _, err = run("track", 1)
    assert code == 1 and len(err.splitlines()) == 2 and "KeyError" in err
    code, _, err = run("track", 1, "--debug")
    assert code == 1 and "Traceback" in err


# Signals and pipes


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_waiting(run: Run, sessions: list[FakeSession], signum: int) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), signum)

    sessions.append(FakeSession(os.getpid(), at=interrupt))
    code, out, err = run("track", os.getpid(), "-i", 0.01)
    assert (code, err) == (128 + signum, "")
    # The iteration in which it came is whole and printed.
    assert [line.split()[0] for line in out.splitlines()] == ["iteration=0", "iteration=1"]
    assert sessions[0].closed == 1


def test_signal_with_freeze_last_takes_one_more(run: Run, sessions: list[FakeSession]) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    sessions.append(FakeSession(os.getpid(), at=interrupt))
    code, out, _ = run("track", os.getpid(), "-i", 0.01, "--freeze-last", "--json")
    assert code == 130
    assert [json.loads(line)["frozen"] for line in out.splitlines()] == [False, False, True]


def test_reader_that_has_had_enough(log: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m uffdtrackd.cli.main dump {log} | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    # It may have written all before the pipe was closed.
    assert done.stdout.strip() in ("141", "0")
    assert done.stderr == ""


def test_full_stdout_is_an_error(log: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "uffdtrackd.cli.main", "log", "ls", str(log)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "uffdtrack: error: No space left on device\n"


# dump and log


def test_dump_of_a_log_takes_the_last_by_default(run: Run, log: Path) -> None:
    code, out, _ = run("dump", log, "--format", "json")
    assert code == 0 and json.loads(out)["iteration"] == 3
    assert json.loads(run("dump", log, "--format", "json", "--iteration", 1)[1])["iteration"] == 1


def test_dump_union_has_all_that_lives(run: Run, log: Path) -> None:
    out = run("dump", log, "--format", "json", "--union")[1]
    (process,) = json.loads(out)["processes"]
    pages = sum(end - start for start, end in process["dirty"]) // PAGE
    assert pages == 1024 - 3


def test_dump_to_a_file_is_whole_or_nothing(run: Run, log: Path, tmp_path: Path) -> None:
    target = tmp_path / "pages"
    target.write_text("old")
    target.chmod(0o640)
    assert run("dump", log, "--iteration", 99, "-o", target)[0] == 1
    assert target.read_text() == "old"
    assert run("dump", log, "-o", target)[0] == 0
    assert f"{BASE + 3 * PAGE:x}" in target.read_text()
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pages", "run.uft"]


def test_dump_to_where_nothing_can_be_written(run: Run, log: Path, tmp_path: Path) -> None:
    code, _, err = run("dump", log, "-o", tmp_path / "no" / "such")
    assert code == 1 and "No such file or directory" in err and len(err.splitlines()) == 1


def test_binary_format_is_not_for_terminals(log: Path) -> None:
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "uffdtrackd.cli.main", "dump", str(log), "--format", "bitmap"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2 and "-o FILE" in done.stderr


def test_dump_of_a_process_lists_what_it_has(run: Run, sessions: list[FakeSession]) -> None:
    code, out, _ = run("dump", 1, "--format", "csv")
    assert code == 0 and out.count("\n") == 2
    assert sessions[0].closed == 1


def test_log_ls(run: Run, log: Path) -> None:
    code, out, _ = run("log", "ls", log)
    assert code == 0
    head, first, *_, last = out.splitlines()
    assert head.split() == [
        "iteration", "time", "processes", "dirty", "discarded", "always", "took", "stopped",
    ]  # fmt: skip
    assert " ".join(first.split()) == "0 2026-01-02T03:04:05.000Z 1 4.0 MiB 0 B 0 B 1.50 ms 200 us"
    assert last.endswith("frozen")
    rows = [json.loads(line) for line in run("log", "ls", log, "--json")[1].splitlines()]
    assert [row["dirty_pages"] for row in rows] == [1024, 1, 1, 1]


def test_log_show(run: Run, log: Path) -> None:
    out = run("log", "show", log)[1]
    assert "77  redis-server 'a b'" in out
    assert json.loads(run("log", "show", log, "--json")[1])["union_bytes"] == {"77": 1021 * PAGE}
    assert f"{BASE:#x}-" in run("log", "show", log, "--iteration", 1)[1]
    same = json.loads(run("log", "show", log, "--iteration", 1, "--json")[1])
    assert same == iteration(1, pid=77).to_map()


def test_log_export_is_dump(run: Run, log: Path) -> None:
    words = (log, "--format", "csv", "--union")
    assert run("log", "export", *words) == run("dump", *words)


@pytest.mark.parametrize("verb", [["dump"], ["log", "ls"], ["log", "show"], ["log", "export"]])
@pytest.mark.parametrize("content", [None, b"", b"garbage" * 1000, "cut"])
def test_garbage_is_no_log(
    run: Run, tmp_path: Path, log: Path, verb: list[str], content: bytes | str | None
) -> None:
    path = tmp_path / "bad.uft"
    if content == "cut":
        path.write_bytes(log.read_bytes()[:5000])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    code, out, err = run(*verb, path)
    assert (code, out) == (1, "")
    assert err.startswith("uffdtrack: error: ") and str(path) in err.splitlines()[0]


def test_error_without_a_hint_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(pid: int, **unused: Any) -> None:
        raise TrackError("plain")

    monkeypatch.setattr(uffdtrackd, "attach", failing, raising=False)
    assert run("track", 1) == (1, "", "uffdtrack: error: plain\n")
