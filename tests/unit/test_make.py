"""The commands that a newcomer types, as far as they can be tried without a new machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def make(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_help_lists_every_target_that_is_meant_for_people() -> None:
    text = (ROOT / "Makefile").read_text()
    listed = re.findall(r"^  ([a-z-]+) +\S", make("help"), re.MULTILINE)
    described = re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE)
    assert listed == described
    assert {"build", "demo", "test", "lint", "bench", "bench-check", "clean", "help"} <= set(listed)


def test_make_alone_shows_the_help() -> None:
    assert make() == make("help")


def test_ci_runs_the_tests() -> None:
    """What CI runs is what a developer runs: it may not drift into a second way of testing."""
    commands = [
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")
    ]
    targets = ("test", "test-systemd", "bench-check", "test-kernels")
    assert commands == [f"make {target} </dev/null" for target in targets]
