"""Line charts as SVG, written by hand: no library for a dozen pictures that never move.

    points of each series (x, low, median, high) --> axes with round ticks, lines, bars of spread

The colours can be told apart by most who cannot tell red from green, and hold on white and on
black; each series has its own marker too. Values at or below 0 have no place on a logarithmic
axis: there the axis is linear up to its smallest positive value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8f7a00", "#56b4e9", "#777777", "#b00020")


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    low: float
    high: float


@dataclass
class Axis:
    """Maps values to pixels. log: logarithmic, below `least` (the smallest above 0) linear."""

    label: str
    log: bool
    first: int
    last: int
    values: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        positive = [value for value in self.values if value > 0] or [1.0]
        self.least = min(positive)
        places = [self._scale(value) for value in [*self.values, *([] if self.log else [0.0])]]
        self.low, self.high = min(places), max(places)
        if self.high == self.low:
            self.high += 1

    def _scale(self, value: float) -> float:
        if not self.log:
            return value
        return math.log10(value / self.least) if value >= self.least else value / self.least - 1

    def at(self, value: float) -> float:
        share = (self._scale(value) - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    def ticks(self) -> list[float]:
        top = max(self.values)
        if self.log:
            decades = range(math.floor(math.log10(self.least)), math.ceil(math.log10(top)) + 1)
            steps = (1,) if len(decades) > 4 else (1, 2, 5)
            found = [step * 10.0**decade for decade in decades for step in steps]
            zero = [0.0] if min(self.values) <= 0 else []
            return zero + [tick for tick in found if self.least <= tick <= top]
        step = 10.0 ** math.floor(math.log10(top or 1))
        step = next(step * part for part in (0.2, 0.5, 1, 2) if top / (step * part) <= 6)
        return [index * step for index in range(int(top / step) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def _frame(x: Axis, y: Axis, title: str) -> Iterator[str]:
    yield _text(LEFT, 22, title, "start", 'font-weight="bold"')
    for tick in y.ticks():
        yield _line(x.first, y.at(tick), x.last, y.at(tick), "#9994", 1)
        yield _text(x.first - 6, y.at(tick) + 4, _number(tick), "end")
    for tick in x.ticks():
        yield _line(x.at(tick), y.first, x.at(tick), y.first + 4, "#888", 1)
        yield _text(x.at(tick), y.first + 18, _number(tick))
    yield _line(x.first, y.first, x.last, y.first, "#888", 1)
    yield _text((x.first + x.last) / 2, HEIGHT - 10, x.label)
    middle = (y.first + y.last) / 2
    yield _text(16, middle, y.label, more=f'transform="rotate(-90 16 {middle:.0f})"')


def _marker(shape: int, x: float, y: float, colour: str) -> str:
    if shape % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    if shape % 3 == 1:
        return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{colour}"/>'
    path = f"M{x:.1f} {y - 4.5:.1f} L{x + 4:.1f} {y + 3:.1f} L{x - 4:.1f} {y + 3:.1f} Z"
    return f'<path d="{path}" fill="{colour}"/>'


def _series(index: int, name: str, points: Sequence[Point], x: Axis, y: Axis) -> Iterator[str]:
    colour = COLOURS[index % len(COLOURS)]
    places = [(x.at(point.x), y.at(point.y)) for point in points]
    way = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    for point, (px, py) in zip(points, places, strict=True):
        yield _line(px, y.at(point.low), px, y.at(point.high), colour, 1)
        yield _marker(index, px, py, colour)
    row = TOP + 12 + 18 * index
    yield _marker(index, x.last + 16, row - 4, colour)
    yield _text(x.last + 26, row, name, "start")


def chart(
    title: str,
    x_label: str,
    y_label: str,
    series: dict[str, list[Point]],
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """The whole picture. series: name -> its points. Raises ValueError if there are none."""
    points = [point for line in series.values() for point in line]
    if not points:
        raise ValueError(f"{title}: no points")
    x = Axis(x_label, log_x, LEFT, WIDTH - RIGHT, [point.x for point in points])
    spread = [value for point in points for value in (point.y, point.low, point.high)]
    y = Axis(y_label, log_y, HEIGHT - BOTTOM, TOP, spread)
    parts = list(_frame(x, y, title))
    for index, (name, line) in enumerate(series.items()):
        parts += _series(index, name, sorted(line, key=lambda point: point.x), x, y)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#777">'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"
