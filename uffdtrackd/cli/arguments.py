"""What words on the command line mean, and what is said when they mean nothing.

words --> Parser --> Namespace
              +--> UsageError, like every other error: one line, a hint, exit 2
"""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from ..model.errors import UsageError

# Longer waits overflow the kernel's clocks in places, and nobody means them.
_LONGEST = 366 * 24 * 3600


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors join the one error tree instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")


def pid(word: str) -> int:
    """A process id: what the kernel would take for one (identify() says the rest)."""
    try:
        number = int(word, 10)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a pid") from None
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{word} is not a pid: it must be positive")
    return number


def seconds(word: str) -> float:
    """A wait: 0 or more, finite, may have a fraction."""
    try:
        number = float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of seconds") from None
    if not math.isfinite(number) or not 0 <= number <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{word} is not a number of seconds from 0 to {_LONGEST}")
    return number


def positive(word: str) -> int:
    """A count of at least 1."""
    number = natural(word)
    if number == 0:
        raise argparse.ArgumentTypeError("0 makes no sense here: at least 1")
    return number


def natural(word: str) -> int:
    """A count or number from 0."""
    try:
        number = int(word, 10)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number") from None
    if not 0 <= number < 1 << 63:
        raise argparse.ArgumentTypeError(f"{word} is out of range")
    return number


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """What every verb takes that attaches to a process, with a daemon or without."""
    add_tracking_options(parser)
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="track in this process, without a daemon (the default when there is no socket)",
    )


def add_tracking_options(parser: argparse.ArgumentParser) -> None:
    """How a process is tracked."""
    parser.add_argument(
        "--follow",
        choices=("none", "fork", "cgroup"),
        default="none",
        help="also track the processes it forks, or all of its control group (default: none)",
    )
    parser.add_argument(
        "--most-processes",
        type=positive,
        default=1024,
        metavar="N",
        help="with --follow: more processes than this are an error (default: 1024)",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "async", "sync"),
        default="auto",
        help="how writes are seen (default: what `uffdtrack check` says)",
    )


def add_interval(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "-i",
        "--interval",
        type=seconds,
        default=default,
        metavar="SEC",
        help=f"from one iteration to the next (default: {default:g}; 0: one after the other)",
    )
