"""Rows as people read them: a Markdown table, which a terminal and docs/benchmarks.md both take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.sample import Row, Spread

HEAD = ("what", "unit", "bare", "uffdtrackd", "ratio", "allowed", "")


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def size(mib: int) -> str:
    return f"{mib >> 10} GiB" if mib >= 1024 else f"{mib} MiB"


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
    if row.share is not None:
        verdict += f" ({row.share.median:.2f})"
    return (
        row.name,
        row.unit,
        _spread(row.bare),
        _spread(row.ours),
        _ratio(row.ratio),
        allowed,
        "; ".join(part for part in (verdict, row.note) if part).replace("|", "/"),
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


def machine(where: Mapping[str, object]) -> str:
    """One line that says where and when it was measured."""
    memory = int(str(where["memory_bytes"])) / 2**30
    virtual = "virtual " if where["virtual"] else ""
    return (
        f"{where['cpu']}, {where['cpus']} {virtual}CPUs, {memory:.1f} GiB, "
        f"Linux {where['kernel']}, THP {where['thp']}, DAMON {where['damon']}, "
        f"uffdtrackd {where['version']}, "
        f"Python {where['python']}, gcc {where['gcc']}, redis {where['redis']}, "
        f"PostgreSQL {where['postgres']}, {where['date']}, load {where['load']} when it began"
    )


def report(where: Mapping[str, object], groups: Mapping[str, Sequence[Row]]) -> str:
    """A table for each group under the line that says where it was measured."""
    parts = [machine(where)]
    for name, rows in groups.items():
        parts += [f"### {name}", markdown(rows)]
    return "\n\n".join(parts)
