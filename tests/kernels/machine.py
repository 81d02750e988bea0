"""One emulated machine: boots a kernel, runs the tests, and is gone.

    qemu --second serial line, stdout--> lines of tests.kernels.guest --> Result, one by one
         --first serial line, a file---> what the kernel says, shown when something is wrong

Whatever goes wrong in there ends the machine: a panic, an oops, a task that hangs in the kernel.
Silence for too long ends it from here, and so does the end of the time that all may take.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.kernels import guest, image
from tests.kernels.archive import Kernel

QEMU = "qemu-system-x86_64"

#: Seconds until a silent machine is taken for hung. One test says nothing while it runs: the
#: longest has taken 90 s, beside other work.
SILENCE = 720.0

#: A kernel in which anything hangs or breaks is of no use any more: let it end.
#: proc_mem: the oracle reads memory that the target itself may not, through /proc/PID/mem.
KERNEL = (
    "console=ttyS0 panic=-1 oops=panic proc_mem.force_override=always "
    "sysctl.kernel.hung_task_panic=1 sysctl.kernel.hung_task_timeout_secs=240"
)

#: QEMU before 8 spoils the flags after cmpxchg16b in an interrupted kernel, which then dies of a
#: double fault in kmem_cache_alloc: no such instruction.
PROCESSOR = "max,-cx16"


@dataclass(frozen=True, slots=True)
class Result:
    """One test on one kernel, as tests.kernels.guest says it."""

    test: str
    outcome: str
    seconds: float
    reason: str
    text: str
    tracking: Mapping[str, Sequence[str]]


@dataclass(slots=True)
class Run:
    """What one kernel did. failure: why there are not all results; "" when there are.

    absent: why there is no such kernel, which is no failure.
    """

    column: str
    kernel: str = ""
    backend: str = ""
    check: Mapping[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    failure: str = ""
    absent: str = ""
    seconds: float = 0.0
    left_out: int = 0


class Over(Exception):
    """There is no time left."""


def boot(
    kernel: Kernel,
    disk: Path,
    folder: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    told: Callable[[Run, Result], None],
    until: float,
) -> Run:
    """Run pytest with `arguments` on an emulated machine of two processors. Never raises for it.

    until: by time.monotonic(), when it is to be over.
    """
    console = folder / f"console-{kernel.release}.log"
    words = f"{KERNEL} {guest.word(list(arguments), dict(environment))}"
    # Longer and the kernel cuts it: COMMAND_LINE_SIZE of x86.
    assert len(words) < 2048, "too many arguments for pytest"
    command = [
        QEMU,
        *("-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2", "-m", "2048"),
        *("-nodefaults", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel.vmlinuz), "-initrd", str(image.initramfs(kernel, folder))),
        *("-append", words, "-serial", f"file:{console}", "-serial", "stdio"),
        *("-drive", f"file={disk},if=virtio,format=raw,snapshot=on"),
    ]
    log = folder / f"qemu-{kernel.release}.log"
    record = folder / f"results-{kernel.release}.jsonl"
    with log.open("wb") as errors, record.open("w") as kept:
        run = _follow(kernel.name, command, told, errors, kept, until)
    if run.failure:
        run.failure += f"\n{_tail(log)}\n{_tail(console)}".rstrip()
    return run


def here(
    column: str,
    folder: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    told: Callable[[Run, Result], None],
    until: float,
) -> Run:
    """The same on the running kernel."""
    log = folder / f"{column}.log"
    words = guest.word(list(arguments), dict(environment))
    with log.open("wb") as errors, (folder / f"results-{column}.jsonl").open("w") as kept:
        command = [sys.executable, "-m", "tests.kernels.guest", "/dev/stdout", words]
        run = _follow(column, command, told, errors, kept, until)
    if run.failure:
        run.failure += f"\n{_tail(log)}".rstrip()
    return run


def _follow(
    column: str,
    command: list[str],
    told: Callable[[Run, Result], None],
    errors: IO[bytes],
    record: IO[str],
    until: float,
) -> Run:
    """Start a program that says what tests.kernels.guest says, and listen to its end."""
    run, began, ended = Run(column), time.monotonic(), False
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=image.ROOT,
    ) as process:
        try:
            for said in _lines(process, until):
                record.write(json.dumps(said) + "\n")
                record.flush()
                if "began" in said:
                    run.kernel, run.backend = said["began"]["kernel"], said["began"]["backend"]
                    run.check = said["began"]["check"]
                elif "test" in said:
                    run.results.append(Result(**said))
                    told(run, run.results[-1])
                elif "ended" in said:
                    ended, run.left_out = True, said["left_out"]
                    # 0 and 1: all tests were run (pytest.ExitCode).
                    if said["ended"] not in (0, 1):
                        run.failure = f"pytest could not run the tests (exit code {said['ended']})"
        except Over:
            run.failure = f"there was no time left after {_last(run)} (see --minutes)"
        except TimeoutError:
            run.failure = f"silent for {SILENCE:g} s after {_last(run)}"
        finally:
            process.kill()
    if not ended and not run.failure:
        run.failure = f"ended by itself after {_last(run)}"
    run.seconds = time.monotonic() - began
    return run


def _lines(process: subprocess.Popen[bytes], until: float) -> Iterator[dict[str, Any]]:
    """What is said, line by line; what is no JSON is left out.

    Raises TimeoutError when it is silent, Over.
    """
    assert process.stdout is not None
    fd, rest = process.stdout.fileno(), b""
    while True:
        left = max(0.0, until - time.monotonic())
        if not select.select([fd], [], [], min(SILENCE, left))[0]:
            raise TimeoutError if left > SILENCE else Over
        data = os.read(fd, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                yield json.loads(line)


def _last(run: Run) -> str:
    return run.results[-1].test if run.results else "it was started"


def _tail(log: Path, lines: int = 40) -> str:
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
