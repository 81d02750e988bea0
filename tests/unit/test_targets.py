"""The victims judge themselves rightly: unharmed memory passes, one wrong byte does not.

Without this a victim that checks nothing would make every live test pass.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests import procfs
from tests.procfs import PAGE
from tests.victim import Victim, VictimFailed

Spawn = Callable[..., Victim]

#: Name and arguments for a run that stops changing anything by itself or on "step".
STILL = {
    "churn": ("-n", 3000, "-t", 2, "-m", 16),
    "shmem": (3,),
    "filemap": (3,),
    "thp": (3,),
}
#: A mapping of the victim that it checks, by its label, or by its size if that is "".
CHECKED = {"churn": "/memfd:", "shmem": "/memfd:shmem", "filemap": "/var/tmp/filemap-", "thp": ""}


def damage(victim: Victim, label: str) -> None:
    """Change the first word of every page of the first mapping so named that has content."""
    with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as mem:
        for vma in procfs.read_maps(victim.pid):
            fits = label in vma.label if label else vma.end - vma.start == 8192 * PAGE
            if not fits or vma.perms[:2] != "rw":
                continue
            for address in range(vma.start, vma.end, PAGE):
                os.pwrite(mem.fileno(), b"\xa5\x5a", address)
            return
    raise LookupError(f"no mapping {label!r}")


def settle(victim: Victim, name: str) -> None:
    """Wait until the victim changes nothing more."""
    if name == "churn":
        before = ""
        # Each thread stops after its 3000: then two answers are the same.
        while (now := victim.ask("stats")) != before or int(now.split()[1]) < 4000:
            before = now
    else:
        victim.ask("step 500")


@pytest.mark.parametrize("name", STILL)
def test_unharmed_is_ok(spawn: Spawn, name: str) -> None:
    victim = spawn(name, *STILL[name])
    settle(victim, name)
    assert victim.finish()[-1].startswith("ok ")


@pytest.mark.parametrize("name", STILL)
def test_damage_is_seen(spawn: Spawn, name: str) -> None:
    victim = spawn(name, *STILL[name])
    settle(victim, name)
    damage(victim, CHECKED[name])
    with pytest.raises(VictimFailed, match=r"words right"):
        victim.finish()


def test_churn_with_one_kind_of_op(spawn: Spawn) -> None:
    victim = spawn("churn", "-o", "wmv", "-s", random.randrange(1 << 30), "-t", "2", "-n", "500")
    # Told to stop at once, it may not have come to a `v` yet.
    while int(victim.ask("stats").split()[1]) < 500:
        pass
    counts = victim.finish()[-1]
    assert " v=" in counts and " x=" not in counts


def test_bigwriter_says_what_it_wrote(spawn: Spawn) -> None:
    victim = spawn("bigwriter", 4, "anon", 7)
    start, end = (int(word, 16) for word in victim.ask("where").split())
    assert end - start == 4 << 20
    with open(f"/proc/{victim.pid}/mem", "rb", buffering=0) as mem:
        before = os.pread(mem.fileno(), end - start, start)
        word, count, *numbers = victim.ask("dirty 0.1").split()
        after = os.pread(mem.fileno(), end - start, start)
    changed = [n for n in range(1024) if before[n * PAGE :][:PAGE] != after[n * PAGE :][:PAGE]]
    assert (word, int(count)) == ("dirty", 102)
    assert [int(number) for number in numbers] == changed
    assert victim.ask("run 0.5") == "running"
    assert victim.ask("halt").split()[0] == "halted"
    assert victim.ask("check") == "checked"
    victim.finish()


def test_bigwriter_sees_damage(spawn: Spawn) -> None:
    victim = spawn("bigwriter", 1)
    start = int(victim.ask("where").split()[0], 16)
    with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as mem:
        os.pwrite(mem.fileno(), b"\x99", start + 5 * PAGE)
    with pytest.raises(VictimFailed, match="page 5:"):
        victim.ask("check")
