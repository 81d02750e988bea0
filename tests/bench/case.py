"""A case: one target or a few, and the rows that are measured with it.

It is what can fail alone. Whatever it raises becomes a row that says so, and the run goes on: the
rows that it gave before are kept.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.bench.pace import NotMeasured, Pace
from tests.bench.sample import Row
from uffdtrackd.errors import TrackError


@dataclass(frozen=True, slots=True)
class Case:
    """name: unique, "group: what". seconds: how long it takes where nobody has measured that."""

    name: str
    rows: Callable[[Pace], Iterator[Row]]
    seconds: float = 10.0

    @property
    def group(self) -> str:
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a case: its rows, how long it took, and whether it failed."""

    rows: list[Row]
    seconds: float
    failed: bool


def carry_out(case: Case, pace: Pace, tell: Callable[[str], None]) -> Result:
    """Measure a case. Raises only what ends a program (KeyboardInterrupt)."""
    began = time.monotonic()
    found: list[Row] = []
    failed = False
    try:
        for row in case.rows(pace):
            tell(row.name)
            found.append(row)
    except NotMeasured as reason:
        tell(f"{case.name}: not measured: {reason}")
        found.append(Row(case.name, "", note=f"not measured: {reason}"))
    except Exception as error:
        failed = True
        tell(f"{case.name}: FAILED\n{traceback.format_exc()}")
        first = (str(error).splitlines() or [""])[0]
        found.append(Row(case.name, "", note=f"failed: {type(error).__name__}: {first}"))
    return Result(found, time.monotonic() - began, failed)


def guarded(name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows; if measuring them fails, one that says why: the rest of the case goes on.

    For what can fail by itself and leaves the target as it was.
    """
    try:
        yield from rows
    except (NotMeasured, TrackError) as error:
        first = (str(error).splitlines() or [""])[0]
        yield Row(name, "", note=f"not measured: {first}")
