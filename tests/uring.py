"""An io_uring of a puppet, by raw system calls: set up, buffers registered, one read at a time.

    ring = Ring(puppet)                   io_uring_setup(2), its two mappings
    ring.register(address, length)        a fixed buffer: pinned from now on
    ring.read_fixed(fd, address, length)  submitted; the data comes when fd has some
    ring.read_by_worker(fd, ...)          as read(), but always by a thread of the kernel
    ring.register_file(fd)                held by the ring from now on, as its file 0
    ring.write_held(address, length)      to the start of that file
    ring.wait()                           until it has been completed

Layouts: <linux/io_uring.h>.
"""

from __future__ import annotations

import struct
import time

from tests.puppet import MAP_POPULATE, MAP_SHARED, RW, Puppet
from tests.victim import PATIENCE

_SQES = 0x10000000
_READ_FIXED, _READ, _WRITE = 4, 22, 23
_FIXED_FILE, _ASYNC = 1, 16


class Ring:
    """entries: a power of two. Raises OSError where io_uring is not allowed."""

    def __init__(self, puppet: Puppet, entries: int = 8) -> None:
        self.puppet = puppet
        self.scratch = puppet.mmap(1)
        puppet.store(self.scratch, bytes(120))
        self.fd = puppet.call("io_uring_setup", entries, self.scratch)
        words = struct.unpack("30I", puppet.load(self.scratch, 120))
        # struct io_uring_params: 10 words, then sq_off and cq_off of 10 words each.
        self.sq, self.cq = words[10:20], words[20:30]
        flags = MAP_SHARED | MAP_POPULATE
        self.ring = puppet.mmap(2, RW, flags, self.fd)
        self.sqes = puppet.mmap(1, RW, flags, self.fd, _SQES)
        self._done = 0

    def register(self, at: int, length: int) -> None:
        self.puppet.store(self.scratch, struct.pack("QQ", at, length))
        self.puppet.call("io_uring_register", self.fd, 0, self.scratch, 1)

    def unregister(self) -> None:
        self.puppet.call("io_uring_register", self.fd, 1, 0, 0)

    def read_fixed(self, fd: int, at: int, length: int) -> None:
        self._submit(_READ_FIXED, fd, at, length)

    def read(self, fd: int, at: int, length: int) -> None:
        self._submit(_READ, fd, at, length)

    def read_by_worker(self, fd: int, at: int, length: int) -> None:
        """A worker does it, who waits for more for some seconds then."""
        self._submit(_READ, fd, at, length, flags=_ASYNC)

    def register_file(self, fd: int) -> None:
        self.puppet.store(self.scratch, struct.pack("i", fd))
        self.puppet.call("io_uring_register", self.fd, 2, self.scratch, 1)

    def write_held(self, at: int, length: int) -> None:
        self._submit(_WRITE, 0, at, length, flags=_FIXED_FILE, offset=0)

    def _submit(
        self,
        operation: int,
        fd: int,
        at: int,
        length: int,
        flags: int = 0,
        offset: int = (1 << 64) - 1,
    ) -> None:
        entry = struct.pack("BBHiQQI", operation, flags, 0, fd, offset, at, length)
        self.puppet.store(self.sqes, entry.ljust(64, b"\0"))
        tail = self._word(self.sq[1])
        mask = self._word(self.sq[2])
        self.puppet.store(self.ring + self.sq[6] + 4 * (tail & mask), bytes(4))
        self.puppet.store(self.ring + self.sq[1], struct.pack("I", tail + 1))
        assert self.puppet.call("io_uring_enter", self.fd, 1, 0, 0, 0) == 1

    def wait(self) -> None:
        """Until one more request has been completed. Raises OSError if it failed."""
        limit = time.monotonic() + PATIENCE
        while self._word(self.cq[1]) == self._done:
            assert time.monotonic() < limit, "never completed"
            self.puppet.call("io_uring_enter", self.fd, 0, 0, 1, 0)
        mask = self._word(self.cq[2])
        at = self.ring + self.cq[5] + 16 * (self._done & mask)
        (result,) = struct.unpack("i", self.puppet.load(at + 8, 4))
        self._done += 1
        if result < 0:
            raise OSError(-result, "io_uring")

    def _word(self, offset: int) -> int:
        return int.from_bytes(self.puppet.load(self.ring + offset, 4), "little")
