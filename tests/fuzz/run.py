"""Feeds damaged input to what reads it: `python -m tests.fuzz.run --minutes 60` or `make fuzz`.

    corpus --mutate(seed)--> input --> target, in a child     an exception, a signal: a finding
                               |
                               +--> shared memory first, so that it is known what killed the child

A finding is kept in build/fuzz/ and ends the run with 1; `--again FILE` runs one of them.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz import targets
from tests.fuzz.mutate import mutate
from tests.victim import ROOT

FOUND = ROOT / "build" / "fuzz"


def fuzz(target: targets.Target, seed: int, seconds: float) -> tuple[int, Path | None]:
    """(inputs tried, the file with the one that failed)."""
    room = mmap.mmap(-1, 16 + target.most)  # count, length, input: shared with the child
    child = os.fork()
    if not child:
        code = 1
        try:
            _child(target, seed, seconds, room)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    count = int.from_bytes(room[:8], "little")
    if not status:
        return count, None
    data = room[16 : 16 + int.from_bytes(room[8:16], "little")]
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"{target.name}-{seed}-{count}"
    path.write_bytes(data)
    how = f"signal {status & 0x7F}" if status & 0x7F else "an exception"
    print(f"{target.name}: {how} after {count} inputs: {path}", flush=True)
    return count, path


def _child(target: targets.Target, seed: int, seconds: float, room: mmap.mmap) -> None:
    rng = random.Random(f"{target.name} {seed}")
    corpus = target.corpus()
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        data = mutate(rng, corpus, target.most)
        count += 1
        room[:16] = count.to_bytes(8, "little") + len(data).to_bytes(8, "little")
        room[16 : 16 + len(data)] = data
        target.run(data)


def fuzz_maps(seed: int, seconds: float) -> tuple[int, str]:
    """(inputs tried, what the sanitizer said; "" if nothing)."""
    program = targets.build_maps()
    files = [str(targets.CORPUS / "maps.txt"), "/proc/self/maps"]
    done = subprocess.run(
        [str(program), str(seed), str(max(1, round(seconds))), *files],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return 0, f"maps, seed {seed}: exit {done.returncode}\n{done.stderr}"
    return int(done.stdout), ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fuzz frames, answers, iteration logs and maps.")
    parser.add_argument("--minutes", type=float, default=10.0, help="in all (default: 10)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--again", type=Path, metavar="FILE", help="one finding of build/fuzz/")
    args = parser.parse_args(argv)
    if args.again:
        name = args.again.name.split("-")[0]
        next(one for one in targets.TARGETS if one.name == name).run(args.again.read_bytes())
        return 0
    print(f"seed {args.seed}", flush=True)
    share = args.minutes * 60 / (len(targets.TARGETS) + 1)
    failed = False
    for target in targets.TARGETS:
        count, path = fuzz(target, args.seed, share)
        failed |= path is not None
        print(f"{target.name}: {count} inputs", flush=True)
    count, said = fuzz_maps(args.seed, share)
    print(said or f"maps: {count} inputs", flush=True)
    return int(failed or bool(said))


if __name__ == "__main__":
    sys.exit(main())
