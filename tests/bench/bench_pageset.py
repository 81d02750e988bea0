"""What PageSet costs at its worst: every second page of 1 GiB, 131 072 runs.

Not a test: prints a table, medians of ROUNDS, each beside a memcpy of the scan result, which is
the least that anybody who keeps the result must pay. `python -m tests.bench.bench_pageset`.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from uffdtrackd.model.pageset import PageSet
from uffdtrackd.native import runs
from uffdtrackd.native._native import ffi, lib

PAGE = 4096
COUNT = 131072
ROUNDS = 50


def median_us(what: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        before = time.perf_counter_ns()
        what()
        times.append(time.perf_counter_ns() - before)
    return statistics.median(times) / 1000


def scan_result(gap_every: int) -> object:
    """COUNT regions; each gap_every-th is apart from the one before, the others touch it."""
    regions, at = ffi.new("struct page_region24[]", COUNT), 0x7F00_0000_0000
    for i in range(COUNT):
        at += PAGE * (i % gap_every == 0)
        regions[i].start, regions[i].end, regions[i].categories = at, at + PAGE, 1
        at += PAGE
    return regions


def build(regions: object) -> PageSet:
    out = lib.ut_runs_alloc(COUNT)
    return PageSet.from_runs(runs.adopt(out, lib.ut_runs_from_regions(regions, COUNT, out)))


def random_set(seed: int, pages: int = 1 << 18) -> PageSet:
    rng = random.Random(seed)
    half = (n for n in range(pages) if rng.random() < 0.5)
    return PageSet.from_ranges((n * PAGE, (n + 1) * PAGE) for n in half)


def main() -> None:
    apart, touching = scan_result(1), scan_result(4)
    target = ffi.new("struct page_region24[]", COUNT)
    a, b, small = random_set(1), random_set(2), PageSet.from_ranges([(40960, 45056)])
    full = PageSet.from_ranges([(0, 1 << 30)])
    roaring, pairs = a.to_roaring(), list(a)
    rows: list[tuple[str, Callable[[], object]]] = [
        ("memcpy of the regions, 3 MiB", lambda: ffi.memmove(target, apart, ffi.sizeof(target))),
        ("PageSet of 131072 regions, all apart", lambda: build(apart)),
        ("PageSet of 131072 regions, 3 of 4 touch", lambda: build(touching)),
        (f"a | b, random halves, {a.run_count} and {b.run_count} runs", lambda: a | b),
        ("a & b", lambda: a & b),
        ("a - b", lambda: a - b),
        ("a | one page", lambda: a | small),
        ("1 GiB in one run - a", lambda: full - a),
        ("a == a", lambda: a == PageSet.from_runs(a.runs)),
        ("one page | one page", lambda: small | small),
        ("len(a)", lambda: len(PageSet.from_runs(a.runs))),
        ("address in a", lambda: 0x1234000 in a),
        ("list(a)", lambda: list(a)),
        ("from_ranges(list)", lambda: PageSet.from_ranges(pairs)),
        ("to_bitmap, 1 GiB", lambda: a.to_bitmap(0, 1 << 30)),
        ("to_roaring", a.to_roaring),
        ("from_roaring", lambda: PageSet.from_roaring(roaring)),
    ]
    for name, what in rows:
        print(f"{median_us(what):10.1f} us  {name}")


if __name__ == "__main__":
    main()
