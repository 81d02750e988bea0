"""What a verb of the command line is; `main.VERBS` is the table of them."""

from __future__ import annotations

import argparse
from typing import Protocol

from .terminal import Terminal


class Verb(Protocol):
    """One verb: its words, and what it does.

    name: as typed. help: one line. example: command lines for the end of its --help.
    """

    name: str
    help: str
    example: str

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Adds its arguments."""

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        """Does it and returns the exit code; raises TrackError for all that has a name."""
