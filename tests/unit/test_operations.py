"""docs/operations.md: nothing that the daemon can say is missing from it."""

from __future__ import annotations

import re

import pytest

from tools import tables
from uffdtrackd.model.errors import tree
from uffdtrackd.service.messages import MESSAGES
from uffdtrackd.service.settings import sections

TEXT = tables.OPERATIONS.read_text()


@pytest.mark.parametrize("name", [f"uffdtrack.{kind.__name__}" for kind in tree()])
def test_every_error_has_a_part_of_its_own(name: str) -> None:
    found = re.search(rf"^### {re.escape(name)}\n\n(.+)", TEXT, re.M)
    assert found, f"nothing about {name}"


def test_no_error_is_made_up() -> None:
    named = set(re.findall(r"uffdtrack\.([A-Z]\w+)", TEXT))
    assert named == {kind.__name__ for kind in tree()}


def test_every_message() -> None:
    assert {one.id for one in MESSAGES if one.id not in TEXT} == set()
    quoted = set(re.findall(r"MESSAGE_ID=(\w+)", TEXT))
    assert quoted <= {one.id for one in MESSAGES}


def test_the_tables_are_those_of_the_code() -> None:
    """To renew them: python -m tools.tables"""
    assert tables.renewed(TEXT) == TEXT


def test_a_stale_table_is_noticed() -> None:
    assert tables.renewed(TEXT.replace(MESSAGES[0].id, "0")) == TEXT


def test_sections_of_the_configuration_exist() -> None:
    assert set(re.findall(r"`\[(\w+)\]`", TEXT)) <= set(sections())
