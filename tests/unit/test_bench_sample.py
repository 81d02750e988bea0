"""The arithmetic behind the benchmark table: a wrong median would be believed."""

from __future__ import annotations

import pytest

from tests.bench.sample import Row, Spread, compare, in_turn
from tests.bench.table import markdown


def test_spread_drops_the_outliers_of_both_ends() -> None:
    values = [*range(1, 12), -1000.0, 1000.0]
    spread = Spread.of(values, 2.0)
    assert (spread.median, spread.low, spread.high, spread.count) == (3.0, 0.5, 5.5, 13)


def test_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_ratio_is_taken_round_by_round() -> None:
    # The machine was ten times slower in the last rounds; both sides felt it alike.
    row = compare("x", "us", [1000, 1000, 10000], [2000, 2000, 20000], factor=1.5, fixed=0.25)
    assert row.ratio is not None and (row.ratio.low, row.ratio.high) == (2.0, 2.0)
    assert row.allowed == 1.75
    assert row.met is False


def test_the_verdict_is_taken_round_by_round() -> None:
    # Ours had three slow rounds, bare had two of them: the medians alone would say four times.
    bare = [1000.0, 1000, 1000, 4000, 4000]
    row = compare("x", "us", bare, [1400.0, 1400, 5600, 5600, 5600], factor=1.5)
    assert row.share is not None and row.share.median == pytest.approx(14 / 15)
    assert row.met is True
    late = compare("x", "us", bare, [1600.0, 1600, 1600, 5600, 5600], factor=1.5)
    assert late.met is False
    assert Row.from_map(late.to_map()) == late


def test_a_floor_allows_what_the_factor_does_not() -> None:
    row = compare("x", "us", [1000], [4000], factor=1.5, floor=5.0)
    assert (row.allowed, row.met) == (5.0, True)


def test_nothing_allowed_is_no_verdict() -> None:
    assert compare("x", "ns", [1], [2]).met is None


def test_series_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError):
        compare("x", "ns", [1, 2], [1])


def test_in_turn_reverses_the_order_every_round() -> None:
    calls: list[str] = []

    def note(name: str) -> float:
        calls.append(name)
        return len(calls)

    first, second = in_turn(3, lambda: note("a"), lambda: note("b"))
    assert "".join(calls) == "abbaab"
    assert (first, second) == ([1, 4, 5], [2, 3, 6])


def test_table_shows_the_verdict_in_aligned_columns() -> None:
    missed = compare("short", "ms", [1e6, 1e6], [3e6, 3e6], factor=2.0)
    met = compare("a much longer name", "ms", [1e6, 1e6], [1.5e6, 1.5e6], factor=2.0)
    lines = markdown([missed, met]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "3.00 (3.00..3.00)" in lines[2] and "**missed**" in lines[2]
    assert "1.50 (1.50..1.50)" in lines[3] and " met (0.75) " in lines[3]
