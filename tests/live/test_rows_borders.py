"""Row 34: what cannot be registered goes while what lies beside it is being registered."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.live.row import Row
from tests.procfs import PAGE
from tests.puppet import (
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_NONE,
    PROT_READ,
    Puppet,
)
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.native.layout import Layout
from uffdtrackd.native.protect import register_whole
from uffdtrackd.tracking import registrar
from uffdtrackd.tracking.sync import SyncTracker
from uffdtrackd.tracking.sync_registrar import SyncRegistrar

pytestmark = pytest.mark.live

PAGES = 9
#: The page of a mapping that is of a file which the target may only read.
FILE = 4


@pytest.fixture(autouse=True)
def _asynchronous(backend: str) -> None:
    if backend == "sync":
        pytest.skip("nothing is registered there up to what is younger than a second")


def watched(row: Row, folder: Path) -> tuple[int, int]:
    """Some pages under a session, one of which nobody can register. Returns where both begin.

    The first page is new, so that the next iteration registers what lies before the border.
    """
    puppet, path = row.puppet, folder / "file"
    path.write_bytes(os.urandom(PAGE))
    at = puppet.alone(PAGES)
    border = at + FILE * PAGE
    puppet.mmap(1, PROT_READ, MAP_SHARED, puppet.open(path, os.O_RDONLY), at=border)
    row.watch()
    puppet.mmap(1, at=at)
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

        def register(uffd: int, layout: Layout, start: int, end: int) -> object:
            now = not self.happened and when(start, end)
            self.happened |= now
            if now and not after:
                event()
            try:
                return register_whole(uffd, layout, start, end)
            finally:
                if now and after:
                    event()

        monkeypatch.setattr(registrar, "register_whole", register)


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


@pytest.mark.parametrize("dontunmap", [False, True])
@pytest.mark.parametrize("place", ["over", "beside"])
def test_row_35_stripped_before_another_is_registered(
    row: Row, backend: str, monkeypatch: pytest.MonkeyPatch, place: str, dontunmap: bool
) -> None:
    """A mapping loses its registration after all was asked for; maps may be the same as before."""
    if backend == "sync":
        pytest.skip("the kernel does not tell what is registered there")
    puppet = row.puppet
    whole = puppet.alone(64, PROT_NONE)
    puppet.munmap(whole, 64)
    stays = whole + 8 * PAGE
    comes, other = stays + 4 * PAGE, whole + 40 * PAGE
    puppet.mmap(8 if place == "over" else 4, at=stays)
    puppet.fill(stays, 8 if place == "over" else 4)
    puppet.mmap(4, at=other)  # never touched: it merges wherever it comes
    row.watch()
    puppet.fill(puppet.mmap(1))
    register = registrar.Registrar._register_around
    stripped = False

    def late(self: registrar.Registrar, start: int, end: int, layout: Layout) -> int:
        nonlocal stripped
        if not stripped:
            stripped = True
            flags = MREMAP_MAYMOVE | MREMAP_FIXED | (MREMAP_DONTUNMAP if dontunmap else 0)
            puppet.call("mremap", other, 4 * PAGE, 4 * PAGE, flags, comes)
            puppet.fill(stays, 4)
        return register(self, start, end, layout)

    monkeypatch.setattr(registrar.Registrar, "_register_around", late)
    row.step()
    assert stripped
    row.oracle.final().check()
    for _ in range(2):
        row.writes_are_seen(stays, 4)
        row.writes_are_seen(comes, 4)


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
