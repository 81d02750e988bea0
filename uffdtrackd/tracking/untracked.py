"""Regions that cannot be registered: what becomes of each, and why.

refused with   what it is                              becomes
EPERM          shared mapping of a file on a disk that  skip    the file has the content
               the target can never write
EPERM          the same of shared memory                always  others may write it
EPERM          a socket (TCP_ZEROCOPY_RECEIVE)          always  there is no file that has what
                                                                is shown
EBUSY          it belongs to the target's own           always
               userfaultfd
EINVAL, EPERM  vvar: the time of day                    skip
EADDRNOTAVAIL  it begins below vm.mmap_min_addr        always
EINVAL         MAP_DROPPABLE: the kernel may drop it    always
EINVAL         the kernel made it (vdso, rings, ...)    always, or skip where nobody can
                                                        read it (vvar, device memory)

and by the sync backend only:
EINVAL         private mapping of a file on a disk      always  its own pages; the others are
                                                                the file's
EINVAL         shared mapping of a file on a disk       always, or skip if the target can
                                                        never write it
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..model.region import Kind, Tracking
from ..native import scan
from ..native.layout import SHARED, WRITE, Vma
from .registrar import Refused

_SHARED_MEMORY = ("/memfd:", "/SYSV", "/dev/zero (deleted)", "/dev/shm/", "[anon_shmem:")

_PAGE = os.sysconf("SC_PAGE_SIZE")

# Bits of a swapped entry (Documentation/admin-guide/mm/pagemap.rst): type, offset.
_TYPE, _OFFSET = 0x1F, (1 << 55) - 32


def is_shared_memory(vma: Vma) -> bool:
    """Whether the file behind a mapping is memory: memfd, SysV, tmpfs, shared anonymous."""
    return vma.name.startswith(_SHARED_MEMORY)


def kind_of(vma: Vma, page_size: int = 4096) -> Kind:
    """What backs a VMA, from its line in maps and the size of its pages."""
    if page_size > 4096 or vma.name.startswith("/anon_hugepage"):
        return Kind.HUGETLB
    if vma.flags & SHARED and is_shared_memory(vma):
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
    shared: bool = False  # what is populated is known to the object behind it (`shared`)


class Judge:
    """Decides for the regions of one address space, once for each.

    mem_fd: /proc/PID/mem, to see whether a region can be read at all. tid: a live thread.
    """

    def __init__(self, mem_fd: int, tid: int) -> None:
        self._mem_fd = mem_fd
        self._tid = tid
        self._judged: dict[Refused, Untracked] = {}
        self._unread: set[Refused] = set()  # what could not be read when it was judged

    def judge(self, refused: Iterable[Refused]) -> dict[int, Untracked]:
        """What becomes of the regions, by start. Those that are gone are forgotten."""
        known = {one: how for one, how in self._judged.items() if one not in self._unread}
        self._unread = set()
        self._judged = {one: known.get(one) or self._decide(one) for one in refused}
        return {untracked.vma.start: untracked for untracked in self._judged.values()}

    @property
    def final(self) -> bool:
        """Whether `mistaken` need not be asked any more."""
        return not self._unread

    @property
    def mistaken(self) -> bool:
        """Whether something can be read by now that could not, and is to be judged again.

        It was away for that moment; maps, and who refuses it, may be as before.
        """
        return any(self._is_readable(one.vma) for one in self._unread)

    def _is_readable(self, vma: Vma) -> bool:
        try:
            os.pread(self._mem_fd, 1, vma.start)
        except OSError:
            return False
        return True

    def _decide(self, refused: Refused) -> Untracked:
        vma, kind = refused.vma, kind_of(refused.vma)
        if vma.name.startswith("[vvar"):
            # It changes while everybody stands still. Since Linux 7 it can be read, but not kept.
            why = "written by the kernel all the time, the same in every process"
            return Untracked(vma, Tracking.SKIP, why, False)
        if kind is Kind.SHARED_FILE and not vma.name.startswith("/"):
            why = "shows what no file has, and the kernel puts there"
            return Untracked(vma, Tracking.ALWAYS, why, False)
        if refused.errno == errno.EPERM and kind is Kind.SHARED_FILE:
            return Untracked(vma, Tracking.SKIP, "content of a file the target cannot write", False)
        if refused.errno == errno.EPERM:
            return Untracked(vma, Tracking.ALWAYS, "shared memory that others may write", True)
        if refused.errno == errno.EBUSY:
            # What the object has is read without its handler, unless that wants to be asked first
            # (UFFDIO_REGISTER_MODE_MINOR).
            shared = bool(vma.flags & SHARED) and "ui" not in _vm_flags(self._tid, vma)
            why = "owned by the target's own userfaultfd"
            return Untracked(vma, Tracking.ALWAYS, why, False, shared)
        if refused.errno == errno.EADDRNOTAVAIL:
            return Untracked(vma, Tracking.ALWAYS, "begins below vm.mmap_min_addr", True)
        if vma.name.startswith("/secretmem"):
            return Untracked(vma, Tracking.SKIP, "cannot be read from outside", False)
        if kind is Kind.FILE:
            why = "private mapping of a file, which needs asynchronous protection"
            return Untracked(vma, Tracking.ALWAYS, why, False)
        if kind in (Kind.SHARED_FILE, Kind.SHMEM):
            if kind is Kind.SHARED_FILE and not self._may_write(vma):
                why = "content of a file the target cannot write"
                return Untracked(vma, Tracking.SKIP, why, False)
            why = "shared mapping that needs asynchronous protection"
            return Untracked(vma, Tracking.ALWAYS, why, False, shared=True)
        if kind is Kind.ANON and "dp" in _vm_flags(self._tid, vma):
            # Not `skip`: plain memory that is mapped in its place looks the same in maps.
            return Untracked(vma, Tracking.ALWAYS, "may be dropped by the kernel any time", True)
        if not self._is_readable(vma):
            self._unread.add(refused)
            why = "made by the kernel, cannot be read from outside"
            return Untracked(vma, Tracking.SKIP, why, False)
        # Kernel and devices write such memory without the target's page tables knowing.
        why = "made by the kernel, cannot be write-protected"
        return Untracked(vma, Tracking.ALWAYS, why, True)

    def _may_write(self, vma: Vma) -> bool:
        if vma.flags & WRITE:
            return True
        flags = _vm_flags(self._tid, vma)
        return not flags or "mw" in flags


def _vm_flags(tid: int, vma: Vma) -> Sequence[str]:
    """The VmFlags of a mapping (proc_pid_smaps(5)); none where that cannot be read.

    Nothing else tells MAP_DROPPABLE memory from any other. Slow, so for refused regions only.
    """
    here = False
    try:
        with open(f"/proc/{tid}/smaps", errors="surrogateescape") as file:
            for line in file:
                here = line.rstrip("\n") == vma.line or (here and line[:1].isupper())
                if here and line.startswith("VmFlags:"):
                    return line.split()[1:]
    except OSError:
        pass
    return ()


def populated(region: Untracked, pagemap: int) -> list[tuple[int, int]]:
    """What has to be copied now of an `always` region that is not listed whole.

    Not the markers that a userfaultfd keeps in empty places: reading one calls its handler, who
    knows nothing of us. Nor the file's own pages of a private mapping. Raises NativeError.
    """
    of_file = kind_of(region.vma) is Kind.FILE
    found = scan.get(
        pagemap,
        region.vma.start,
        region.vma.end,
        anyof=scan.Page.PRESENT | scan.Page.SWAPPED,
        ret=scan.Page.PRESENT | scan.Page.FILE,
    )
    return [
        run
        for start, end, categories in found
        if not (of_file and categories & scan.Page.FILE)
        for run in (
            [(start, end)] if categories & scan.Page.PRESENT else in_swap(pagemap, start, end)
        )
    ]


def in_swap(pagemap: int, start: int, end: int) -> list[tuple[int, int]]:
    """The pages of a range that are in swap, each by itself; the others are markers.

    Without CAP_SYS_ADMIN the types of entries read as 0, and all count as swapped.
    """
    count = (end - start) // _PAGE
    entries = memoryview(os.pread(pagemap, count * 8, start // _PAGE * 8)).cast("Q")
    pages = ((start + i * _PAGE, entry) for i, entry in enumerate(entries))
    return [(page, page + _PAGE) for page, entry in pages if not _is_marker(entry)]


def _is_marker(entry: int) -> bool:
    """As is_marker() of c/scan_impl.h."""
    return entry & _TYPE >= 0x1E and 0 < (entry & _OFFSET) >> 5 < 8
