"""One VMA of a target, how it is tracked, and what it shares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What backs a region; decides what "discarded" means there."""

    ANON = "anon"  # private anonymous memory: an empty page reads zero
    HEAP = "heap"  # the brk heap
    STACK = "stack"  # the stack of the main thread
    FILE = "file"  # private mapping of a file: an empty page reads the file
    SHARED_FILE = "shared-file"  # shared mapping of a file on a disk
    SHMEM = "shmem"  # memfd, SysV, tmpfs, shared anonymous
    HUGETLB = "hugetlb"
    SPECIAL = "special"  # vdso, vvar, rings: the kernel made it


class Tracking(StrEnum):
    """How writes to a region are seen."""

    ASYNC = "async"  # the kernel notes them, a scan collects them
    SYNC = "sync"  # each first write stops at a handler of ours
    ALWAYS = "always"  # they cannot be seen: listed as dirty in every iteration
    SKIP = "skip"  # nothing to copy


@dataclass(frozen=True, slots=True)
class Region:
    """One VMA: bytes [start, end) as /proc/PID/maps has it (proc_pid_maps(5)).

    perms: as in maps, "rw-p". offset: bytes into the file. device: (major, minor).
    label: path or [name] as in maps, "" for plain anonymous memory.
    reason: why it, or a part of it, is `always` or `skip`; "" if it is not.
    page_size: bytes; the huge page size for hugetlb.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: tuple[int, int]
    inode: int
    label: str
    kind: Kind
    tracking: Tracking
    reason: str = ""
    page_size: int = 4096

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Window:
    """Bytes [start, end) of a process that show a shared object, from `offset` bytes into it.

    object: a name that no other object of the machine has. Two windows on the same offset of the
    same object, in whatever processes, show the same page.
    """

    start: int
    end: int
    object: str
    offset: int
