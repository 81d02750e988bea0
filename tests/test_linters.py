"""The linters, as tests: what `make lint` finds is what `make test` refuses.

Every tool comes from the dev extra of pyproject.toml and from gcc, which the build needs anyway.
A tool that is missing fails here: a check that silently did not run is worse than none.

    git ls-files --> sources by kind --> ruff, mypy, codespell | clang-format, gcc | own rules
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from uffdtrackd.native import build

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LONGEST_FILE = 500

# A path below one of these exists on one machine only: in a comment or a default it is a mistake.
PRIVATE_PATH = re.compile(r"(?<![\w.$}/*~-])/(?:home|root|work|workspace|Users|mnt|media)/[\w.]")


@cache
def sources() -> tuple[Path, ...]:
    """Every file of the project, as git knows it; new files that are not ignored count too."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    listed = subprocess.run(
        [*command, "--exclude-standard"], check=True, capture_output=True, text=True
    ).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return tuple(sorted(path for path in paths if path.is_file()))


def of_kind(*suffixes: str) -> list[Path]:
    return [path for path in sources() if path.suffix in suffixes]


def run(*command: str | Path) -> None:
    """Runs a tool in the root of the project; its output is the message of the failure."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]}: exit {done.returncode}\n{done.stdout}"


def module(name: str, *arguments: str | Path) -> None:
    run(sys.executable, "-m", name, *arguments)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_ruff_check() -> None:
    module("ruff", "check", *of_kind(".py", ".pyi"))


def test_ruff_format() -> None:
    module("ruff", "format", "--check", "--diff", *of_kind(".py", ".pyi"))


def test_mypy() -> None:
    module("mypy")


def test_codespell() -> None:
    text = [path for path in sources() if path.name != "LICENSE"]
    module("codespell_lib", "--toml", ROOT / "pyproject.toml", *text)


def test_shellcheck() -> None:
    scripts = [path for path in sources() if path.read_bytes()[:11] == b"#!/bin/bash"]
    run(BIN / "shellcheck", *scripts)


def test_clang_format() -> None:
    run(BIN / "clang-format", "--dry-run", "-Werror", *of_kind(".c", ".h"))


def c_units() -> list[Path]:
    """C files that are compiled by themselves and end up in, or inside, somebody's process."""
    return [path for path in of_kind(".c") if path.relative_to(ROOT).parts[0] != "tests"]


@pytest.mark.parametrize("unit", names(c_units()))
def test_gcc_analyzer(unit: str) -> None:
    includes = [f"-I{folder}" for folder in ("uffdtrackd/native", "parasite", "build")]
    # With the flags of the real build, but less inlined: findings then name real lines.
    flags = [*build.CFLAGS, "-O1", "-fanalyzer"]
    run("gcc", *flags, *includes, "-c", unit, "-o", "/dev/null")


def test_files_are_short() -> None:
    kinds = (".py", ".pyi", ".c", ".h", ".S", ".sh", ".lds")
    lengths = {
        str(path.relative_to(ROOT)): path.read_text().count("\n") for path in of_kind(*kinds)
    }
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE}
    assert not long, f"over {LONGEST_FILE} lines, split by noun: {long}"


def opening(path: Path) -> str:
    """The first words of a file, past #!, #pragma once and #include lines."""
    lines = path.read_text().splitlines()
    skipped = ("#!", "#pragma", "#include", "#define _GNU_SOURCE")
    return next((line for line in lines if line and not line.startswith(skipped)), "")


def test_files_say_why_they_exist() -> None:
    """A docstring or a comment opens every source file."""
    words = ('"""', 'r"""', "# ", "/*", "//")
    kinds = (".py", ".pyi", ".c", ".h", ".S", ".sh")
    silent = [path for path in of_kind(*kinds) if not opening(path).startswith(words)]
    assert not silent, f"no opening comment: {names(silent)}"


def private_paths(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if PRIVATE_PATH.search(line)]


def test_no_private_paths() -> None:
    found = {str(path.relative_to(ROOT)): private_paths(path.read_text()) for path in sources()}
    assert not any(found.values()), {name: lines for name, lines in found.items() if lines}


def test_private_paths_are_noticed() -> None:
    somewhere = "/".join(["", "home", "me", "kernel.bin"])
    assert private_paths(f"see {somewhere}\n")
    assert not private_paths("open('/proc/self/maps'); $ROOT/work/x; a/work/b")
