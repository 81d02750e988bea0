"""One daemon for long: `make soak-daemon MINUTES=60`. Nothing of it may grow, none be missed.

    round:  attach --> iterate, two consumers, a watch --> frozen, compared --> detach
            and clients that vanish in the middle of a request, of a freeze, of an answer
    after each round: memory, descriptors, threads, children of the daemon

The first rounds warm it up; from then on descriptors, threads and children must be what they were,
and memory must not be larger at the end than it was before by more than a few MiB.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.daemon import Daemon
from tests.oracle import Oracle
from tests.rawclient import RawClient
from tests.victim import PATIENCE, Victim, build

WARM = 10
GROWTH_MIB = 8.0


@dataclass(frozen=True)
class Sample:
    """Of the daemon, between two rounds."""

    rss_mib: float
    fds: int
    threads: int
    children: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        tasks = os.listdir(f"/proc/{pid}/task")
        children = [
            child
            for task in tasks
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
        fds = len(os.listdir(f"/proc/{pid}/fd"))
        rss = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
        return cls(rss, fds, len(tasks), len(children))

    def at_rest(self, other: Sample) -> bool:
        """A thread that nobody needs ends after a while, so there may be one less."""
        same = (self.fds, self.children) == (other.fds, other.children)
        return same and self.threads <= other.threads


def settled(pid: int, wanted: Sample | None) -> Sample:
    """A sample once it is like `wanted`, or the last one when it does not become so."""
    until = time.monotonic() + 10
    while True:
        found = Sample.of(pid)
        if wanted is None or found.at_rest(wanted) or time.monotonic() > until:
            return found
        signal.sigtimedwait([], 0.02)


def one_round(daemon: Daemon, victim: Victim, rng: random.Random) -> None:
    with daemon.connect() as client, daemon.connect() as other:
        with client.attach(victim.pid, auto_ack=True, log=rng.random() < 0.3) as session:
            oracle = Oracle(session)
            oracle.step()
            watching = other.watch(session.name, 0.05)
            watching.next(PATIENCE)
            watching.stop()
            rude(daemon, session.name, rng)
        with client.attach(victim.pid, auto_ack=True) as session:
            oracle = Oracle(session)
            for _ in range(3):
                oracle.step()
            oracle.final().check()


def rude(daemon: Daemon, session: str, rng: random.Random) -> None:
    """Clients that go without a word."""
    for _ in range(rng.randrange(1, 8)):
        with RawClient(daemon.socket) as raw:
            params = {"session": session, "consumer": "rude", "deliver": "memfd"}
            raw.request(rng.choice(("iterate", "pending", "freeze", "watch", "status")), params)
            if rng.random() < 0.5:
                raw.frame()
    for _ in range(rng.randrange(20)):
        with RawClient(daemon.socket) as raw:
            raw.send(rng.randbytes(rng.randrange(1, 100)))


def soak(minutes: float, seed: int) -> int:
    rng = random.Random(seed)
    until = time.monotonic() + minutes * 60
    base: Sample | None = None
    last = None
    count = 0
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder)) as daemon:
        while time.monotonic() < until or count <= WARM:
            with Victim([str(build("churn")), "-s", str(rng.randrange(1 << 30))]) as victim:
                try:
                    one_round(daemon, victim, rng)
                    victim.finish()
                except BaseException:
                    # Its own words go with it.
                    print(f"victim: exit code {victim.process.poll()}; {victim.errors()}")
                    raise
            count += 1
            last = settled(daemon.pid, base)
            if count == WARM:
                base = last
            if count <= WARM or count % 20 == 0:
                print(f"round {count}: {last}", flush=True)
            if base is not None and not last.at_rest(base):
                print(f"round {count}: left something behind: {last}, not {base}")
                return 1
    assert base is not None and last is not None
    growth = last.rss_mib - base.rss_mib
    print(f"{count} rounds, memory grew by {growth:.1f} MiB after the first {WARM}")
    return int(growth > GROWTH_MIB)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Use one daemon for long.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = parser.parse_args(argv)
    print(f"seed {args.seed}", flush=True)
    return soak(args.minutes, args.seed)


if __name__ == "__main__":
    sys.exit(main())
