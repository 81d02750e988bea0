"""What a shadow keeps of the pages of one process: their contents, or digests of them.

    Contents   a sparse file in memory, offset = address            all of it; shows which byte
    Digests    the same at 1/512 of the size, 8 bytes a page        whether a page differs

A page that is not kept is a hole and reads zero; so does its digest. `Contents.digested()` makes
one of the other when memory runs short.
"""

from __future__ import annotations

import os
from typing import Protocol

from ..model.pageset import PageSet
from ..native import copy, digest

# As large as an address space may be; costs nothing until written.
_LENGTH = 1 << 62


class Keep(Protocol):
    """exact: whether contents are kept. All raise NativeError."""

    exact: bool

    def take(self, memory: copy.Memory, pages: PageSet) -> PageSet:
        """Keeps the pages as they are now; returns those that cannot be read: zero is kept."""

    def compare(self, memory: copy.Memory, pages: PageSet) -> tuple[PageSet, PageSet]:
        """Pages that are not as kept, and pages that cannot be read."""

    def nonzero(self, pages: PageSet) -> PageSet:
        """Pages that are kept with a byte other than zero."""

    def drop(self, pages: PageSet) -> None: ...

    def first_difference(self, memory: copy.Memory, page: int) -> int | None:
        """The address of the first byte of a page that is not as kept; None if that is not known.

        Reads the page in the target, which must exist.
        """

    def need(self, pages: PageSet) -> int:
        """Bytes of memory that it takes, at most, to keep the pages."""

    def bytes(self) -> int:
        """Bytes of memory that it takes."""

    def close(self) -> None: ...


class _File:
    def __init__(self, name: str) -> None:
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(self._fd, _LENGTH)

    def bytes(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        os.close(self._fd)


class Contents(_File):
    """Every byte. pid: for the name that /proc/self/fd shows."""

    exact = True

    def __init__(self, pid: int) -> None:
        super().__init__(f"shadow of {pid}")

    def need(self, pages: PageSet) -> int:
        return pages.bytes

    def take(self, memory: copy.Memory, pages: PageSet) -> PageSet:
        return PageSet.from_runs(memory.copy_to(self._fd, pages.runs), pages.page_size)

    def compare(self, memory: copy.Memory, pages: PageSet) -> tuple[PageSet, PageSet]:
        differ, unreadable = memory.compare(self._fd, pages.runs)
        size = pages.page_size
        return PageSet.from_runs(differ, size), PageSet.from_runs(unreadable, size)

    def nonzero(self, pages: PageSet) -> PageSet:
        return PageSet.from_runs(copy.nonzero(self._fd, pages.runs), pages.page_size)

    def drop(self, pages: PageSet) -> None:
        copy.punch(self._fd, pages.runs)

    def first_difference(self, memory: copy.Memory, page: int) -> int | None:
        size = copy.PAGE_SIZE
        mine = os.pread(self._fd, size, page).ljust(size, b"\0")
        theirs = memory.read(page, size)
        return next((page + i for i in range(size) if mine[i] != theirs[i]), None)

    def digested(self, pid: int, pages: PageSet) -> Digests:
        """Digests of what is kept of the pages; the contents are given up."""
        digests = Digests(pid)
        try:
            digest.of_file(self._fd, pages.runs, digests._fd)
        except BaseException:
            digests.close()
            raise
        self.close()
        return digests


class Digests(_File):
    """8 bytes of each page; two pages that differ have the same with a chance of 2^-64."""

    exact = False

    def __init__(self, pid: int) -> None:
        super().__init__(f"digests of {pid}")

    def need(self, pages: PageSet) -> int:
        # One page of digests serves so many pages, and exists if one of these does.
        covered = pages.page_size // digest.BYTES * pages.page_size
        return len(PageSet.from_ranges(pages, covered)) * pages.page_size

    def take(self, memory: copy.Memory, pages: PageSet) -> PageSet:
        return PageSet.from_runs(digest.copy_to(memory, self._fd, pages.runs), pages.page_size)

    def compare(self, memory: copy.Memory, pages: PageSet) -> tuple[PageSet, PageSet]:
        differ, unreadable = digest.compare(memory, self._fd, pages.runs)
        size = pages.page_size
        return PageSet.from_runs(differ, size), PageSet.from_runs(unreadable, size)

    def nonzero(self, pages: PageSet) -> PageSet:
        return PageSet.from_runs(digest.nonzero(self._fd, pages.runs), pages.page_size)

    def drop(self, pages: PageSet) -> None:
        digest.punch(self._fd, pages.runs)

    def first_difference(self, memory: copy.Memory, page: int) -> int | None:
        return None
