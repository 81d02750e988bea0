"""The C programs of this folder as processes that answer commands with integers.

    victim.c   is measured: memory, regions, threads in any amount
    writer.c   is measured: it writes as fast as it can, in some pattern
    forker.c   is measured: it forks
    ref_*.c    do what the tracker does with nothing around it, and time it themselves

kernel.h describes the line protocol. The clock of each answer is read inside the program, so the
pipe between us is in none of the numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import victim
from tests.bench.pace import NotMeasured, need_memory

FOLDER = Path(__file__).resolve().parent
FLAGS = ("-O2", "-lm")
MIB = 1 << 20
#: Seconds until a silent program is taken for hung: 16 GiB on a busy machine take their time.
PATIENCE = 300.0
CPUS = sorted(os.sched_getaffinity(0))
PAGE = 4096


@contextmanager
def on_cpu(cpu: int | None) -> Iterator[None]:
    """Threads and processes made in the block stay on one CPU; None: on any."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CPUS if cpu is None else {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Program:
    """A started program of this folder; `with` it. `numbers` are those of its first line.

    It stays on one CPU: the last one, where run.py is too, unless said otherwise. The page tables
    of a target are in the caches of the CPU that it ran on; whether a scan runs there or elsewhere
    is worth more than what is compared here.
    Raises tests.victim.VictimFailed if it dies or stays silent.
    """

    def __init__(self, name: str, *args: object, cpu: int | None = CPUS[-1]) -> None:
        path = victim.build(name, FLAGS, FOLDER)
        with on_cpu(cpu):
            self._process = victim.Victim([str(path), *map(str, args)], ready="")
        try:
            self.numbers = self._parse("ready", self._process.line(PATIENCE))
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()

    @staticmethod
    def _parse(word: str, line: str) -> list[int]:
        first, *rest = line.split()
        if first != word:
            raise victim.VictimFailed(f"expected {word!r}, got {line!r}")
        return [int(part) for part in rest]

    @property
    def process_id(self) -> int:
        return self._process.pid

    def send(self, command: str) -> None:
        self._process.send(command)

    def answer(self) -> list[int]:
        return self._parse("ok", self._process.line(PATIENCE))

    def ask(self, command: str) -> list[int]:
        """Send a command, return the integers of its answer."""
        self.send(command)
        return self.answer()


class Target(Program):
    """victim.c: `pid`, `threads`, the arena `start`..`end` in bytes, its number of `pages`.

    huge: with transparent huge pages. It has the first CPU to itself. Raises NotMeasured where
    there is no room for it, or no huge page.
    """

    def __init__(self, mib: int, *, regions: int = 0, threads: int = 1, huge: bool = False) -> None:
        need_memory(mib * MIB)
        kind = "huge" if huge else "4k"
        super().__init__("victim", mib, regions, threads, kind, cpu=CPUS[0])
        self.threads = threads
        # Below whoever wants to stop it, as on a machine without real-time work.
        if os.sched_getscheduler(0) == os.SCHED_RR:
            os.sched_setparam(self._process.pid, os.sched_param(1))
        self.pid, self.site, self.start, self.end, *self._regions = self.numbers
        self.pages = (self.end - self.start) // PAGE
        self._seed = 0
        if huge and (share := self.huge_share()) < 0.9:
            self._process.kill()
            raise NotMeasured(f"only {share:.0%} of the memory came in huge pages")

    def huge_share(self) -> float:
        """How much of the arena is in huge pages, as smaps has it."""
        here = False
        for line in Path(f"/proc/{self.pid}/smaps").read_text().splitlines():
            first, *rest = line.split()
            if not first.endswith(":"):
                start, _, end = first.partition("-")
                here = int(start, 16) <= self.start < int(end, 16)
            elif here and first == "AnonHugePages:":
                return int(rest[0]) * 1024 / (self.end - self.start)
        return 0.0

    def more_threads(self, total: int) -> None:
        """Start threads until there are so many."""
        self.ask(f"threads {total - self.threads}")
        self.threads = total

    def open_more(self, what: str, count: int) -> None:
        """Open so many more "files" or "sockets"."""
        self.ask(f"{what} {count}")

    def block(self, count: int) -> int:
        """Write the first `count` pages in order; ns it took."""
        return self.ask(f"block {count}")[0]

    def dirty(self, count: int) -> int:
        """Write `count` different pages in a random order that is never the same; ns it took."""
        self._seed += 1
        return self.ask(f"dirty {count} {self._seed}")[0]

    def touch(self) -> int:
        """Write every page in order; ns it took."""
        return self.ask("touch")[0]

    def busy(self, how: str, milliseconds: int) -> None:
        """Start "spin", "write" or "map"; answer() then gives the longest gap it saw, in ns."""
        # From whoever has 95 % of a CPU in real time the kernel takes it away for a while
        # (sched_rt_runtime_us, sched(7)): leave it some.
        time.sleep(milliseconds / 4000)
        self.send(f"{how} {milliseconds}")
        state = Path(f"/proc/{self.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "R":
            pass

    def scanner(self) -> Program:
        """The bare scan over this target's arena, and over its many regions where it has them."""
        regions = self._regions if self._regions[1] else []
        return Program("ref_scan", self.pid, self.start, self.end, *regions)

    def stopper(self, waiting: str = "yield") -> Program:
        """The bare stop and three calls in this target's main thread."""
        return Program("ref_attach", self.pid, self.site, waiting)


class Writer(Program):
    """writer.c: `pid`, the arena `start`..`end` in bytes, its number of `pages`."""

    def __init__(self, mib: int) -> None:
        need_memory(mib * MIB)
        super().__init__("writer", mib, cpu=CPUS[0])
        self.pid, self.start, self.end = self.numbers
        self.pages = (self.end - self.start) // PAGE

    def scanner(self) -> Program:
        """The bare scan over the arena."""
        return Program("ref_scan", self.pid, self.start, self.end)

    def handler(self, waiting: str) -> Program:
        """The bare handler of the synchronous userfaultfd of this target. waiting: poll, spin."""
        fd = self.ask("handler")[0]
        return Program("ref_fault", self.pid, fd, self.start, self.end, waiting)


class Forker(Program):
    """forker.c: `pid`."""

    def __init__(self, mib: int) -> None:
        super().__init__("forker", mib, cpu=None)
        self.pid = self.numbers[0]
