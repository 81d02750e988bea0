"""A fold says what its parts say: a consumer of either ends up with the same pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.iterations import history, numbers, populated
from uffdtrackd.model.errors import UsageError
from uffdtrackd.model.fold import fold
from uffdtrackd.model.iteration import Iteration
from uffdtrackd.model.pageset import PageSet


def said(iteration: Iteration) -> object:
    return {
        pid: (numbers(p.dirty), numbers(p.discarded), numbers(p.always), p.regions)
        for pid, p in iteration.processes.items()
    }


@given(st.integers(0, 1 << 32))
def test_a_fold_is_what_the_later_word_says(seed: int) -> None:
    first, second = history(seed, 2, span=40, pids=(10,))
    result = fold(first, second)
    for page in range(40):
        a, b = (
            "dirty" if page in numbers(p.dirty) else "gone" if page in numbers(p.discarded) else ""
            for p in (first.processes[10], second.processes[10])
        )
        told = result.processes[10]
        assert (page in numbers(told.dirty)) == ((b or a) == "dirty")
        assert (page in numbers(told.discarded)) == ((b or a) == "gone")
    assert result.processes[10].regions == second.processes[10].regions
    assert (result.number, result.time_ns, result.duration_ns) == (1, second.time_ns, 14)


@given(st.integers(0, 1 << 32))
def test_folding_is_associative(seed: int) -> None:
    a, b, c = history(seed, 3, span=40)
    assert said(fold(fold(a, b), c)) == said(fold(a, fold(b, c)))


def test_a_long_fold_holds_what_is_populated() -> None:
    parts = history(5, 12)
    result = parts[0]
    for part in parts[1:]:
        result = fold(result, part)
    assert {pid: numbers(p.dirty) for pid, p in result.processes.items()} == populated(parts)


def test_page_sizes_do_not_mix() -> None:
    a, b = history(1, 2, pids=(10,))
    b.processes[10].dirty = PageSet.from_ranges([(0, 1 << 21)], 1 << 21)
    with pytest.raises(UsageError):
        fold(a, b)
