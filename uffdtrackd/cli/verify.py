"""`uffdtrack verify`: is what iterations report enough to have a copy of the target?

[ iterate --> shadow copies what it says ] n times, the last one frozen
                                               \\--> every page of target and copy compared
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from ..model.errors import TrackError
from ..model.iteration import Iteration
from ..model.pageset import PageSet
from ..model.region import Region
from ..tracking.shadow import Comparison, Shadow
from . import arguments, remote, render, units
from .rounds import Rounds, Warnings, attached
from .terminal import Terminal

# Ranges that are named when pages were missed: enough to see a pattern.
_SHOWN = 10
# Seconds that the comparison may take.
_LEASE = 3600.0


class Verify:
    name = "verify"
    help = "copy only what is reported, then compare with the frozen process, byte for byte"
    example = """\
  uffdtrack verify 1234
  uffdtrack verify 1234 -n 50 -i 0.1 --json

Takes as much memory as the process has populated, and stops it for the comparison
(about a third of a second for each GiB).
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("pid", type=arguments.pid, metavar="PID", help="the process to verify")
        arguments.add_interval(parser, 0.5)
        parser.add_argument(
            "-n",
            "--iterations",
            type=arguments.positive,
            default=10,
            metavar="N",
            help="iterations, the last one with the process stopped (default: 10)",
        )
        parser.add_argument(
            "--memory",
            type=arguments.positive,
            metavar="MIB",
            help="what the copy may take (default: half of the free memory)",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object")
        arguments.add_target_options(parser)
        remote.add_socket(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        limit = args.memory << 20 if args.memory else None
        with ExitStack() as stack:
            view = stack.enter_context(
                render.choose(
                    terminal,
                    f"verifying process {args.pid}",
                    args.iterations,
                    as_json=False,
                    rows=False,
                )
            )
            shadow = stack.enter_context(Shadow(limit))
            session = stack.enter_context(attached(args, terminal.stop))
            rounds = Rounds(session, args.pid, args.interval, terminal.stop, view.step)
            warnings = Warnings(session, view.note)
            for _ in range(args.iterations - 1):
                row, iteration = rounds.next()
                warnings.tell()
                view.step("copying")
                shadow.apply(iteration)
                view.show(row, iteration)
                rounds.wait()
            view.step("freezing")
            # As long as it takes; a daemon grants what it is configured to.
            with session.frozen(lease=_LEASE):
                row, final = rounds.next()
                view.step("comparing")
                results = shadow.finish(final)
            view.show(row, final)
        found = [_as_map(result) for result in results]
        equal = all(result.equal for result in results)
        if args.json:
            terminal.print(
                json.dumps(
                    {"equal": equal, "iterations": args.iterations, "processes": found},
                    separators=(",", ":"),
                )
            )
        for result in results:
            if not args.json:
                _tell(result, final, terminal)
        if not equal:
            missed = sum(len(result.missed) for result in results)
            raise TrackError(
                f"{units.plural(missed, 'page')} of the copy differ from the process",
                hint="this must never happen: please report it with the output of"
                " `uffdtrack check` and this one",
                pid=args.pid,
            )
        return 0


def _as_map(result: Comparison) -> dict[str, Any]:
    return {
        "pid": result.pid,
        "compared_pages": result.compared,
        "missed": [list(run) for run in result.missed],
        "over_reported_pages": result.over_reported,
        "final_dirty_pages": result.final_dirty,
        "unreadable": [list(run) for run in result.unreadable],
        "unverified": [list(run) for run in result.unverified],
    }


def _tell(result: Comparison, final: Iteration, terminal: Terminal) -> None:
    verdict = "equal" if result.equal else "DIFFERENT"
    terminal.print(
        f"process {result.pid}: {verdict}: {units.plural(result.compared, 'page')} compared,"
        f" {units.count(len(result.missed))} missed"
    )
    if result.final_dirty:
        # Written with the same content again, or reported for nothing: both cost a copy.
        terminal.print(
            f"  of {units.plural(result.final_dirty, 'page')} reported last"
            f" {units.count(result.over_reported)} had the content they had before"
        )
    for name, pages in (("unreadable", result.unreadable), ("unverified", result.unverified)):
        if pages:
            terminal.print(f"  {name}: {units.plural(len(pages), 'page')}")
    regions = final.processes[result.pid].regions
    for line in _places(result.missed, regions):
        terminal.print(f"  missed: {line}")


def _places(pages: PageSet, regions: Sequence[Region]) -> list[str]:
    lines: list[str] = []
    for start, end in pages:
        if len(lines) == _SHOWN:
            lines.append(f"... {units.plural(pages.run_count - _SHOWN, 'more range')}")
            break
        region = next((one for one in regions if one.start <= start < one.end), None)
        name = f"{region.label or region.kind} {region.perms}" if region else "no region"
        lines.append(f"{start:#x}-{end:#x} {name}")
    return lines
