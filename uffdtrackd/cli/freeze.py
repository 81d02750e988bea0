"""`uffdtrack freeze` and `thaw`: a target of the daemon that stands still.

freeze --> the connection holds the lease --> Ctrl-C, the end of the command, the end of the
                                              lease, or `thaw` from elsewhere --> runs on
"""

from __future__ import annotations

import argparse

from ..model.errors import TimedOut
from . import arguments, remote
from .terminal import Terminal


class Freeze:
    name = "freeze"
    help = "stop the target of a session for as long as this command runs"
    example = """\
  uffdtrack freeze s1a2b3c4d --lease 30
  uffdtrack iterate s1a2b3c4d               in another terminal: the final iteration
  uffdtrack thaw s1a2b3c4d                  or Ctrl-C

The target runs on when this ends, whatever ends it, and at the latest when the lease is over.
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        remote.add_session(parser)
        parser.add_argument(
            "--lease",
            type=arguments.seconds,
            metavar="SEC",
            help="thaw after that long (default and longest: as the daemon is configured)",
        )

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with remote.daemon(args) as client:
            name = remote.session_name(client, args.session)
            granted = client.call("freeze", session=name, lease_seconds=args.lease)
            seconds = granted["lease_seconds"]
            terminal.print(f"session {name} is frozen, for {seconds:g} seconds at most")
            with terminal.stop.allowed():
                reason = client.wait_thawed(name)
        if reason == "lease over":
            raise TimedOut(
                f"session {name} was thawed: its lease of {seconds:g} seconds is over",
                hint="ask for a longer one with --lease SEC",
            )
        terminal.print(f"session {name} was thawed")
        return 0


class Thaw:
    name = "thaw"
    help = "let the frozen target of a session run on, whoever froze it"
    example = """\
  uffdtrack thaw s1a2b3c4d
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        remote.add_session(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with remote.daemon(args) as client:
            name = remote.session_name(client, args.session)
            if not client.call("thaw", session=name)["thawed"]:
                terminal.note(f"uffdtrack: session {name} was not frozen")
        return 0
