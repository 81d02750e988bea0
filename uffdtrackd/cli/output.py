"""Writing one export: to a file that appears whole or not at all, or to stdout."""

from __future__ import annotations

import argparse
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ..model.errors import UsageError
from ..model.iteration import Iteration
from ..store.export import FORMATS, export
from . import arguments
from .terminal import Terminal


def add_options(parser: argparse.ArgumentParser, default: str | None = "ranges") -> None:
    """--format and --output, and which process."""
    parser.add_argument(
        "--format",
        default=default,
        metavar="F",
        help="; ".join(f"{name}: {one.help}" for name, one in FORMATS.items())
        + (f" (default: {default})" if default else ""),
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write there (default: stdout)")
    parser.add_argument(
        "--process",
        type=arguments.pid,
        metavar="PID",
        help="only this one, where there are several",
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Which part of a log."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--iteration",
        type=arguments.natural,
        metavar="N",
        help="this one (default: the last of the log)",
    )
    which.add_argument(
        "--union", action="store_true", help="all iterations of the log as if they were one"
    )


def check(args: argparse.Namespace, terminal: Terminal) -> None:
    """Refuses what cannot be written, before any work. Raises UsageError."""
    if args.format not in FORMATS:
        raise UsageError(f"unknown format {args.format!r}", hint=f"formats: {', '.join(FORMATS)}")
    to_stdout = args.output in (None, "-")
    if to_stdout and FORMATS[args.format].binary and terminal.out.isatty():
        raise UsageError(
            f"{args.format} is binary and stdout is a terminal",
            hint="write to a file with -o FILE, or into a pipe",
        )


def write(iteration: Iteration, args: argparse.Namespace, terminal: Terminal) -> None:
    """Writes the iteration as the arguments say. Raises UsageError, OSError."""
    if args.output in (None, "-"):
        out = terminal.binary()
        export(iteration, args.format, out, pid=args.process)
        out.flush()
        return
    with _replaced(args.output) as file:
        export(iteration, args.format, file, pid=args.process)


@contextmanager
def _replaced(path: str) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well."""
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "wb") as file:  # a device or a FIFO is written to, not replaced
            yield file
        return
    # Through a symbolic link: the link stays.
    real = os.path.realpath(path)
    mode = stat.S_IMODE(os.stat(real).st_mode) if os.path.exists(real) else 0o666 & ~_umask()
    fd, name = tempfile.mkstemp(dir=os.path.dirname(real), prefix=f".{os.path.basename(real)}.")
    try:
        with open(fd, "wb") as file:
            yield file
            os.fchmod(fd, mode)
        os.replace(name, real)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
