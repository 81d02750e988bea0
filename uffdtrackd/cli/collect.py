"""`uffdtrack iterate`, `ack`, `watch`: what a session of the daemon collects.

iterate --> everything that this consumer has not acknowledged --> ack N
watch   --> the same again and again, acknowledged when it has been shown
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from ..model.iteration import Iteration
from . import arguments, output, remote, render
from .row import Row
from .terminal import Terminal


class Iterate:
    name = "iterate"
    help = "collect what a session's target wrote, and show what is not acknowledged"
    example = """\
  uffdtrack iterate s1a2b3c4d
  uffdtrack iterate s1a2b3c4d --json --ack
  uffdtrack iterate s1a2b3c4d --format ranges -o dirty.txt

Until it is acknowledged, what was shown is shown again by the next one, with what came since.
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        remote.add_session(parser)
        remote.add_consumer(parser)
        parser.add_argument(
            "--pending", action="store_true", help="do not collect: only what is pending already"
        )
        parser.add_argument(
            "--ack", action="store_true", help="acknowledge it once it has been written"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object")
        output.add_options(parser, default=None)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        if args.format is not None:
            output.check(args, terminal)
        with remote.daemon(args) as client:
            session = remote.find(client, args)
            iteration = session.pending() if args.pending else session.iterate()
            if iteration is None:
                terminal.note("uffdtrack: nothing is pending")
                return 0
            if args.format is not None:
                output.write(iteration, args, terminal)
            else:
                plain = render.JsonView if args.json else render.PlainView
                plain(terminal).show(Row.of(iteration, None), iteration)
            if args.ack:
                session.ack(iteration.number)
        return 0


class Ack:
    name = "ack"
    help = "say that what a session delivered up to an iteration is taken care of"
    example = """\
  uffdtrack ack s1a2b3c4d 7
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        remote.add_session(parser)
        parser.add_argument(
            "iteration", type=arguments.natural, metavar="N", help="number of the iteration"
        )
        remote.add_consumer(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with remote.daemon(args) as client:
            remote.find(client, args).ack(args.iteration)
        return 0


class Watch:
    name = "watch"
    help = "show what a session of the daemon collects, iteration by iteration"
    example = """\
  uffdtrack watch s1a2b3c4d                 once a second, until Ctrl-C
  uffdtrack watch 1234 -i 0.2 -n 50 --json

It is a consumer of its own: others of the session miss nothing by it.
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        remote.add_session(parser)
        arguments.add_interval(parser, 1.0)
        parser.add_argument(
            "-n",
            "--iterations",
            type=arguments.positive,
            metavar="N",
            help="stop after N iterations (default: go on until Ctrl-C)",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object an iteration")

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with ExitStack() as stack:
            client = stack.enter_context(remote.daemon(args))
            name = remote.session_name(client, args.session)
            view = stack.enter_context(
                render.choose(terminal, f"session {name}", args.iterations, as_json=args.json)
            )
            watching = client.watch(name, args.interval, deliver="memfd")
            lost = returned_ns = done = 0
            while args.iterations is None or done < args.iterations:
                view.step("waiting")
                with terminal.stop.allowed():
                    iteration: Iteration = watching.next()
                now = time.monotonic_ns()
                view.show(Row.of(iteration, now - returned_ns if returned_ns else None), iteration)
                returned_ns = now
                done += 1
                if watching.lost > lost:
                    lost = watching.lost
                    view.note(
                        f"uffdtrack: warning: too slow: {lost} iterations were merged into later"
                        " ones; no page is lost by that"
                    )
            watching.stop()
        return 0
