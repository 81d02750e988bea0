"""What a terminal shows: the table, the bar, and nothing left over."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tests.unit.fake_session import iteration
from uffdtrackd.cli.live import LiveView, ProgressView
from uffdtrackd.cli.render import JsonView, PlainView, SilentView, choose
from uffdtrackd.cli.row import COLUMNS, Row
from uffdtrackd.cli.terminal import Terminal


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(height: int = 40, width: int = 110) -> tuple[Console, io.StringIO]:
    """Not a terminal to Rich: it then writes only the last state, once, without control codes."""
    out = io.StringIO()
    return Console(file=out, width=width, height=height, force_terminal=False), out


def row(number: int) -> Row:
    return Row.of(iteration(number, frozen=number == 3), 10**9 if number else None)


def test_table() -> None:
    console, out = screen()
    with LiveView(console, "process 7", 4) as view:
        for number in range(4):
            view.step("collecting")
            view.show(row(number), iteration(number))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0] == "process 7"
    assert lines[1].split() == list(COLUMNS)
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines[3:7]]
    zero = "0 B"
    assert cells[0] == ["0", "4.0 MiB", "1 024", zero, "-", "-", zero, "1.50 ms", "200 us"]
    assert cells[1] == [
        "1", "4.0 KiB", "1", "4.0 KiB", "4.0 KiB/s", "1.00 s", zero, "1.50 ms", "0 s",
    ]  # fmt: skip
    assert cells[3][0] == "3 frozen" and cells[3][-1] == "200 us"
    assert lines[-2].startswith("4/4 ") and lines[-2].endswith("done")
    assert lines[-1].strip() == "dirty after the first iteration: 12.0 KiB"


def test_only_the_last_rows_that_fit_are_shown() -> None:
    console, out = screen(height=14)
    with LiveView(console, "process 7", None) as view:
        for number in range(20):
            view.show(row(number), iteration(number))
    text = out.getvalue()
    shown = [line.split()[0] for line in text.splitlines() if line.endswith(" 0 s")]
    assert shown == ["14", "15", "16", "17", "18", "19"]
    assert "14 earlier iterations not shown" in text


@pytest.mark.parametrize(
    ("width", "missing"), [(90, []), (80, ["pages"]), (62, ["pages", "always", "took"])]
)
def test_a_narrow_terminal_has_fewer_columns(width: int, missing: list[str]) -> None:
    console, out = screen(width=width)
    with LiveView(console, "process 7", None) as view:
        for number in range(4):
            view.show(row(number), iteration(number))
    head = out.getvalue().splitlines()[1].split()
    assert head == [name for name in COLUMNS if name not in missing]
    assert "…" not in out.getvalue()


def test_nothing_is_drawn_before_the_first_iteration() -> None:
    console, out = screen()
    with pytest.raises(RuntimeError), LiveView(console, "process 7", None) as view:
        view.step("collecting")
        raise RuntimeError
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("out", "err", "dumb", "total", "as_json", "rows", "kind"),
    [
        (False, False, False, None, False, True, PlainView),
        (False, False, False, 5, False, True, PlainView),
        (True, True, False, None, False, True, LiveView),
        (True, True, True, None, False, True, PlainView),
        (True, True, False, 5, True, True, JsonView),
        (False, True, False, 5, True, True, ProgressView),
        (False, True, False, 5, False, True, ProgressView),
        (False, True, False, None, True, True, JsonView),
        (False, True, False, 5, False, False, LiveView),
        (True, False, False, 5, False, False, SilentView),
    ],
)
def test_the_view_fits_the_streams(
    out: bool, err: bool, dumb: bool, total: int | None, as_json: bool, rows: bool, kind: type
) -> None:
    terminal = Terminal(Tty() if out else io.StringIO(), Tty() if err else io.StringIO(), dumb=dumb)
    assert type(choose(terminal, "t", total, as_json=as_json, rows=rows)) is kind


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Tty()
    terminal = Terminal(stream, stream)
    for variable, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", variable)
        stream.seek(0)
        stream.truncate()
        terminal.console(stream).print("[red]word[/red]")
        assert ("\x1b[31m" in stream.getvalue()) is coloured
