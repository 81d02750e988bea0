"""Man pages, completions and the sample configuration, from the tables that the programs use.

docs/man/PAGE.rst     prose, with @OPTIONS@, @VERBS@, @SETTINGS@ where a table belongs
  + argparse parsers, settings.py --> reStructuredText --> docutils --> build/man/PAGE
    argparse parsers              --> shtab            --> build/bash/, build/zsh/
    settings.py                   --> systemd/uffdtrackd.toml   (kept in git)
    messages.py                   --> systemd/uffdtrackd.catalog (kept in git)

python -m tools.manual build      all that `make install` takes from build/
python -m tools.manual systemd    the two files that are kept
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shtab
from docutils.core import publish_string
from docutils.writers import manpage

from uffdtrackd.cli.main import build_parser as client_parser
from uffdtrackd.service.config import toml
from uffdtrackd.service.main import build_parser as daemon_parser
from uffdtrackd.service.messages import catalog
from uffdtrackd.service.settings import Setting, settings

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "docs/man"
PAGES = ("uffdtrack.1", "uffdtrackd.8", "uffdtrackd.toml.5")

_SAMPLE_HEAD = """\
# Configuration of uffdtrackd: every setting with its default. What each means: uffdtrackd.toml(5).
#
# The daemon reads /etc/uffdtrackd/uffdtrackd.toml and then the drop-ins uffdtrackd.toml.d/*.toml
# in /usr/lib/uffdtrackd, /run/uffdtrackd and /etc/uffdtrackd, sorted by name.
# `uffdtrackd --print-config` shows what came of it. An unknown key is an error.
"""


def page(name: str) -> str:
    """A man page in roff."""
    source = (SOURCES / f"{name}.rst").read_text()
    client = client_parser()
    for mark, text in {
        "@VERBS@": _verbs(client),
        "@OPTIONS@": _options(daemon_parser() if "uffdtrackd" in name else client),
        "@SETTINGS@": _settings(),
    }.items():
        source = source.replace(mark, text)
    assert not re.search(r"^@\w+@$", source, re.M), f"{name}: unknown mark"
    text = publish_string(
        source,
        source_path=str(SOURCES / f"{name}.rst"),
        writer=manpage.Writer(),
        settings_overrides={"halt_level": 2, "report_level": 2},
    )
    assert isinstance(text, bytes)
    # The first lines are about how it was made.
    return re.sub(r'\A(\.\\".*\n)+', "", text.decode()).replace(".SH Name", ".SH NAME", 1)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def _words(action: argparse.Action) -> str:
    """An option as it is typed, bold, and what it takes."""
    takes = ""
    if action.nargs != 0:
        given = action.metavar or ("|".join(map(str, action.choices or ())) or action.dest.upper())
        takes = str(given if isinstance(given, str) else given[0])
    if not action.option_strings:
        return f"**{_escaped(takes)}**"
    shown = ", ".join(f"**{_escaped(one)}**" for one in action.option_strings)
    return f"{shown} {_escaped(takes)}".rstrip()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What is worth a line: neither hidden ones nor the list of verbs."""
    for action in parser._actions:
        hidden = action.help == argparse.SUPPRESS
        if not hidden and not isinstance(action, argparse._SubParsersAction):
            yield action


def _options(parser: argparse.ArgumentParser) -> str:
    lines = []
    for action in _actions(parser):
        said = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
        lines += [_words(action), f"    {_escaped(said[:1].upper() + said[1:])}.", ""]
    return "\n".join(lines)


def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Name of a verb, with the verb above it if there is one --> its parser."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                found[name] = below
                found |= {f"{name} {inner}": one for inner, one in verbs(below).items()}
    return found


def _verbs(parser: argparse.ArgumentParser) -> str:
    parts = []
    for name, one in verbs(parser).items():
        usage = " ".join(one.format_usage().removeprefix("usage: ").split())
        title = f"{parser.prog} {name}"
        parts += [title, "-" * len(title), "", f"``{usage}``", ""]
        parts += [_escaped(one.description or ""), "", _options(one)]
        example = (one.epilog or "").removeprefix("example:\n")
        if example and one.epilog != example:
            parts += [
                "Example::",
                "",
                *(f"    {line.strip()}" for line in example.splitlines()),
                "",
            ]
    return "\n".join(parts)


def takes(one: Setting) -> str:
    """What a setting may be, for people."""
    if one.kind == "switch":
        return "true or false"
    if one.kind == "word":
        return "one of " + ", ".join(f'"{word}"' for word in one.choices)
    if one.kind == "path":
        return "an absolute path"
    assert one.low is not None and one.high is not None
    if one.kind == "bytes":
        return f'bytes, from {one.low:.0f} to {one.high:.0f}, or a text as "16M" (K, M, G, T)'
    return f"{one.unit or 'number'}, from {one.low:g} to {one.high:g}"


def _settings() -> str:
    parts = []
    section = None
    for one in settings():
        *above, key = one.name.split(".")
        if above != section:
            section = above
            title = f"Section [{above[0]}]" if above else "At the top of the file"
            parts += [title, "-" * len(title), ""]
        again = "" if one.reload else " A change needs a restart of the daemon."
        parts += [f"**{_escaped(key)}** = {_escaped(toml(one.default))}"]
        said = f"{one.help[0].upper()}{one.help[1:]}. {takes(one)[0].upper()}{takes(one)[1:]}."
        parts += [f"    {_escaped(said + again)}", ""]
    return "\n".join(parts)


def sample() -> str:
    """The sample configuration: all commented out, so that it changes nothing."""
    lines = [_SAMPLE_HEAD]
    section = ""
    for one in settings():
        *above, key = one.name.split(".")
        if above and above[0] != section:
            section = above[0]
            lines += [f"[{section}]", ""]
        again = "" if one.reload else " (needs a restart)"
        lines += [f"# {one.help[0].upper()}{one.help[1:]}{again}.", f"# Takes {takes(one)}."]
        lines += [f"#{key} = {toml(one.default)}", ""]
    return "\n".join(lines)


# What an argument is completed with, by the name that it has in --help.
_COMPLETED: dict[str, Any] = {
    "SESSION": {"bash": "_uffdtrack_sessions", "zsh": "_uffdtrack_sessions"},
    "PID": {"bash": "_uffdtrack_pids", "zsh": "_pids"},
    "FILE": shtab.FILE,
    "FILE.uft": shtab.FILE,
    "PATH": shtab.FILE,
    "PID|SESSION|FILE.uft": shtab.FILE,
    "DIR": shtab.DIRECTORY,
}
_LISTED = r"""uffdtrack list --json 2>/dev/null | sed -n 's/.*"session": *"\([^"]*\)".*/\1/p'"""
_PREAMBLE: Any = {
    "bash": f"""\
_uffdtrack_sessions() {{ compgen -W "$({_LISTED})" -- "$1"; }}
_uffdtrack_pids() {{ compgen -W "$(cd /proc && echo [0-9]*)" -- "$1"; }}
""",
    "zsh": f"""\
_uffdtrack_sessions() {{ compadd -- ${{(f)"$({_LISTED})"}} }}
""",
}


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    for one in (parser, *verbs(parser).values()):
        for action in one._actions:
            if isinstance(action.metavar, str) and action.metavar in _COMPLETED:
                action.complete = _COMPLETED[action.metavar]  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell, preamble=_PREAMBLE))


def build(into: Path) -> None:
    """Everything that `make install` takes from the folder."""
    made = {f"man/{name}": page(name) for name in PAGES}
    for parser in (client_parser(), daemon_parser()):
        made[f"bash/{parser.prog}"] = completion(parser, "bash")
        made[f"zsh/_{parser.prog}"] = completion(parser, "zsh")
    for name, text in made.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("build", "systemd"))
    if parser.parse_args().what == "build":
        build(ROOT / "build")
    else:
        (ROOT / "systemd/uffdtrackd.toml").write_text(sample())
        (ROOT / "systemd/uffdtrackd.catalog").write_text(catalog())
    return 0


if __name__ == "__main__":
    sys.exit(main())
