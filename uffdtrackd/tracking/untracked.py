"""Regions that cannot be registered: what becomes of each, and why.

refused with   what it is                              becomes
EPERM          shared mapping of a file on a disk that  skip    the file has the content
               the target can never write
EPERM          the same of shared memory                always  others may write it
EBUSY          it belongs to the target's own           always
               userfaultfd
EINVAL         the kernel made it (vdso, rings, ...)    always, or skip where nobody can
                                                        read it (vvar, device memory)
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from ..model.region import Kind, Tracking
from ..native import scan
from ..native.layout import SHARED, Vma
from .registrar import Refused

_SHARED_MEMORY = ("/memfd:", "/SYSV", "/dev/zero (deleted)", "/dev/shm/", "[anon_shmem:")

_PAGE = os.sysconf("SC_PAGE_SIZE")

# The kernel numbers its markers above every swap device (include/linux/swap.h); bits 0-4 of an
# entry (Documentation/admin-guide/mm/pagemap.rst).
_SWAP_TYPE = _MARKER = 0x1F


def kind_of(vma: Vma, page_size: int = 4096) -> Kind:
    """What backs a VMA, from its line in maps and the size of its pages."""
    if page_size > 4096 or vma.name.startswith("/anon_hugepage"):
        return Kind.HUGETLB
    if vma.flags & SHARED and vma.name.startswith(_SHARED_MEMORY):
        return Kind.SHMEM
    if vma.name.startswith(("/[aio]", "anon_inode:", "/dev/")) and not vma.name.startswith(
        "/dev/zero"
    ):
        return Kind.SPECIAL
    if vma.name.startswith("[heap]"):
        return Kind.HEAP
    if vma.name.startswith("[stack]"):
        return Kind.STACK
    if vma.name.startswith("[") and not vma.name.startswith("[anon"):
        return Kind.SPECIAL
    if vma.flags & SHARED:
        return Kind.SHARED_FILE
    return Kind.FILE if vma.inode else Kind.ANON


@dataclass(frozen=True, slots=True)
class Untracked:
    """What becomes of a refused region."""

    vma: Vma
    tracking: Tracking
    reason: str
    whole: bool  # list all of it; else only what is populated


def judge(refused: Refused, mem_fd: int) -> Untracked:
    """Decides for one region. mem_fd: /proc/PID/mem, to see whether it can be read at all."""
    vma, kind = refused.vma, kind_of(refused.vma)
    if refused.errno == errno.EPERM and kind is Kind.SHARED_FILE:
        return Untracked(vma, Tracking.SKIP, "content of a file the target cannot write", False)
    if refused.errno == errno.EPERM:
        return Untracked(vma, Tracking.ALWAYS, "shared memory that others may write", True)
    if refused.errno == errno.EBUSY:
        return Untracked(vma, Tracking.ALWAYS, "owned by the target's own userfaultfd", False)
    try:
        os.pread(mem_fd, 1, vma.start)
    except OSError:
        return Untracked(
            vma, Tracking.SKIP, "made by the kernel, cannot be read from outside", False
        )
    # Kernel and devices write such memory without the target's page tables knowing.
    return Untracked(vma, Tracking.ALWAYS, "made by the kernel, cannot be write-protected", True)


def populated(region: Untracked, pagemap: int) -> list[tuple[int, int]]:
    """What has to be copied now of an `always` region that is not listed whole.

    Not the markers that a userfaultfd keeps in empty places: reading one calls its handler, who
    knows nothing of us. Raises NativeError.
    """
    found = scan.get(
        pagemap,
        region.vma.start,
        region.vma.end,
        anyof=scan.Page.PRESENT | scan.Page.SWAPPED,
        ret=scan.Page.PRESENT,
    )
    return [
        run
        for start, end, categories in found
        for run in ([(start, end)] if categories else _swapped(pagemap, start, end))
    ]


def _swapped(pagemap: int, start: int, end: int) -> list[tuple[int, int]]:
    """The pages of a range that are in swap, each by itself; the others are markers.

    Without CAP_SYS_ADMIN the types of entries read as 0, and all count as swapped.
    """
    count = (end - start) // _PAGE
    entries = memoryview(os.pread(pagemap, count * 8, start // _PAGE * 8)).cast("Q")
    pages = ((start + i * _PAGE, entry) for i, entry in enumerate(entries))
    return [(page, page + _PAGE) for page, entry in pages if entry & _SWAP_TYPE != _MARKER]
