"""`uffdtrack`: from words to a verb, and from any failure to one line and an exit code.

argv --> Parser --> verb.run(args, terminal) --> exit code
             |            |
             +------------+--> TrackError   "uffdtrack: error: ..." + "hint: ..."  its own code
                          +--> Interrupted  128 + signal
                          +--> broken pipe  141, silently: who reads has had enough
                          +--> anything else is a bug of ours: one line, 1; --debug shows it all
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from ..model.errors import TrackError
from ..native.error import NativeError
from .arguments import Parser
from .check import Check
from .collect import Ack, Iterate, Watch
from .dump import Dump
from .freeze import Freeze, Thaw
from .log import Log
from .sessions import Attach, Detach, List, Status
from .signals import Interrupted
from .terminal import Terminal
from .track import Track
from .verb import Verb
from .verify import Verify

VERBS: tuple[Verb, ...] = (
    *(Check(), Track(), Verify(), Dump(), Log()),
    *(Attach(), Iterate(), Ack(), Watch(), Freeze(), Thaw(), Detach(), List(), Status()),
)

_EPILOG = """\
exit status:
  0 ok, 1 failed, 2 usage, 3 no daemon, 4 target gone, 5 not permitted,
  6 not supported here, 7 not converged or timed out, 78 bad configuration
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; also what man pages and completions are made from."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "-v", "--debug", action="store_true", help="show where an unexpected error comes from"
    )
    parser = Parser(
        prog="uffdtrack",
        description="Which pages of a running process were written since the last look.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"uffdtrack {_version()}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, dest="verb")
    for verb in VERBS:
        one = verbs.add_parser(
            verb.name,
            help=verb.help,
            description=verb.help[0].upper() + verb.help[1:] + ".",
            epilog=f"example:\n{verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
        )
        verb.prepare_parser(one)
        one.set_defaults(run=verb.run)
    return parser


def main(argv: Sequence[str] | None = None, terminal: Terminal | None = None) -> int:
    """Runs one command and returns its exit code; --help and --version raise SystemExit."""
    words = list(sys.argv[1:] if argv is None else argv)
    terminal = terminal or Terminal.standard()
    # Looked for by hand: it must work for a command line that does not parse.
    debug = "--debug" in words or "-v" in words
    try:
        args = build_parser().parse_args(words)
        terminal.stop.install()
        code = args.run(args, terminal)
        terminal.out.flush()
        return int(code)
    except Interrupted as interrupted:
        return interrupted.exit_code
    except KeyboardInterrupt:  # before our handlers were there
        return 128 + signal.SIGINT
    except TrackError as error:
        if debug:
            traceback.print_exc(file=terminal.err)
        terminal.error(error)
        return error.exit_code
    except BrokenPipeError:
        _silence(terminal)
        return 128 + signal.SIGPIPE
    except Exception as error:
        if debug:
            traceback.print_exc(file=terminal.err)
        terminal.error(_unexpected(error))
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _silence(terminal)
        return 1


def _unexpected(error: Exception) -> TrackError:
    """The line for what has no class of its own."""
    if isinstance(error, OSError) and error.strerror:
        if isinstance(error, NativeError):
            return TrackError(str(error))
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return TrackError(f"{where}{error.strerror}")
    return TrackError(
        f"unexpected {type(error).__name__}: {error}",
        hint="this is a bug of uffdtrack; run again with --debug and report what it shows",
    )


def _silence(terminal: Terminal) -> None:
    # What is still buffered would fail again when the interpreter flushes it at exit.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal.out.fileno())


def _version() -> str:
    try:
        return version("uffdtrackd")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
