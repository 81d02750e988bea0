"""`uffdtrack log`: what an iteration log holds."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from typing import Any

from ..model.errors import LogError
from ..store.log import Gap, LogReader, Record
from . import arguments, output, units
from .dump import dump_log
from .terminal import Terminal

_HEAD = ("iteration", "time", "processes", "dirty", "discarded", "always", "took", "stopped", "")


class Log:
    name = "log"
    help = "look into an iteration log"
    example = """\
  uffdtrack log ls run.uft
  uffdtrack log show run.uft --iteration 3
  uffdtrack log export run.uft --union --format csv -o run.csv
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(metavar="ls|show|export", required=True, dest="log_verb")
        for name, about in (
            ("ls", "list the iterations"),
            ("show", "say what the log is about, or what one iteration holds"),
            ("export", "the same as `dump FILE.uft`"),
        ):
            one = verbs.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
            one.add_argument("file", metavar="FILE.uft", help="an iteration log")
            if name == "export":
                output.add_choice(one)
                output.add_options(one)
                continue
            one.add_argument("--json", action="store_true", help="JSON, one object a line")
            if name == "show":
                one.add_argument(
                    "--iteration", type=arguments.natural, metavar="N", help="this iteration"
                )

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        if args.log_verb == "export":
            output.check(args, terminal)
            return dump_log(args.file, args, terminal)
        with LogReader(args.file) as log:
            if args.log_verb == "ls":
                _list(log, args.json, terminal)
            elif args.iteration is None:
                _about(log, args.json, terminal)
            else:
                _show(log, args.iteration, args.json, terminal)
        return 0


def _list(log: LogReader, as_json: bool, terminal: Terminal) -> None:
    records, gaps = log.records, log.gaps
    if as_json:
        for one in records:
            terminal.print(json.dumps(asdict(one), separators=(",", ":")))
        return
    size = log.meta.page_size
    rows = [_HEAD] + [_row(one, size, gaps) for one in records]
    for line in aligned(rows):
        terminal.print(line)


def _row(one: Record, page_size: int, gaps: list[Gap]) -> tuple[str, ...]:
    marks = ["frozen"] * one.frozen
    if one.first != one.number:
        lost = any(gap.first <= one.number and gap.last >= one.first for gap in gaps)
        marks.append(f"{'after a gap, ' if lost else ''}covers {one.first} to {one.number}")
    return (
        str(one.number),
        units.moment(one.time_ns),
        str(one.pids),
        units.size(one.dirty_pages * page_size),
        units.size(one.discarded_pages * page_size),
        units.size(one.always_pages * page_size),
        units.duration(one.duration_ns),
        units.duration(one.stopped_ns),
        ", ".join(marks),
    )


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell, numbers to the right, the last one as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        "  ".join(
            [*(cell.rjust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]
        ).rstrip()
        for row in rows
    ]


def _about(log: LogReader, as_json: bool, terminal: Terminal) -> None:
    meta, records, gaps = log.meta, log.records, log.gaps
    union = log.union() if records else {}
    if as_json:
        about: dict[str, Any] = asdict(meta)
        about["iterations"] = len(records)
        about["gaps"] = [asdict(gap) for gap in gaps]
        about["union_bytes"] = {str(pid): pages.bytes for pid, pages in union.items()}
        terminal.print(json.dumps(about, separators=(",", ":")))
        return
    dirty = sum(one.dirty_pages for one in records if one.number) * meta.page_size
    lines = [
        ("process", f"{meta.pid}  {shlex.join(meta.command)}".rstrip()),
        ("machine", f"{meta.host}  {meta.kernel}  {meta.machine}".strip()),
        ("begun", units.moment(meta.created_ns)),
        ("made by", f"uffdtrack {meta.tool_version}"),
        ("page size", f"{meta.page_size} bytes"),
        ("records", str(len(records))),
        ("dirty after the first", units.size(dirty)),
        ("all of it together", units.size(sum(pages.bytes for pages in union.values()))),
    ]
    lines += [("gap", f"iterations {gap.first} to {gap.last}: {gap.reason}") for gap in gaps]
    for name, value in lines:
        terminal.print(f"{name + ':':<23}{value}")


def _show(log: LogReader, number: int, as_json: bool, terminal: Terminal) -> None:
    iteration = log.iteration(number)
    if as_json:
        terminal.print(json.dumps(iteration.to_map(), separators=(",", ":")))
        return
    record = next((one for one in log.records if one.number == number), None)
    if record is None:
        raise LogError(f"{log.path} has no iteration {number}")
    for line in aligned([_HEAD, _row(record, log.meta.page_size, log.gaps)]):
        terminal.print(line)
    for pid, pages in iteration.processes.items():
        terminal.print(f"process {pid}")
        rows: list[tuple[str, ...]] = [("dirty", "discarded", "always", "tracked", "region")]
        for region in pages.regions:
            span = type(pages.dirty).from_ranges(
                [(region.start, region.end)], pages.dirty.page_size
            )
            sizes = [(one & span).bytes for one in (pages.dirty, pages.discarded, pages.always)]
            if any(sizes):
                where = f"{region.start:#x}-{region.end:#x} {region.label or region.kind}"
                rows.append((*map(units.size, sizes), region.tracking, where))
        for line in aligned(rows):
            terminal.print(f"  {line}")
