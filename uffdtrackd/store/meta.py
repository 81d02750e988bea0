"""What a log says of itself: whom it is about, where and with what it was made."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from ..model.errors import LogError, TargetGone


def tool_version() -> str:
    """Version of this package; "unknown" where it is run without being installed."""
    try:
        return metadata.version("uffdtrackd")
    except metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, slots=True)
class LogMeta:
    """pid and start_ticks name the target: clock ticks since boot, field 22 of proc_pid_stat(5).

    command: its argument vector when the log was begun. host, kernel, machine: uname(2). boot_id:
    of /proc/sys/kernel/random. page_size: bytes. created_ns: CLOCK_REALTIME.
    """

    pid: int
    page_size: int
    start_ticks: int = 0
    command: tuple[str, ...] = ()
    host: str = ""
    kernel: str = ""
    machine: str = ""
    boot_id: str = ""
    tool_version: str = ""
    created_ns: int = 0

    @classmethod
    def of_process(cls, pid: int, page_size: int) -> LogMeta:
        """Of a process of this machine, now. TargetGone: there is none."""
        proc = Path("/proc") / str(pid)
        try:
            stat = (proc / "stat").read_text(errors="surrogateescape")
            command = os.fsdecode((proc / "cmdline").read_bytes())
        except (FileNotFoundError, ProcessLookupError) as error:
            raise TargetGone(f"no process {pid}", pid=pid) from error
        uname = platform.uname()
        return cls(
            pid=pid,
            page_size=page_size,
            # The name in parentheses may hold spaces and parentheses of its own.
            start_ticks=int(stat.rpartition(")")[2].split()[19]),
            command=tuple(command.rstrip("\0").split("\0")) if command else (),
            host=uname.node,
            kernel=f"{uname.release} {uname.version}",
            machine=uname.machine,
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            tool_version=tool_version(),
            created_ns=time.time_ns(),
        )

    def rows(self) -> list[tuple[str, int | str]]:
        """For the table `meta`; the command is a JSON array."""
        values = asdict(self) | {"command": json.dumps(self.command)}
        return list(values.items())

    @classmethod
    def from_rows(cls, rows: dict[str, Any]) -> LogMeta:
        """The inverse; keys that a later version added are ignored. LogError: something is off."""
        try:
            values = {one.name: rows[one.name] for one in fields(cls) if one.name in rows}
            values["command"] = tuple(json.loads(values["command"]))
            meta = cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise LogError(f"the log does not say what it is about: {error}") from error
        if not isinstance(meta.page_size, int) or not isinstance(meta.pid, int):
            raise LogError("the log does not say what it is about: pid, page_size")
        return meta
