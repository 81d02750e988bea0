"""The units: what systemd says to them, and that no drop-in does less than it promises."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"

# Of these systemd installs a filter of system calls for each (systemd, src/core/exec-invoke.c).
FILTERS = (
    "SystemCallFilter",
    "SystemCallArchitectures",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "LockPersonality",
    "PrivateDevices",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "MemoryDenyWriteExecute",
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units as they are installed, and a program for them to start."""
    program = tmp_path / "bin/uffdtrackd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (UNITS / "uffdtrackd.service.in").read_text()
    (tmp_path / "uffdtrackd.service").write_text(text.replace("@bindir@", str(program.parent)))
    shutil.copy(UNITS / "uffdtrackd.socket", tmp_path)
    return tmp_path


def analyze(*words: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def drop_in(units: Path, name: str) -> None:
    folder = units / "uffdtrackd.service.d"
    folder.mkdir()
    shutil.copy(UNITS / name, folder)


def exposure(units: Path) -> float:
    said = analyze("security", "--offline=true", units / "uffdtrackd.service")
    found = re.search(r"Overall exposure level for \S+ ([\d.]+)", said)
    assert found, said
    return float(found[1])


def settings(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if re.match(r"\w+=", line)]
    return dict(line.split("=", 1) for line in lines)


def test_verify(units: Path) -> None:
    said = analyze("verify", "--man=no", units / "uffdtrackd.service", units / "uffdtrackd.socket")
    # It also reads what those need in turn, and tells of the machine's own units.
    assert not [line for line in said.splitlines() if "uffdtrackd" in line]


def test_verify_notices_a_mistake(units: Path) -> None:
    unit = units / "uffdtrackd.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchDogSec="))
    said = analyze("verify", "--man=no", unit)
    assert "WatchDogSec" in said


def test_exposure(units: Path) -> None:
    assert exposure(units) <= 2.5


@pytest.mark.parametrize("name", ["50-metrics-port.conf", "50-follow-fork.conf"])
def test_a_drop_in_opens_little_more(units: Path, name: str) -> None:
    before = exposure(units)
    drop_in(units, name)
    assert before < exposure(units) <= 3.5


def test_no_filter_is_left_for_targets_with_one() -> None:
    unit = settings(UNITS / "uffdtrackd.service.in")
    loosened = settings(UNITS / "50-seccomp-targets.conf")
    left = [name for name in FILTERS if name in unit and loosened.get(name) not in ("", "no")]
    assert left == []
    assert loosened["CapabilityBoundingSet"] == "CAP_SYS_ADMIN"


def test_only_the_daemon_is_killed() -> None:
    """The child that attaches has stopped a thread of a target: it must come to its end."""
    assert settings(UNITS / "uffdtrackd.service.in")["KillMode"] == "process"


def test_the_folder_of_the_socket_outlives_the_service() -> None:
    unit = settings(UNITS / "uffdtrackd.service.in")
    assert (unit["RuntimeDirectory"], unit["RuntimeDirectoryPreserve"]) == ("uffdtrackd", "yes")
