"""Blocks of memory that go from one set to the next: never to two at once, and never too small."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor

from uffdtrackd.native import runs
from uffdtrackd.native.pointer import octets, words

PAGE = 4096


def scattered(rng: random.Random, count: int) -> memoryview:
    """`count` runs of one page each, every one followed by a hole."""
    places = sorted(rng.sample(range(8 * count), count))
    return memoryview(array("Q", [w * PAGE for p in places for w in (2 * p, 2 * p + 1)]))


def test_sets_that_live_at_once_share_no_memory() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")

    def work(number: int) -> None:
        rng = random.Random(seed + number)
        kept: list[tuple[memoryview, bytes]] = []
        sources = [scattered(rng, rng.randrange(500, 10000)) for _ in range(8)]
        for _ in range(300):
            # From 8 KiB, which is not kept, to 160 KiB; united with nothing: a copy.
            made = rng.choice(sources)
            kept.append((runs.union(made, runs.EMPTY), bytes(made)))
            if len(kept) > rng.randrange(6):
                view, expected = kept.pop(rng.randrange(len(kept)))
                assert bytes(view) == expected
        assert all(bytes(view) == expected for view, expected in kept)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))


def test_a_small_result_does_not_hold_a_large_block() -> None:
    large = scattered(random.Random(1), 20000)
    few = large[:8]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    small = [runs.intersection(large, few) for _ in range(1000)]
    # Each was made in room for 20004 runs: 320 KB, or 320 MB if all of them kept it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    assert all(view.tolist() == few.tolist() for view in small)


def test_the_next_set_of_the_same_size_costs_no_page_faults() -> None:
    large = scattered(random.Random(2), 20000)
    faults = []
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        made = runs.union(large, runs.EMPTY)
        faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
        assert made.tolist()[-1] == large.tolist()[-1]
    # The first two take new memory, 79 pages each.
    assert min(faults[4:]) < 20, faults


def test_no_call_leaves_an_export_behind() -> None:
    """CPython's collector frees memoryviews in cycles although they have exports: see pointer."""
    for take in (words, octets):
        view = memoryview(array("Q", [0, 4096])).toreadonly()
        pointer = take(view)
        assert pointer
        view.release()  # BufferError if anything holds on to it


_ERROR_IN_A_CYCLE = """
import gc
from array import array
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.reverted import find_reverted

class Holder:
    pass

def leave():
    runs = memoryview(array("Q", [0, 4096])).toreadonly()
    holder = Holder()
    holder.me = holder
    try:
        find_reverted(-1, runs, swap_types=False)
    except NativeError as error:
        holder.error = error

gc.disable()
leave()
print(gc.collect() > 0)
"""


def test_the_collector_survives_an_error_of_a_call() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ERROR_IN_A_CYCLE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
