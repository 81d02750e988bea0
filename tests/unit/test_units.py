"""Numbers for people: the borders between units, where rounding could say "1024.0 KiB"."""

from __future__ import annotations

import pytest

from uffdtrackd.cli import units


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (4096, "4.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (5 * 1024 * 1024 + 300_000, "5.3 MiB"),
        (1 << 30, "1.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (1 << 60, "1024.0 PiB"),
    ],
)
def test_size(number: int, text: str) -> None:
    assert units.size(number) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 s"),
        (1, "1.00 ns"),
        (850_000, "850 us"),
        (999_999, "1.00 ms"),
        (1_930_000, "1.93 ms"),
        (12_340_000, "12.3 ms"),
        (999_499_000, "999 ms"),
        (999_999_000, "1.00 s"),
        (2_000_000_000, "2.00 s"),
        (3600 * 10**9, "3600 s"),
    ],
)
def test_duration(ns: int, text: str) -> None:
    assert units.duration(ns) == text


def test_counts_and_moments() -> None:
    assert units.count(131072) == "131 072"
    assert [units.plural(n, "page") for n in (0, 1, 2)] == ["0 pages", "1 page", "2 pages"]
    assert units.moment(1_767_323_045_123_000_000) == "2026-01-02T03:04:05.123Z"
