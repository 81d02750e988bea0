"""The demo, shorter: the first thing that anybody runs must not rot.

Judged from outside: exit code, what it printed into a pipe, and that nothing is left of it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.live


def demo(folder: Path, *arguments: str, spoil: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the demo; `spoil` is Python that may change its module `run` before."""
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'demo')!r}); import run\n{spoil}\n"
    return subprocess.run(
        [sys.executable, "-c", f"{script}sys.exit(run.main())", *arguments],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def running(folder: str) -> list[str]:
    """Command lines that name the folder: redis-server and its load do, by their socket."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if folder in line:
                found.append(line)
    return found


def test_demo_verifies_and_leaves_nothing() -> None:
    # Not tmp_path: with the socket's name behind it, that is longer than a unix address may be.
    with tempfile.TemporaryDirectory(prefix="t") as name:
        done = demo(Path(name), "-n", "6", "-i", "0.1", "--keys", "5000")
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"^VERIFIED: all \d+ pages", done.stdout, re.MULTILINE)
        rows = [line.split() for line in done.stdout.splitlines() if re.match(r" +\d", line)]
        assert [row[0] for row in rows] == ["0", "1", "2", "3", "4", "5"]
        assert rows[-1][1] == "final"
        assert all(float(row[1]) > 0 for row in rows[:-1]), "a busy redis writes all the time"
        assert "\x1b" not in done.stdout
        assert done.stderr == ""
        assert not list(Path(name).iterdir())
        assert not running(name)


def test_demo_fails_when_a_report_is_lost() -> None:
    spoil = (
        "apply = run.Shadow.apply\n"
        "run.Shadow.apply = lambda self, it: None if it.number == 0 else apply(self, it)"
    )
    with tempfile.TemporaryDirectory(prefix="t") as name:
        done = demo(Path(name), "-n", "3", "-i", "0.1", "--keys", "5000", spoil=spoil)
        assert done.returncode == 1, done.stdout + done.stderr
        assert re.search(r"^FAILED: \d+ of \d+ pages differ", done.stdout, re.MULTILINE)
        assert not running(name)


def test_demo_says_what_is_wrong_with_its_options(tmp_path: Path) -> None:
    done = demo(tmp_path, "-n", "1")
    assert done.returncode == 2
    assert "at least 2 iterations" in done.stderr
