"""Messages: fixed ids, fields, levels, and where they go."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from uffdtrackd.service import journal, messages
from uffdtrackd.service.settings import LOG_LEVELS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    logger = journal.LOGGER
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A file that passes for the journal."""
    with open(tmp_path / "stream", "w+") as file:
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        yield file


def read(stream: TextIO) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def test_plain_lines_where_there_is_no_journal() -> None:
    out = io.StringIO()
    journal.setup("notice", out)
    journal.log(messages.ATTACHED, "session s-1: process 7", session="s-1", pid=7)
    journal.LOGGER.info("not at this level")
    journal.set_level("info")
    journal.LOGGER.info("but at %s", "this")
    assert out.getvalue() == (
        "uffdtrackd: notice: session s-1: process 7\nuffdtrackd: info: but at this\n"
    )


def test_another_stream_than_the_journals_is_plain(stream: TextIO, tmp_path: Path) -> None:
    with open(tmp_path / "other", "w+") as other:
        journal.setup("info", other)
        journal.LOGGER.info("x")
        assert read(other) == "uffdtrackd: info: x\n"


def test_the_journal_without_its_library(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "journal", None)
    journal.setup("debug", stream)
    journal.log(messages.REFUSED, "first\nsecond")
    journal.LOGGER.debug("x")
    assert read(stream) == "<4>first\n<4>second\n<7>x\n"


def test_fields_of_an_entry(stream: TextIO) -> None:
    journal.setup("info", stream)
    (handler,) = journal.LOGGER.handlers
    sent: list[dict[str, Any]] = []
    handler.send = lambda text, **fields: sent.append({"MESSAGE": text, **fields})  # type: ignore[attr-defined]
    journal.log(messages.ATTACHED, "100 %s", session="s-1", pid=7, peer_uid=0, error=None)
    (entry,) = sent
    expected = {
        "MESSAGE": "100 %s",
        "MESSAGE_ID": messages.ATTACHED.id,
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "uffdtrackd",
        "UFFDTRACK_SESSION": "s-1",
        "UFFDTRACK_TARGET_PID": "7",
        "OBJECT_PID": "7",
        "UFFDTRACK_PEER_UID": "0",
        "CODE_FUNC": "test_fields_of_an_entry",
    }
    assert {name: entry.get(name) for name in expected} == expected
    assert "UFFDTRACK_ERROR" not in entry
    assert read(stream) == ""


def test_every_level_has_its_syslog_number() -> None:
    numbers = []
    for level in LOG_LEVELS:
        journal.set_level(level)
        numbers.append(journal.priority(journal.LOGGER.level))
    assert numbers == [3, 4, 5, 6, 7]
    assert journal.priority(logging.CRITICAL) == 3


def test_ids_are_128_bits_and_unique() -> None:
    ids = [one.id for one in messages.MESSAGES]
    names = [one.name for one in messages.MESSAGES]
    assert len(ids) == len(set(ids)) == len(set(names)) >= 10
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in ids)


def test_what_a_catalog_entry_quotes_is_a_field() -> None:
    for one in messages.MESSAGES:
        quoted = re.findall(r"@(\w+)@", one.subject + one.text)
        assert set(quoted) <= set(messages.FIELDS.values()), one.name


def test_the_catalog_is_made_from_the_table() -> None:
    """To renew it: python -m tools.manual systemd"""
    assert (ROOT / "systemd/uffdtrackd.catalog").read_text() == messages.catalog()
