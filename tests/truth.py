"""What the memory of a frozen process really is, and where a shadow differs from it.

                          the truth                        a page the shadow lacks must be
    private, anonymous    /proc/PID/mem where pagemap has  zero
                          something, else zero
    private, of a file    /proc/PID/mem                    the file's content
    shared (also shm)     the file behind, not the page    zero (shmem, hugetlb), the file's
                          table: other mappings write too  content (a file on a disk)

Of anonymous memory and hugetlb only populated pages are read: reading an empty huge page
allocates one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import procfs
from tests.procfs import PAGE, Vma
from tests.shadow import BLOCK, PIECE, Shadow, block_pieces

_ZERO = bytes(PIECE)


@dataclass(frozen=True, slots=True)
class Difference:
    """One page that the shadow has wrong. offset: first differing byte. held: in the shadow."""

    address: int
    where: str
    why: str
    held: bool = False
    offset: int = 0
    truth: int = 0
    shadow: int = 0

    def __str__(self) -> str:
        detail = (
            f" at byte {self.offset}: target {self.truth:#04x}, shadow {self.shadow:#04x}"
            f" ({'held' if self.held else 'not held'})"
            if not self.why
            else f": {self.why}"
        )
        return f"page {self.address:x} in {self.where}{detail}"


def compare(
    pid: int,
    shadow: Shadow,
    maps: list[Vma],
    flags: Mapping[int, frozenset[str]],
    skipped: set[int],
) -> tuple[Iterator[Difference], int]:
    """Every page of `maps` but the mappings that start at `skipped`, against the shadow.

    flags: of each mapping, by start, as tests.procfs.vm_flags() has them.
    Returns the differences, found while iterated (the target must stay frozen until then), and
    the number of pages that are looked at.
    """
    wanted = [vma for vma in maps if vma.start < 1 << 63 and vma.start not in skipped]
    pages = sum(vma.end - vma.start for vma in wanted) // PAGE
    return _differences(pid, shadow, wanted, maps, flags), pages


def _differences(
    pid: int,
    shadow: Shadow,
    wanted: list[Vma],
    maps: list[Vma],
    flags: Mapping[int, frozenset[str]],
) -> Iterator[Difference]:
    shown = procfs.shown_by(pid)
    with _opened(shown / "mem") as mem, _opened(shown / "pagemap") as pagemap:
        for vma in wanted:
            huge = "ht" in flags.get(vma.start, ())
            yield from _compare_vma(pid, shadow, vma, mem, pagemap, huge)
    mapped = [(vma.start, vma.end) for vma in maps]
    at = 0
    for address in sorted(shadow.pages()):
        while at < len(mapped) and mapped[at][1] <= address:
            at += 1
        if at == len(mapped) or address < mapped[at][0]:
            yield Difference(address, "nothing", "held, but no longer mapped", held=True)


def _compare_vma(
    pid: int, shadow: Shadow, vma: Vma, mem: int, pagemap: int, huge: bool
) -> Iterator[Difference]:
    backing = -1
    if vma.file and vma.label != "/secretmem (deleted)":
        try:
            backing = procfs.open_backing(pid, vma)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a ring: there is nothing behind it to be read
                raise
    try:
        for start in range(vma.start, vma.end, PIECE):
            end = min(start + PIECE, vma.end)
            truth, own_backing = _piece(vma, start, end, mem, pagemap, backing, huge)
            if truth is None:
                if not shadow.held_in(start, end):
                    continue
                truth = _ZERO[: end - start]
            for at, to in block_pieces(start, end):
                want = memoryview(truth)[at - start : to - start]
                base = None if own_backing is None else own_backing[at - start : to - start]
                yield from _compare_block(shadow, vma, at, to, want, base)
    finally:
        if backing >= 0:
            os.close(backing)


def _compare_block(
    shadow: Shadow, vma: Vma, start: int, end: int, want: memoryview, base: bytes | None
) -> Iterator[Difference]:
    content, held = shadow.content(start, end)
    if base is not None and 0 in held:
        filled = bytearray(content)
        for at, to in procfs.runs(held.translate(bytes([1, 0]) + bytes(254)), 0):
            filled[at:to] = base[at:to]
        content = memoryview(filled)
    if content == want:
        return
    for at in range(0, end - start, PAGE):
        have, page = bytes(content[at : at + PAGE]), bytes(want[at : at + PAGE])
        if have != page:
            offset = next(i for i, (a, b) in enumerate(zip(have, page, strict=True)) if a != b)
            yield Difference(
                start + at,
                str(vma),
                "",
                bool(held[at // PAGE]),
                offset,
                page[offset],
                have[offset],
            )


def _piece(
    vma: Vma, start: int, end: int, mem: int, pagemap: int, backing: int, huge: bool
) -> tuple[bytes | None, bytes | None]:
    """(truth, backing) of a piece; truth None: all zero; backing None: zero."""
    if backing < 0:
        flags = procfs.populated(pagemap, start, end)
        if 1 not in flags:
            return None, None
        return _read_runs(mem, procfs.runs(flags, start), start, end, None), None
    content = os.pread(backing, end - start, vma.offset + start - vma.start)
    content = content.ljust(end - start, b"\0")
    if vma.shared:
        return content, None if procfs.in_memory(backing) else content
    flags = procfs.present(pagemap, start, end) if huge else b"\1" * ((end - start) // PAGE)
    return _read_runs(mem, procfs.runs(flags, start), start, end, content), content


def _read_runs(
    mem: int, runs: Iterator[tuple[int, int]], start: int, end: int, base: bytes | None
) -> bytes:
    """[start, end) as `base` has it (None: zero), with the pages of the runs read from `mem`."""
    data = bytearray(end - start) if base is None else bytearray(base)
    view = memoryview(data)
    for at, stop in runs:
        while at < stop:
            try:
                done = os.preadv(mem, [view[at - start : stop - start]], at)
            except OSError:
                done = 0
            # A page that cannot be read lies beyond the end of its file: it has no content.
            at += done // PAGE * PAGE or PAGE
    return bytes(data)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


assert PIECE % BLOCK == 0
