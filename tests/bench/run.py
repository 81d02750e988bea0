"""Measure the tracker beside the same work in plain C; print a table, write JSON.

    python -m tests.bench.run [--quick] [--rows attach,iterate] [--rounds N] [--no-realtime]
                              [--output FILE]

Needs root (or the right to trace its own children) and a kernel with PAGEMAP_SCAN (6.7). The table
goes to stdout, progress to stderr. Exit status 0 says that everything was measured, not that it
was fast: what is allowed is shown beside what was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import (
    machine,
    rows_attach,
    rows_growth,
    rows_iterate,
    rows_still,
    rows_target,
    table,
)
from tests.bench.programs import CPUS, on_cpu
from tests.bench.sample import Row

ROOT = Path(__file__).resolve().parent.parent.parent
OUTPUT = ROOT / "build" / "bench.json"

#: name -> rows(rounds, quick)
GROUPS: dict[str, Callable[[int, bool], Iterator[Row]]] = {
    "attach": rows_attach.rows,
    "iterate": rows_iterate.rows,
    "still": rows_still.rows,
    "target": rows_target.rows,
    "growth": rows_growth.rows,
}


def _groups(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(GROUPS):
        raise argparse.ArgumentTypeError(f"no such rows: {', '.join(sorted(unknown))}")
    return names


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="fewer rounds, no large targets")
    made.add_argument(
        "--rows",
        type=_groups,
        default=list(GROUPS),
        metavar="NAME,...",
        help=f"which groups to measure: {', '.join(GROUPS)} (default: all)",
    )
    made.add_argument("--rounds", type=int, metavar="N", help="rounds per row (default: 15)")
    made.add_argument(
        "--realtime",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run before all other work of the machine, where allowed",
    )
    made.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="FILE", help="where the JSON goes"
    )
    return made


def measure(names: list[str], rounds: int, quick: bool) -> list[Row]:
    found = []
    for name in names:
        for row in GROUPS[name](rounds, quick):
            print(f"bench: {row.name}", file=sys.stderr, flush=True)
            found.append(row)
    return found


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    where = machine.describe()
    where["realtime"] = options.realtime and machine.take_the_cpus()
    rounds = options.rounds or (5 if options.quick else 15)
    with on_cpu(CPUS[-1]):
        found = measure(options.rows, rounds, options.quick)
    print(table.report(where, found))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": where, "rows": [row.to_map() for row in found]}
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"bench: JSON in {options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
