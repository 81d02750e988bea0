"""What a session must not forget, in a file that outlives the process that writes it.

    0        40        4096
    | header |   -     | set | set |   free   | index | set |  free ...
        |                 ^     ^                |       ^
        +-- place of -----+-----+----------------+-------+

The header is one small write, so a kill at any moment leaves the old state or the new one: what
changed is written where nothing of the old state is, and the header is turned over last. What did
not change stays in its place: a state like the one before costs the header alone.

    header    magic, version, flags, number, place and length of the index, little-endian
    flags     1: bits are being taken off that nobody may ever hear of
    index     JSON: {"meta": {...}, "parts": {name: [offset, length], ...}}
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..model.errors import TrackError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_HEADER = struct.Struct("<8sIIQQQ")
_MAGIC = b"uft-kept"
_VERSION = 1
_COLLECTING = 1
_FIRST = 4096
_MOST_INDEX = 64 << 20
# What a file may be longer than what it holds before it is cut.
_SLACK = 1 << 20


class State(NamedTuple):
    """What a file holds. collecting: something may have been found that is not in it."""

    number: int
    collecting: bool
    meta: dict[str, Any]
    parts: dict[str, bytes]


class StateFile:
    """One state, written again and again. fd: a memfd, or a file of our own; the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._number = 0
        self._collecting = False
        self._index = b""
        self._index_place = (0, 0)
        # name -> what was written, and where.
        self._parts: dict[str, tuple[object, int, int]] = {}

    def begin(self) -> None:
        """From now on things are found that the state does not know. Raises OSError."""
        if not self._collecting:
            self._write_header(collecting=True)

    def write(self, number: int, meta: Mapping[str, Any], parts: Mapping[str, Buffer]) -> None:
        """A new state in place of the old. A part that is the same object did not change.

        number: of the next iteration. meta: for JSON. Raises OSError; the old state stands then.
        """
        used = sorted((at, at + length) for _, at, length in self._parts.values())
        used.append((self._index_place[0], sum(self._index_place)))
        room = _Room(used)
        placed: dict[str, tuple[object, int, int]] = {}
        for name, part in parts.items():
            before = self._parts.get(name)
            if before is not None and before[0] is part:
                placed[name] = before
                continue
            data = memoryview(part).cast("B")
            at = room.take(len(data))
            _write(self._fd, data, at)
            placed[name] = (part, at, len(data))
        places = {name: (at, length) for name, (_, at, length) in placed.items()}
        index = json.dumps({"meta": meta, "parts": places}, separators=(",", ":")).encode()
        place = self._index_place
        if index != self._index:
            place = (room.take(len(index)), len(index))
            _write(self._fd, memoryview(index), place[0])
        self._write_header(collecting=False, number=number, place=place)
        moved = self._index is not index
        self._index, self._parts = index, placed
        if moved:
            self._trim()

    def _write_header(
        self, *, collecting: bool, number: int = -1, place: tuple[int, int] | None = None
    ) -> None:
        number = self._number if number < 0 else number
        place = place or self._index_place
        flags = _COLLECTING if collecting else 0
        header = _HEADER.pack(_MAGIC, _VERSION, flags, number, *place)
        _write(self._fd, memoryview(header), 0)
        self._collecting, self._number, self._index_place = collecting, number, place

    def _trim(self) -> None:
        end = max([sum(self._index_place), *(at + size for _, at, size in self._parts.values())])
        if os.fstat(self._fd).st_size > 2 * end + _SLACK:
            os.ftruncate(self._fd, end)


class _Room:
    """Hands out what is free between used ranges, in one pass from the start."""

    def __init__(self, used: list[tuple[int, int]]) -> None:
        self._used = iter(sorted(used))
        self._at = _FIRST
        self._next = next(self._used, None)

    def take(self, length: int) -> int:
        while self._next is not None and self._next[0] - self._at < length:
            self._at = max(self._at, self._next[1])
            self._next = next(self._used, None)
        at = self._at
        self._at += length
        return at


def read(fd: int) -> State:
    """The state that a file holds. Raises TrackError if that is none, OSError."""
    size = os.fstat(fd).st_size
    header = os.pread(fd, _HEADER.size, 0)
    try:
        magic, version, flags, number, at, length = _HEADER.unpack(header)
        if magic != _MAGIC or version != _VERSION or not 0 < length <= _MOST_INDEX:
            raise ValueError("no header of a kept session")
        index = json.loads(_read(fd, size, at, length))
        parts = {name: _read(fd, size, *place) for name, place in index["parts"].items()}
        return State(number, bool(flags & _COLLECTING), dict(index["meta"]), parts)
    except (struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrackError(
            f"not the state of a kept session: {error}",
            hint="attach again: the first iteration lists everything",
        ) from error


def _read(fd: int, size: int, at: int, length: int) -> bytes:
    if not (isinstance(at, int) and isinstance(length, int) and 0 <= length <= size - at <= size):
        raise ValueError(f"no {length} bytes at {at}")
    found = bytearray()
    while len(found) < length:
        piece = os.pread(fd, length - len(found), at + len(found))
        if not piece:
            raise ValueError(f"cut off at {at + len(found)}")
        found += piece
    return bytes(found)


def _write(fd: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)
