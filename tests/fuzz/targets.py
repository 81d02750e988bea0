"""What is fuzzed: each takes bytes and must do nothing but what it may.

frames   the daemon's half of the socket: Frames, and the parameters of each method
answers  the client's half: an answer to iterate, with a memfd that does not fit
uft      an iteration log: LogError and nothing else
maps     /proc/PID/maps as C parses it (maps.c, under sanitizers, in a process of its own)
"""

from __future__ import annotations

import base64
import gzip
import os
import random
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgpack

from tests.unit.iterations import history
from tests.victim import CACHE, ROOT
from uffdtrackd.model.errors import (
    BadRequest,
    ConnectionLost,
    LogError,
    TrackError,
    UsageError,
    from_map,
)
from uffdtrackd.parcel import decode
from uffdtrackd.service import protocol, schema
from uffdtrackd.service.delivery import deliver
from uffdtrackd.service.wire import BadFrame, Frames
from uffdtrackd.store.log import LogReader

CORPUS = Path(__file__).parent / "corpus"
_MOST = 4096


@dataclass(frozen=True)
class Target:
    """run: raises whatever is a bug. most: bytes of one input."""

    name: str
    corpus: Callable[[], list[bytes]]
    run: Callable[[bytes], None]
    most: int


def _lines(name: str) -> list[bytes]:
    """A file of inputs in hex, one a line; `#` begins a comment."""
    text = (CORPUS / name).read_text()
    return [bytes.fromhex(line) for line in text.splitlines() if line and not line.startswith("#")]


def run_frames(data: bytes) -> None:
    rng = random.Random(data)
    frames = Frames(_MOST)
    at = 0
    while at < len(data) and not frames.broken:
        size = rng.randrange(1, 2048)
        for one in frames.feed(data[at : at + size]):
            if isinstance(one, BadFrame):
                assert isinstance(one.error, BadRequest) and len(str(one.error)) < 500
                assert one.msgid is None or 0 <= one.msgid < 1 << 32
                continue
            try:
                method = protocol.find(one.method)
                found = schema.check(method, one.params)
            except BadRequest as error:
                msgpack.packb(error.to_map())
            else:
                assert found.keys() == {param.name for param in method.params}
        at += size


def answers() -> list[bytes]:
    found = []
    for seed in range(4):
        for iteration in history(seed, 2, span=40):
            for how in ("inline", "memfd"):
                made = deliver(iteration, how, "runs", 1 << 20)
                found.append(made.result)
                made.close()
    found.append(msgpack.packb(UsageError("x", pid=3, start=1, end=2).to_map()))
    return found


def run_answers(data: bytes) -> None:
    try:
        found = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return  # as link.py takes it
    if not isinstance(found, dict):
        return
    assert isinstance(from_map(found), TrackError)
    fd = os.memfd_create("fuzz")
    os.truncate(fd, 512)
    try:
        parcel = decode(found, [fd])
    except ConnectionLost:
        return
    for _, *sets, _ in parcel.processes:
        for pages in sets:
            for _ in pages:
                pass


def logs() -> list[bytes]:
    return [gzip.decompress(base64.b64decode((CORPUS / "log.uft.gz.b64").read_text()))]


def run_uft(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".uft") as file:
        file.write(data)
        file.flush()
        try:
            with LogReader(file.name) as log:
                _ = log.meta, log.records, log.gaps
                for number in log.numbers[:10]:
                    for pages in log.iteration(number).processes.values():
                        _ = pages.regions, len(pages.dirty)
                if log.numbers:
                    log.fold()
                    log.union()
        except LogError:
            return
        finally:
            for more in ("-wal", "-shm", "-journal"):
                Path(file.name + more).unlink(missing_ok=True)


def maps() -> list[bytes]:
    return [(CORPUS / "maps.txt").read_bytes(), Path("/proc/self/maps").read_bytes()]


TARGETS = (
    Target("frames", lambda: _lines("frames.hex"), run_frames, 3 * _MOST),
    Target("answers", answers, run_answers, 1 << 16),
    Target("uft", logs, run_uft, 1 << 18),
)


def build_maps() -> Path:
    """maps.c with the parser that the tracker uses, under sanitizers."""
    program = CACHE / "fuzz-maps"
    CACHE.mkdir(parents=True, exist_ok=True)
    native = ROOT / "uffdtrackd/native"
    command = ["gcc", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{native}"]
    sources = [Path(__file__).parent / "maps.c", native / "c/layout.c", native / "c/error.c"]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    return program
