"""`/proc/PID/maps` as the kernel shows it now, parsed in C only when it changed."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import runs
from ._native import ffi, lib
from .error import new_error, raised

READ = 1
WRITE = 2
EXEC = 4
SHARED = 8


class Vma(NamedTuple):
    """One line of maps, see proc_pid_maps(5). start, end, offset: bytes. flags: READ | ..."""

    start: int
    end: int
    flags: int
    offset: int
    device: tuple[int, int]
    inode: int
    name: str
    line: str


class Layout:
    """The layout of one address space, from an open /proc/PID/maps.

    The file descriptor stays the caller's and must stay open.
    """

    def __init__(self, maps_fd: int) -> None:
        self._c: Any = ffi.gc(lib.ut_layout_new(maps_fd), lib.ut_layout_free)
        if not self._c:
            raise MemoryError("layout")

    @property
    def c(self) -> Any:
        """The struct ut_layout, for the C floor."""
        return self._c

    def refresh(self) -> bool:
        """Reads maps again; True if it differs from the last time.

        An empty layout means that the address space is gone. Raises NativeError.
        """
        error = new_error()
        result = lib.ut_layout_refresh(self._c, error)
        if result < 0:
            raise raised(error)
        return bool(result)

    @property
    def address(self) -> Any:
        """The C half, for `native.sweep`."""
        return self._c

    def __len__(self) -> int:
        return int(lib.ut_layout_count(self._c))

    def text(self) -> bytes:
        """maps as last read."""
        length = ffi.new("uint64_t *")
        data = lib.ut_layout_text(self._c, length)
        return bytes(ffi.buffer(data, length[0])) if length[0] else b""

    def mapped(self) -> memoryview:
        """Every mapped page, as runs (see `native.runs`)."""
        count = len(self)
        if not count:
            return runs.EMPTY
        out = runs.allocate(count)
        return runs.adopt(out, lib.ut_layout_mapped(self._c, out))

    def special(self) -> list[Vma]:
        """The VMAs that are more than plain private anonymous memory, by address."""
        indices = ffi.new("uint32_t[]", len(self) or 1)
        found = lib.ut_layout_special(self._c, indices)
        vmas = lib.ut_layout_vmas(self._c, ffi.new("uint64_t *"))
        text = self.text()
        return [_vma(vmas[indices[i]], text) for i in range(found)]

    def vmas(self) -> list[Vma]:
        """Every VMA, by address."""
        vmas = lib.ut_layout_vmas(self._c, ffi.new("uint64_t *"))
        text = self.text()
        return [_vma(vmas[i], text) for i in range(len(self))]

    def page_size_of(self, vma: Vma) -> int:
        """Bytes in a page of a VMA; 0 where the kernel (before 6.11) does not tell.

        Raises NativeError (ENOENT) where it is not mapped any more, or something else is.
        """
        error = new_error()
        major, minor = vma.device
        known = {"start": vma.start, "inode": vma.inode, "major": major, "minor": minor}
        size = lib.ut_layout_page_size(self._c, ffi.new("struct ut_vma *", known), error)
        if size < 0:
            raise raised(error)
        return int(size)


def _vma(vma: Any, text: bytes) -> Vma:
    name_end = vma.name + vma.name_length
    return Vma(
        vma.start,
        vma.end,
        vma.flags,
        vma.offset,
        (vma.major, vma.minor),
        vma.inode,
        text[vma.name : name_end].decode(errors="surrogateescape"),
        text[vma.line : name_end].decode(errors="surrogateescape"),
    )
