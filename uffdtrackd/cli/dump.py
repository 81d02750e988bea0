"""`uffdtrack dump`: pages in a format for other programs, from a process or from a log."""

from __future__ import annotations

import argparse
import os

from ..model.errors import UsageError
from ..store.log import LogReader
from . import arguments, output, remote
from .rounds import attached
from .terminal import Terminal

# Seconds to a second iteration, which is never waited for.
_LONG = 3600.0


class Dump:
    name = "dump"
    help = "write pages in a format for other programs: of a process, a session or a log"
    example = """\
  uffdtrack dump 1234                               all that is populated, as ranges
  uffdtrack dump run.uft --iteration 3 --format csv
  uffdtrack dump s1a2b3c4d                          the same of a session of the daemon
  uffdtrack dump run.uft --union --format roaring -o pages.roaring

A name of digits only is a pid, one with a dot or a slash is a file: write ./123 for a file of that
name.
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "source",
            metavar="PID|SESSION|FILE.uft",
            help="a process, a session of the daemon, or an iteration log",
        )
        output.add_choice(parser)
        output.add_options(parser)
        arguments.add_target_options(parser)
        remote.add_socket(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        output.check(args, terminal)
        if not args.source.isdecimal():
            if "." in args.source or "/" in args.source or os.path.exists(args.source):
                return dump_log(args.source, args, terminal)
            return dump_session(args, terminal)
        try:
            args.pid = arguments.pid(args.source)
        except argparse.ArgumentTypeError as error:
            raise UsageError(str(error), hint="see `uffdtrack dump --help`") from None
        if args.iteration or args.union:
            raise UsageError(
                "a process has no past: only what it has populated now can be dumped",
                hint=f"`uffdtrack track {args.pid} --log FILE` makes a log to dump from",
            )
        with attached(args, terminal.stop) as session:
            iteration = session.iterate()
            # Regions are looked up when first asked for; they are those of now.
            for pages in iteration.processes.values():
                _ = pages.regions
        output.write(iteration, args, terminal)
        return 0


def dump_session(args: argparse.Namespace, terminal: Terminal) -> int:
    """All that is populated, without a change for any consumer. Raises NoSuchSession, NoDaemon."""
    if args.iteration or args.union:
        raise UsageError(
            "a session keeps no past: only what is populated now can be dumped",
            hint="`uffdtrack attach PID --log` makes the daemon keep a log to dump from",
        )
    with remote.daemon(args) as client:
        # A watch is a consumer of its own, and the first delivery of one is everything.
        watching = client.watch(args.source, _LONG, deliver="memfd")
        with terminal.stop.allowed():
            iteration = watching.next()
        for pages in iteration.processes.values():
            _ = pages.regions
        watching.stop()
    output.write(iteration, args, terminal)
    return 0


def dump_log(path: str, args: argparse.Namespace, terminal: Terminal) -> int:
    """The chosen part of a log. Raises LogError."""
    with LogReader(path) as log:
        if args.union:
            iteration = log.fold()
        elif args.iteration is not None:
            iteration = log.iteration(args.iteration)
        else:
            iteration = log.iteration(log.numbers[-1] if log.numbers else 0)
        output.write(iteration, args, terminal)
    return 0
