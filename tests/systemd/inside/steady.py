"""A consumer that outlives daemons: it connects again, and acknowledges only what it has copied.

    iterate() --ConnectionLost, NoDaemon--> connect --> the same session by its name --> once more

What it makes of a full iteration, or of one that comes twice, is what it makes of any.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uffdtrackd
from tests.live.test_shadow_programs import Redis
from tests.oracle import Oracle
from uffdtrackd.errors import NoDaemon
from uffdtrackd.model.iteration import Iteration


class Steady:
    """What an Oracle judges. oracle: of this consumer."""

    def __init__(self, pid: int, backend: str = "auto", follow: str = "none") -> None:
        self.client = uffdtrackd.connect()
        self.session = self.client.attach(pid, backend, follow, auto_ack=True)
        self.name = self.session.name
        self.lost = 0
        self.oracle = Oracle(self)

    def again(self) -> None:
        """A new connection to whatever daemon there is."""
        last = self.session._last
        while True:
            self.client.close()
            try:
                self.client = uffdtrackd.connect()
                self.session = self.client.session(self.name, auto_ack=True)
            except NoDaemon:  # that one has been killed as well
                continue
            self.session._last = last
            return

    def iterate(self) -> Iteration:
        while True:
            try:
                found = self.session.iterate()
            except NoDaemon:  # ConnectionLost too
                self.lost += 1
                self.again()
                continue
            # One whose answer was lost is in the next: its number is left out, and none twice.
            assert found.number >= self.oracle.report.iterations
            self.oracle.report.iterations = found.number
            return found

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.again()
        with self.session.frozen(deadline=30.0, lease=50.0):
            yield

    def close(self) -> None:
        self.session.close()
        self.client.close()


class BusyRedis:
    """redis-server under redis-benchmark. progress(): returns when it has done some more."""

    def __init__(self, folder: Path) -> None:
        path = folder / "redis.sock"
        self._server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        while "eady to accept" not in self._server.stdout.readline():
            assert self._server.poll() is None
        load = ["redis-benchmark", "-s", str(path), "-c", "4", "-n", "100000000", "-r", "20000"]
        self._load = subprocess.Popen(
            [*load, "-d", "300", "-q", "-t", "set,lpush,sadd"], stdout=subprocess.DEVNULL
        )
        self.pid = self._server.pid
        self.redis = Redis(path)
        self._last = self.redis.commands()

    def progress(self) -> None:
        while self.redis.commands() < self._last + 1000:
            pass
        self._last = self.redis.commands()

    def close(self) -> None:
        """It must have been well until now."""
        try:
            assert self.redis.ask("PING") == "+PONG"
            assert self._load.poll() is None, "the load has ended: was a command refused?"
        finally:
            self.redis.close()
            for one in (self._load, self._server):
                one.kill()
                one.wait()
