"""Man pages, completions and samples say what the programs say: every option, every setting."""

from __future__ import annotations

import argparse
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tools import manual
from uffdtrackd.cli.main import build_parser as client_parser
from uffdtrackd.service import config
from uffdtrackd.service.main import build_parser as daemon_parser
from uffdtrackd.service.settings import Config, settings

ROOT = Path(__file__).resolve().parents[2]


@cache
def page(name: str) -> str:
    """The words of a page as a reader sees them, without roff."""
    text = re.sub(r"\\f.", "", manual.page(name))
    text = re.sub(r"\\%|\\&", "", text).replace("\\-", "-").replace("\\(aq", "'")
    return text.replace("\\e", "\\")


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Every option that its --help names, read from the help and not from the parser."""
    listed = re.findall(r"^  +(-.*?)(?:  |$)", parser.format_help(), re.M)
    return {word for line in listed for word in re.findall(r"(?<![\w-])--?\w[\w-]*", line)}


CLIENT = client_parser()


@pytest.mark.parametrize("name", ["", *manual.verbs(CLIENT)])
def test_every_option_of_the_client(name: str) -> None:
    parser = manual.verbs(CLIENT)[name] if name else CLIENT
    text = page("uffdtrack.1")
    if name:
        title = f'.SS "?{parser.prog}"?$' if " " not in name else f'.SS "?uffdtrack {name}"?$'
        found = re.search(title, text, re.M)
        assert found, f"no part about {name}"
        text = text[found.end() :].split("\n.SS ")[0]
    missing = {one for one in options(parser) if not re.search(rf"(?<![\w-]){one}(?![\w-])", text)}
    assert not missing


def test_every_option_of_the_daemon() -> None:
    parser = daemon_parser()
    assert {"--config", "--socket", "--state", "--print-config"} <= options(parser)
    text = page("uffdtrackd.8")
    assert {one for one in options(parser) if one not in text} == set()


def test_every_setting() -> None:
    text = page("uffdtrackd.toml.5")
    for one in settings():
        key = one.name.split(".")[-1]
        assert f"{key} = {config.toml(one.default)}" in text.replace("\\(dq", '"'), one.name


@pytest.mark.parametrize("name", manual.PAGES)
def test_a_page_reads_well(name: str) -> None:
    """groff finds nothing to complain about, and `whatis` finds its line."""
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-"],
        input=manual.page(name).encode(),
        capture_output=True,
        check=False,
        env={"MANROFFSEQ": "", "MANWIDTH": "80", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert "@" not in re.sub(r"\S+@\S+", "", done.stdout.decode())
    stem = name.rpartition(".")[0]
    assert re.search(rf"{re.escape(stem)}\s+-\s+\w+", done.stdout.decode())


@pytest.mark.parametrize("parser", [CLIENT, daemon_parser()], ids=lambda one: one.prog)
def test_completions(parser: argparse.ArgumentParser, tmp_path: Path) -> None:
    bash = tmp_path / parser.prog
    bash.write_text(manual.completion(parser, "bash"))
    script = f"source {bash}; complete -p {parser.prog}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    zsh = manual.completion(parser, "zsh")
    assert zsh.startswith(f"#compdef {parser.prog}")
    for text in (bash.read_text(), zsh):
        assert {one for one in options(parser) if one not in text} == set()


def test_sessions_are_completed(tmp_path: Path) -> None:
    """By asking the daemon: here a program that answers in its place."""
    (tmp_path / "uffdtrack").write_text(
        '#!/bin/sh\necho \'{"session": "s1a", "pid": 1}\'\necho \'{"session":"s1b","pid":2}\'\n'
    )
    (tmp_path / "uffdtrack").chmod(0o755)
    script = tmp_path / "completion"
    script.write_text(manual.completion(client_parser(), "bash"))
    command = f"""
        PATH={tmp_path}:$PATH; source {script}
        COMP_WORDS=(uffdtrack detach s1); COMP_CWORD=2
        _shtab_uffdtrack uffdtrack s1 detach; echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["s1a", "s1b"], done.stderr


def test_the_sample_is_made_from_the_table() -> None:
    """To renew it: python -m tools.manual systemd"""
    assert (ROOT / "systemd/uffdtrackd.toml").read_text() == manual.sample()


def test_the_sample_changes_nothing_and_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "sample.toml"
    file.write_text(manual.sample())
    assert config.load(file, environment={}).config == Config()
    used = re.sub(r"^#(\w+ = )", r"\1", manual.sample(), flags=re.M)
    file.write_text(used)
    loaded = config.load(file, environment={})
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {str(file)}
