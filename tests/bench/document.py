"""A run as JSON: where it was made, and every case with its rows. Written after each case.

    {"machine": {...}, "quick": false, "cases": {"attach: 16 MiB": {"seconds": 4.1,
     "failed": false, "rows": [{"name": ..., "unit": ..., "bare": {...}, ...}]}}}

So a run that was broken off can go on where it was, and a later one knows how long each case takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.case import Result
from tests.bench.sample import Row

#: A run may only be continued where it was begun.
SAME = ("cpu", "cpus", "memory_bytes", "kernel", "version")


class Document:
    """machine: see machine.describe(). results: by the name of the case, in order."""

    def __init__(self, machine: dict[str, Any], quick: bool) -> None:
        self.machine = machine
        self.quick = quick
        self.results: dict[str, Result] = {}

    @classmethod
    def load(cls, path: Path) -> Document:
        """Raises OSError, ValueError."""
        values = json.loads(path.read_text())
        made = cls(values["machine"], values["quick"])
        for name, case in values["cases"].items():
            rows = [Row.from_map(row) for row in case["rows"]]
            made.results[name] = Result(rows, case["seconds"], case["failed"])
        return made

    def save(self, path: Path) -> None:
        """Renamed when complete: whoever reads it meanwhile reads a whole one."""
        cases = {
            name: {
                "seconds": round(result.seconds, 1),
                "failed": result.failed,
                "rows": [row.to_map() for row in result.rows],
            }
            for name, result in self.results.items()
        }
        document = {"machine": self.machine, "quick": self.quick, "cases": cases}
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(scratch, path)

    def continues(self, other: Document) -> bool:
        """Whether `other` was made on the same machine, by the same version, in the same way."""
        same = all(self.machine.get(key) == other.machine.get(key) for key in SAME)
        return same and self.quick == other.quick

    def rows(self) -> Iterator[Row]:
        for result in self.results.values():
            yield from result.rows

    def groups(self) -> dict[str, list[Row]]:
        """The rows by the group of their case."""
        found: dict[str, list[Row]] = {}
        for name, result in self.results.items():
            found.setdefault(name.partition(":")[0], []).extend(result.rows)
        return found
