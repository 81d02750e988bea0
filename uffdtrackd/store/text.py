"""The text formats: `ranges` for eyes and shell scripts, `csv` for tables, `json` for programs.

All three give bytes [start, end), half-open, cut at region borders (spans.py) except in `json`,
whose sets are those of a `--json` line with the regions beside them. Text is UTF-8; a path that
is not UTF-8 comes out byte for byte as the kernel has it. docs/formats.md is the reference.
"""

from __future__ import annotations

import csv
import json
from dataclasses import fields
from typing import Any, BinaryIO

from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from ..model.region import Region
from .spans import spans

CSV_COLUMNS = ("pid", "set", "start", "end", "pages", "kind", "tracking", "perms", "label")


class _Text:
    """Text on a binary file that stays the caller's: a TextIOWrapper would close it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode("utf-8", "surrogateescape"))


def _sets(pages: ProcessPages) -> tuple[tuple[str, PageSet], ...]:
    return ("dirty", pages.dirty), ("discarded", pages.discarded)


def write_ranges(iteration: Iteration, file: BinaryIO) -> None:
    """Lines `START-END SET PID`, hexadecimal as in /proc/PID/maps, under comments with labels."""
    out = _Text(file)
    out.write(
        f"# uffdtrackd ranges 1\n# iteration {iteration.number} frozen {int(iteration.frozen)} "
        f"time_ns {iteration.time_ns} page_size {iteration.page_size}\n"
    )
    for pid, pages in iteration.processes.items():
        for name, chosen in _sets(pages):
            out.write(f"# pid {pid} {name}: {len(chosen)} pages, {chosen.bytes} bytes\n")
            last: Region | None = None
            for region, start, end in spans(chosen, pages.regions):
                if region is not last:
                    last = region
                    out.write(f"# region {_region_line(region)}\n")
                out.write(f"{start:x}-{end:x} {name} {pid}\n")


def _region_line(region: Region | None) -> str:
    if region is None:
        return "none"
    label = f" {region.label}" if region.label else ""
    return f"{region.start:x}-{region.end:x} {region.perms} {region.tracking}{label}"


def write_csv(iteration: Iteration, file: BinaryIO) -> None:
    """RFC 4180 with a header line; addresses are decimal bytes, region columns empty for none."""
    table = csv.writer(_Text(file))
    table.writerow(CSV_COLUMNS)
    for pid, pages in iteration.processes.items():
        for name, chosen in _sets(pages):
            for region, start, end in spans(chosen, pages.regions):
                count = (end - start) // iteration.page_size
                about = (
                    (region.kind, region.tracking, region.perms, region.label)
                    if region
                    else ("", "", "", "")
                )
                table.writerow((pid, name, start, end, count, *about))


def _region_map(region: Region) -> dict[str, Any]:
    return {one.name: getattr(region, one.name) for one in fields(region)}


def write_json(iteration: Iteration, file: BinaryIO) -> None:
    """One object on one line: that of Iteration.to_map(), and `regions` in each process."""
    document = iteration.to_map()
    for process in document["processes"]:
        regions = iteration.processes[process["pid"]].regions
        process["regions"] = [_region_map(region) for region in regions]
    file.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")
