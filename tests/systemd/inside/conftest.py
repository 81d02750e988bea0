"""The machine of the tests, installed by `make install` as an administrator would do it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def pytest_configure(config: pytest.Config) -> None:
    """These tests install, start and kill services: never on a machine that somebody uses."""
    if not Path("/run/results").is_dir() or Path("/proc/1/comm").read_text() != "systemd\n":
        pytest.exit("only inside of the container that `make test-systemd` boots", 2)


def run(*command: str | Path) -> str:
    """Runs a program; its output; a failure shows it."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def installed() -> str:
    """What `make install` said."""
    return run("make", "-C", ROOT, "--no-print-directory", "install", "PREFIX=/usr")
