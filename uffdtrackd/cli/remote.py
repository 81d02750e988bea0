"""How the command line finds the daemon, and what it names there.

--embedded            no daemon
--socket PATH, $UFFDTRACKD_SOCKET    that one; exit 3 if nobody listens
neither               the system's, if its socket is there; else no daemon
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..client import Client, ClientSession, connect
from ..link import SOCKET, VARIABLE, socket_path
from ..model.errors import NoSuchSession, NotPermitted, UsageError

DEFAULT_CONSUMER = "default"


def add_socket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help=f"of the daemon (default: ${VARIABLE}, else {SOCKET})",
    )


def add_session(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "session",
        metavar="SESSION",
        help="as `attach` and `list` name it, or the pid of its process",
    )
    add_socket(parser)


def add_consumer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--consumer",
        default=DEFAULT_CONSUMER,
        metavar="NAME",
        help=f"whose pending pages they are (default: {DEFAULT_CONSUMER})",
    )


def wanted(args: argparse.Namespace) -> Client | None:
    """The daemon for a command that can do without, or None.

    Raises NoDaemon where one was named and does not answer, NotPermitted, UsageError.
    """
    if args.embedded:
        if args.socket is not None:
            raise UsageError("--embedded and --socket exclude each other")
        return None
    named = args.socket is not None or os.environ.get(VARIABLE)
    if not named and not os.path.exists(socket_path()):
        return None
    try:
        return connect(args.socket)
    except NotPermitted:
        # Who may not use the system's daemon can still track what is theirs.
        if named:
            raise
        return None


@contextmanager
def daemon(args: argparse.Namespace) -> Iterator[Client]:
    """A connection, for a command that cannot do without. Raises NoDaemon."""
    with connect(args.socket) as client:
        yield client


def session_name(client: Client, word: str) -> str:
    """A session by its name or by a pid. Raises NoSuchSession."""
    if not word.isdecimal():
        return word
    for one in client.sessions():
        if int(word) in one["pids"] and not one["ended"]:
            return str(one["session"])
    raise NoSuchSession(f"no session tracks process {word}")


def find(client: Client, args: argparse.Namespace) -> ClientSession:
    """The session that args.session names. Raises NoSuchSession."""
    name = session_name(client, args.session)
    return client.session(name, consumer=getattr(args, "consumer", DEFAULT_CONSUMER))
