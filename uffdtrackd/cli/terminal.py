"""Where a command writes: data to stdout, everything else to stderr.

A `Terminal` knows what each of the two is, so that verbs decide on words and this decides on
form. Rich is imported only where a terminal will show it: it costs more than most commands.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, TextIO

from ..model.errors import TrackError
from .signals import Stop

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Terminal:
    """Both streams of a command, and what may end it."""

    out: TextIO
    err: TextIO
    stop: Stop = field(default_factory=Stop)
    dumb: bool = False

    @classmethod
    def standard(cls) -> Terminal:
        """The process's own; TERM=dumb or none means no cursor movement at all."""
        return cls(sys.stdout, sys.stderr, dumb=os.environ.get("TERM", "dumb") == "dumb")

    @property
    def live_out(self) -> bool:
        """Whether stdout can redraw what it shows."""
        return self.out.isatty() and not self.dumb

    @property
    def live_err(self) -> bool:
        return self.err.isatty() and not self.dumb

    def console(self, stream: TextIO) -> Console:
        """Rich on one of the streams; it honours NO_COLOR itself."""
        from rich.console import Console

        return Console(file=stream, highlight=False)

    def print(self, line: str) -> None:
        """One line of data, seen at once by who reads the pipe."""
        self.out.write(line + "\n")
        self.out.flush()

    def note(self, line: str) -> None:
        """One line that is not data."""
        # A closed stderr must not end what runs well.
        try:
            self.err.write(line + "\n")
            self.err.flush()
        except OSError:
            pass

    def error(self, error: TrackError) -> None:
        """The one line, and what to do about it."""
        self.note(f"uffdtrack: error: {error.message}")
        if error.hint:
            self.note(f"hint: {error.hint}")

    def binary(self) -> BinaryIO:
        """stdout for bytes."""
        self.out.flush()
        return self.out.buffer
