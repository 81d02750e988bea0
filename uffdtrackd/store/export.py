"""Writes what an iteration says in a format that other programs read.

    Iteration --export(name)--> FORMATS[name].write --> binary file

A format is one entry of FORMATS: a function of an iteration and a binary file, whether its bytes
may go to a terminal, and a line of help. `dump` lists them from this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

from ..model.errors import UsageError
from ..model.iteration import Iteration
from .bitmap import write_bitmap
from .text import write_csv, write_json, write_ranges


@dataclass(frozen=True, slots=True)
class Format:
    """write(iteration, file): writes and leaves the file open. binary: not for terminals."""

    write: Callable[[Iteration, BinaryIO], None]
    binary: bool
    help: str


def write_roaring(iteration: Iteration, file: BinaryIO) -> None:
    """The dirty pages of the only process, as PageSet.to_roaring() has them.

    UsageError: there is not exactly one process, for the format has no room for a pid.
    """
    if len(iteration.processes) != 1:
        raise UsageError(
            f"roaring holds one process, this iteration has {len(iteration.processes)}",
            hint="choose a process, or a format that names them",
        )
    (pages,) = iteration.processes.values()
    file.write(pages.dirty.to_roaring())


FORMATS: dict[str, Format] = {
    "ranges": Format(
        write_ranges, False, "text, one hexadecimal range a line, as in /proc/PID/maps"
    ),
    "json": Format(
        write_json, False, "one JSON object: the sets as ranges in bytes, and the regions"
    ),
    "csv": Format(write_csv, False, "a table of ranges with their regions"),
    "bitmap": Format(
        write_bitmap, True, "a region table and one bit a page, in the order of KVM's log"
    ),
    "roaring": Format(
        write_roaring, True, "dirty page numbers as a portable 64-bit Roaring bitmap"
    ),
}


def export(iteration: Iteration, format: str, file: BinaryIO, *, pid: int | None = None) -> None:
    """Writes `iteration` to `file`, a binary file that stays open; OSError is that of the file.

    pid: only this process. UsageError: unknown format, no such process in the iteration, or more
    processes than the format can hold.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}", hint=f"formats: {', '.join(FORMATS)}")
    if pid is not None:
        if pid not in iteration.processes:
            raise UsageError(
                f"iteration {iteration.number} has no process {pid}",
                pid=pid,
                hint=f"it has: {', '.join(map(str, iteration.processes)) or 'none'}",
            )
        iteration = replace(iteration, processes={pid: iteration.processes[pid]})
    FORMATS[format].write(iteration, file)
