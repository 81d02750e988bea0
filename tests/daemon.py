"""A daemon for tests: a process of its own, with a socket and a state folder of its own.

    with Daemon(folder) as daemon:
        client = daemon.connect()

It is ended by SIGTERM and must end well; what it said is in `errors()`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import uffdtrackd
from tests.victim import PATIENCE

PROGRAM = Path(sys.executable).parent / "uffdtrackd"

# A busy machine takes its time to compare what a frozen target has.
PATIENT = "freeze.lease = 60.0\n"


class Daemon:
    """Listens when the constructor returns.

    folder: for its socket, state and configuration. settings: lines of TOML. words: more of the
    command line. program: what is started instead of uffdtrackd.
    """

    def __init__(
        self,
        folder: Path,
        settings: str = "",
        words: Sequence[str] = (),
        user: int | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = (str(PROGRAM),),
    ) -> None:
        self.socket = folder / "control.sock"
        self.state = folder / "state"
        config = folder / "uffdtrackd.toml"
        config.write_text(settings if "freeze" in settings else PATIENT + settings)
        self._log = (folder / "log").open("w+b")
        self.process = subprocess.Popen(
            [
                *(*program, "--config", str(config)),
                *("--socket", str(self.socket), "--state", str(self.state), *words),
            ],
            stderr=self._log,
            user=user,
            env={**os.environ, **(env or {})},
        )
        self.pid = self.process.pid
        limit = time.monotonic() + PATIENCE
        while "listens on" not in self.errors():
            assert self.process.poll() is None, f"the daemon ended: {self.errors()}"
            assert time.monotonic() < limit, f"the daemon does not listen: {self.errors()}"
            select.select([], [], [], 0.01)

    def connect(self, timeout: float = PATIENCE) -> uffdtrackd.Client:
        return uffdtrackd.connect(self.socket, timeout=timeout)

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def stop(self) -> str:
        """Ends it as systemd would; what it said. It must have ended well."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        said = self.errors()
        self._log.close()
        assert code == 0, f"exit code {code}: {said}"
        assert "Traceback" not in said, said
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._log.closed:
            return
        if kind is None:
            self.stop()
            return
        sys.stderr.write(self.errors())
        self.kill()
