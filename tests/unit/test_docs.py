"""The documents name files and links that exist: a page that points nowhere is worse than none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# `folder/file.ext`, not one of the machine, and bare `file.c` that follows one in the same cell.
NAMED = re.compile(r"`((?!/|[\w/]*(?:NOUN|NAME))[\w./-]+\.(?:py|pyi|c|h|md|toml|sh|lds))`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
SKIPPED = {".venv", "build", "dist", ".git"}


def files() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for top in ROOT.iterdir()
        if top.name not in SKIPPED
        for path in ([top] if top.is_file() else top.rglob("*"))
    }


def missing(text: str, here: Path) -> list[str]:
    """Names in `text` of a page in folder `here` that no file has, by its end or whole."""
    known = files()
    named = [
        name
        for name in NAMED.findall(text)
        if not any(one == name or one.endswith(f"/{name}") for one in known)
    ]
    return named + [link for link in LINK.findall(text) if not (here / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    assert not missing(page.read_text(), page.parent)


def test_a_wrong_name_is_noticed() -> None:
    assert missing("see `uffdtrackd/tracking/nothing.py`", ROOT) == [
        "uffdtrackd/tracking/nothing.py"
    ]
    assert missing("see [there](docs/nothing.md)", ROOT) == ["docs/nothing.md"]
    assert not missing("see `setup.py` and [this](README.md#use)", ROOT)
