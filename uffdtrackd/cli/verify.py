"""`uffdtrack verify`: is what iterations report enough to have a copy of the target?

[ iterate --> shadow copies what it says ] n times, the last one frozen
                                               \\--> every page of target and copy compared

The copy is bounded: above its limit it holds digests of pages (`tracking.keep`).
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from ..model.errors import TrackError
from ..model.iteration import Iteration
from ..tracking.comparison import Comparison, Miss
from ..tracking.shadow import Shadow
from . import arguments, remote, render, units
from .rounds import Rounds, Warnings, attached
from .terminal import Terminal

# Seconds that the comparison may take.
_LEASE = 3600.0


class Verify:
    name = "verify"
    help = "copy only what is reported, then compare with the frozen process, page by page"
    example = """\
  uffdtrack verify 1234
  uffdtrack verify 1234 -n 50 -i 0.1 --json
  uffdtrack verify 1234 --memory 256 --follow fork

An audit of the tracker on a process in use. Nothing is written to the process, and only
memory that exists is read. It is stopped once, for the comparison: about a third of a second
for each GiB. The copy holds what the process has populated, up to the limit of --memory; above
it, 8 bytes for each page (a digest) instead of its content.

Exits with 1 if a page was missed, and says where. Pages that were reported in vain are a cost
and no fault; they are counted by reason.
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
            "--memory-limit",
            dest="memory",
            type=arguments.positive,
            metavar="MIB",
            help="what the copy may take; above it digests are kept (default: a quarter of what"
            " is free)",
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
            cost = _Cost(args.iterations)
            for _ in range(args.iterations - 1):
                row, iteration = rounds.next()
                cost.add(iteration)
                warnings.tell()
                view.step("copying")
                shadow.apply(iteration)
                view.show(row, iteration)
                rounds.wait()
            view.step("freezing")
            began = time.monotonic_ns()
            # As long as it takes; a daemon grants what it is configured to.
            with session.frozen(lease=_LEASE):
                row, final = rounds.next()
                if not final.frozen:
                    raise TrackError(
                        "the process was let go before it could be compared",
                        hint="somebody killed the holder of the freeze: try again",
                        pid=args.pid,
                    )
                view.step("comparing")
                results = shadow.finish(final)
            cost.add(final)
            cost.frozen_ns = time.monotonic_ns() - began
            cost.copied(shadow)
            view.show(row, final)
        equal = all(result.equal for result in results)
        if args.json:
            found = {
                "equal": equal,
                "iterations": args.iterations,
                "processes": [_as_map(result) for result in results],
                "cost": asdict(cost),
            }
            terminal.print(json.dumps(found, separators=(",", ":")))
        else:
            for result in results:
                _tell(result, terminal)
            cost.tell(terminal)
        if not equal:
            missed = sum(len(result.missed) for result in results)
            raise TrackError(
                f"{units.plural(missed, 'page')} of the copy differ from the process",
                hint="this must never happen: please report it with the output of"
                " `uffdtrack check` and this one",
                pid=args.pid,
            )
        return 0


@dataclass
class _Cost:
    """What the audit took, of the process and of the machine.

    attach_stopped_ns: one thread, once. frozen_ns: all threads, at most, for the comparison.
    scan_ns: all iterations. bytes_read: of the process. memory_bytes: the most that the copy took.
    """

    iterations: int
    attach_stopped_ns: int = 0
    frozen_ns: int = 0
    scan_ns: int = 0
    bytes_read: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0

    def add(self, iteration: Iteration) -> None:
        self.scan_ns += iteration.duration_ns
        if not iteration.frozen:
            self.attach_stopped_ns += iteration.stopped_ns

    def copied(self, shadow: Shadow) -> None:
        self.bytes_read, self.memory_bytes = shadow.bytes_read, shadow.peak
        self.memory_limit_bytes = shadow.memory_limit

    def tell(self, terminal: Terminal) -> None:
        terminal.print(
            f"cost: stopped {units.duration(self.frozen_ns)} to compare,"
            f" {units.duration(self.attach_stopped_ns)} to attach;"
            f" {units.plural(self.iterations, 'iteration')} took"
            f" {units.duration(self.scan_ns)}; {units.size(self.bytes_read)} read;"
            f" the copy took {units.size(self.memory_bytes)} of"
            f" {units.size(self.memory_limit_bytes)}"
        )


def _as_map(result: Comparison) -> dict[str, Any]:
    return {
        "pid": result.pid,
        "equal": result.equal,
        "exact": result.exact,
        "compared_pages": result.compared,
        "missed": [list(run) for run in result.missed],
        "missed_places": [_place_map(miss) for miss in result.misses],
        "over_reported_pages": result.over_reported,
        "over_reported": dict(result.why),
        "final_dirty_pages": result.final_dirty,
        "unreadable": [list(run) for run in result.unreadable],
        "unverified": [list(run) for run in result.unverified],
    }


def _place_map(miss: Miss) -> dict[str, Any]:
    found: dict[str, Any] = {"start": miss.start, "end": miss.end, "first_byte": miss.byte}
    if miss.region is not None:
        for name in ("kind", "label", "perms", "tracking", "reason"):
            found[name] = str(getattr(miss.region, name))
    return found


def _tell(result: Comparison, terminal: Terminal) -> None:
    verdict = "equal" if result.equal else "DIFFERENT"
    how = "" if result.exact else " by digests"
    terminal.print(
        f"process {result.pid}: {verdict}: {units.plural(result.compared, 'page')} compared{how},"
        f" {units.count(len(result.missed))} missed"
    )
    if result.final_dirty:
        terminal.print(
            f"  of {units.plural(result.final_dirty, 'page')} reported last"
            f" {units.count(result.over_reported)} had the content they had before"
        )
    for why, pages in sorted(result.why.items(), key=lambda item: -item[1]):
        terminal.print(f"    {units.plural(pages, 'page')}: {why}")
    for name, pages_of in (("unreadable", result.unreadable), ("unverified", result.unverified)):
        if pages_of:
            terminal.print(f"  {name}: {units.plural(len(pages_of), 'page')}")
    for miss in result.misses:
        terminal.print(f"  missed: {_place(miss)}")
    if more := result.missed.run_count - len(result.misses):
        terminal.print(f"  missed: ... {units.plural(more, 'more range')}")


def _place(miss: Miss) -> str:
    where = f"{miss.start:#x}-{miss.end:#x}"
    if miss.region is None:
        return f"{where} in no region"
    region = miss.region
    name = f"{region.label or '(no name)'} {region.perms} ({region.kind}, {region.tracking})"
    return f"{where} {name}" + (f", first at {miss.byte:#x}" if miss.byte is not None else "")
