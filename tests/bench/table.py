"""Rows as people read them: a Markdown table, which a terminal and docs/benchmarks.md both take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.sample import Row, Spread

HEAD = ("what", "unit", "bare C", "uffdtrackd", "ratio", "allowed", "")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.count == 1:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)}..{_number(spread.high)})"


def _ratio(spread: Spread | None) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}..{spread.high:.2f})" if spread else ""


def _cells(row: Row) -> tuple[str, ...]:
    allowed = "" if row.allowed is None else _number(row.allowed)
    verdict = {None: "", True: "met", False: "**missed**"}[row.met]
    return (
        row.name,
        row.unit,
        _spread(row.bare),
        _spread(row.ours),
        _ratio(row.ratio),
        allowed,
        verdict,
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table, columns padded so that it reads well unrendered too."""
    lines = [HEAD, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]

    def padded(line: Sequence[str]) -> str:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        return f"| {' | '.join(cells)} |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded(HEAD), rule, *map(padded, lines[1:])])


def report(machine: Mapping[str, object], rows: Sequence[Row]) -> str:
    """The table under a line that says where it was measured."""
    shared = "" if machine["realtime"] else ", beside whatever else ran"
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}, "
        f"uffdtrackd {machine['version']}, {machine['date']}{shared}\n\n{markdown(rows)}"
    )
