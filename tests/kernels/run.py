"""`make test-kernels`: the rows of docs/soundness.md on this kernel and on others, and one table.

    python -m tests.kernels.run [--columns here,stable] [--jobs 2] [--minutes 45] [pytest arguments]

The table goes to stdout and to build/kernels/table.md, everything else to stderr. Exit code 1 if
anything is wrong: a failing test, a row without an answer, a kernel that cannot be had or booted,
no time left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.kernels import archive, image, machine, table
from tests.kernels.machine import Result, Run

FOLDER = image.ROOT / "build" / "kernels"

#: What is run everywhere. Looking at all processes from a pid namespace of its own is for machines
#: where others run; a guest has nobody else.
TESTS = [
    *sorted(f"tests/live/{one.name}" for one in image.ROOT.glob("tests/live/test_rows_*.py")),
    "tests/live/test_census.py",
    "tests/live/test_shadow_memory.py",
    "-k",
    "not every_process_may_be_examined and not everybody_can_be_seen",
]

#: The running kernel has both; others are run with the one that they would take by themselves.
HERE = {"here": "async", "here-sync": "sync"}

#: An emulated processor is five to ten times as slow.
SLOWNESS = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-kernels", description=__doc__.split("\n")[0])
    columns = [*HERE, *(name for name, _ in archive.SUITES)]
    parser.add_argument("--columns", default=",".join(columns), help="of: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="kernels at once [%(default)s]")
    parser.add_argument("--minutes", type=float, default=45, help="for all of it [%(default)s]")
    args, more = parser.parse_known_args()
    wanted = args.columns.split(",")
    if unknown := set(wanted) - set(columns):
        parser.error(f"no such column: {', '.join(unknown)}; there are {', '.join(columns)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    until = began + 60 * args.minutes
    arguments = [*(more or TESTS), "-q", "--color=no"]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = []
        for name in filter(HERE.get, wanted):
            backend = ["--backend", HERE[name]]
            words = [*arguments, *backend]
            jobs.append(pool.submit(machine.here, name, FOLDER, words, {}, _told, until))
        try:
            say("fetching kernels")
            fetched = archive.fetch(FOLDER, wanted)
            disk = image.root_disk(FOLDER)
        except (archive.ArchiveError, OSError) as error:
            say(f"error: {error}")
            fetched = archive.Fetched([], {}, {})
        # By a signal: a test that takes too long fails, and the others are run.
        patience = f"--timeout={machine.SILENCE - 120:g}"
        emulated = [*arguments, patience, "--timeout-method=signal"]
        environment = {"UFFDTRACKD_TEST_SLOWNESS": str(SLOWNESS)}
        for kernel in fetched.kernels:
            say(f"{kernel.name}: {kernel.release}")
            jobs.append(
                pool.submit(machine.boot, kernel, disk, FOLDER, emulated, environment, _told, until)
            )
        runs = [job.result() for job in jobs]
    runs += [Run(name, absent=reason) for name, reason in fetched.absent.items()]
    runs += [
        Run(name, failure=fetched.failed.get(name, "could not be had"))
        for name in wanted
        if name not in {run.column for run in runs}
    ]
    return conclude(runs, time.monotonic() - began, complete=not more)


def conclude(runs: list[Run], seconds: float, complete: bool) -> int:
    """Print and keep the table; the exit code. complete: every row has to have an answer."""
    problems = table.problems(runs, complete)
    print(table.text(runs))
    for problem in problems:
        print(f"\nPROBLEM {problem}")
    tests = sum(len(run.results) for run in runs)
    absent = sum(bool(run.absent) for run in runs)
    ran = f"{tests} tests on {len(runs) - absent} kernels ({absent} left out) in {seconds:.0f} s"
    print(f"\n{ran}: {len(problems)} problems")
    made = f"{len(problems)} problems, {time.strftime('%Y-%m-%d')}, commit {_commit()}"
    text = table.text(runs, markdown=True)
    (FOLDER / "table.md").write_text(f"{ran}, {made}:\n\n{text}\n")
    return 1 if problems else 0


def _commit() -> str:
    """Of what was tested; with a plus if something was changed since."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, cwd=image.ROOT, capture_output=True, text=True).stdout.strip()


def _told(run: Run, result: Result) -> None:
    if result.outcome == "failed":
        say(f"{run.kernel}: FAILED {result.test}")
    elif len(run.results) % 25 == 0:
        say(f"{run.kernel}: {len(run.results)} tests")


def say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
