"""A real redis-server under load, private to the demo and gone when it ends.

    start()  redis-server on a unix socket in a folder of its own: no port, no files, no config
    fill()   redis-benchmark writes so many keys that there is something to track
    load()   redis-benchmark again, for ever, at full speed, as a child in the background

Everything is started through setpriv --pdeathsig, so that a demo that is killed leaves nothing
running; the folder goes with the object.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

# Never outlive the demo: see prctl(2), PR_SET_PDEATHSIG. exec keeps the setting, and the pid.
TIED = ("setpriv", "--pdeathsig", "KILL")


class RedisFailed(Exception):
    """redis did not do what the demo needs: the message says what it printed."""


class Redis:
    """A running redis-server with `keys` keys of `size` bytes. `pid` is its process."""

    def __init__(self, keys: int, size: int) -> None:
        for program in ("redis-server", "redis-benchmark", "redis-cli"):
            if shutil.which(program) is None:
                raise RedisFailed(f"{program} is not installed")
        self.keys = keys
        self.size = size
        self._folder = tempfile.TemporaryDirectory(prefix="uffdtrackd-demo-")
        self._socket = str(Path(self._folder.name) / "redis.sock")
        self._load: subprocess.Popen[bytes] | None = None
        options = {
            "port": "0",
            "unixsocket": self._socket,
            "dir": self._folder.name,
            "save": "",
            "appendonly": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._server = subprocess.Popen(
            [*TIED, "redis-server", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._server.pid
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        assert self._server.stdout is not None
        said = []
        for line in self._server.stdout:
            said.append(line.decode(errors="replace"))
            if "ready to accept connections" in said[-1].lower():
                return
        raise RedisFailed("redis-server ended at once:\n" + "".join(said[-5:]))

    def fill(self) -> None:
        """Write every key about once. Returns when redis has them."""
        done = subprocess.run(
            self._benchmark("-n", str(self.keys), "-t", "set", "-P", "16", "-q"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RedisFailed(f"redis-benchmark: {done.stderr.strip()}")

    def load(self) -> None:
        """Start a load of reads and writes that goes on until close()."""
        self._load = subprocess.Popen(
            self._benchmark("-l", "-n", "100000", "-t", "set,get,incr,lpush,lpop,sadd", "-q"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _benchmark(self, *options: str) -> list[str]:
        common = ["-s", self._socket, "-r", str(self.keys), "-d", str(self.size), "-c", "20"]
        return [*TIED, "redis-benchmark", *common, *options]

    def commands(self) -> int:
        """How many commands the server has carried out. Raises RedisFailed if it is not well."""
        done = subprocess.run(
            ["redis-cli", "-s", self._socket, "info", "stats"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        for line in done.stdout.splitlines():
            if line.startswith("total_commands_processed:"):
                return int(line.partition(":")[2])
        raise RedisFailed(f"redis-server does not answer: {done.stdout}{done.stderr}".strip())

    def loaded(self) -> bool:
        """Whether both the server and its load still run."""
        running = [self._server, *([self._load] if self._load else [])]
        return all(process.poll() is None for process in running)

    def close(self) -> None:
        """End both processes and remove the folder. May be called again."""
        for process in (self._load, self._server):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        if self._server.stdout is not None:
            self._server.stdout.close()
        with contextlib.suppress(FileNotFoundError):
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
