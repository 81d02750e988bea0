"""A daemon of its own for a benchmark: started, spoken to through its socket, ended.

Daemon() --starts--> uffdtrackd --socket DIR/control.sock --state DIR
    connect()  a client of it
    cpu_ns(), resident()   what it used, as the kernel counts it
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.bench.pace import NotMeasured

#: Seconds until a daemon that does not answer is taken for broken.
PATIENCE = 20.0


class Daemon:
    """A running daemon; `with` it. `pid` is its process.

    Raises NotMeasured where it cannot be started, with what it said.
    """

    def __init__(self) -> None:
        try:
            self._client: Any = importlib.import_module("uffdtrackd.client")
        except ImportError as error:
            raise NotMeasured(f"no client of the daemon: {error}") from None
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
            except Exception as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise NotMeasured(
                        f"the daemon does not answer: {error}; {self.said()}"
                    ) from None
            time.sleep(0.02)

    def connect(self) -> Any:
        """A new client of it; the caller closes it."""
        return self._client.connect(self.socket)

    def attach(self, pid: int) -> Attached:
        """`with` it: a session over a connection of its own."""
        return Attached(self, pid)

    def said(self) -> str:
        """The end of what it wrote."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-500:].replace("\n", " / ")

    def cpu_ns(self) -> int:
        """CPU time it has used, all threads, in ns."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

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


class Attached:
    """A session through the socket, for the length of a block; the block gets the session."""

    def __init__(self, daemon: Daemon, pid: int) -> None:
        self._client = daemon.connect()
        try:
            self._session = self._client.attach(pid)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Any:
        return self._session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._session.close()
        finally:
            self._client.close()


def resident(pid: int) -> int:
    """Bytes of a process that are resident: VmRSS of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory any more")
