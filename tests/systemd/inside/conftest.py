"""The machine of the tests, installed by `make install` as an administrator would do it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uffdtrackd.service.messages import Message

ROOT = Path(__file__).resolve().parents[3]
DROP_IN = Path("/etc/uffdtrackd/uffdtrackd.toml.d/50-test.toml")
OVERRIDE = Path("/run/systemd/system/uffdtrackd.service.d/90-test.conf")
# For what happens by itself; nothing of it takes a second on an idle machine.
PATIENCE = 60.0


def pytest_configure(config: pytest.Config) -> None:
    """These tests install, start and kill services: never on a machine that somebody uses."""
    if not Path("/run/results").is_dir() or Path("/proc/1/comm").read_text() != "systemd\n":
        pytest.exit("only inside of the container that `make test-systemd` boots", 2)


def run(*command: str | Path, check: bool = True) -> str:
    """Runs a program; its output; a failure shows it."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE * 2,
    )
    assert done.returncode == 0 or not check, f"{command}: exit {done.returncode}\n{done.stdout}"
    return done.stdout


def entries(message: Message, pid: int | None = None) -> list[dict[str, Any]]:
    """Entries of the journal of one kind, of one daemon if a pid is given."""
    run("journalctl", "--sync")
    matches = [f"MESSAGE_ID={message.id}", *([f"_PID={pid}"] if pid is not None else [])]
    said = run("journalctl", "--output=json", "--quiet", *matches)
    return [json.loads(line) for line in said.splitlines()]


class Unit:
    """uffdtrackd.service, and a process to track."""

    def __init__(self, victim: int) -> None:
        self.victim = victim

    def control(self, verb: str, check: bool = True) -> str:
        return run("systemctl", verb, "uffdtrackd.service", check=check)

    def show(self, name: str) -> str:
        return run(
            "systemctl", "show", "--value", f"--property={name}", "uffdtrackd.service"
        ).strip()

    def pid(self) -> int:
        """Of the daemon; 0 if there is none."""
        return int(self.show("MainPID"))

    def configure(self, text: str) -> None:
        """Settings in a drop-in; effective after a reload or a start."""
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(text)

    def override(self, text: str) -> None:
        """Lines of the section [Service], effective from the next start."""
        OVERRIDE.parent.mkdir(parents=True, exist_ok=True)
        OVERRIDE.write_text(f"[Service]\n{text}")
        run("systemctl", "daemon-reload")

    def wait_for(self, message: Message) -> list[dict[str, Any]]:
        """Entries of that kind by the daemon of now, as soon as there are any."""
        limit = time.monotonic() + PATIENCE
        while not (found := entries(message, self.pid())):
            assert time.monotonic() < limit, f"no {message.name}:\n{self.journal()}"
            time.sleep(0.05)
        return found

    def journal(self) -> str:
        return run("journalctl", "--unit=uffdtrackd", "--no-pager", "--lines=60")


@pytest.fixture(scope="session")
def installed() -> str:
    """What `make install` said."""
    return run("make", "-C", ROOT, "--no-print-directory", "install", "PREFIX=/usr")


@pytest.fixture
def unit(installed: str) -> Iterator[Unit]:
    """The service, not running, its socket listening; put back to that afterwards."""
    run("systemctl", "start", "uffdtrackd.socket")
    victim = subprocess.Popen(["sleep", "infinity"])
    one = Unit(victim.pid)
    yield one
    victim.kill()
    victim.wait()
    DROP_IN.unlink(missing_ok=True)
    OVERRIDE.unlink(missing_ok=True)
    run("systemctl", "daemon-reload")
    run("systemctl", "stop", "uffdtrackd.service", "uffdtrackd.socket")
    run("systemctl", "reset-failed", "uffdtrackd.service", "uffdtrackd.socket", check=False)
    run("rm", "-rf", "/run/uffdtrackd/sessions")
