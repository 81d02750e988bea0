"""Row 34: what cannot be registered comes and goes beside what must stay in one piece."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.row import Row
from tests.procfs import PAGE, read_maps
from tests.puppet import MAP_SHARED, PROT_READ, Puppet
from tests.victim import Victim

pytestmark = [pytest.mark.live, pytest.mark.both_backends]


def test_row_34_borders_that_go(spawn: Callable[..., Victim], backend: str) -> None:
    """See tests/targets/borders.c: calls that trust what maps has just shown break it at once."""
    if backend == "sync":
        pytest.skip("some microseconds are left there: see With synchronous protection")
    for _ in range(3):
        victim = spawn("borders")
        before = int(victim.ask("rounds"))
        with uffdtrackd.attach(victim.pid) as session:
            for _ in range(300):
                session.iterate()
        assert int(victim.ask("rounds")) > before + 100
        victim.finish()


def read_only(puppet: Puppet, folder: Path, at: int) -> None:
    """Maps a page that nobody can register."""
    path = folder / "file"
    path.write_bytes(os.urandom(PAGE))
    puppet.mmap(1, PROT_READ, MAP_SHARED, puppet.open(path, os.O_RDONLY), at=at)


def test_row_34_it_was_there_before(row: Row, tmp_path: Path) -> None:
    """What lies beside it is registered by the attach."""
    at = row.puppet.alone(9)
    read_only(row.puppet, tmp_path, at + 4 * PAGE)
    with uffdtrackd.attach(row.puppet.pid) as session:
        session.iterate()
        dirty = session.iterate().processes[row.puppet.pid].dirty
        assert not any(start < at + 9 * PAGE and at < end for start, end in dirty)
    row.watch()
    row.writes_are_seen(at, 4)
    row.writes_are_seen(at + 5 * PAGE, 4)


def test_row_34_it_came_later(row: Row, tmp_path: Path) -> None:
    """What is new beside it is listed until it has proved to last, and then what was written."""
    row.watch()
    at = row.puppet.alone(9)
    read_only(row.puppet, tmp_path, at + 4 * PAGE)
    row.puppet.fill(at, 4)
    assert row.listed(row.step(), at, 4) == 4
    assert row.listed(row.step(), at, 4) == 4
    until = time.monotonic() + 30
    while row.listed(row.step(), at, 4):
        assert time.monotonic() < until
    row.writes_are_seen(at, 4)
    row.writes_are_seen(at + 5 * PAGE, 4)
    assert str(row.region(at + 4 * PAGE).tracking) == "skip"


def test_row_34_it_goes_before_it_is_trusted(row: Row, tmp_path: Path) -> None:
    """No call ends where it was."""
    row.watch()
    at = row.puppet.alone(9)
    read_only(row.puppet, tmp_path, at + 4 * PAGE)
    row.step()
    row.puppet.mmap(9, at=at)
    row.puppet.fill(at, 9)
    row.step()
    assert (at, at + 9 * PAGE) in [(vma.start, vma.end) for vma in read_maps(row.puppet.pid)]
    assert not row.listed(row.step(), at, 9)
    row.writes_are_seen(at, 9)
