"""Configuration files into one checked Config, or one error that names the file and the key.

    /etc/uffdtrackd/uffdtrackd.toml                 the administrator's main file, may be absent
      + {/usr/lib,/run,/etc}/uffdtrackd/uffdtrackd.toml.d/*.toml
            sorted by file name; a name in /etc hides the same in /run, /run that in /usr/lib;
            a link to /dev/null hides it altogether (systemd's way: man 5 systemd-system.conf)
      + what the environment and the command line say
      --> each key checked against settings.py --> Loaded(Config, origins)

A file is applied as a whole or not at all, and so are all of them together: a reload that fails
leaves what was there.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import ConfigError
from .settings import Config, Setting, sections, settings

MAIN = Path("/etc/uffdtrackd/uffdtrackd.toml")
# The later hides the earlier.
FOLDERS = tuple(Path(top, "uffdtrackd/uffdtrackd.toml.d") for top in ("/usr/lib", "/run", "/etc"))
# More than any configuration has: a device or a wrong file is refused before it is read.
_LONGEST_FILE = 1 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Loaded:
    """A configuration and where each of its values comes from (dotted name --> words)."""

    config: Config
    origins: Mapping[str, str]


def load(
    main: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    default: Path = MAIN,
    folders: tuple[Path, ...] = FOLDERS,
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """Reads, merges and checks.

    main: a file that was named; it must exist and nothing else is read. None: `default`, if it is
    there, and the drop-ins in `folders`. overrides: dotted name --> value, from the command line.
    environment: os.environ if None. Raises ConfigError.
    """
    table = {one.name: one for one in settings()}
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for path in _files(main, default, folders):
        for name, value in _read(path, table).items():
            values[name], origins[name] = value, str(path)
    level = _level(os.environ if environment is None else environment)
    if level:
        values["log_level"] = _checked(table["log_level"], level[1], f"${level[0]}")
        origins["log_level"] = f"${level[0]}"
    for name, value in (overrides or {}).items():
        values[name] = _checked(table[name], value, "command line")
        origins[name] = "command line"
    for name, one in table.items():
        values.setdefault(name, one.default)
        origins.setdefault(name, "default")
    _reconcile(values, origins)
    return Loaded(_assemble(values), origins)


def need_restart(before: Config, after: Config) -> list[str]:
    """Names of settings that differ and that a reload does not make effective."""
    return [
        one.name
        for one in settings()
        if not one.reload and _value(before, one.name) != _value(after, one.name)
    ]


def render(loaded: Loaded) -> str:
    """The merged configuration as TOML, each value with its origin as a comment."""
    lines = []
    section = ""
    for one in settings():
        *above, key = one.name.split(".")
        if above and above[0] != section:
            section = above[0]
            lines += ["", f"[{section}]"]
        value = toml(_value(loaded.config, one.name))
        lines.append(f"{key} = {value}  # {loaded.origins[one.name]}")
    return "\n".join(lines) + "\n"


def _value(config: Config, name: str) -> object:
    found: object = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def toml(value: object) -> str:
    """A value as it stands in a TOML file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"'
    return str(value)


def _files(main: Path | None, default: Path, folders: tuple[Path, ...]) -> list[Path]:
    if main is not None:
        return [main]
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{folder}: {error.strerror}") from error
        found |= {name: folder / name for name in names if name.endswith(".toml")}
    chosen = [found[name] for name in sorted(found)]
    dropins = [path for path in chosen if os.path.realpath(path) != os.devnull]
    return [default, *dropins] if os.path.lexists(default) else dropins


def _read(path: Path, table: Mapping[str, Setting]) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            text = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(text) > _LONGEST_FILE:
        raise ConfigError(f"{path}: longer than {_LONGEST_FILE} bytes")
    try:
        data = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error or 'nested too deeply'}") from error
    found: dict[str, object] = {}
    for key, value in data.items():
        if key in sections():
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: {key}: must be a section, as in [{key}]")
            found |= {f"{key}.{below}": inner for below, inner in value.items()}
        else:
            found[key] = value
    return {name: _checked(_known(table, name, path), found[name], path) for name in found}


def _known(table: Mapping[str, Setting], name: str, path: Path) -> Setting:
    if name not in table:
        raise ConfigError(f"{path}: {name}: no such setting", hint="see man 5 uffdtrackd.toml")
    return table[name]


def _checked(one: Setting, value: object, origin: Path | str) -> object:
    """The value as the Config holds it, or ConfigError."""
    # bool is an int in Python, and never meant as one.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    wrong = f"{origin}: {one.name}: "
    if one.kind == "switch":
        if not isinstance(value, bool):
            raise ConfigError(f"{wrong}must be true or false, not {value!r}")
        return value
    if one.kind == "word":
        if value not in one.choices:
            raise ConfigError(f"{wrong}must be one of {', '.join(one.choices)}, not {value!r}")
        return value
    if one.kind == "path":
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise ConfigError(f"{wrong}must be an absolute path, not {value!r}")
        return value
    if one.kind == "seconds":
        if not number or not math.isfinite(float(value)):  # type: ignore[arg-type]
            raise ConfigError(f"{wrong}must be a number of seconds, not {value!r}")
        value = float(value)  # type: ignore[arg-type]
    elif one.kind == "bytes" and isinstance(value, str):
        value = _size(value, wrong)
    elif not number or isinstance(value, float):
        what = 'a number of bytes or a text as "16M"' if one.kind == "bytes" else "a whole number"
        raise ConfigError(f"{wrong}must be {what}, not {value!r}")
    assert isinstance(value, int | float) and one.low is not None and one.high is not None
    if not one.low <= value <= one.high:
        raise ConfigError(f"{wrong}must be from {one.low:g} to {one.high:g}, not {value!r}")
    return value


def _size(text: str, wrong: str) -> int:
    digits = text.rstrip("KMGT")
    unit = text[len(digits) :]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and unit in _UNITS):
        raise ConfigError(f'{wrong}must be a number of bytes or a text as "16M", not {text!r}')
    return int(digits) * _UNITS[unit]


def _level(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Variable and level that the environment asks for; systemd's words are taken too."""
    ours = environment.get("UFFDTRACKD_LOG_LEVEL")
    if ours:
        return "UFFDTRACKD_LOG_LEVEL", ours
    # It is not ours: what it says in words that we have not (a number, "emerg") is no error.
    theirs = {"err": "error"}.get(said := environment.get("SYSTEMD_LOG_LEVEL", ""), said)
    known = next(one.choices for one in settings() if one.name == "log_level")
    return ("SYSTEMD_LOG_LEVEL", theirs) if theirs in known else None


def _assemble(values: Mapping[str, object]) -> Config:
    parts: dict[str, object] = {}
    for section, kind in sections().items():
        if section:
            prefix = f"{section}."
            own = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
            parts[section] = kind(**own)
    return Config(**parts, **{n: v for n, v in values.items() if "." not in n})  # type: ignore[arg-type]


def _reconcile(values: dict[str, object], origins: Mapping[str, str]) -> None:
    """Nobody who lowers a limit must know each default below it; what was said must fit."""
    for low, high in _ORDERED:
        if values[low] <= values[high]:  # type: ignore[operator]
            continue
        if origins[low] != "default":
            raise ConfigError(
                f"{origins[low]}: {low} is {values[low]}, more than {high},"
                f" which is {values[high]} ({origins[high]})"
            )
        values[low] = values[high]


# The first may not be more than the second.
_ORDERED = (
    ("freeze.lease", "freeze.lease_max"),
    ("limits.connections", "limits.connections_total"),
    ("limits.sessions", "limits.sessions_total"),
    ("log.file_bytes", "log.total_bytes"),
)
