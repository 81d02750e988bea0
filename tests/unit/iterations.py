"""Made-up iterations for tests of logs and folds, and the memory that a consumer would hold.

The oracle is a dict of page -> content stamp: an iteration copies what is dirty and drops what is
discarded, which is the promise of the tracker read literally.
"""

from __future__ import annotations

import random

from uffdtrackd.model.iteration import Iteration, ProcessPages
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.model.region import Kind, Region, Tracking

PAGE = 4096
BASE = 0x7F00_0000_0000


def pages(numbers: set[int]) -> PageSet:
    return PageSet.from_ranges((BASE + n * PAGE, BASE + (n + 1) * PAGE) for n in numbers)


def numbers(s: PageSet) -> set[int]:
    return {n for a, b in s for n in range((a - BASE) // PAGE, (b - BASE) // PAGE)}


def region(start: int, end: int, label: str = "") -> Region:
    return Region(start, end, "rw-p", 0, (8, 1), 42, label, Kind.ANON, Tracking.ASYNC, "", PAGE)


def history(
    seed: int, count: int, span: int = 300, pids: tuple[int, ...] = (10, 11)
) -> list[Iteration]:
    """`count` iterations over `span` pages; the second process comes late and goes early."""
    rng = random.Random(seed)
    result = []
    for number in range(count):
        processes = {}
        for index, pid in enumerate(pids):
            if index and not count // 4 <= number < count - count // 4:
                continue
            chosen = rng.sample(range(span), rng.randint(0, span // 2))
            cut = rng.randint(0, len(chosen))
            layout = [region(BASE, BASE + span * PAGE, f"layout {number // 3}")]
            processes[pid] = ProcessPages(
                pages(set(chosen[:cut])),
                pages(set(chosen[cut:])),
                pages(set(chosen[: cut // 2])),
                lambda layout=layout: layout,  # type: ignore[misc]
            )
        result.append(
            Iteration(
                number, number == count - 1, 10**18 + number, 7, 1, PAGE, processes, {"n": number}
            )
        )
    return result


Memory = dict[int, dict[int, int]]


def consume(memory: Memory, iteration: Iteration, stamp: int) -> None:
    """What a consumer does with an iteration; `stamp` stands for the content it copies."""
    for pid in set(memory) - set(iteration.processes):
        del memory[pid]
    for pid, process in iteration.processes.items():
        mine = memory.setdefault(pid, {})
        for page in numbers(process.discarded):
            mine.pop(page, None)
        mine.update(dict.fromkeys(numbers(process.dirty), stamp))


def populated(iterations: list[Iteration]) -> dict[int, set[int]]:
    """Pages that hold something after these iterations, by pid."""
    memory: Memory = {}
    for iteration in iterations:
        consume(memory, iteration, 0)
    return {pid: set(held) for pid, held in memory.items()}
