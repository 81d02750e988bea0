"""How iterations are shown while they come in.

    --json ------------------> JsonView   one object a line, as Iteration.to_map() says
    stdout is a terminal ----> LiveView   a table that grows, a progress bar below (live.py)
    otherwise ---------------> PlainView  one line of key=value an iteration

With -n, where stdout is not a terminal but stderr is, a progress bar goes to stderr.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Protocol, Self

from ..model.iteration import Iteration
from .row import Row
from .terminal import Terminal


class View(Protocol):
    """Shows iterations, inside a `with`."""

    def show(self, row: Row, iteration: Iteration) -> None:
        """One more."""

    def step(self, what: str) -> None:
        """What is being done now, for views that show it."""

    def note(self, line: str) -> None:
        """A line that is no data, without spoiling what is on the screen."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class PlainView:
    """Lines to a pipe or a file."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def show(self, row: Row, iteration: Iteration) -> None:
        self._terminal.print(self.text(row, iteration))

    def text(self, row: Row, iteration: Iteration) -> str:
        return row.line()

    def step(self, what: str) -> None:
        pass

    def note(self, line: str) -> None:
        self._terminal.note(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class JsonView(PlainView):
    """JSON lines."""

    def text(self, row: Row, iteration: Iteration) -> str:
        return json.dumps(iteration.to_map(), separators=(",", ":"))


class SilentView(PlainView):
    """Nothing: for commands whose iterations are not their output."""

    def show(self, row: Row, iteration: Iteration) -> None:
        pass


def choose(
    terminal: Terminal, title: str, total: int | None, *, as_json: bool, rows: bool = True
) -> View:
    """The view for this terminal.

    title: what is tracked. total: iterations to come, None if unknown. rows: whether iterations
    are the command's data; if not, only a terminal shows anything, on stderr.
    """
    if not rows:
        if terminal.live_err:
            from .live import LiveView

            return LiveView(terminal.console(terminal.err), title, total)
        return SilentView(terminal)
    plain: PlainView = JsonView(terminal) if as_json else PlainView(terminal)
    if terminal.live_out:
        if as_json:
            return plain
        from .live import LiveView

        return LiveView(terminal.console(terminal.out), title, total)
    if total is not None and terminal.live_err:
        from .live import ProgressView

        return ProgressView(plain, terminal.console(terminal.err), total)
    return plain
