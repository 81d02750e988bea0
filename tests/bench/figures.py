"""Which rows make which picture. A row names its figure, its line and its place (`sample.Row`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.bench.plot import Point, chart
from tests.bench.sample import Row, Spread


@dataclass(frozen=True, slots=True)
class Figure:
    """name: that of the rows, or the beginning of it, each such name a picture of its own.

    bare: the name of one more line, the reference of the rows; "" for none.
    """

    name: str
    title: str
    x: str
    y: str
    bare: str = ""
    log_x: bool = False
    log_y: bool = False


FIGURES = (
    Figure("attach-stopped", "Attach: one thread is stopped", "MiB", "us", "bare", log_x=True),
    Figure(
        "attach-whole",
        "Attach: the whole call",
        "MiB populated",
        "ms",
        "bare injected userfaultfd",
        log_x=True,
        log_y=True,
    ),
    Figure("iterate:", "One iteration: ", "% dirty", "ms", "bare scan", log_y=True),
    Figure("regions", "One iteration, nothing dirty", "regions", "ms", "bare", True, True),
    Figure("still", "Longest stall of the target", "GiB populated", "us", log_y=True),
    Figure("writer:", "One write: ", "iterations a second", "ns", log_y=True),
    Figure("ooh", "The table of the OoH paper", "MB", "overhead, %", log_x=True, log_y=True),
    Figure("servers:", "Throughput: ", "iterations a second", "a second", "untracked"),
    Figure("tree", "One iteration of a tree", "children", "ms"),
    Figure("growth: memory", "Growth: one iteration", "GiB populated", "ms", "bare scan"),
    Figure("growth: once", "Growth: what is paid once", "GiB populated", "ms", log_y=True),
    Figure("growth: threads", "Growth with threads", "threads", "ms", "", True, True),
    Figure(
        "growth: descriptors", "Growth with open files", "open", "ms", "", log_x=True, log_y=True
    ),
    Figure("growth: runs", "Growth with runs", "runs in the set", "ms", "bare scan"),
)


def file_name(figure: str) -> str:
    """ "iterate: 1 GiB 4K, random" -> "iterate-1-gib-4k-random.svg"."""
    return re.sub(r"[^a-z0-9]+", "-", figure.lower()).strip("-") + ".svg"


def _point(row: Row, spread: Spread) -> Point:
    return Point(row.x, spread.median, spread.low, spread.high)


def _lines(rows: list[Row], bare: str) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    seen: set[float] = set()
    for row in rows:
        spread = row.ours or row.bare
        if spread is not None:
            lines.setdefault(row.series, []).append(_point(row, spread))
        if bare and row.ours and row.bare and row.x not in seen:
            seen.add(row.x)
            lines.setdefault(bare, []).append(_point(row, row.bare))
    return lines


def _figure(name: str) -> Figure | None:
    exact = [one for one in FIGURES if one.name == name]
    begins = [one for one in FIGURES if one.name.endswith(":") and name.startswith(one.name)]
    return next(iter(exact + begins), None)


def pictures(rows: Iterable[Row]) -> dict[str, str]:
    """File name -> SVG, in the order of the rows. Rows of no known figure are left out."""
    by_figure: dict[str, list[Row]] = {}
    for row in rows:
        if row.figure:
            by_figure.setdefault(row.figure, []).append(row)
    found = {}
    for name, members in by_figure.items():
        figure = _figure(name)
        lines = _lines(members, figure.bare) if figure else {}
        if figure is None or not lines:
            continue
        title = figure.title + name.removeprefix(figure.name).strip()
        found[file_name(name)] = chart(
            title, figure.x, figure.y, lines, log_x=figure.log_x, log_y=figure.log_y
        )
    return found
