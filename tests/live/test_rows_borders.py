"""Rows 34, 35: what lies beside memory that is being registered goes, grows, or changes.

The event comes between the question what is not registered and the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.live.row import Row
from tests.procfs import PAGE
from tests.puppet import (
    ANON,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_NONE,
    PROT_READ,
    RW,
    Puppet,
)
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.native.layout import Layout
from uffdtrackd.native.protect import Vmas, register_whole
from uffdtrackd.tracking import registrar
from uffdtrackd.tracking.sync import SyncTracker
from uffdtrackd.tracking.sync_registrar import SyncRegistrar

pytestmark = [pytest.mark.live, pytest.mark.both_backends]

PAGES = 9
#: The page of a mapping that is of a file which the target may only read.
FILE = 4


@pytest.fixture
def _asynchronous(backend: str) -> None:
    if backend == "sync":
        pytest.skip("nothing is registered there up to what is younger than a second")


def watched(row: Row, folder: Path) -> tuple[int, int]:
    """Some pages under a session, one of which nobody can register. Returns where both begin.

    What lies before the border is new, so that the next iteration registers that, up to it.
    """
    puppet, path = row.puppet, folder / "file"
    path.write_bytes(os.urandom(PAGE))
    at = puppet.alone(PAGES)
    border = at + FILE * PAGE
    puppet.mmap(1, PROT_READ, MAP_SHARED, puppet.open(path, os.O_RDONLY), at=border)
    row.watch()
    puppet.mmap(FILE, at=at)
    return at, border


def replace(puppet: Puppet, at: int, pages: int) -> None:
    puppet.mmap(pages, at=at)
    puppet.fill(at, pages)


class Race:
    """Has something happen just before, or after, the first registration that `when` is for."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        when: Callable[[int, int], bool],
        event: Callable[[], None],
        after: bool = False,
    ) -> None:
        self.happened = False

        def register(
            uffd: int, registered: int | Vmas, layout: Layout, start: int, end: int
        ) -> object:
            now = not self.happened and when(start, end)
            self.happened |= now
            if now and not after:
                event()
            try:
                return register_whole(uffd, registered, layout, start, end)
            finally:
                if now and after:
                    event()

        monkeypatch.setattr(registrar, "register_whole", register)


@pytest.mark.usefixtures("_asynchronous")
def test_row_34_a_border_goes(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One mapping comes where the border was; it must be in one piece for mremap(2)."""
    puppet = row.puppet
    at, border = watched(row, tmp_path)
    race = Race(
        monkeypatch,
        lambda start, end: end == border,
        partial(replace, puppet, at, PAGES),
    )
    row.step()
    assert race.happened
    there = puppet.alone(PAGES, PROT_NONE)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    assert puppet.call("mremap", at, PAGES * PAGE, PAGES * PAGE, flags, there) == there
    row.judge((there, PAGES))
    row.writes_are_seen(there, PAGES)


@pytest.mark.usefixtures("_asynchronous")
def test_row_34_what_was_refused_is_other_memory(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is new after the last look at maps, which was made while registering."""
    puppet = row.puppet
    _, border = watched(row, tmp_path)
    race = Race(
        monkeypatch,
        lambda start, end: end == border,
        partial(replace, puppet, border, 1),
        after=True,
    )
    row.step()
    assert race.happened
    row.step()
    row.writes_are_seen(border, 1)
    assert str(row.region(border).tracking) == "async"


MOVE = MREMAP_MAYMOVE | MREMAP_FIXED


def in_one_piece(puppet: Puppet, at: int, pages: int) -> int:
    """Moves memory as a whole, which the kernel does of one mapping only. Returns where it is."""
    there = puppet.alone(pages, PROT_NONE)
    assert puppet.call("mremap", at, pages * PAGE, pages * PAGE, MOVE, there) == there
    return there


@pytest.mark.parametrize("which", ["new", "registered"])
@pytest.mark.parametrize("neighbour", [True, False])
def test_row_34_it_grows(
    row: Row, monkeypatch: pytest.MonkeyPatch, which: str, neighbour: bool
) -> None:
    """As realloc(3) does with a large block; what is new may be that, or lie behind it."""
    puppet = row.puppet
    whole = puppet.alone(64, PROT_NONE)
    puppet.munmap(whole, 64)
    if neighbour:  # that cannot merge, and where the call ends
        puppet.mmap(8, PROT_READ, at=whole + 56 * PAGE)
    if which == "registered":
        puppet.mmap(8, at=whole)
        puppet.fill(whole, 8)
    row.watch()
    new = puppet.mmap(8, at=whole + 24 * PAGE)
    if which == "new":
        puppet.mmap(8, at=whole)

    def grow() -> None:
        assert puppet.call("mremap", whole, 8 * PAGE, 12 * PAGE, 0) == whole
        puppet.fill(whole, 12)

    race = Race(monkeypatch, lambda start, end: start <= new < end, grow)
    row.step()
    assert race.happened
    for _ in range(2):
        row.step()
    there = in_one_piece(puppet, whole, 12)
    row.judge((there, 12))
    row.writes_are_seen(there, 12)


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("dontunmap", [False, True])
@pytest.mark.parametrize("place", ["over", "beside"])
def test_row_35_stripped_while_another_is_registered(
    row: Row, monkeypatch: pytest.MonkeyPatch, place: str, dontunmap: bool, near: bool
) -> None:
    """A mapping loses its registration after it was asked for; maps may be the same as before.

    near: what is new lies beside it.
    """
    puppet = row.puppet
    whole = puppet.alone(64, PROT_NONE)
    puppet.munmap(whole, 64)
    stays = whole + 8 * PAGE
    comes, other = stays + 4 * PAGE, whole + 40 * PAGE
    puppet.mmap(8 if place == "over" else 4, at=stays)
    puppet.fill(stays, 8 if place == "over" else 4)
    puppet.mmap(4, RW, ANON, at=other)  # never touched: it merges wherever it comes
    row.watch()

    def strip() -> None:
        flags = MOVE | (MREMAP_DONTUNMAP if dontunmap else 0)
        puppet.call("mremap", other, 4 * PAGE, 4 * PAGE, flags, comes)
        puppet.fill(stays, 4)

    new = puppet.mmap(1, RW, at=whole + 2 * PAGE if near else 0)
    puppet.fill(new)
    race = Race(monkeypatch, lambda start, end: start <= new < end, strip)
    row.step()
    assert race.happened
    row.step()
    row.oracle.final().check()
    for _ in range(2):
        row.writes_are_seen(stays, 4)
        row.writes_are_seen(comes, 4)
    in_one_piece(puppet, stays, 8)
    row.judge((stays, 8))


def test_row_35_grows_while_older_bits_are_taken_off(
    row: Row, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is new, but maps are read again: what they show must not be forgotten."""
    if backend != "sync":
        pytest.skip("maps are read once more there only when something was registered")
    puppet = row.puppet
    at = puppet.alone(PAGES)
    half, rest = PAGES // 2, PAGES - PAGES // 2
    puppet.munmap(at + half * PAGE, rest)
    row.watch()
    tracker = row.session._tree.members[puppet.pid]._tracker
    assert isinstance(tracker, SyncTracker)
    register = SyncRegistrar.register
    grown = False

    def late(self: SyncRegistrar, layout: Layout, missing: PageSet) -> PageSet:
        nonlocal grown
        if not grown:
            grown = True
            assert puppet.call("mremap", at, half * PAGE, PAGES * PAGE, 0, 0) == at
            puppet.fill(at + half * PAGE, rest)
        return register(self, layout, missing)

    monkeypatch.setattr(SyncRegistrar, "register", late)
    tracker._unclean = PageSet.from_ranges([(at, at + half * PAGE)], PAGE)
    row.step()
    assert grown
    row.writes_are_seen(at + half * PAGE, rest)
