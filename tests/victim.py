"""Programs that tests attach to: built, started, spoken to, ended.

    tests/targets/NAME.c --build()--> build/targets/NAME-HASH --Victim()--> a process
                                                                 |  stdin:  one command a line
                                                                 |  stdout: "ready", then answers
                                                                 v  stderr: kept, shown on failure

The protocol of a victim (tests/targets/victim.h has the C half): it prints `ready` when it is set
up, reads commands from stdin, and on `stop` or at the end of stdin checks its own memory, prints
`ok` and exits 0. A line from the victim is the only synchronisation there is: no test sleeps.
"""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ROOT / "tests" / "targets"
CACHE = ROOT / "build" / "targets"

CC = os.environ.get("CC", "gcc")
CFLAGS = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread")

#: Seconds until a silent victim is taken for hung. Long: the machine may be busy, or emulated.
PATIENCE = 60.0 * float(os.environ.get("UFFDTRACKD_TEST_SLOWNESS", "1"))


class VictimFailed(AssertionError):
    """A victim hung, died or found its own memory damaged: the message has what it printed."""


def build(name: str, cflags: Sequence[str] = (), folder: Path = TARGETS) -> Path:
    """Compile FOLDER/NAME.c unless the same source, headers and flags were compiled before.

    Returns the path of the program. Raises subprocess.CalledProcessError if gcc complains.
    """
    source = folder / f"{name}.c"
    key = hashlib.sha256()
    for path in (source, *sorted(folder.glob("*.h"))):
        key.update(path.read_bytes())
    key.update(repr((CC, CFLAGS, tuple(cflags))).encode())
    program = CACHE / f"{name}-{key.hexdigest()[:16]}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Renamed when complete: two test runs may build at once.
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            made = Path(scratch) / name
            # Flags after the source too: libraries (-lrt) must come behind it.
            subprocess.run([CC, *CFLAGS, str(source), "-o", str(made), *cflags], check=True)
            # Written back now: a page of a new program counts as Private_Dirty until it is.
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.rename(program)
    return program


class Victim:
    """A started program. `with` it, or call kill() at the end.

    argv: the program and its arguments. ready: text that a line of stdout must contain before the
    constructor returns; "" does not wait. Other arguments as in subprocess.Popen.
    Raises VictimFailed if it ends, or says nothing for PATIENCE seconds, before that.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        ready: str = "ready",
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        user: int | None = None,
        group: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.argv = [str(arg) for arg in argv]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill())
        self._lines: list[str] = []
        self._rest = b""
        self._public: tempfile.TemporaryDirectory[str] | None = None
        program = self.argv[0]
        if user is not None and Path(program).is_relative_to(CACHE):
            # Another user may not walk into this checkout (below /root, say): it runs a copy.
            self._public = tempfile.TemporaryDirectory(prefix="victim-")
            Path(self._public.name).chmod(0o711)
            program = shutil.copy2(program, self._public.name)
        self.process = subprocess.Popen(
            [program, *self.argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=None if env is None else dict(env),
            cwd=cwd,
            user=user,
            group=group,
            pass_fds=pass_fds,
        )
        self.pid = self.process.pid
        try:
            if ready:
                self.wait_for(ready)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def send(self, command: str) -> None:
        """Write one command line. Raises VictimFailed if the victim is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failure(f"died before {command!r}") from None

    def ask(self, command: str, timeout: float = PATIENCE) -> str:
        """Write one command line and return the next line it prints."""
        self.send(command)
        return self.line(timeout)

    def line(self, timeout: float = PATIENCE) -> str:
        """Next line of stdout without its end.

        Raises VictimFailed at end of file, on timeout, or if the line says FAILED.
        """
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        limit = time.monotonic() + timeout
        while not self._lines:
            left = limit - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise self._failure(f"said nothing for {timeout:g} s")
            data = os.read(fd, 1 << 16)
            if not data:
                raise self._failure("ended")
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines += [line.decode(errors="replace") for line in lines]
        line = self._lines.pop(0)
        if line.startswith("FAILED "):
            raise self._failure(line)
        return line

    def wait_for(self, text: str, timeout: float = PATIENCE) -> str:
        """Read lines until one contains `text`; returns that line."""
        while text not in (line := self.line(timeout)):
            pass
        return line

    def finish(self, timeout: float = PATIENCE) -> list[str]:
        """Ask it to check itself and exit. Returns the lines it printed up to `ok`.

        Raises VictimFailed if it does not print `ok` (alone or with counts behind) and exit 0.
        """
        if self.process.poll() is None:
            self.send("stop")
        lines = [self.line(timeout)]
        while lines[-1].split(" ")[0] != "ok":
            try:
                lines.append(self.line(timeout))
            except VictimFailed as error:
                raise VictimFailed("\n".join([str(error), "before that:", *lines])) from error
        if (code := self.process.wait(timeout)) != 0:
            raise self._failure(f"exit code {code} after ok")
        return lines

    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it by pid if it runs, reap it, close its pipes. May be called again."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._public is not None:
            self._public.cleanup()
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode(errors="replace")

    def _failure(self, what: str) -> VictimFailed:
        code = self.process.poll()
        state = "still runs" if code is None else f"exit code {code}"
        said = "\n".join([*self._lines, self._rest.decode(errors="replace")])
        return VictimFailed(
            f"{' '.join(self.argv)} (pid {self.pid}) {what}; {state}\n"
            f"stdout: {said.strip()}\nstderr: {self.errors().strip()}"
        )
