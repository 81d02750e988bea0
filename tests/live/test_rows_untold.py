"""Row 30, second half: an iteration that did all its work, and failed before it could tell.

Protection is in place and notes are taken off, for memory of each sort: the next iteration must
find what this one found. The failure is made at the very end, where nothing is left to repair it.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.row import Row
from tests.live.test_rows_zaps import huge_mapping
from tests.procfs import PAGE
from tests.puppet import ANON, HUGE, MADV_DONTNEED, MAP_PRIVATE, MAP_SHARED
from uffdtrackd.errors import TrackError
from uffdtrackd.native.error import NativeError
from uffdtrackd.tracking import session as session_module
from uffdtrackd.tracking import sync as sync_module
from uffdtrackd.tracking import tracker as tracker_module
from uffdtrackd.tracking.collection import Collection
from uffdtrackd.tracking.known import Known
from uffdtrackd.tracking.member import Member
from uffdtrackd.tracking.shared import SharedPages

pytestmark = [pytest.mark.live, pytest.mark.both_backends]


def fails_to_tell(row: Row) -> None:
    """One iteration that finds everything and then fails."""

    def fail(*_: object) -> None:
        raise NativeError("made to fail", errno.EIO)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Known, "update", fail)
        patch.setattr(tracker_module.Tracker, "_quiet", fail)
        with pytest.raises(uffdtrackd.errors.TrackError):
            row.session.iterate()


def test_row_30_untold_writes(row: Row) -> None:
    at = row.puppet.mmap(64)
    row.puppet.fill(at, 64)
    row.watch()
    row.puppet.fill(at + 10 * PAGE, 5)
    fails_to_tell(row)
    row.judge((at + 10 * PAGE, 5))
    row.writes_are_seen(at, 64)


def fails_when_another_does(row: Row) -> None:
    """One iteration in which this process is done with and another one makes it fail."""
    finish = Member.finish

    def fail(member: Member, shared: SharedPages) -> None:
        finish(member, shared)
        raise TrackError("made to fail")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Member, "finish", fail)
        with pytest.raises(TrackError, match="made to fail"):
            row.session.iterate()


def fails_twice(row: Row) -> None:
    for _ in range(2):
        fails_to_tell(row)


def fails_at_the_very_end(row: Row) -> None:
    """Everything was collected, nobody was told: as when Ctrl-C comes just then."""

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "Iteration", fail)
        with pytest.raises(KeyboardInterrupt):
            row.session.iterate()


def fails_having_learnt(row: Row) -> None:
    """What a consumer will hold is noted, and then it fails."""

    class Fails(Collection):
        def __new__(cls, *_: object, **__: object) -> Fails:
            raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        for module in (tracker_module, sync_module):
            patch.setattr(module, "Collection", Fails)
        with pytest.raises(MemoryError):
            row.session.iterate()


@pytest.mark.parametrize(
    "fails",
    [
        fails_to_tell,
        fails_when_another_does,
        fails_twice,
        fails_at_the_very_end,
        fails_having_learnt,
    ],
)
@pytest.mark.parametrize("event", ["mapped over", "dropped", "unmapped"])
def test_row_30_untold_losses(row: Row, event: str, fails: Callable[[Row], None]) -> None:
    at, written = row.puppet.alone(64), row.puppet.alone(8)
    row.puppet.fill(at, 64)
    row.puppet.fill(written, 8)
    row.watch()
    row.puppet.fill(written, 4)
    if event == "mapped over":
        row.puppet.mmap(64, at=at)
    elif event == "dropped":
        row.puppet.madvise(at, 64, MADV_DONTNEED)
    else:
        row.puppet.munmap(at, 64)
    fails(row)
    row.judge((at, 64), (written, 4))


def test_row_30_untold_writes_to_a_private_file(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(16 * PAGE))
    at = row.puppet.mmap(16, flags=MAP_PRIVATE, fd=row.puppet.open(file))
    row.puppet.fill(at, 8)
    row.watch()
    row.puppet.madvise(at, 2, MADV_DONTNEED)
    row.puppet.fill(at + 4 * PAGE, 8)
    fails_to_tell(row)
    row.judge((at, 2), (at + 4 * PAGE, 8))
    row.writes_are_seen(at, 16)


def test_row_30_untold_writes_to_shared_memory(row: Row) -> None:
    """Its page tables forget: the page stays in the object alone."""
    fd = row.puppet.memfd(16)
    at = row.puppet.mmap(16, flags=MAP_SHARED, fd=fd)
    row.puppet.close(fd)
    row.puppet.fill(at, 16)
    row.watch()
    row.puppet.fill(at + 4 * PAGE, 4)
    fails_to_tell(row)
    row.puppet.madvise(at, 16, MADV_DONTNEED)
    row.judge((at + 4 * PAGE, 4))
    row.writes_are_seen(at, 16)


def test_row_30_untold_writes_to_huge_pages(row: Row, huge_pages: None) -> None:
    assert mmap.PAGESIZE == PAGE
    with huge_mapping(row.puppet, ANON) as at:
        row.watch()
        row.puppet.fill(at + HUGE, 3)
        row.puppet.madvise(at + 2 * HUGE, HUGE // PAGE, MADV_DONTNEED)
        fails_to_tell(row)
        row.judge((at + HUGE, 3), (at + 2 * HUGE, 1))
        row.writes_are_seen(at, 4)
