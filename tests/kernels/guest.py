"""What runs on each kernel: pytest, and a line of JSON for each test.

    python -m tests.kernels.guest OUT [words]      OUT: a file, or the serial line of a machine

    {"began": {...}}     kernel, backend, and what `uffdtrack check` says
    {"test": "tests/live/...", "outcome": "passed", "seconds": 1.5, "reason": "", "text": "",
     "tracking": {"async": [], "always": ["another process maps it"]}}
    {"ended": 0, "left_out": 3}     the exit code of pytest, tests that -k left out

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
from collections.abc import Sequence
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
        self.left_out = 0

    def say(self, **line: Any) -> None:
        self.out.write(json.dumps(line, separators=(",", ":")) + "\n")
        self.out.flush()

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self.left_out += len(items)

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
            # What it printed: the seed of a random test, for one.
            if report.capstdout:
                now["text"] += f"\nprinted: {report.capstdout[-TEXT // 4 :]}"
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


def be_patient(times: int) -> None:
    """Gives more time wherever a test does not say how much: for machines that are so much slower.

    An emulated processor is not only slow, it also stands still for seconds now and then.
    """
    from uffdtrackd.tracking import session, shared, tree

    assert session.attach.__kwdefaults__ is not None
    session.attach.__kwdefaults__["deadline"] *= times
    frozen = session.Session.frozen.__wrapped__  # type: ignore[attr-defined]
    deadline, lease = frozen.__defaults__
    frozen.__defaults__ = (deadline * times, lease)
    tree._CHILD_DEADLINE *= times
    # Seconds of computing: with too few, what is shared is never tracked there, and never tested.
    shared.LOOK_NS *= times  # type: ignore[attr-defined]
    shared.FIRST_LOOK_NS *= times  # type: ignore[attr-defined]


def main(out: str, words: list[str]) -> int:
    stream = open(out, "w", encoding="utf-8")  # noqa: SIM115 (lives as long as we do)
    # What pytest prints goes beside it: to the console of a machine, to stderr elsewhere.
    os.dup2(2, 1)
    if os.isatty(stream.fileno()):
        tty.setraw(stream.fileno())
    told = next(one for one in words if one.startswith(WORD))
    arguments, environment = json.loads(base64.b64decode(told.removeprefix(WORD)))
    os.environ.update(environment)
    if (slowness := int(os.environ.get("UFFDTRACKD_TEST_SLOWNESS", "1"))) > 1:
        be_patient(slowness)
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
    seconds = round(time.monotonic() - began, 1)
    reporter.say(ended=int(code), left_out=reporter.left_out, seconds=seconds)
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
