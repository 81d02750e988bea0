"""A copy kept from iterations equals the target for each kind of memory that needs care.

What the kernel does not report as written and what becomes of it: a private copy of a file page
given back, holes in shared memory, huge pages dropped, writes that go around the page table.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import uffdtrackd
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


def test_shared_memory_of_one_mapping(spawn: Spawn) -> None:
    """Nobody else has it: where that can be seen, it is tracked and not listed whole each time."""
    judge(spawn("shmem", SEED, "wwwwrreed"))


def test_shared_memory_where_everybody_can_be_seen() -> None:
    """The same again in a process namespace of its own.

    In a container some process of the machine may be closed to us, and shared memory is then
    always listed: the tests above would not get to the tracking of it.
    """
    if os.geteuid() != 0:
        pytest.skip("making a process namespace takes root")
    options = ["-q", "-p", "no:cacheprovider", __file__, "-k", "of_one_mapping or with_holes"]
    result = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-m", "pytest", *options],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "SEED": str(SEED)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout


def test_shared_memory_cut_short(spawn: Spawn) -> None:
    judge(spawn("shmem", SEED, "wwwwwwrt"))


def test_shared_memory_written_through_its_file(spawn: Spawn) -> None:
    judge(spawn("shmem", SEED, "wwwrefdW"))


def test_shared_memory_mapped_twice(spawn: Spawn) -> None:
    judge(spawn("shmem", SEED, "wwwrefa"))


#: With and without reads: one fills what was dropped with zero pages, else it stays empty.
@pytest.mark.parametrize("ops", ["ooorDD", "oD"])
def test_hugetlb_private(spawn: Spawn, huge_pages: None, ops: str) -> None:
    judge(spawn("hugetlb", SEED, ops, "private"), amount=8)


@pytest.mark.parametrize("ops", ["ooorDe", "oe"])
def test_hugetlb_shared(spawn: Spawn, huge_pages: None, ops: str) -> None:
    judge(spawn("hugetlb", SEED, ops, "shared"), amount=8)


def test_hugetlb_at_rest(spawn: Spawn, huge_pages: None) -> None:
    """Empty huge pages are never "written", so they are easily taken for something they are not."""
    victim = spawn("hugetlb", SEED, "oD", "private")
    victim.send("step 20")
    victim.wait_for("stepped")
    with uffdtrackd.attach(victim.pid) as session:
        session.iterate()
        for _ in range(3):
            pages = session.iterate().processes[victim.pid]
            assert len(pages.dirty - pages.always) < 64
            assert not pages.discarded
    victim.finish()
