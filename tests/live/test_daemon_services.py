"""What the daemon does beside answering: watches, logs, metrics, and for many at once."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import uffdtrackd
from tests.daemon import Daemon
from tests.rawclient import RawClient
from tests.victim import PATIENCE, Victim
from uffdtrackd.errors import LogError, TargetGone
from uffdtrackd.store.log import LogReader

pytestmark = pytest.mark.live
Spawn = Callable[..., Victim]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as one:
        yield one


def test_a_watch_beside_a_consumer(daemon: Daemon, spawn: Spawn) -> None:
    """Both see each page; what the watch collects is pending for the other."""
    victim = spawn("bigwriter", 8)
    start, _ = (int(word, 16) for word in victim.ask("where").split())
    with daemon.connect() as client, daemon.connect() as other:
        session = client.attach(victim.pid, auto_ack=True)
        session.iterate()
        watching = other.watch(session.name, 0.02)
        first = watching.next(PATIENCE)
        assert start in first.processes[victim.pid].dirty  # everything: it is new
        _, _, *words = victim.ask("dirty 0.05").split()
        pages = {start + 4096 * int(word) for word in words}
        seen: set[int] = set()
        while not pages <= seen:
            dirty = watching.next(PATIENCE).processes[victim.pid].dirty
            seen |= {page for page in pages if page in dirty}
        later = session.iterate().processes[victim.pid].dirty
        assert all(page in later for page in pages)
        assert first.processes[victim.pid].regions
        assert watching.stop() == watching.lost == 0
        watching = other.watch(session.name, 0.02)
        watching.next(PATIENCE)
        victim.kill()
        with pytest.raises(TargetGone):
            while True:
                watching.next(PATIENCE)
        session.close()


def test_a_watch_of_a_named_consumer_repeats_until_acknowledged(
    daemon: Daemon, spawn: Spawn
) -> None:
    victim = spawn("bigwriter", 8)
    start, _ = (int(word, 16) for word in victim.ask("where").split())
    with daemon.connect() as client, client.attach(victim.pid) as session:
        watching = client.watch(session.name, 0.02, consumer="w")
        for _ in range(3):
            assert start in watching.next(PATIENCE).processes[victim.pid].dirty
        client.call("ack", session=session.name, consumer="w", iteration=2)
        for _ in range(1000):
            if start not in watching.next(PATIENCE).processes[victim.pid].dirty:
                break
        else:
            raise AssertionError("acknowledged, and sent again and again")


def test_logs(tmp_path: Path, spawn: Spawn) -> None:
    settings = '[log]\nfile_bytes = "1M"\ntotal_bytes = "1M"\n'
    with Daemon(tmp_path, settings) as daemon, daemon.connect() as client:
        victim = spawn("churn")
        session = client.attach(victim.pid, log=True, auto_ack=True)
        found = [session.iterate() for _ in range(5)]
        path = client.call("status", session=session.name)["sessions"][0]["log"]
        assert Path(path).is_relative_to(daemon.state)
        session.close()
        with LogReader(path) as log:
            assert log.meta.pid == victim.pid
            assert log.numbers == [0, 1, 2, 3, 4]
            for iteration in found[1:]:
                pages = log.iteration(iteration.number).processes[victim.pid]
                assert pages.dirty == iteration.processes[victim.pid].dirty
                assert pages.regions
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        unlogged = client.attach(victim.pid)
        assert client.call("status", session=unlogged.name)["sessions"][0]["log"] == ""
        unlogged.close()
        victim.finish()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; remounted read-only by its name in the test."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_and_a_read_only_one(tmp_path: Path, small_disk: Path, spawn: Spawn) -> None:
    words = ["--state", str(small_disk / "state")]
    with Daemon(tmp_path, words=words) as daemon, daemon.connect() as client:
        victim = spawn("churn")
        session = client.attach(victim.pid, log=True, auto_ack=True)
        for _ in range(200):
            session.iterate()
            error = client.call("status", session=session.name)["sessions"][0]["error"]
            if error:
                break
        assert error["name"] == "uffdtrack.LogError" and "full" in error["message"]
        assert session.iterate().processes[victim.pid].dirty
        with suppress(LogError):
            session.close()
        (small_disk / "fill").write_bytes(b"")
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(LogError):
            client.attach(victim.pid, log=True)
        assert client.sessions() == []
        with client.attach(victim.pid) as session:
            session.iterate()
        victim.finish()
        assert "full" in daemon.errors()


def test_metrics(tmp_path: Path, spawn: Spawn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Daemon(tmp_path, f"[metrics]\nport = {port}\n") as daemon, daemon.connect() as client:
        victim = spawn("bigwriter", 8)
        with client.attach(victim.pid, auto_ack=True) as session:
            session.iterate()
            victim.ask("touch 0.5")
            session.iterate()
            url = f"http://127.0.0.1:{port}/metrics"
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
                text = answer.read().decode()
            for said in (text, client.metrics()):
                parsed: Any = text_string_to_metric_families(said)  # type: ignore[no-untyped-call]
                families = {one.name: one for one in parsed}
                assert families["uffdtrack_sessions"].samples[0].value == 1
                (sample,) = families["uffdtrack_iterations"].samples
                assert sample.value == 2 and set(sample.labels) == {"session", "pid", "backend"}
                (sample,) = families["uffdtrack_target_dirty_bytes"].samples
                assert sample.value >= 4 << 20
                assert said.endswith("# EOF\n")
            # Reading scans nothing: no iteration came of it.
            assert session.iterate().number == 2
            for path, code in (("/", 404), ("/metricsx", 404)):
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE)
                assert caught.value.code == code
                caught.value.close()
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(url, data=b"x" * 10, timeout=PATIENCE)
            assert caught.value.code == 405
            caught.value.close()
        victim.finish()


def test_others_are_answered_while_a_session_scans(daemon: Daemon, spawn: Spawn) -> None:
    """The bound is for a busy machine; `make bench` measures the 99th percentile."""
    victim = spawn("bigwriter", 1024)
    with daemon.connect() as client, daemon.connect() as other:
        session = client.attach(victim.pid, auto_ack=True)
        done = threading.Event()
        longest: list[int] = []

        def scan() -> None:
            while not done.is_set():
                victim.ask("touch 1")
                longest.append(session.iterate().duration_ns)

        thread = threading.Thread(target=scan)
        thread.start()
        try:
            taken = []
            while len(longest) < 6:
                began = time.perf_counter_ns()
                other.call("hello")
                taken.append(time.perf_counter_ns() - began)
        finally:
            done.set()
            thread.join()
        taken.sort()
        assert len(taken) > 100
        # One that waited for a scan would take as long as that.
        assert taken[len(taken) // 2] < min(longest) / 4, (taken[len(taken) // 2], longest)
        session.close()
    victim.finish()


def test_five_hundred_connections(daemon: Daemon) -> None:
    with daemon.connect() as client:
        many = [RawClient(daemon.socket) for _ in range(500)]
        try:
            for one in many:
                one.request("hello")
            for one in many:
                assert one.answer(1)[0] is None
            assert client.status()["connections"] == 501
        finally:
            for one in many:
                one.close()


def test_attach_and_detach_leave_nothing(daemon: Daemon, spawn: Spawn) -> None:
    victim = spawn("idle")
    with daemon.connect() as client:
        for _ in range(5):
            client.attach(victim.pid).close()
        fds = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        for _ in range(20):
            with client.attach(victim.pid) as session:
                session.iterate()
                with session.frozen():
                    session.iterate()
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) == fds
        # The loop, the one that looks after logs, and one for the next job.
        _await_threads(daemon.pid, 3)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text()
        assert children == ""
    victim.finish()


def _await_threads(pid: int, most: int) -> None:
    """A thread that nobody needs ends by itself, after a while."""
    for _ in range(1000):
        if len(os.listdir(f"/proc/{pid}/task")) <= most:
            return
        signal.sigtimedwait([], 0.005)
    raise AssertionError(f"{len(os.listdir(f'/proc/{pid}/task'))} threads")


def test_a_client_that_is_gone_leaves_no_session_of_its_own(daemon: Daemon, spawn: Spawn) -> None:
    victim = spawn("idle")
    with daemon.connect() as client:
        client.attach(victim.pid, keep=False)
    with daemon.connect() as client:
        for _ in range(1000):
            if not client.sessions():
                break
            signal.sigtimedwait([], 0.005)
        assert client.sessions() == []
        kept = client.attach(victim.pid)
    with daemon.connect() as client:
        assert [one["session"] for one in client.sessions()] == [kept.name]
    victim.finish()


def test_a_second_daemon_on_the_same_socket(daemon: Daemon) -> None:
    done = subprocess.run(
        ["uffdtrackd", "--socket", str(daemon.socket), "--state", str(daemon.state)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1 and "listens" in done.stderr and "hint:" in done.stderr
    with daemon.connect() as client:
        assert isinstance(client, uffdtrackd.Client)
