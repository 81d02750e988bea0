"""Rows x kernels: what each test of a row came to on each kernel, and whether anything is wrong.

    pass       every write was listed as it happened
    always     what the row changes is listed in every iteration, and the frozen final was exact
    n/a        nothing to be tested there; the reason stands below
    FAIL       a test failed
    MISSING    no test of the row gave an answer

A row has several tests (other kinds of memory, other shapes): `pass 3, always 1` counts them.
Left out are tests for machines on which others run, too: run.py says which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.kernels.machine import Result, Run

ROOT = Path(__file__).resolve().parent.parent.parent

#: Rows that are no rows of the document: kinds of mappings, and everything at once.
OTHERS = {"test_census": "census", "test_shadow": "churn", "test_sequences": "churn"}


def rows_of(test: str) -> list[str]:
    """The rows that a test is for, by its name: `test_row_07_08_24_...` is for 7, 8 and 24."""
    path, _, name = test.partition("::")
    if match := re.match(r"test_row((?:_\d+[a-z]?)+)", name):
        return [number.lstrip("0") for number in match[1].strip("_").split("_")]
    return [row for prefix, row in OTHERS.items() if prefix in path]


def all_rows() -> list[str]:
    """Every row of docs/soundness.md, and the others."""
    page = (ROOT / "docs" / "soundness.md").read_text()
    return [*re.findall(r"^\| (\d+[a-z]?) \|", page, re.M), *dict.fromkeys(OTHERS.values())]


def outcome(result: Result) -> str:
    if result.outcome == "passed":
        return "always" if set(result.tracking) == {"always"} else "pass"
    return {"failed": "FAIL", "skipped": "n/a"}[result.outcome]


def cell(results: Iterable[Result]) -> str:
    counts = Counter(outcome(result) for result in results)
    if not counts:
        return "MISSING"
    ordered = [name for name in ("FAIL", "pass", "always", "n/a") if counts[name]]
    if len(ordered) == 1:
        return ordered[0]
    return ", ".join(f"{name} {counts[name]}" for name in ordered)


def grid(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(row, a cell for each run)."""
    rows = []
    for row in all_rows():
        of_row = [[one for one in run.results if row in rows_of(one.test)] for run in runs]
        rows.append((row, [cell(results) for results in of_row]))
    return rows


def problems(runs: Sequence[Run], complete: bool = True) -> list[str]:
    """Everything that makes the whole of it a failure.

    complete: every row has to have an answer.
    """
    runs = [run for run in runs if not run.absent]
    found = [f"{run.column} {run.kernel}: {run.failure}" for run in runs if run.failure]
    for run in runs:
        found += [
            f"{run.kernel} {one.test}: FAILED\n{one.text}"
            for one in run.results
            if one.outcome == "failed"
        ]
    for row, cells in grid(runs):
        for run, one in zip(runs, cells, strict=True):
            if complete and one == "MISSING" and not run.failure:
                found.append(f"{run.kernel}: no test of row {row}")
    return found


def reasons(runs: Sequence[Run]) -> list[str]:
    """Why rows are always or not applicable: each reason once, with its rows and kernels."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for run in runs:
        for one in run.results:
            what = outcome(one)
            told = one.tracking.get("always", []) if what == "always" else [one.reason]
            for reason in told if what in ("always", "n/a") else []:
                # Numbers in a reason are of this one run: processes, addresses.
                key = (what, re.sub(r"\b(0x[0-9a-f]+|\d{2,})\b", "N", reason))
                found.setdefault(key, {}).setdefault(run.kernel, set()).update(rows_of(one.test))
    lines = []
    for (what, reason), kernels in sorted(found.items()):
        rows = {",".join(_sorted(rows)) for rows in kernels.values()}
        where = "all" if len(rows) == 1 and len(kernels) == len(runs) else None
        told = "; ".join(f"{kernel}: {','.join(_sorted(rows))}" for kernel, rows in kernels.items())
        lines.append(f"{what}: {reason} [{'rows ' + rows.pop() if where else told}]")
    return lines


def text(runs: Sequence[Run], markdown: bool = False) -> str:
    """The table, its reasons and what is wrong."""
    absent = [f"left out: {run.column}: {run.absent}" for run in runs if run.absent]
    runs = [run for run in runs if not run.absent]
    heads = ["row", *(run.kernel or run.column for run in runs)]
    lines = [[row, *cells] for row, cells in grid(runs)]
    lines.append(["backend", *(run.backend for run in runs)])
    lines.append(["tests", *(str(len(run.results)) for run in runs)])
    lines.append(["left out", *(str(run.left_out) for run in runs)])
    lines.append(["seconds", *(f"{run.seconds:.0f}" for run in runs)])
    widths = [max(len(line[i]) for line in (heads, *lines)) for i in range(len(heads))]
    rule = ["-" * width for width in widths]
    bar = (" | ", "| ", " |") if markdown else ("  ", "", "")
    body = [
        bar[1]
        + bar[0].join(word.ljust(width) for word, width in zip(line, widths, strict=True))
        + bar[2]
        for line in (heads, rule, *lines)
    ]
    told = "\n".join(f"- {line}" for line in absent + reasons(runs))
    return "\n".join(line.rstrip() for line in body) + "\n\n" + told


def _sorted(rows: Iterable[str]) -> list[str]:
    return sorted(rows, key=lambda row: (row.isalpha(), int(re.sub(r"\D", "", row) or 0), row))
