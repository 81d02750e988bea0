"""Which mappings are trusted to last, by their ages and those of what went."""

from __future__ import annotations

import pytest

from uffdtrackd.native.layout import Vma
from uffdtrackd.tracking import borders
from uffdtrackd.tracking.borders import CERTAIN, EARLY, LATE, Borders


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Maps:
    """A Layout that shows these lines."""

    def __init__(self, *vmas: Vma) -> None:
        self.vmas = vmas

    def text(self) -> bytes:
        return b"".join(vma.line.encode() + b"\n" for vma in self.vmas)


def mapping(number: int) -> Vma:
    start = number << 20
    line = f"{start:x}-{start + 4096:x} r--s 00000000 fe:01 {number} /file"
    return Vma(start, start + 4096, 9, 0, (254, 1), number, "/file", line)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(borders, "time", made)
    return made


@pytest.mark.parametrize("sort", [CERTAIN, EARLY, LATE])
def test_it_lasts_when_it_is_old_enough(clock: Clock, sort: float) -> None:
    one, ages = mapping(1), Borders()
    assert ages.lasts(one, sort) is (sort == CERTAIN)
    clock.now += sort + 1e-9
    # What it is taken for later does not matter: first sight does.
    assert ages.lasts(one, LATE)


def test_what_went_teaches_patience_with_its_sort(clock: Clock) -> None:
    one, two, ages = mapping(1), mapping(2), Borders()
    ages.lasts(one, EARLY)
    clock.now += 0.5
    ages.review(Maps(two))  # type: ignore[arg-type]
    ages.lasts(two, EARLY)
    clock.now += 9.9
    assert not ages.lasts(two, EARLY)
    clock.now += 0.2
    assert ages.lasts(two, EARLY)
    assert ages.lasts(mapping(3), CERTAIN)
    # The first one came back: it is as young as any.
    assert not ages.lasts(one, EARLY)


def test_patience_has_an_end(clock: Clock) -> None:
    one, two, ages = mapping(1), mapping(2), Borders()
    ages.lasts(one, LATE)
    clock.now += 3600
    ages.review(Maps(two))  # type: ignore[arg-type]
    ages.lasts(two, LATE)
    clock.now += 61
    ages.review(Maps(two))  # type: ignore[arg-type]
    assert ages.lasts(two, LATE)
