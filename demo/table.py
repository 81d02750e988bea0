"""What the demo shows: a live table with a progress bar, or plain lines where nobody watches.

Show.row(Row) --> a terminal: rich redraws table and bar in place
              \\-> a pipe, a file, CI, TERM=dumb: one line of text each, no escape codes
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

MIB = 1 << 20
HEADINGS = ("iteration", "dirty MiB", "pages", "written MiB/s", "collected in", "target stopped")


@dataclass(frozen=True)
class Row:
    """One iteration; the final one is frozen. window: seconds, over which the rate is taken."""

    number: int
    frozen: bool
    dirty_bytes: int
    dirty_pages: int
    window: float | None
    duration_ns: int
    stopped_ns: int

    def cells(self) -> tuple[str, ...]:
        rate = f"{self.dirty_bytes / MIB / self.window:.1f}" if self.window else "-"
        return (
            f"{self.number}{' final' if self.frozen else ''}",
            f"{self.dirty_bytes / MIB:.1f}",
            f"{self.dirty_pages}",
            rate,
            f"{self.duration_ns / 1e6:.2f} ms",
            f"{self.stopped_ns / 1e6:.2f} ms" if self.stopped_ns else "0",
        )


class Show:
    """The screen of one run of `total` iterations. Use it as a context manager."""

    def __init__(self, total: int) -> None:
        self.console = Console(highlight=False)
        self._total = total
        self._rows: list[Row] = []
        dumb = os.environ.get("TERM", "dumb") == "dumb" or "CI" in os.environ
        self._live: Live | None = None
        if sys.stdout.isatty() and not dumb:
            self._live = Live(console=self.console, refresh_per_second=8)
        self._bar = Progress(
            TextColumn("tracking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._bar.add_task("", total=total)

    def say(self, text: str, style: str = "") -> None:
        """A sentence of its own. Lines are never wrapped in a pipe."""
        if self.console.is_terminal:
            self.console.print(text, style=style, markup=False)
        else:
            print(text, flush=True)

    def row(self, row: Row) -> None:
        self._rows.append(row)
        self._bar.update(self._task, completed=len(self._rows))
        if self._live is not None:
            self._live.update(self._drawn())
            return
        if len(self._rows) == 1:
            print("".join(f"{name:>15}" for name in HEADINGS), flush=True)
        print("".join(f"{cell:>15}" for cell in row.cells()), flush=True)

    def _drawn(self) -> Group:
        table = Table(*HEADINGS)
        for column in table.columns:
            column.justify = "right"
        # As many as fit: a table longer than the screen cannot be redrawn in place.
        for row in self._rows[-max(3, self.console.height - 8) :]:
            table.add_row(*row.cells())
        return Group(table, self._bar)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
