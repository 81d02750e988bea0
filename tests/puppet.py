"""A process that does what it is told, one event at a time: tests/targets/obey.c in Python.

    puppet.mmap(...), .fill(...), .call("madvise", ...)    between two iterations, by whom it likes
    puppet.agent("thread" | "child" | "twin")              who else may do it

Every answer is waited for: when a method returns, the event is over.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.procfs import PAGE
from tests.victim import Victim

PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
RW = PROT_READ | PROT_WRITE

# asm-generic/mman-common.h, linux/mman.h; the same on x86-64 and aarch64.
MAP_SHARED, MAP_PRIVATE, MAP_DROPPABLE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 8, 0x10, 0x20
MAP_GROWSDOWN, MAP_NORESERVE, MAP_POPULATE, MAP_HUGETLB = 0x100, 0x4000, 0x8000, 0x40000
MAP_FIXED_NOREPLACE = 0x100000
ANON = MAP_PRIVATE | MAP_ANONYMOUS
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_DONTFORK = 4, 8, 9, 10
MADV_MERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_WIPEONFORK = 12, 14, 15, 18
MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE = 21, 22, 23, 25
MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 102, 103
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2
HUGE = 2 << 20


class Puppet:
    """A started obey, or one of its agents. pid: of whom it speaks for."""

    def __init__(self, victim: Victim, prefix: str = "", pid: int = 0) -> None:
        self.victim = victim
        self.prefix = prefix
        self.pid = pid or victim.pid
        self._seed = 0

    def ask(self, command: str) -> str:
        return self.victim.ask(self.prefix + command)

    def agent(self, kind: str) -> Puppet:
        """A thread, a forked child, or a twin (CLONE_VM) that obeys too."""
        number, pid = self.ask(kind).split()
        return Puppet(self.victim, f"{self.prefix}@{number} ", int(pid))

    def begin(self, command: str) -> Callable[[], str]:
        """Let an agent do something that lasts; call what is returned to wait for its end."""
        assert self.prefix.count("@") == 1
        self.victim.ask(self.prefix.replace("@", "!") + command)
        return lambda: self.victim.ask(self.prefix.replace("@", "?").strip())

    def try_call(self, name: str, *args: int) -> int:
        """The result of a system call, or -errno."""
        words = " ".join(str(arg) for arg in args)
        result, code = self.ask(f"call {name} {words}").split()
        return -int(code) if int(result) == -1 and int(code) else int(result)

    def call(self, name: str, *args: int) -> int:
        """The result of a system call. Raises OSError if it fails."""
        result = self.try_call(name, *args)
        if -4096 < result < 0:
            raise OSError(-result, f"{name}: {os.strerror(-result)}")
        return result

    def open(self, path: object, flags: int = os.O_RDWR) -> int:
        result, code = self.ask(f"open {path} {flags}").split()
        if int(result) < 0:
            raise OSError(int(code), f"{path}: {os.strerror(int(code))}")
        return int(result)

    def mmap(
        self,
        pages: int,
        prot: int = RW,
        flags: int = ANON,
        fd: int = -1,
        offset: int = 0,
        at: int = 0,
    ) -> int:
        """Map so many pages; `at` != 0 replaces what is there. Returns the address."""
        if at:
            flags |= MAP_FIXED
        return self.call("mmap", at, pages * PAGE, prot, flags, fd, offset)

    def alone(self, pages: int, prot: int = RW, flags: int = ANON) -> int:
        """As mmap, with a hole on both sides: the mapping merges with no other."""
        whole = self.mmap(pages + 2, prot, flags)
        self.munmap(whole, 1)
        self.munmap(whole + (pages + 1) * PAGE, 1)
        return whole + PAGE

    def munmap(self, at: int, pages: int) -> None:
        self.call("munmap", at, pages * PAGE)

    def madvise(self, at: int, pages: int, advice: int) -> None:
        self.call("madvise", at, pages * PAGE, advice)

    def fill(self, at: int, pages: int = 1) -> None:
        """New content, different from page to page and from call to call."""
        self._seed += 1
        self.ask(f"fill {at} {pages * PAGE} {self._seed + (self.pid << 20)}")

    def touch(self, at: int, pages: int = 1) -> None:
        """Read a byte of each page."""
        self.ask(f"touch {at} {pages * PAGE}")

    def store(self, at: int, content: bytes) -> None:
        for i in range(0, len(content), 1024):
            self.ask(f"store {at + i} {content[i : i + 1024].hex()}")

    def load(self, at: int, length: int) -> bytes:
        return bytes.fromhex(self.ask(f"load {at} {length}"))

    def memfd(self, pages: int, *, seals: bool = False, huge: bool = False) -> int:
        """A memfd of so many pages. seals: it may be sealed. huge: it is in huge pages."""
        name = self.mmap(1)
        self.store(name, b"puppet\0")
        fd = self.call("memfd_create", name, 2 * seals + 4 * huge)
        self.munmap(name, 1)
        self.call("ftruncate", fd, pages * PAGE)
        return fd

    def close(self, fd: int) -> None:
        self.call("close", fd)
