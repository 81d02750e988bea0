"""The table of methods: every method has a handler, and the page says what the table says."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tools import protocol as page
from uffdtrackd.model.errors import BadRequest, UnknownMethod, tree
from uffdtrackd.service import schema
from uffdtrackd.service.methods import HANDLERS, JOBS
from uffdtrackd.service.protocol import COMMON_ERRORS, METHODS, describe, find

FIXED = {
    *("hello", "describe", "attach", "list", "status", "iterate", "pending", "ack", "freeze"),
    *("thaw", "read", "watch", "unwatch", "detach", "metrics"),
}


def test_every_method_is_handled() -> None:
    names = [one.name for one in METHODS]
    assert FIXED <= set(names) == HANDLERS.keys() | JOBS.keys() and len(set(names)) == len(names)


def test_every_error_that_is_named_exists() -> None:
    known = {kind.__name__ for kind in tree()}
    assert set(COMMON_ERRORS) <= known
    for one in METHODS:
        assert set(one.errors) <= known


def test_describe_can_be_sent() -> None:
    assert msgpack.unpackb(msgpack.packb(describe())) == describe()


def test_the_page_is_made_of_the_table() -> None:
    """To renew it: python -m tools.protocol"""
    text = page.PAGE.read_text()
    assert page.renewed(text) == text
    for one in METHODS:
        assert f"\n### {one.name}\n" in text


def test_a_stale_page_is_noticed() -> None:
    text = page.PAGE.read_text()
    assert page.renewed(text.replace("### iterate", "### pursue")) == text


@pytest.mark.parametrize(
    ("method", "given", "word"),
    [
        ("iterate", {}, "session is missing"),
        ("iterate", {"session": 7}, "session must be a text"),
        ("iterate", {"session": "s" * 300}, "session must be a text"),
        ("iterate", {"session": "s", "deliver": "pigeon"}, "deliver must be one of"),
        ("iterate", {"session": "s", "ack": -1}, "ack must be from 0"),
        ("iterate", {"session": "s", "ack": True}, "ack must be a whole number"),
        ("attach", {"pid": "1"}, "pid must be a whole number"),
        ("attach", {"pid": 1.5}, "pid must be a whole number"),
        ("attach", {"pid": 1 << 40}, "pid must be from 0"),
        ("attach", {"pid": 1, "keep": 1}, "keep must be true or false"),
        ("attach", {"pid": 1, "deadline": float("nan")}, "deadline must be a number"),
        ("attach", {"pid": 1, "deadline": 1e9}, "deadline must be from 0 to 30"),
        ("freeze", {"session": "s", "lease_seconds": []}, "lease_seconds must be a number"),
        ("watch", {"session": "s", "interval": -1}, "interval must be from 0"),
    ],
)
def test_a_wrong_parameter_is_named(method: str, given: dict[str, Any], word: str) -> None:
    with pytest.raises(BadRequest, match=f"{method}: {word}"):
        schema.check(find(method), given)


def test_nil_is_left_out_and_the_unknown_ignored() -> None:
    found = schema.check(find("ack"), {"session": "s", "iteration": 3, "consumer": None, "new": 1})
    assert found == {"session": "s", "iteration": 3, "consumer": "default"}


def test_an_unknown_method_is_told_those_there_are() -> None:
    with pytest.raises(UnknownMethod) as caught:
        find("pursue")
    assert "iterate" in caught.value.hint
