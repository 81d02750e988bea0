"""The views that redraw themselves, on a terminal; the only importer of Rich but `terminal`.

+-- title --------------------------------------+
| iteration   dirty    pages   ...              |   the last rows that fit
+-----------------------------------------------+
  3 of 10  ########--------  waiting               with -n: a bar; always: what is going on
  written at least once: ...                       totals
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from ..model.iteration import Iteration
from . import units
from .render import PlainView
from .row import COLUMNS, Row

# Lines around the rows: title, heading, bar, totals, and the prompt that comes after.
_FRAME = 8
_GAP = 2
# What a narrow terminal does without, first first: the others say nearly as much.
_SPARE = ("pages", "always", "took")


def _bar(total: int | None, console: Console) -> Progress:
    columns: list[TextColumn | BarColumn | MofNCompleteColumn | SpinnerColumn] = [SpinnerColumn()]
    if total is not None:
        columns += [MofNCompleteColumn(), BarColumn()]
    columns.append(TextColumn("{task.description}"))
    return Progress(*columns, console=console)


class LiveView:
    """A table of the last iterations with the state of things below it."""

    def __init__(self, console: Console, title: str, total: int | None) -> None:
        self._title = title
        self._rows: deque[Row] = deque(maxlen=max(3, console.height - _FRAME))
        self._seen = 0
        self._dirtied = 0
        self._bar = _bar(total, console)
        self._task = self._bar.add_task("attaching", total=total)
        self._live = Live(console=console, refresh_per_second=8)

    def show(self, row: Row, iteration: Iteration) -> None:
        self._rows.append(row)
        self._seen += 1
        if row.number > 0:
            self._dirtied += row.dirty
        self._bar.advance(self._task)
        # Started late: a process that cannot be attached to leaves no empty table behind.
        self._live.start()
        self._live.update(self._layout())

    def step(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def note(self, line: str) -> None:
        self._live.console.print(line, markup=False)

    def _layout(self) -> RenderableType:
        shown = self._fitting()
        table = Table(
            title=self._title,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, _GAP // 2),
            collapse_padding=True,
        )
        for index in shown:
            table.add_column(COLUMNS[index], justify="right", no_wrap=True)
        for row in self._rows:
            cells = row.cells()
            # Iteration 0 lists all there is: set apart from what was written since.
            style = "dim" if row.number == 0 else "bold" if row.frozen else ""
            table.add_row(*(cells[index] for index in shown), style=style)
        earlier = self._seen - len(self._rows)
        words = [f"dirty after the first iteration: {units.size(self._dirtied)}"]
        if earlier:
            words.append(f"{units.plural(earlier, 'earlier iteration')} not shown")
        return Group(table, self._bar, Text("  " + ", ".join(words), style="dim"))

    def _fitting(self) -> list[int]:
        """Indices of the columns that fit the width of the terminal."""
        lines = [list(COLUMNS), *(row.cells() for row in self._rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
        shown = list(range(len(COLUMNS)))
        for name in _SPARE:
            if sum(widths[i] + _GAP for i in shown) <= self._live.console.width:
                break
            shown.remove(COLUMNS.index(name))
        return shown

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._live.is_started:
            return
        # The spinner would stay on the screen for ever, saying that something goes on.
        self._bar.update(self._task, description="done" if kind is None else "ended")
        self._bar.columns = self._bar.columns[1:]
        self._live.update(self._layout())
        self._live.stop()


class ProgressView:
    """Another view's lines, and a progress bar on stderr that leaves nothing behind."""

    def __init__(self, lines: PlainView, console: Console, total: int) -> None:
        self._lines = lines
        self._bar = _bar(total, console)
        self._bar.live.transient = True
        self._task = self._bar.add_task("attaching", total=total)

    def show(self, row: Row, iteration: Iteration) -> None:
        self._lines.show(row, iteration)
        self._bar.advance(self._task)

    def step(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def note(self, line: str) -> None:
        self._bar.console.print(line, markup=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
