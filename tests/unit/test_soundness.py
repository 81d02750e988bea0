"""docs/soundness.md and the live tests name the same rows: none without a test, none untold."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "soundness.md").read_text()


def named() -> set[str]:
    live = (ROOT / "tests" / "live").glob("test_*.py")
    return {
        name for path in live for name in re.findall(r"^def (test_row_\w+)", path.read_text(), re.M)
    }


def test_every_row_has_its_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| `(test_row_\w+)` \|$", PAGE, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 36))
    for number, prefix in rows:
        assert any(name.startswith(prefix) for name in named()), f"row {number}: no {prefix}*"
        assert f"_{int(number):02}" in prefix


def test_every_test_has_its_row() -> None:
    prefixes = tuple(re.findall(r"`(test_row_\w+)`", PAGE))
    assert not [name for name in named() if not name.startswith(prefixes)]
