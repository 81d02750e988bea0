"""The hardened unit tracks what it should, refuses what it cannot, and a drop-in changes that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import uffdtrackd
from tests import victim
from tests.oracle import Oracle
from tests.victim import Victim
from uffdtrackd.errors import NotPermitted

from .conftest import Unit, run

NOBODY = 65534
DROP_INS = Path("/etc/systemd/system/uffdtrackd.service.d")
DOCUMENTS = Path("/usr/share/doc/uffdtrackd")
FILTERED = "filtered.service"


def test_all_sorts_of_memory(unit: Unit) -> None:
    """Shared memory and files need more than the rest: map_files, /proc/PID/mem, other maps."""
    churn = Victim([str(victim.build("churn")), "-t", "2", "-m", "16"])
    try:
        with uffdtrackd.connect() as client, client.attach(churn.pid, auto_ack=True) as session:
            oracle = Oracle(session)
            for _ in range(5):
                oracle.step()
            oracle.final().check(iterations=6)
            assert session.status == []
        churn.finish()
    finally:
        churn.kill()


@pytest.fixture
def filtered(unit: Unit) -> Iterator[int]:
    """A service under a filter of system calls that does not know userfaultfd."""
    words = [
        "--property=SystemCallFilter=@system-service",
        "--property=SystemCallFilter=~userfaultfd",
    ]
    # Type=exec: its filter is there when it has started.
    run("systemd-run", f"--unit={FILTERED}", "--property=Type=exec", *words, "sleep", "infinity")
    pid = int(run("systemctl", "show", "--value", "--property=MainPID", FILTERED))
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Seccomp:\t2" in status
    yield pid
    run("systemctl", "stop", FILTERED)
    shutil.rmtree(DROP_INS, ignore_errors=True)


def test_a_target_under_a_filter(unit: Unit, filtered: int) -> None:
    with uffdtrackd.connect() as client, pytest.raises(NotPermitted, match="seccomp"):
        client.attach(filtered)
    # As operations.md says.
    DROP_INS.mkdir(parents=True, exist_ok=True)
    shutil.copy(DOCUMENTS / "50-seccomp-targets.conf", DROP_INS)
    run("systemctl", "daemon-reload")
    unit.control("restart")
    with uffdtrackd.connect() as client, client.attach(filtered, auto_ack=True) as session:
        oracle = Oracle(session)
        oracle.step()
        oracle.final().check(iterations=2)


def test_metrics_by_http(unit: Unit) -> None:
    """Only with the drop-in: the unit has no network of its own."""
    unit.configure("[metrics]\nport = 9105\n")
    DROP_INS.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy(DOCUMENTS / "50-metrics-port.conf", DROP_INS)
        run("systemctl", "daemon-reload")
        unit.control("start")
        with urllib.request.urlopen("http://127.0.0.1:9105/metrics", timeout=30) as answer:
            assert b"uffdtrack_sessions 0" in answer.read()
    finally:
        shutil.rmtree(DROP_INS)


def as_nobody(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user who is a member of the group."""
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}"]
    return subprocess.run(
        [*user, "--groups=uffdtrackd", "/usr/bin/uffdtrack", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )


def test_a_member_of_the_group(unit: Unit) -> None:
    own = subprocess.Popen(["sleep", "infinity"], user=NOBODY, group=NOBODY, extra_groups=[])
    try:
        done = as_nobody("attach", "--json", str(own.pid))
        assert done.returncode == 0, done.stderr
        name = json.loads(done.stdout)["session"]
        for _ in range(2):
            done = as_nobody("iterate", "--json", name)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["processes"][0]["pid"] == own.pid
        done = as_nobody("attach", str(unit.victim))
        assert done.returncode == 5, done.stderr
        assert as_nobody("detach", name).returncode == 0
    finally:
        own.kill()
        own.wait()


def test_everybody_else(unit: Unit) -> None:
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    said = run(*user, "/usr/bin/uffdtrack", "list", check=False)
    assert "hint" in said and os.path.exists("/run/uffdtrackd/control.sock")
