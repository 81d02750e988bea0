"""`make soak MINUTES=n`: random sequences for as long as asked, each round with a seed of its own.

    round: sequences of operations (tests/sequences.py)   one thing at a time, threads and children
           a storm (tests/targets/churn.c)                everything at once, at full speed

Ends at the first page that was missed, with the seed and the command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from dataclasses import dataclass

import uffdtrackd.tracking.backend as tracking_backend
from tests import sequences, victim
from tests.live.follow import Counting, follow
from uffdtrackd.model.region import Tracking


@dataclass
class Total:
    rounds: int = 0
    sequences: int = 0
    forked: int = 0
    iterations: int = 0
    compared: int = 0
    storms: int = 0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.sequences} sequences, {self.forked} forks, "
            f"{self.storms} storms, {self.iterations:,} iterations, "
            f"{self.compared:,} pages compared, 0 missed"
        )


def one_round(seed: int, total: Total) -> None:
    """All that belongs to a seed. Raises AssertionError where a page was missed."""
    counts = sequences.run(seed, examples=20, steps=40)
    total.sequences += counts.sequences
    total.forked += counts.forked
    total.iterations += counts.iterations
    total.compared += counts.compared
    churn = [str(victim.build("churn")), "-s", str(seed), "-t", "3", "-m", "32"]
    with victim.Victim(churn) as storm:
        report = follow(storm.pid, Counting(storm, 300), 15)
        storm.finish()
    total.storms += 1
    total.iterations += report.iterations
    total.compared += report.compared
    total.rounds += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--backend", choices=("async", "sync"), default="async")
    parser.add_argument("--seed", type=int, help="of the first round [random]")
    args = parser.parse_args()
    tracking_backend.automatic = lambda: Tracking(args.backend)
    first = random.randrange(1 << 30) if args.seed is None else args.seed
    print(f"soak: {args.backend} on {os.uname().release}, {args.minutes:g} minutes, SEED={first}")
    total, began, told = Total(), time.monotonic(), 0.0
    while True:
        seed = first + total.rounds
        try:
            one_round(seed, total)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            print(
                f"soak: FAILED after {total}\n"
                f"repeat it with: make soak MINUTES=1 BACKEND={args.backend} SEED={seed}",
                flush=True,
            )
            raise
        passed = time.monotonic() - began
        if passed > 60 * args.minutes:
            break
        if passed - told > 60:
            told = passed
            print(f"soak: {passed / 60:.1f} min, SEED={seed}, {total}", flush=True)
    print(f"soak: {args.backend} clean in {passed / 60:.1f} minutes: {total}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
