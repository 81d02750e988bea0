"""`uffdtrack track`: what a process writes, iteration by iteration."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from ..model.iteration import Iteration
from . import arguments, remote, render
from .recorder import Recorder
from .rounds import Rounds, Warnings, attached
from .row import Row
from .signals import Interrupted
from .terminal import Terminal


class Track:
    name = "track"
    help = "show what a process writes, iteration by iteration"
    example = """\
  uffdtrack track 1234                      once a second, until Ctrl-C
  uffdtrack track 1234 -i 0.1 -n 50         50 times, ten a second
  uffdtrack track 1234 --follow fork        and the processes it forks
  uffdtrack track 1234 -n 20 --log run.uft --freeze-last
  uffdtrack track 1234 --json | jq '.stats'
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("pid", type=arguments.pid, metavar="PID", help="the process to track")
        arguments.add_interval(parser, 1.0)
        parser.add_argument(
            "-n",
            "--iterations",
            type=arguments.positive,
            metavar="N",
            help="stop after N iterations; the first, number 0, lists all there is"
            " (default: go on until Ctrl-C)",
        )
        parser.add_argument("--log", metavar="FILE", help="also write an iteration log (*.uft)")
        parser.add_argument(
            "--freeze-last",
            action="store_true",
            help="stop the target for the last iteration; with Ctrl-C that is one more",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object an iteration")
        arguments.add_target_options(parser)
        remote.add_socket(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with ExitStack() as stack:
            view = stack.enter_context(
                render.choose(terminal, f"process {args.pid}", args.iterations, as_json=args.json)
            )
            session = stack.enter_context(attached(args, terminal.stop))
            recorder = None
            if args.log:
                recorder = stack.enter_context(
                    Recorder(args.log, args.pid, session.page_size, view.note)
                )
            rounds = Rounds(session, args.pid, args.interval, terminal.stop, view.step)

            warnings = Warnings(session, view.note)

            def tell(taken: tuple[Row, Iteration]) -> None:
                row, iteration = taken
                warnings.tell()
                view.show(row, iteration)
                if recorder:
                    recorder.append(iteration)

            def take_frozen() -> tuple[Row, Iteration]:
                view.step("freezing")
                with session.frozen():
                    return rounds.next()

            done = 0
            try:
                while True:
                    last = args.iterations is not None and done + 1 == args.iterations
                    # Told after the thaw: neither a disk nor a slow pipe keeps the target.
                    tell(take_frozen() if last and args.freeze_last else rounds.next())
                    done += 1
                    if last:
                        return 0
                    rounds.wait()
            except Interrupted:
                if args.freeze_last:
                    tell(take_frozen())
                raise
