"""A daemon of its own for a benchmark: started, spoken to through its socket, ended.

Daemon() --starts--> uffdtrackd --socket DIR/control.sock --state DIR
    connect()  a client of it
    cpu_ns(), resident()   what it used, as the kernel counts it
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.pace import NotMeasured
from uffdtrackd.client import Client, ClientSession, connect
from uffdtrackd.errors import TrackError

#: Seconds until a daemon that does not answer is taken for broken.
PATIENCE = 20.0


class Daemon:
    """A running daemon; `with` it. `pid` is its process.

    Raises NotMeasured where it cannot be started, with what it said.
    """

    def __init__(self) -> None:
        program = Path(sys.executable).parent / "uffdtrackd"
        if not program.exists():
            raise NotMeasured("no daemon beside this Python")
        self._folder = tempfile.TemporaryDirectory(prefix="uffdtrackd-bench-")
        self.socket = str(Path(self._folder.name) / "control.sock")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._process = subprocess.Popen(
            [program, "--socket", self.socket, "--state", self._folder.name],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
        )
        self.pid = self._process.pid
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with self.connect():
                    return
            except TrackError as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise NotMeasured(
                        f"the daemon does not answer: {error}; {self.said()}"
                    ) from None
            time.sleep(0.02)

    def connect(self) -> Client:
        """A new client of it; the caller closes it."""
        return connect(self.socket)

    @contextmanager
    def attach(self, pid: int, deliver: str = "memfd") -> Iterator[ClientSession]:
        """A session over a connection of its own; see `attach` below."""
        with self.connect() as client, attach(client, pid, deliver) as session:
            yield session

    def said(self) -> str:
        """The end of what it wrote."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-500:].replace("\n", " / ")

    def cpu_ns(self) -> int:
        """CPU time that its threads have used, in ns."""
        return cpu_ns(self.pid)

    def resident(self) -> int:
        """Bytes resident, as VmRSS has it."""
        return resident(self.pid)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._said.close()
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


def attach(client: Client, pid: int, deliver: str = "memfd") -> ClientSession:
    """A session without a log, each iteration acknowledged when the next one is asked for."""
    return client.attach(pid, auto_ack=True, keep=False, log=False, deliver=deliver)


def also(client: Client, session: ClientSession, deliver: str) -> ClientSession:
    """The same session with another delivery; what was pending is taken care of."""
    other = client.session(session.name, auto_ack=True, deliver=deliver)
    other.iterate()
    return other


def cpu_ns(pid: int) -> int:
    """CPU time that a process has used, in ns; also of threads of it that have ended."""
    # The clock that clock_getcpuclockid(3) has of it, whose number Linux will not change.
    return time.clock_gettime_ns(~pid << 3 | 2)


def resident(pid: int) -> int:
    """Bytes of a process that are resident: VmRSS of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory any more")
