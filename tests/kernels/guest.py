"""What runs on each kernel: pytest, and a line of JSON for each test.

    python -m tests.kernels.guest OUT [words]      OUT: a file, or the serial line of a machine

    {"began": {...}}     kernel, backend, and what `uffdtrack check` says
    {"test": "tests/live/...", "outcome": "passed", "seconds": 1.5, "reason": "", "text": "",
     "tracking": {"async": [], "always": ["another process maps it"]}}
    {"ended": 0}         the exit code of pytest

tracking: how the regions were tracked that a row changed, and why; tests/live/row.py says it.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import sys
import time
import tty
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import pytest

#: The word of the kernel's command line with the arguments for pytest and the environment.
WORD = "guest="

#: Characters kept of what a failing test says: its end.
TEXT = 8000


class Reporter:
    """A plugin of pytest that writes a line for each test."""

    def __init__(self, out: IO[str]) -> None:
        self.out = out
        self._current: dict[str, Any] = {}

    def say(self, **line: Any) -> None:
        self.out.write(json.dumps(line, separators=(",", ":")) + "\n")
        self.out.flush()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._current = {
                "test": report.nodeid,
                "outcome": "passed",
                "seconds": 0.0,
                "reason": "",
                "text": "",
            }
        now = self._current
        now["seconds"] += report.duration
        if report.failed:
            now["outcome"] = "failed"
            now["text"] += report.longreprtext[-TEXT:]
        elif report.skipped and now["outcome"] == "passed":
            now["outcome"] = "skipped"
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            now["reason"] = str(reason).removeprefix("Skipped: ")
        if report.when == "teardown":
            now["seconds"] = round(now["seconds"], 2)
            self.say(**now, tracking=dict(report.user_properties).get("tracking", {}))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.say(
                test=report.nodeid,
                outcome="failed",
                seconds=0,
                reason="",
                text=report.longreprtext[-TEXT:],
                tracking={},
            )


def word(arguments: list[str], environment: dict[str, str]) -> str:
    """What to put on the kernel's command line."""
    told = json.dumps([arguments, environment]).encode()
    return WORD + base64.b64encode(told).decode()


def main(out: str, words: list[str]) -> int:
    stream = open(out, "w", encoding="utf-8")  # noqa: SIM115 (lives as long as we do)
    # What pytest prints goes beside it: to the console of a machine, to stderr elsewhere.
    os.dup2(2, 1)
    if os.isatty(stream.fileno()):
        tty.setraw(stream.fileno())
    told = next(one for one in words if one.startswith(WORD))
    arguments, environment = json.loads(base64.b64decode(told.removeprefix(WORD)))
    os.environ.update(environment)
    reporter = Reporter(stream)
    from uffdtrackd.tracking.probe import report

    check = report()
    if "--backend" not in arguments:
        arguments += ["--backend", check.backend or "async"]
    reporter.say(
        began={
            "kernel": platform.release(),
            "backend": arguments[arguments.index("--backend") + 1],
            "uptime": float(Path("/proc/uptime").read_text().split()[0]),
            "check": asdict(check),
        }
    )
    began = time.monotonic()
    code = pytest.main([*arguments, "-p", "no:cacheprovider"], plugins=[reporter])
    reporter.say(ended=int(code), seconds=round(time.monotonic() - began, 1))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
