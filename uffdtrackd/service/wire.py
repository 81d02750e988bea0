"""MessagePack-RPC to the letter of its specification: bytes into requests, answers into bytes.

    request       [0, msgid, method, [params]]     params: one map of named parameters, or none
    response      [1, msgid, error, result]        one of the two is nil
    notification  [2, method, [params]]            no answer

    socket bytes --feed()--> Unpacker, with a limit on everything --> Call
                    ^            |              |
                    |            |              +--> BadFrame with the msgid: in step, answered
                    |            +--> broken: nobody knows where the next frame begins
                    +-- what has begun waits as bytes, until its end is there

Source: https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from ..model.errors import BadRequest, TrackError

REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2
MOST_ID = (1 << 32) - 1

# No request of ours is nested deeper than three; what is ignored may be.
DEEPEST = 16
LONGEST_NAME = 64
# Lengths inside a frame, which is limited as a whole too.
_MOST_ITEMS = 1024


class Call(NamedTuple):
    """One request (msgid is a number) or notification (msgid is None)."""

    msgid: int | None
    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A whole frame that is no request; msgid if it has one that an answer can name."""

    msgid: int | None
    error: BadRequest


class Frames:
    """Cuts a stream of bytes into calls.

    most: bytes of one frame. broken: why the stream is lost (no MessagePack, or too much of it),
    "" while it is in step.
    """

    def __init__(self, most: int) -> None:
        self.broken = ""
        self._most = most
        self._end = 0
        self._fed = 0
        self._unpacker = self._made()
        # Of a frame that has not ended. Meanwhile the unpacker only looks for its end: objects of
        # it would be as much as a hundred times as large, for as long as the peer likes.
        self._begun = bytearray()

    def _made(self) -> msgpack.Unpacker:
        most = self._most
        return msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            # Two frames, for what is read in one go may end in the middle of the second.
            max_buffer_size=2 * most,
            read_size=4096,
            max_str_len=most,
            max_bin_len=most,
            max_array_len=_MOST_ITEMS,
            max_map_len=_MOST_ITEMS,
            max_ext_len=most,
            # The length is a claim: nothing is allocated for it that was not sent.
            use_list=True,
        )

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._begun)

    def feed(self, data: bytes) -> list[Call | BadFrame]:
        """The frames that `data` completes."""
        found: list[Call | BadFrame] = []
        try:
            if self._begun:
                data = self._whole(data)
            self._fed += len(data)
            self._unpacker.feed(data)
            try:
                # To be told that there is no more costs as much as a frame.
                while not self.broken and self._end < self._fed:
                    frame = self._unpacker.unpack()
                    self._end = self._unpacker.tell()
                    found.append(parse(frame))
            except msgpack.OutOfData:
                rest = data[len(data) - (self._fed - self._end) :]
                self._start_over()
                self._whole(rest)
        except msgpack.BufferFull:
            self.broken = f"a frame may have {self._most} bytes"
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            # FormatError, StackError and the limits on lengths are ValueErrors.
            self.broken = str(error) or type(error).__name__
        return found

    def _whole(self, data: bytes) -> bytes:
        """All that has come since the frame began; nothing while its end is not there."""
        self._begun += data
        self._unpacker.feed(data)
        try:
            self._unpacker.skip()
        except msgpack.OutOfData:
            if len(self._begun) > self._most:
                self.broken = f"a frame may have {self._most} bytes"
            return b""
        whole = bytes(self._begun)
        self._begun = bytearray()
        self._start_over()
        return whole

    def _start_over(self) -> None:
        self._unpacker = self._made()
        self._fed = self._end = 0


def parse(frame: Any) -> Call | BadFrame:
    """A decoded frame as a call, or what is wrong with it."""
    msgid: int | None = None
    try:
        if not isinstance(frame, list) or not frame:
            raise BadRequest("a frame is an array: [0, msgid, method, [params]]")
        kind = frame[0]
        if isinstance(kind, bool) or kind not in (REQUEST, NOTIFICATION):
            raise BadRequest(f"a frame begins with 0 or 2, not {_shown(kind)}")
        if kind == REQUEST:
            if len(frame) != 4:
                raise BadRequest(f"a request has 4 parts, not {len(frame)}")
            if not _is_id(frame[1]):
                raise BadRequest(f"msgid is a number from 0 to 2^32 - 1, not {_shown(frame[1])}")
            msgid = frame[1]
        elif len(frame) != 3:
            raise BadRequest(f"a notification has 3 parts, not {len(frame)}")
        method, params = frame[-2:]
        if not isinstance(method, str) or not 0 < len(method) <= LONGEST_NAME:
            raise BadRequest(f"a method is a text, not {_shown(method)}")
        return Call(msgid, method, _named(method, params))
    except BadRequest as error:
        return BadFrame(msgid, error)


def _named(method: str, params: Any) -> dict[str, Any]:
    if not isinstance(params, list) or len(params) > 1:
        raise BadRequest(f"{method}: params is an array of one map, not {_shown(params)}")
    named = params[0] if params else {}
    if not isinstance(named, dict):
        raise BadRequest(f"{method}: parameters are a map by name, not {_shown(named)}")
    for key, value in named.items():
        if not isinstance(key, str) or isinstance(value, list | dict):
            break
    else:
        return named
    if _depth(named, DEEPEST) > DEEPEST:
        raise BadRequest(f"{method}: parameters are nested deeper than {DEEPEST}")
    # Keys that are no names are as unknown as any other.
    return {key: value for key, value in named.items() if isinstance(key, str)}


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_ID


def _depth(value: Any, most: int) -> int:
    """How deep it is nested; stops counting past `most`."""
    level, depth = [value], 0
    while level and depth <= most:
        depth += 1
        level = [
            inner
            for one in level
            if isinstance(one, list | dict)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def _shown(value: Any) -> str:
    """A value of a stranger in a message: its kind, and it itself only if it is short."""
    if isinstance(value, int | float | str | None) and len(text := repr(value)) <= 40:
        return text
    names = {dict: "a map", list: "an array", bytes: "bytes", str: "a text", int: "a number"}
    return names.get(type(value), type(value).__name__)


def response(msgid: int, result: bytes) -> bytes:
    """A good answer; `result` is packed already."""
    return b"\x94\x01" + msgpack.packb(msgid) + b"\xc0" + result


def error_response(msgid: int, error: TrackError) -> bytes:
    return msgpack.packb([RESPONSE, msgid, error.to_map(), None])


def notification(method: str, params: bytes) -> bytes:
    """`params`: one packed map."""
    return b"\x93\x02" + msgpack.packb(method) + b"\x91" + params


def pack(value: Any) -> bytes:
    return msgpack.packb(value)
