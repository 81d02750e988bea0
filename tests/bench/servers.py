"""Real servers under the load that comes with them, each private and gone when its block ends.

    Redis      redis-server, a unix socket in a folder of its own; redis-benchmark, SET at random
    Postgres   a cluster in a folder of its own, one shared buffer, a process a connection; pgbench

Their load generators report throughput and latency by themselves: no clock of ours is involved.
"""

from __future__ import annotations

import csv
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.pace import NotMeasured
from tests.victim import Victim

NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator reported: requests or transactions a second, latencies in ns."""

    per_second: float
    p50: float
    p99: float
    longest: float


def _find(*names: str) -> list[str]:
    folders = [os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    found = []
    for name in names:
        path = shutil.which(name, path=":".join(folders))
        if path is None:
            raise NotMeasured(f"{name} is not installed (see tools/packages.sh)")
        found.append(path)
    return found


def _run(command: list[str], **options: object) -> str:
    """stdout of a program. Raises NotMeasured with what it said if it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        raise NotMeasured(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return str(done.stdout)


class Redis:
    """A redis-server that holds `keys` keys of `size` bytes. `pid` is its process."""

    def __init__(self, server: Victim, folder: Path, keys: int, size: int) -> None:
        self.pid = server.pid
        self._common = [
            *_find("redis-benchmark"),
            *("-s", str(folder / "redis.sock"), "-r", str(keys), "-d", str(size), "-t", "set"),
        ]
        self.requests = 200_000
        _run([*self._common, "-n", str(keys * 2), "-P", "16", "--csv"])

    def load(self) -> Load:
        """`requests` SETs of random keys over 20 connections."""
        said = _run([*self._common, "-c", "20", "-n", str(self.requests), "--csv"])
        row = next(csv.DictReader(said.splitlines()))
        p50, p99, longest = (float(row[f"{name}_latency_ms"]) for name in ("p50", "p99", "max"))
        return Load(float(row["rps"]), p50 * 1e6, p99 * 1e6, longest * 1e6)

    def last_for(self, seconds: float) -> None:
        """Choose `requests` so that a load takes about so long."""
        self.requests = max(10_000, round(self.load().per_second * seconds))


@contextmanager
def redis(keys: int, size: int) -> Iterator[Redis]:
    (program,) = _find("redis-server")
    with tempfile.TemporaryDirectory(prefix="uffdtrackd-bench-") as name:
        options = ("--port", "0", "--unixsocket", f"{name}/redis.sock", "--save", "")
        command = [program, *options, "--appendonly", "no", "--dir", name]
        with Victim(command, ready="eady to accept") as server:
            yield Redis(server, Path(name), keys, size)


class Postgres:
    """A server whose `pid` is the first of its processes."""

    def __init__(self, server: Victim, folder: Path) -> None:
        self.pid = server.pid
        self._folder = folder
        self.seconds = 3.0
        (program,) = _find("pgbench")
        self._command = [program, "-h", str(folder), "-U", "test"]
        self._as_nobody = {"user": NOBODY, "group": NOBODY, "cwd": folder} if _root() else {}
        _run([*self._command, "-i", "-s", "5", "-q", "postgres"], **self._as_nobody)

    def load(self) -> Load:
        """The transactions of pgbench over 4 connections, for `seconds`."""
        log = self._folder / "log"
        log.mkdir()
        if _root():
            os.chown(log, NOBODY, NOBODY)
        try:
            how = ["-c", "4", "-j", "1", "-T", str(round(self.seconds)), "-n", "-l"]
            prefix = ["--log-prefix", str(log / "each")]
            said = _run([*self._command, *how, *prefix, "postgres"], **self._as_nobody)
            # A line for each transaction; its third word is the latency in microseconds.
            lines = (line for path in log.iterdir() for line in path.read_text().splitlines())
            taken = sorted(int(line.split()[2]) * 1000 for line in lines)
        finally:
            shutil.rmtree(log)
        if not taken:
            raise NotMeasured("pgbench logged no transaction")
        rate = next(line for line in said.splitlines() if line.startswith("tps ="))
        p99 = taken[(len(taken) - 1) * 99 // 100]
        return Load(float(rate.split()[2]), statistics.median(taken), p99, taken[-1])

    def last_for(self, seconds: float) -> None:
        self.seconds = seconds


def _root() -> bool:
    return os.geteuid() == 0


@contextmanager
def postgres() -> Iterator[Postgres]:
    server, init = _find("postgres", "initdb")
    with tempfile.TemporaryDirectory(prefix="uffdtrackd-bench-") as name:
        folder = Path(name)
        # The server refuses root.
        user: dict[str, Any] = {"user": NOBODY, "group": NOBODY} if _root() else {}
        if _root():
            os.chown(folder, NOBODY, NOBODY)
        data = str(folder / "data")
        _run([init, "-D", data, "-U", "test", "-A", "trust", "-N"], cwd=folder, **user)
        options = (
            "listen_addresses=",
            "shared_buffers=128MB",
            "fsync=off",
            "logging_collector=off",
        )
        words = [word for option in options for word in ("-c", option)]
        # Its log goes to stderr, a Victim's lines are those of stdout.
        command = ["sh", "-c", 'exec "$@" 2>&1', "sh", server, "-D", data, "-k", name, *words]
        with Victim(command, ready="ready to accept", cwd=folder, **user) as process:
            try:
                yield Postgres(process, folder)
            finally:
                # Its children end with it only when it is asked to end.
                process.process.terminate()
                process.process.wait(30)
