"""A copy kept from iterations equals the target for each kind of memory that needs care.

What the kernel does not report as written and what becomes of it: a private copy of a file page
given back, holes in shared memory, huge pages dropped, writes that go around the page table.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.live.follow import Counting, follow
from tests.victim import Victim

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]

SEED = int(os.environ.get("SEED", random.randrange(1 << 30)))


def judge(victim: Victim, amount: int = 40, steps: int = 20) -> None:
    print(f"SEED={SEED}")
    report = follow(victim.pid, Counting(victim, amount, "count"), steps)
    victim.finish()
    print(report)


def test_private_file(spawn: Spawn) -> None:
    judge(spawn("filemap", SEED))


def test_private_file_in_memory(spawn: Spawn) -> None:
    """The same on tmpfs, where the file's pages are memory themselves."""
    judge(spawn("filemap", SEED, "wwwwwrrdddpy", "/dev/shm"))


def test_transparent_huge_pages(spawn: Spawn) -> None:
    judge(spawn("thp", SEED))


def test_transparent_huge_pages_dropped_whole(spawn: Spawn) -> None:
    judge(spawn("thp", SEED, "hhhwD"))


def test_shared_memory_with_holes(spawn: Spawn) -> None:
    judge(spawn("shmem", SEED))


def test_shared_memory_cut_short(spawn: Spawn) -> None:
    judge(spawn("shmem", SEED, "wwwwwwrt"))


def test_shared_memory_written_through_its_file(spawn: Spawn) -> None:
    judge(spawn("shmem", SEED, "wwwrefdW"))


def test_shared_memory_mapped_twice(spawn: Spawn) -> None:
    judge(spawn("shmem", SEED, "wwwrefa"))


def test_hugetlb_private(spawn: Spawn, huge_pages: None) -> None:
    judge(spawn("hugetlb", SEED, "wwwwwwwwrrDD", "private"), amount=8)


def test_hugetlb_shared(spawn: Spawn, huge_pages: None) -> None:
    judge(spawn("hugetlb", SEED, "wwwwwwwwrrDe", "shared"), amount=8)
