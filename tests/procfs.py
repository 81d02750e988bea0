"""What /proc says of a process, by plain reads: the oracle's own eyes.

Nothing here uses uffdtrackd or PAGEMAP_SCAN: an oracle that looked through the code under test
would share its blind spots. Sources: proc_pid_maps(5), proc_pid_pagemap(5),
Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGESIZE")

_libc = ctypes.CDLL(None, use_errno=True)
_TMPFS_MAGIC = 0x01021994  # linux/magic.h
_HUGETLBFS_MAGIC = 0x958458F6

#: Top byte of a pagemap entry to 1 (something is there: present, or a swap entry) or 0.
#: A guard region (bit 58) is a swap entry that cannot be read: nothing is there.
_POPULATED = bytes(1 if byte & 0xC0 and not byte & 0x04 else 0 for byte in range(256))
#: ... to 1 if a page is mapped right now.
_PRESENT = bytes(1 if byte & 0x80 else 0 for byte in range(256))


@dataclass(frozen=True, slots=True)
class Vma:
    """One line of /proc/PID/maps. start, end, offset in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    device: tuple[int, int]
    inode: int
    label: str

    @property
    def shared(self) -> bool:
        return self.perms[3] == "s"

    @property
    def file(self) -> bool:
        """Whether a file (also a memfd, or the kernel's own for shared memory) is behind it."""
        return self.inode != 0

    def __str__(self) -> str:
        return f"{self.start:x}-{self.end:x} {self.perms} {self.label or 'anonymous'}"


def shown_by(pid: int) -> Path:
    """Where /proc shows the memory of a process: not below its first thread if that has ended.

    Raises FileNotFoundError or ProcessLookupError when it is gone.
    """
    states = thread_states(pid)
    if states.get(pid, "Z") not in "ZX":
        return Path(f"/proc/{pid}")
    for tid, state in states.items():
        if state not in "ZX":
            return Path(f"/proc/{tid}")
    raise ProcessLookupError(f"process {pid} has ended")


def read_maps(pid: int) -> list[Vma]:
    """All mappings of a process. Raises FileNotFoundError or ProcessLookupError when it is gone."""
    found = []
    for line in (shown_by(pid) / "maps").read_text(errors="surrogateescape").splitlines():
        span, perms, offset, device, inode, *label = line.split(maxsplit=5)
        start, end = span.split("-")
        major, minor = device.split(":")
        found.append(
            Vma(
                int(start, 16),
                int(end, 16),
                perms,
                int(offset, 16),
                (int(major, 16), int(minor, 16)),
                int(inode),
                label[0] if label else "",
            )
        )
    return found


def vm_flags(pid: int) -> dict[int, frozenset[str]]:
    """The VmFlags line of each mapping in /proc/PID/smaps, by start address."""
    found: dict[int, frozenset[str]] = {}
    start = 0
    for line in (shown_by(pid) / "smaps").read_text(errors="surrogateescape").splitlines():
        first, _, rest = line.partition(" ")
        if first == "VmFlags:":
            found[start] = frozenset(rest.split())
        elif not first.endswith(":"):
            start = int(first.split("-")[0], 16)
    return found


def _entries(pagemap: int, start: int, end: int) -> bytes:
    """The top byte of each page's pagemap entry; short if the range runs out of the user half."""
    return os.pread(pagemap, (end - start) // PAGE * 8, start // PAGE * 8)[7::8]


def populated(pagemap: int, start: int, end: int) -> bytes:
    """One byte a page: 1 if something is in the page table that can be read, else 0."""
    return _entries(pagemap, start, end).translate(_POPULATED).ljust((end - start) // PAGE, b"\0")


def present(pagemap: int, start: int, end: int) -> bytes:
    """One byte a page: 1 if a page is mapped right now, else 0."""
    return _entries(pagemap, start, end).translate(_PRESENT).ljust((end - start) // PAGE, b"\0")


def runs(flags: bytes, start: int) -> Iterator[tuple[int, int]]:
    """The byte ranges whose pages have a 1 in `flags`; the first page is at `start`."""
    at = flags.find(1)
    while at >= 0:
        stop = flags.find(0, at)
        if stop < 0:
            stop = len(flags)
        yield start + at * PAGE, start + stop * PAGE
        at = flags.find(1, stop)


def data_runs(file: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The byte ranges of [start, end) of a file that hold data (lseek(2), SEEK_DATA)."""
    at = start
    while at < end:
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # ENXIO: no data up to the end of the file
            return
        if begin >= end:
            return
        at = min(os.lseek(file, begin, os.SEEK_HOLE), end)
        yield begin, -(-at // PAGE) * PAGE


def open_backing(pid: int, vma: Vma) -> int:
    """The file behind a mapping, also one that was deleted, opened for reading: an fd of ours.

    Raises OSError where the file cannot be opened again (sockets, rings, memfd_secret).
    """
    path = shown_by(pid) / "map_files" / f"{vma.start:x}-{vma.end:x}"
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def in_memory(file: int) -> bool:
    """Whether a file is in memory only (tmpfs, memfd, shm, hugetlbfs): a hole in it is zero."""
    # fstatfs(2): f_type is the first word of the struct; no struct statfs is longer than 256 bytes.
    words = (ctypes.c_long * 32)()
    if _libc.fstatfs(file, words) != 0:
        raise OSError(ctypes.get_errno(), "fstatfs")
    return words[0] in (_TMPFS_MAGIC, _HUGETLBFS_MAGIC)


def idle_worker(pid: int, tid: int) -> bool:
    """Whether a thread is io_uring's and waits for work (io_wqe_worker before Linux 6.4)."""
    folder = Path(f"/proc/{pid}/task/{tid}")
    try:
        comm, place = (folder / "comm").read_text(), (folder / "wchan").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return comm.startswith("iou-wrk-") and place in ("io_wq_worker", "io_wqe_worker")


def thread_states(pid: int) -> dict[int, str]:
    """State letter of each thread: `t` stopped by a tracer, `T` by a signal (proc_pid_stat(5))."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            stat = (task / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(task.name)] = stat.rpartition(")")[2].split()[0]
    return found
