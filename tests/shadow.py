"""The copy that a consumer would hold: pages by address, nothing else.

    blocks: address / 256 KiB --> (256 KiB of content, one byte a page: held or not)

A page that is not held is zero in its block, so that memory whose backing is zero can be compared
a block at a time. Pages are read by preadv(2) on /proc/PID/mem straight into the blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from tests.procfs import PAGE

BLOCK = 1 << 18
PER_BLOCK = BLOCK // PAGE
#: Bytes asked for in one preadv.
PIECE = 4 << 20

_ZERO = bytes(BLOCK)


def block_pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    """[start, end) cut at block borders."""
    while start < end:
        stop = min(end, (start // BLOCK + 1) * BLOCK)
        yield start, stop
        start = stop


class Shadow:
    """Pages of one process, as told by iterations."""

    def __init__(self) -> None:
        self.blocks: dict[int, tuple[bytearray, bytearray]] = {}

    def copy(self, mem: int, start: int, end: int) -> tuple[list[int], int]:
        """Take the pages of [start, end) from the process now; `mem` is /proc/PID/mem.

        Returns the pages that could not be read (unmapped meanwhile: they are dropped), and the
        number of pages that were held before with the same content.
        """
        unread: list[int] = []
        same = 0
        while start < end:
            stop = min(end, start + PIECE)
            views = [self._view(*piece) for piece in block_pieces(start, stop)]
            before = [bytes(view) for view in views]
            try:
                done = os.preadv(mem, views, start)
            except OSError:
                done = 0
            # A page read in part was unmapped under the read: not ours to keep.
            good = start + done // PAGE * PAGE
            for (at, to), old, new in zip(block_pieces(start, stop), before, views, strict=True):
                same += self._mark(at, min(to, good), old, new)
            if good < stop:
                unread.append(good)
                self.drop(good, min(good + PAGE, stop))
                good += PAGE
                # What preadv did not reach keeps its old content; a part of a page was dropped.
            start = good
        return unread, same

    def drop(self, start: int, end: int) -> None:
        """Forget the pages of [start, end)."""
        # Discarded ranges may be whole address spaces: go over what is held, if that is less.
        if (end - start) // BLOCK > len(self.blocks):
            numbers = [n for n in self.blocks if start < (n + 1) * BLOCK and n * BLOCK < end]
            pieces = [(max(start, n * BLOCK), min(end, (n + 1) * BLOCK)) for n in numbers]
        else:
            pieces = list(block_pieces(start, end))
        for at, to in pieces:
            number = at // BLOCK
            if number not in self.blocks:
                continue
            data, held = self.blocks[number]
            low, high = at - number * BLOCK, to - number * BLOCK
            data[low:high] = _ZERO[: high - low]
            held[low // PAGE : high // PAGE] = bytes((high - low) // PAGE)
            if 1 not in held:
                del self.blocks[number]

    def content(self, start: int, end: int) -> tuple[memoryview | bytes, bytes]:
        """What is held for a range inside one block: content, and one byte a page, 1 if held."""
        number = start // BLOCK
        low, high = start - number * BLOCK, end - number * BLOCK
        if number not in self.blocks:
            return memoryview(_ZERO)[low:high], bytes((high - low) // PAGE)
        data, held = self.blocks[number]
        return memoryview(data)[low:high], bytes(held[low // PAGE : high // PAGE])

    def held_in(self, start: int, end: int) -> bool:
        """Whether any page of the range is held."""
        first, last = start // BLOCK, (end - 1) // BLOCK
        if last - first > len(self.blocks):
            return any(
                1 in self.content(max(start, n * BLOCK), min(end, (n + 1) * BLOCK))[1]
                for n in self.blocks
                if first <= n <= last
            )
        return any(
            piece[0] // BLOCK in self.blocks and 1 in self.content(*piece)[1]
            for piece in block_pieces(start, end)
        )

    def pages(self) -> Iterator[int]:
        """Addresses of all pages held, in no order."""
        for number, (_, held) in self.blocks.items():
            for index, flag in enumerate(held):
                if flag:
                    yield number * BLOCK + index * PAGE

    def _view(self, start: int, end: int) -> memoryview:
        number = start // BLOCK
        if number not in self.blocks:
            self.blocks[number] = bytearray(BLOCK), bytearray(PER_BLOCK)
        data, _ = self.blocks[number]
        return memoryview(data)[start - number * BLOCK : end - number * BLOCK]

    def _mark(self, start: int, end: int, old: bytes, new: memoryview) -> int:
        """Note the pages of [start, end) as held; returns how many were, with equal content."""
        if end <= start:
            return 0
        number = start // BLOCK
        held = self.blocks[number][1]
        low, high = (start - number * BLOCK) // PAGE, (end - number * BLOCK) // PAGE
        same = 0
        if old == new:
            same = sum(held[low:high])
        elif 1 in held[low:high]:
            for index in range(high - low):
                span = slice(index * PAGE, (index + 1) * PAGE)
                same += held[low + index] and old[span] == new[span]
        held[low:high] = b"\1" * (high - low)
        return same
