"""Measure the tracker beside the same work in plain C; print tables, write JSON and pictures.

    python -m tests.bench.run [--quick] [--rows attach,iterate] [--minutes N] [--resume]

A whole run goes to docs/benchmarks/ and into the tables of docs/benchmarks.md, any other to
build/bench/. Needs root (or the right to trace its own children) and a kernel with PAGEMAP_SCAN
(6.7). The tables go to stdout, progress to stderr. What cannot be measured, or fails, says so in
its row and the run goes on. Exit status 0 says that everything was measured, not that it was fast:
what is allowed is shown beside what was found; 1 that something failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.bench import check, figures, machine, page, table
from tests.bench.case import Case, Result, carry_out
from tests.bench.document import Document
from tests.bench.groups import GROUPS, REALTIME, cases
from tests.bench.pace import Pace
from tests.bench.programs import CPUS, on_cpu
from tests.bench.sample import Row

ROOT = Path(__file__).resolve().parent.parent.parent
COMMITTED = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
OTHER = ROOT / "build" / "bench"

#: Seconds for one row where there is time for all.
ROW_SECONDS = 6.0


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
        "--minutes", type=float, default=25.0, metavar="N", help="for all of it (default: 25)"
    )
    made.add_argument(
        "--resume", action="store_true", help="go on with the run that was broken off"
    )
    made.add_argument(
        "--realtime",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="what is short runs before all other work of the machine, for one that is busy",
    )
    made.add_argument("--output", type=Path, metavar="DIR", help="where everything goes")
    return made


class Clock:
    """Shares what is left of the time among the cases that are left."""

    def __init__(self, minutes: float, expected: dict[str, float]) -> None:
        self._end = time.monotonic() + minutes * 60
        self._expected = expected

    def left(self) -> float:
        return self._end - time.monotonic()

    def share(self, case: Case) -> float:
        """1 if there is time for all that is left, less if not; the case is then accounted for."""
        share = self.left() / max(1.0, sum(self._expected.values()))
        self._expected.pop(case.name, None)
        return min(1.0, share)


def _expected(todo: list[Case], quick: bool) -> dict[str, float]:
    """Seconds for each case, by the last run that was kept."""
    known: dict[str, float] = {}
    path = COMMITTED / "results.json"
    if path.exists() and not quick:
        results = Document.load(path).results
        known = {name: result.seconds for name, result in results.items() if not result.failed}
    return {case.name: known.get(case.name, case.seconds) for case in todo}


def measure(document: Document, options: argparse.Namespace, kept: Path) -> None:
    """Carry out what is not in the document yet; it is saved after each case."""
    rounds = options.rounds or (5 if options.quick else 15)
    todo = [one for one in cases(options.rows, options.quick) if one.name not in document.results]
    clock = Clock(options.minutes, _expected(todo, options.quick))
    for index, case in enumerate(todo, 1):
        minutes = clock.left() / 60
        _tell(f"[{index}/{len(todo)}] {case.name} ({minutes:.1f} minutes left)")
        share = clock.share(case)
        if share <= 0:
            late = [Row(case.name, "", note="not measured: the time was over")]
            document.results[case.name] = Result(late, 0.0, False)
            continue
        pace = Pace(rounds, max(0.3, ROW_SECONDS * share), options.quick)
        wanted = options.realtime and case.group in REALTIME
        # Only what is compared in microseconds: servers and writers need both CPUs.
        cpu = CPUS[-1] if case.group not in ("servers", "daemon", "tree") else None
        with machine.realtime(wanted), on_cpu(cpu):
            document.results[case.name] = carry_out(case, pace, _tell)
        document.save(kept)


def _tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def write(document: Document, folder: Path) -> None:
    """JSON, tables and pictures; and the page if the folder is the one it shows."""
    document.save(folder / "results.json")
    groups = document.groups()
    (folder / "tables.md").write_text(table.report(document.machine, groups) + "\n")
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, picture in figures.pictures(document.rows()).items():
        (folder / name).write_text(picture)
    if folder == COMMITTED:
        judge = check.Judge(None)
        check.run(judge)
        check.write(judge.found)
        PAGE.write_text(page.fill(PAGE.read_text(), document.machine, groups))


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    whole = not options.quick and options.rows == list(GROUPS)
    folder = options.output or (COMMITTED if whole else OTHER)
    kept = OTHER / "run.json"
    document = Document({**machine.describe(), "realtime": options.realtime}, options.quick)
    if options.resume and kept.exists():
        before = Document.load(kept)
        if document.continues(before):
            good = {name: one for name, one in before.results.items() if not one.failed}
            document.machine, document.results = before.machine, good
            _tell(f"{len(good)} cases are there already")
        else:
            _tell("the run that was broken off was another machine's or version's: from the start")
    try:
        measure(document, options, kept)
    except KeyboardInterrupt:
        _tell("broken off; --resume goes on")
        return 130
    write(document, folder)
    print(table.report(document.machine, document.groups()))
    failed = [name for name, result in document.results.items() if result.failed]
    _tell(f"JSON, tables and pictures in {folder}")
    if failed:
        _tell(f"failed: {'; '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
