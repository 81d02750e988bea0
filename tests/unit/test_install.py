"""`make install` into a folder, what is there then, and that `make uninstall` leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "/opt/tracker"


def tool(what: str, destination: Path) -> str:
    command = [sys.executable, str(ROOT / "tools/install.py"), what, "--prefix", PREFIX]
    done = subprocess.run(
        [*command, "--destdir", str(destination)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("destination")
    tool("install", destination)
    return destination


def test_everything_is_below_the_prefix(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()} == {"opt"}
    below = files(installed / PREFIX.lstrip("/"))
    for name in (
        "bin/uffdtrack",
        "lib/systemd/system/uffdtrackd.socket",
        "lib/systemd/system/uffdtrackd.service",
        "lib/systemd/system/uffdtrackd.service.d/10-preserve.conf",
        "lib/systemd/catalog/uffdtrackd.catalog",
        "lib/sysusers.d/uffdtrackd.conf",
        "lib/tmpfiles.d/uffdtrackd.conf",
        "share/doc/uffdtrackd/50-seccomp-targets.conf",
    ):
        assert name in below
    modes = {path.stat().st_mode & 0o7777 for path in installed.rglob("*") if path.is_file()}
    assert modes == {0o644, 0o755}


def test_nothing_names_where_it_was_made(installed: Path) -> None:
    marks = [str(place).encode() for place in (installed, ROOT)]
    for path in installed.rglob("*"):
        # Of what is compiled, debug information may name the place of the build; .py must not.
        if path.is_file() and path.suffix != ".so":
            assert not any(mark in path.read_bytes() for mark in marks), path


def test_the_unit_starts_what_is_installed(installed: Path) -> None:
    unit = (installed / PREFIX[1:] / "lib/systemd/system/uffdtrackd.service").read_text()
    assert f"ExecStart={PREFIX}/bin/uffdtrackd\n" in unit
    assert not re.search(r"@\w+@", unit)


def test_it_runs_without_the_tree(installed: Path, tmp_path: Path) -> None:
    """With the modules that were installed, whatever the environment and the folder say."""
    starter = installed / PREFIX[1:] / "bin/uffdtrack"
    library = installed / PREFIX[1:] / "lib/uffdtrackd"
    moved = tmp_path / "uffdtrack"
    moved.write_text(starter.read_text().replace(f'"{PREFIX}/lib/', f'"{library.parent}/'))
    moved.chmod(0o755)
    (tmp_path / "argparse.py").write_text("raise SystemExit('not isolated')")
    done = subprocess.run(
        [moved, "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("uffdtrack ")


def test_again_over_itself_and_out(tmp_path: Path) -> None:
    other = tmp_path / PREFIX[1:] / "lib/systemd/system/other.service"
    stale = tmp_path / PREFIX[1:] / "lib/uffdtrackd/uffdtrackd/stale.py"
    for path in (other, stale):
        path.parent.mkdir(parents=True)
        path.write_text("")
    tool("install", tmp_path)
    assert other.exists()
    assert not stale.exists()
    said = tool("uninstall", tmp_path)
    assert files(tmp_path) == {str(other.relative_to(tmp_path))}
    assert "left as they are: /etc/uffdtrackd" in said
    other.unlink()
    tool("uninstall", tmp_path)
    assert list(tmp_path.iterdir()) == []
