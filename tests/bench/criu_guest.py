"""What runs in the emulated machine: CRIU and the tracker in turn on targets of the same sort.

    python -m tests.bench.criu_guest OUT        OUT: a serial line; a line of JSON for each measure

    target A  writes n pages --> criu pre-dump      frozen time by CRIU's own statistics
    target B  writes n pages --> iterate(), then    nobody is frozen
              its pages read and written to a file

{"how": "criu", "load": "1 % dirty", "frozen": ns, "whole": ns, "pages": 1310}; "whole" is the
command (its start included, as a caller pays it) or the iteration with the reading and writing of
its pages; "found" the iteration alone.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import uffdtrackd
from tests import victim
from tests.bench.programs import Target
from uffdtrackd import PageSet

#: Where the disk with CRIU is mounted, and its loader: its C library is newer than ours.
DISK = Path("/criu")
LOADER = DISK / "lib64" / "ld-linux-x86-64.so.2"
IMAGES = Path("/run/images")

MIB = 512
ROUNDS = 3
#: Percent of the pages; None: everything, for the first time.
LOADS: tuple[tuple[str, int | None], ...] = (
    ("first time", None),
    ("nothing dirty", 0),
    ("1 % dirty", 1),
    ("10 % dirty", 10),
    ("100 % dirty", 100),
)


def _varints(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


def statistics(image: bytes) -> dict[int, int]:
    """Fields of the DumpStatsEntry in a `stats-dump` image of CRIU, by number.

    Two magic numbers, the size, a message whose field 1 holds the entry; all of whose fields are
    plain numbers (images/stats.proto: 1 freezing_time, 2 frozen_time, 3 memdump_time,
    4 memwrite_time, in us; 5 pages_scanned, 6 pages_skipped_parent, 7 pages_written).
    """
    (size,) = struct.unpack_from("<I", image, 8)
    message = image[12 : 12 + size]
    if message[0] != 0x0A:
        raise ValueError(f"not the statistics of a dump: {message[:4].hex()}")
    numbers = list(_varints(message[1:]))[1:]
    return {tag >> 3: value for tag, value in zip(numbers[::2], numbers[1::2], strict=True)}


class Criu:
    """pre-dumps of one target, each on top of the one before."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._number = 0
        shutil.rmtree(IMAGES, ignore_errors=True)

    def predump(self) -> dict[str, int]:
        self._number += 1
        folder = IMAGES / str(self._number)
        folder.mkdir(parents=True)
        words = ["pre-dump", "--track-mem", "--pre-dump-mode", "read", "-o", "log", "-v1"]
        words += ["-t", str(self.target.pid), "-D", str(folder)]
        if self._number > 1:
            words += ["--prev-images-dir", f"../{self._number - 1}"]
        before = time.perf_counter_ns()
        done = subprocess.run(criu(*words), capture_output=True, text=True)
        whole = time.perf_counter_ns() - before
        if done.returncode:
            log = folder / "log"
            said = log.read_text()[-1000:] if log.exists() else done.stderr
            raise RuntimeError(f"criu pre-dump: {done.returncode}: {said}")
        found = statistics((folder / "stats-dump").read_bytes())
        # Only the pages are large, and only the map of them is needed by the next.
        for pages in folder.glob("pages-*.img"):
            os.truncate(pages, 0)
        return {"frozen": found[2] * 1000, "whole": whole, "pages": found.get(7, 0)}


def criu(*words: str) -> list[str]:
    """The command that runs CRIU with its own libraries."""
    libraries = ":".join(str(DISK / part) for part in ("usr/lib/x86_64-linux-gnu", "usr/lib"))
    return [str(LOADER), "--library-path", libraries, str(DISK / "usr/sbin/criu"), *words]


class Ours:
    """Iterations of one target, the pages of each read and written to a file."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._session: uffdtrackd.Session | None = None

    def iterate(self) -> dict[str, int]:
        before = time.perf_counter_ns()
        stopped = 0
        if self._session is None:
            self._session = uffdtrackd.attach(self.target.pid)
        iteration = self._session.iterate()
        stopped = iteration.stopped_ns
        found = time.perf_counter_ns() - before
        dirty = iteration.processes[self.target.pid].dirty
        arena = dirty & PageSet.from_ranges([(self.target.start, self.target.end)], 4096)
        self._copy(dirty)
        whole = time.perf_counter_ns() - before
        return {"frozen": stopped, "whole": whole, "found": found, "pages": len(arena)}

    def _copy(self, dirty: PageSet) -> None:
        assert self._session is not None
        with (IMAGES.parent / "copy").open("wb") as file:
            for start, end in dirty:
                for at in range(start, end, 1 << 20):
                    try:
                        size = min(1 << 20, end - at)
                        file.write(self._session.read(self.target.pid, at, size))
                    except uffdtrackd.errors.TrackError:
                        continue  # rings and vvar: listed always, not readable

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def measure(out: IO[str]) -> None:
    """All loads, both in turn; raises whatever goes wrong."""
    with Target(MIB) as theirs, Target(MIB) as mine:
        predump, iterate = Criu(theirs).predump, Ours(mine).iterate
        sides = [("criu", theirs, predump), ("ours", mine, iterate)]
        for load, percent in LOADS:
            for _ in range(1 if percent is None else ROUNDS):
                for how, target, collect in sides:
                    if percent == 100:
                        target.touch()
                    elif percent:
                        target.dirty(target.pages * percent // 100)
                    say(out, how=how, load=load, **collect())
                sides.reverse()


def prepare() -> None:
    """The second disk, and the victim where it is looked for when it need not be compiled."""
    DISK.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", "-o", "ro", "/dev/vdb", DISK], check=True)
    shutil.copytree(DISK / "targets", victim.CACHE, dirs_exist_ok=True)
    for module in sorted((DISK / "modules").iterdir()):
        subprocess.run(["insmod", module], check=True)


def say(out: IO[str], **line: object) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


def main() -> int:
    with open(sys.argv[1], "w") as out:
        if out.isatty():
            tty.setraw(out)
        try:
            prepare()
            version = subprocess.run(criu("--version"), capture_output=True, text=True)
            if version.returncode:
                raise RuntimeError(f"criu --version: {version.stderr}")
            first = version.stdout.splitlines()[0].removeprefix("Version: ")
            say(out, kernel=platform.release(), criu=first, mib=MIB)
            measure(out)
            say(out, ended=0)
        except Exception as error:
            say(out, failed=f"{type(error).__name__}: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
