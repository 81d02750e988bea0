"""What is shipped: an sdist with every source, and one wheel that any Python >= 3.11 can load.

    files of this tree --> a new git repository (no tags, one commit: what a shallow clone is)
        --> sdist --> unpacked, without git --> wheel --> imported from a folder of its own

A plain sdist drops parasite/ and the headers, and a build that works in the tree where it was
written says nothing about that; so the wheel is built from the sdist only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
GIT_IDENTITY = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]


def run(*command: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


def build(kind: str, source: Path, into: Path) -> Path:
    """Calls the build backend as pip does, with what this environment already holds."""
    into.mkdir()
    script = f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", script, str(into), cwd=source)
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Names of what git tracks here, or would: new files that are not ignored are included."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is nothing to compare the sdist with")
    listed = run("git", "ls-files", "-z", "-c", "-o", "--exclude-standard", cwd=ROOT)
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def sdist(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    run("git", "init", "-q", cwd=tree)
    run("git", "add", "-A", cwd=tree)
    run("git", *GIT_IDENTITY, "commit", "-q", "-m", "all", cwd=tree)
    return build("sdist", tree, tree.parent / f"{tree.name}-sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    # tar, for Debian's Python 3.11.2 has no extraction filters yet and newer ones insist on them.
    run("tar", "-xf", str(sdist), cwd=folder)
    (source,) = folder.iterdir()
    return build("wheel", source, folder.parent / f"{folder.name}-wheel")


def test_sdist_holds_every_file(files: list[str], sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert not set(files) - held
    # ... and nothing that was made: compiled objects in an sdist would be somebody else's.
    assert not [name for name in held if name.endswith((".so", ".o", "_native.c", ".pyc"))]


def test_wheel_fits_every_python(wheel: Path) -> None:
    assert "-cp311-abi3-linux_" in wheel.name


def test_wheel_holds_what_is_needed_to_run(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
        modes = {one.filename: one.external_attr >> 16 for one in archive.infolist()}
    helper = "native/uffd-inject"
    for needed in (
        "native/_native.abi3.so",
        helper,
        "native/_native.pyi",
        "py.typed",
        "__init__.py",
    ):
        assert f"uffdtrackd/{needed}" in held
    assert modes[f"uffdtrackd/{helper}"] & 0o111 == 0o111, "a program"
    tops = {name.split("/")[0] for name in held if ".dist-info/" not in name}
    assert tops == {"uffdtrackd"}, "only the package is installed"


def test_version_names_the_commit(sdist: Path) -> None:
    """Without a tag the version still says which commit it is (0.1.dev1+gHASH)."""
    assert "+g" in sdist.name


def test_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # Named first, so that the editable install of this environment loses.
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "from uffdtrackd.native import _native; print(_native.__file__)"
    )
    where = run(sys.executable, "-c", script, cwd=tmp_path).strip()
    assert Path(where).parent == tmp_path / "uffdtrackd" / "native"
