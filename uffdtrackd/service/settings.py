"""The one table of settings: what the daemon can be told, with type, range, default and help.

    class Config  --fields()--> settings() --+--> config.py     files into a Config, checked
    (this file: one line a setting)          +--> manual.py     uffdtrackd.toml(5)
                                             +--> sample.py     the sample configuration

A setting is a field of one of the frozen dataclasses below; its metadata says the rest. So the
daemon reads `config.limits.sessions`, typed, and nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, cast

LOG_LEVELS = ("error", "warning", "notice", "info", "debug")
BACKENDS = ("auto", "async", "sync")

MIB = 1 << 20
DAY = 24 * 3600.0

# Where a listener for metrics may be: the numbers are about other people's processes.
LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    name: dotted, as in `limits.sessions`. kind: path, word, count, bytes, seconds or switch.
    low, high: range of a number, both inclusive. choices: of a word. unit: for people, "" if none.
    reload: False if only a restart makes a change effective.
    """

    name: str
    kind: str
    default: object
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    reload: bool = True


def _row(kind: str, default: object, help: str, **more: object) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help, **more})


def _path(default: str, help: str) -> str:
    return cast(str, _row("path", default, help, reload=False))


def _word(default: str, choices: tuple[str, ...], help: str, reload: bool = True) -> str:
    return cast(str, _row("word", default, help, choices=choices, reload=reload))


def _count(
    default: int, low: int, high: int, help: str, unit: str = "", reload: bool = True
) -> int:
    row = _row("count", default, help, low=low, high=high, unit=unit, reload=reload)
    return cast(int, row)


def _bytes(default: int, low: int, high: int, help: str) -> int:
    return cast(int, _row("bytes", default, help, low=low, high=high, unit="bytes"))


def _seconds(default: float, low: float, high: float, help: str) -> float:
    return cast(float, _row("seconds", default, help, low=low, high=high, unit="seconds"))


def _switch(default: bool, help: str) -> bool:
    return cast(bool, _row("switch", default, help))


@dataclass(frozen=True)
class Limits:
    """What one peer (a user id), one connection or one session may take."""

    connections: int = _count(1024, 1, 65536, "connections that one user may hold open")
    connections_total: int = _count(4096, 1, 65536, "connections of all users together")
    sessions: int = _count(256, 1, 65536, "sessions that one user may have")
    sessions_total: int = _count(1024, 1, 65536, "sessions of all users together")
    processes: int = _count(1024, 1, 65536, "processes in one session that follows its target")
    consumers: int = _count(32, 1, 4096, "named consumers of one session")
    watchers: int = _count(32, 1, 4096, "watches that one connection may hold")
    requests: int = _count(32, 1, 4096, "requests of one connection that wait for their answer")
    frame_bytes: int = _bytes(65536, 4096, 1 << 30, "longest request")
    queued_bytes: int = _bytes(
        64 * MIB, 65536, 1 << 40, "answers that wait for a slow reader, for one connection"
    )
    fds: int = _count(16, 0, 253, "file descriptors in one message")
    read_bytes: int = _bytes(16 * MIB, 4096, 1 << 30, "longest read of a target's memory")


@dataclass(frozen=True)
class Freeze:
    """How long a client may keep a target stopped."""

    lease: float = _seconds(10.0, 0.01, 3600.0, "lease of a freeze that names none")
    lease_max: float = _seconds(
        60.0, 0.01, 3600.0, "longest lease; then the target is thawed whatever its holder does"
    )


@dataclass(frozen=True)
class Watch:
    """Iterations that are streamed to a client."""

    interval_min: float = _seconds(0.05, 0.001, 3600.0, "shortest interval of a watch")
    queue: int = _count(
        16,
        1,
        4096,
        "iterations kept for a slow watcher; then the two oldest become one, and that is counted",
    )


@dataclass(frozen=True)
class Log:
    """Iteration logs, one file a session, below the state directory."""

    enabled: bool = _switch(False, "whether sessions are logged whose client does not say")
    file_bytes: int = _bytes(
        256 * MIB, MIB, 1 << 50, "longest log of one session; the oldest iterations are dropped"
    )
    total_bytes: int = _bytes(
        4096 * MIB, MIB, 1 << 50, "all logs together; those that ended first are removed first"
    )
    age_max: float = _seconds(7 * DAY, 60.0, 3650 * DAY, "age at which an ended log is removed")


@dataclass(frozen=True)
class Metrics:
    """OpenMetrics over HTTP; the socket's method `metrics` works without."""

    port: int = _count(0, 0, 65535, "TCP port; 0: no listener", unit="port", reload=False)
    address: str = _word(LOOPBACK[0], LOOPBACK, "address of this machine alone", reload=False)


@dataclass(frozen=True)
class Config:
    """Everything that the daemon can be told."""

    socket: str = _path("/run/uffdtrackd/control.sock", "socket, when systemd did not make one")
    state_dir: str = _path("/var/lib/uffdtrackd", "folder of what outlives a restart")
    log_level: str = _word("info", LOG_LEVELS, "least important messages that are logged")
    backend: str = _word("auto", BACKENDS, "how writes are seen where a client does not say")
    limits: Limits = field(default_factory=Limits)
    freeze: Freeze = field(default_factory=Freeze)
    watch: Watch = field(default_factory=Watch)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)


def sections() -> dict[str, type]:
    """Name of a section --> its dataclass; "" is the top of the file."""
    found: dict[str, type] = {"": Config}
    for one in fields(Config):
        if is_dataclass(one.default_factory):
            found[one.name] = cast(type, one.default_factory)
    return found


def settings() -> Iterator[Setting]:
    """Every row of the table, in the order of the files made from it."""
    for section, kind in sections().items():
        for one in fields(kind):
            if one.metadata:
                name = f"{section}.{one.name}" if section else one.name
                yield Setting(name=name, default=one.default, **one.metadata)
