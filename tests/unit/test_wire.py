"""Frames: what is a call, what is an answerable mistake, and what loses the stream."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uffdtrackd.model.errors import BadRequest, TargetGone, TrackError, from_map, tree
from uffdtrackd.service import wire
from uffdtrackd.service.wire import BadFrame, Call, Frames

MOST = 4096


def frames(data: bytes, most: int = MOST, size: int = 1 << 30) -> tuple[list[Any], str]:
    one = Frames(most)
    found = []
    for at in range(0, len(data), size):
        found += one.feed(data[at : at + size])
    return found, one.broken


def request(msgid: Any = 1, method: Any = "hello", params: Any = ({},)) -> bytes:
    packed: bytes = msgpack.packb([0, msgid, method, params])
    return packed


@given(st.integers(0, 1 << 32))
def test_frames_come_out_however_they_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    calls = [
        Call(rng.choice([None, n]), f"m{n}", {"key": rng.randbytes(rng.randrange(50))})
        for n in range(rng.randrange(1, 20))
    ]
    data = b"".join(
        msgpack.packb([2, c.method, [c.params]])
        if c.msgid is None
        else request(c.msgid, c.method, [c.params])
        for c in calls
    )
    assert frames(data, size=rng.randrange(1, 40)) == (calls, "")


@pytest.mark.parametrize(
    ("frame", "msgid"),
    [
        (None, None),
        (7, None),
        ("hello", None),
        ({}, None),
        ([], None),
        ([0], None),
        ([0, 1, "hello"], None),
        ([0, 1, "hello", [], []], None),
        ([True, 1, "hello", []], None),
        ([0, True, "hello", []], None),
        ([0, -1, "hello", []], None),
        ([0, 1 << 32, "hello", []], None),
        ([0, "1", "hello", []], None),
        ([0, 1.0, "hello", []], None),
        ([1, 1, None, {}], None),
        ([3, 1, "hello", []], None),
        ([0, 5, 7, []], 5),
        ([0, 5, "", []], 5),
        ([0, 5, b"hello", []], 5),
        ([0, 5, "x" * 100, []], 5),
        ([0, 5, "hello", {}], 5),
        ([0, 5, "hello", None], 5),
        ([0, 5, "hello", [[]]], 5),
        ([0, 5, "hello", [{}, {}]], 5),
        ([0, 5, "hello", ["x"]], 5),
        ([0, 0xFFFFFFFF, "hello", [1]], 0xFFFFFFFF),
        ([2, "hello"], None),
        ([2, "hello", [], []], None),
    ],
)
def test_a_frame_that_is_no_request_is_answered_and_the_next_one_is_read(
    frame: Any, msgid: int | None
) -> None:
    found, broken = frames(msgpack.packb(frame) + request(9))
    assert not broken
    assert isinstance(found[0], BadFrame) and found[0].msgid == msgid
    assert isinstance(found[0].error, BadRequest) and len(str(found[0].error)) < 200
    assert found[1] == Call(9, "hello", {})


def test_keys_of_any_kind_and_nothing_at_all_are_fine() -> None:
    odd = {1: 2, b"x": 3, None: 4, "pid": 5}
    assert frames(request(params=[odd]))[0] == [Call(1, "hello", {"pid": 5})]
    assert frames(request(params=[]))[0] == [Call(1, "hello", {})]


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def test_nesting() -> None:
    head = b"\x94\x00\x05" + msgpack.packb("hello") + b"\x91\x81" + msgpack.packb("x")
    found, broken = frames(head + nested(10))
    assert isinstance(found[0], Call) and not broken
    found, broken = frames(head + nested(200))
    assert isinstance(found[0], BadFrame) and found[0].msgid == 5 and not broken
    found, broken = frames(nested(4000))
    assert broken or isinstance(found[0], BadFrame)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\x7f\xff\xff\xff" + bytes(2 * MOST),
        b"\xc6\x40\x00\x00\x00" + bytes(2 * MOST),
        b"\xc9\x40\x00\x00\x00\x01" + bytes(2 * MOST),
        b"\x94\x00\x01\xa2\xff\xff\x90",
        b"\xc6" + (1 << 30).to_bytes(4, "big") + bytes(3 * MOST),
        request(params=[{"x": "y" * (2 * MOST)}]),
        b"\x91" * 70000,
    ],
)
def test_what_loses_the_stream(data: bytes) -> None:
    before, broken = frames(request(3) + data, size=1024)
    assert broken and before == [Call(3, "hello", {})]
    assert len(broken) < 200


def test_a_claim_allocates_nothing() -> None:
    import tracemalloc

    one = Frames(MOST)
    tracemalloc.start()
    try:
        one.feed(b"\x94\x00\x01\xa5hello\x91\x81\xa1x\xdc\x03\xff")
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024
    finally:
        tracemalloc.stop()
    assert one.partial


def test_answers_are_those_of_the_specification() -> None:
    assert msgpack.unpackb(wire.response(7, msgpack.packb({"a": 1}))) == [1, 7, None, {"a": 1}]
    kind, msgid, error, result = msgpack.unpackb(wire.error_response(7, TargetGone("x", pid=3)))
    assert (kind, msgid, result) == (1, 7, None)
    assert error == {
        "code": 4,
        "name": "uffdtrack.TargetGone",
        "message": "x",
        "data": {"hint": "", "pid": 3},
    }
    assert msgpack.unpackb(wire.notification("n", msgpack.packb({}))) == [2, "n", [{}]]


@pytest.mark.parametrize("kind", tree())
def test_every_error_comes_back_as_itself(kind: type[TrackError]) -> None:
    sent = kind("what", hint="do", pid=1, start=4096, end=8192, session="s1")
    back = from_map(msgpack.unpackb(msgpack.packb(sent.to_map())))
    assert type(back) is kind
    assert vars(back) == vars(sent)


def test_an_error_that_is_not_known_is_one_all_the_same() -> None:
    assert type(from_map({"name": "uffdtrack.FromTheFuture", "message": "m"})) is TrackError
    assert type(from_map({})) is TrackError
    assert from_map({"data": 7}).hint == ""
    assert from_map({"data": {"pid": "one", "start": [1], "end": 5}}).pid is None


def test_a_frame_that_does_not_end_stays_bytes() -> None:
    """Objects of it would be seventy times as large, and stay as long as the peer likes."""
    import tracemalloc

    most = 1 << 16
    packed = msgpack.packb([0, 1, "hello", [[[{}] * 1023] * 63]])
    body = packed[:-1]
    assert most // 2 < len(packed) < most + 4096
    one = Frames(most)
    tracemalloc.start()
    try:
        for at in range(0, len(body), 4096):
            assert one.feed(body[at : at + 4096]) == []
        assert tracemalloc.get_traced_memory()[0] < 4 * most
    finally:
        tracemalloc.stop()
    assert one.partial and not one.broken
    # And the end is found, with what comes after it.
    (found, after) = one.feed(packed[-1:] + request(9) + b"\x94")
    assert isinstance(found, BadFrame) and found.msgid == 1
    assert after == Call(9, "hello", {}) and one.partial


def test_a_frame_that_never_ends_is_too_long_in_time() -> None:
    one = Frames(MOST)
    sent = one.feed(b"\x94\x00\x01\xa5hello\x91\xdc\x03\xff")
    count = 0
    while not one.broken:
        sent += one.feed(b"\xdc\x00\x10" + b"\x80" * 16)
        count += 19
        assert count < 2 * MOST
    assert not sent and count > MOST - 64 and str(MOST) in one.broken
