"""An iteration as the bytes of an answer: ranges inline, or in a memfd that goes along.

    inline   {"pid", "dirty": [[start, end], ...], ...}            any client can read it
    memfd    {"pid", "dirty": {"offset", "count"}, ...}            u64 pairs, native byte order
             {"pid", "dirty": [[start, end, offset], ...], ...}    format "bitmap": one bit a page
                                       |
             memfd, sealed:  |#runs of dirty|#discarded|#always|#the next process ...

No range becomes a Python object on the way: the arrays that C made are written to the memfd as
they are, and inline they are spread over ready-made MessagePack by slices, each one loop in C.
"""

from __future__ import annotations

import fcntl
import os
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..model.errors import LimitReached, TrackError
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from . import wire
from .wire import pack

DELIVERIES = ("inline", "memfd")
FORMATS = ("runs", "bitmap")
SETS = ("dirty", "discarded", "always")

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# writev(2) takes IOV_MAX pieces.
_MOST_PIECES = 1024
# [start, end] of two u64: fixarray of 2, and twice 0xcf with eight bytes, most significant first.
_PAIR = b"\x92\xcf" + bytes(8) + b"\xcf" + bytes(8)
# Pages that are further apart than this many go to different bitmaps.
_APART = 4096


@dataclass(slots=True)
class Reply:
    """The packed result of a request, and the descriptors that go along; owns those.

    weight: bytes that it keeps in memory until the peer has taken it.
    """

    result: bytes
    fds: list[int] = field(default_factory=list)
    weight: int = 0

    def __post_init__(self) -> None:
        self.weight = self.weight or len(self.result)

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


def reply(value: Any) -> Reply:
    return Reply(pack(value))


def packed(msgid: int, made: Reply) -> bytes:
    """The answer, which is as large once more; without memory for it, an error."""
    try:
        return wire.response(msgid, made.result)
    except MemoryError:
        made.close()
        return wire.error_response(msgid, TrackError("no memory is left for the answer"))


def deliver(
    iteration: Iteration, how: str, form: str, most: int, extra: dict[str, Any] | None = None
) -> Reply:
    """how: of DELIVERIES. form: of FORMATS, for a memfd. most: bytes that may be sent inline.

    extra: more keys of the result. Raises LimitReached if it is more than that.
    """
    head = iteration.head() | (extra or {})
    if how == "memfd":
        return _in_memfd(iteration, head, form)
    size = 20 * sum(
        getattr(pages, name).run_count for pages in iteration.processes.values() for name in SETS
    )
    if size > most:
        raise LimitReached(
            f"iteration {iteration.number} is {size} bytes, more than {most} may be sent inline",
            hint='ask with deliver: "memfd"; nothing is lost until it is acknowledged',
        )
    parts: list[bytes] = []
    for pid, pages in iteration.processes.items():
        shown = windows(pages)
        parts.append(bytes([0x85 if shown else 0x84]) + pack("pid") + pack(pid))
        if shown:
            parts.append(pack("windows") + pack(shown))
        for name in SETS:
            parts.append(pack(name))
            parts.append(pack_runs(getattr(pages, name).runs))
    return Reply(_with_processes(head, len(iteration.processes), b"".join(parts)))


def pack_runs(runs: memoryview) -> bytes:
    """[[start, end], ...] as MessagePack. runs: see PageSet.runs."""
    count = len(runs) // 2
    if not count:
        return b"\x90"
    out = bytearray(_PAIR * count)
    words = array("Q", runs.tobytes())
    if sys.byteorder == "little":
        words.byteswap()
    data = words.tobytes()
    for byte in range(8):
        out[2 + byte :: 19] = data[byte::16]
        out[11 + byte :: 19] = data[8 + byte :: 16]
    return _array_header(count) + out


def windows(pages: ProcessPages) -> list[list[int | str]]:
    """As Iteration.to_map() has them."""
    return [[one.start, one.end, one.object, one.offset] for one in pages.windows]


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x90 | count])
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def _with_processes(head: dict[str, Any], count: int, processes: bytes) -> bytes:
    assert len(head) < 15, "a fixmap holds 15"
    packed = pack(head)
    return (
        bytes([packed[0] + 1]) + packed[1:] + pack("processes") + _array_header(count) + processes
    )


def _in_memfd(iteration: Iteration, head: dict[str, Any], form: str) -> Reply:
    pieces: list[memoryview | bytes] = []
    processes = []
    offset = 0
    for pid, pages in iteration.processes.items():
        one: dict[str, Any] = {"pid": pid}
        if shown := windows(pages):
            one["windows"] = shown
        for name in SETS:
            found: PageSet = getattr(pages, name)
            if form == "runs":
                one[name] = {"offset": offset, "count": found.run_count}
                if found:
                    pieces.append(found.runs.cast("B"))
                    offset += 16 * found.run_count
                continue
            segments = []
            for start, end in segments_of(found):
                bits = found.to_bitmap(start, end)
                segments.append([start, end, offset])
                pieces.append(bits)
                offset += len(bits)
            one[name] = segments
        processes.append(one)
    fd = os.memfd_create("uffdtrackd iteration", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(fd, pieces)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    memfd = {"fd": 0, "size": offset, "format": form}
    result = pack(head | {"memfd": memfd, "processes": processes})
    return Reply(result, [fd], len(result) + offset)


def segments_of(pages: PageSet) -> Iterator[tuple[int, int]]:
    """Ranges that together hold all of `pages`, without the large gaps between them."""
    apart = _APART * pages.page_size
    start = end = -1
    for low, high in pages:
        if end < 0:
            start = low
        elif low - end > apart:
            yield start, end
            start = low
        end = high
    if end >= 0:
        yield start, end


def _write(fd: int, pieces: list[memoryview | bytes]) -> None:
    """All of them in turn. Raises OSError."""
    for first in range(0, len(pieces), _MOST_PIECES):
        some = [memoryview(piece) for piece in pieces[first : first + _MOST_PIECES]]
        while some:
            done = os.writev(fd, some)
            while some and done >= len(some[0]):
                done -= len(some.pop(0))
            if some:
                some[0] = some[0][done:]
