"""Pages that are written without the page table: pinned, by a ring, a device, or I/O in flight.

Protection is of page tables. Who holds a page itself writes through it unseen:

    io_uring registered buffers    /proc/PID/fdinfo: UserBufs      listed while registered, and
                                                                   once more after
    AF_XDP                         a mapping of its rings          everything is listed
    RDMA, VFIO, a ring that no     VmPin in /proc/PID/status says  everything is listed
      descriptor of ours shows     more than the rings account for
    O_DIRECT and AIO reads,        pinning counts as a write, and  all that was dirty since is
      unregistered ring reads      the data comes later            listed again when stopped

        pin         get+clear, copied         data            frozen: get+clear
    -----|---------------|---------------------|---------------------|-----
       dirty          reported               unseen              `late` lists it again

The look comes after the scan: what is pinned later than that is dirty in the next one. A freeze
waits for synchronous reads, as a thread does not stop inside one, so what has landed by then is
in the copy; asynchronous ones may go on in a frozen target.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass

from ..model.pageset import PageSet
from ..native.descriptors import Descriptors, Means
from ..native.error import NativeError
from . import procfs

_BUFFER = re.compile(rb"^ *\d+: 0x([0-9a-f]+)/(\d+)\s*$", re.MULTILINE)
_PINNED = re.compile(rb"^VmPin:\s+(\d+) kB", re.MULTILINE)

# A page of a compound page may be accounted with all of it (io_uring/rsrc.c).
_MOST = 2 << 20

# Bytes that /proc/PID/status may have: most are of the groups, of which there may be 65536.
_STATUS = 1 << 20
# Of an entry of pagemap: the frame, and whether there is one.
_FRAME = (1 << 55) - 1 | 1 << 63
_BY_DEVICE = "a device may write to pinned memory"
_Range = tuple[int, int]
_NO_FDS = (-1, -1, -1)
_QUIET = (Means.NONE, 0)

# What reading /proc says of a thread that has ended; a NativeError is of no finer class.
_GONE = frozenset({errno.ENOENT, errno.ESRCH})
# fdinfo of a ring tells nothing while its lock is held (io_uring/fdinfo.c tries it once).
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Pins:
    """What is pinned now. ranges: to list every time; everything: all memory, for `reason`."""

    ranges: PageSet
    everything: bool = False
    reason: str = ""

    def __bool__(self) -> bool:
        return self.everything or bool(self.ranges)


class Pinned:
    """Looks after one address space. pid, tid: the process, and a live thread of it. pagemap: the
    caller's.

    nothing: what is told where nothing is pinned. at_rest: a look would say just that, if there
    are no means and nothing is pinned now; neither was before.
    """

    def __init__(self, pid: int, tid: int, page_size: int, pagemap: int) -> None:
        self._pid = pid
        self._tid = tid
        self._pagemap = pagemap
        self._none = self._mapped = PageSet(page_size)
        self._frames: dict[_Range, bytes] = {}  # of pinned ranges: see _look_at_frames()
        self.nothing = Pins(self._none)
        self._before = self.nothing
        self._late = self._none
        self._means = Means.NONE  # ever seen
        self._status = -1
        self._descriptors: Descriptors | None = None
        self._fds = _NO_FDS
        self._moved = False  # what is pinned is mapped where nobody can tell
        self._stands = False
        self.at_rest = True

    def close(self) -> None:
        """Gives back what it opened; may be called twice."""
        if self._status >= 0:
            os.close(self._status)
        if self._descriptors:
            self._descriptors.close()
        self._status, self._descriptors, self._fds = -1, None, _NO_FDS

    @property
    def memory(self) -> tuple[int, bool]:
        """What recall() wants: the means ever seen, and whether anything was pinned just now."""
        return int(self._means), bool(self._before)

    def recall(self, memory: tuple[int, bool], known: PageSet) -> None:
        """Goes on where another one ended. known: all that was ever listed and is still there."""
        means, pinned = memory
        self._means = Means(means)
        if means:
            self._late = known
        if pinned:
            self._before = Pins(self._none, True, "pinned before the tracker was replaced")
        self.at_rest = not means and not pinned

    @property
    def fds(self) -> tuple[int, int, int]:
        """/proc/PID/fd, fdinfo and status, for a `Sweep`; each -1 until they were looked at."""
        return self._fds

    def look(
        self,
        shown: Means,
        mapped: PageSet,
        lost: PageSet,
        seen: tuple[Means, int] | None = None,
    ) -> tuple[Pins, Pins]:
        """What is pinned now, and what was a look ago: both are to be listed.

        shown: the means that the layout shows. mapped: what is mapped; lost: what was, and is
        not any more, or anew. seen: what a look just now found, and VmPin in bytes. Raises
        NativeError.
        """
        self._mapped = mapped
        if seen == _QUIET and not shown:
            before, self._before = self._before, self.nothing
            self.at_rest = not self._means
            self._frames = {}
            return self.nothing, before
        try:
            means, pins = self._look() if seen is None else (seen[0], self._pins(*seen))
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self.close()
            self._tid = self._live_thread()
            means, pins = self._look()
        self._means |= means | shown
        if shown & Means.DEVICE:
            pins = Pins(self._none, True, _BY_DEVICE)
        stays = self._look_at_frames(pins.ranges)
        if pins.ranges and not pins.everything:
            # A ring tells where its buffer was when it was registered; the pages go with mremap().
            self._moved |= bool(pins.ranges - mapped) or bool(self._before.ranges & lost)
            self._moved |= not stays
            if self._moved:
                why = "registered with io_uring, and mapped elsewhere since"
                pins = Pins(self._none, True, why)
        elif not pins:
            self._moved = False
        before, self._before = self._before, pins
        self.at_rest = not self._means and not pins
        return pins, before

    def overdue(self) -> PageSet:
        """What late() will say of the iteration that has just looked.

        Nothing unless the target has the means for I/O into pinned pages, and is stopped.
        """
        self._stands = bool(self._means) and self._stopped()
        return self._late if self._stands else self._none

    def late(self, dirty: PageSet) -> PageSet:
        """What must be listed again, given what this iteration lists as written."""
        if not self._means:
            return self._none
        late = self._late
        if not self._stands:
            self._late |= dirty
            return self._none
        # Asynchronous I/O goes on while all threads are stopped.
        self._late = late | dirty if self._means & Means.RING else self._none
        return late

    def _live_thread(self) -> int:
        """Another one: what was ours has ended. Raises NativeError (ESRCH) if all have."""
        try:
            live = [stat.tid for stat in procfs.thread_stats(self._pid) if not stat.dead]
        except ProcessLookupError:
            live = []
        if not live:
            raise NativeError("look at the descriptors", errno.ESRCH, self._pid)
        return live[0]

    def _look(self) -> tuple[Means, Pins]:
        if self._status < 0:
            self._status = os.open(f"/proc/{self._tid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._descriptors is None:
                self._descriptors = Descriptors(self._tid)
                self._fds = *self._descriptors.fds, self._status
            means = self._descriptors.look()
        except PermissionError:
            means = Means.DIRECT | Means.RING  # may be: we may not look
        return means, self._pins(means, self._pinned_bytes())

    def _pins(self, means: Means, pinned: int) -> Pins:
        if means & Means.DEVICE:
            return Pins(self._none, True, _BY_DEVICE)
        # Linux 7 counts no buffers of a ring whose owner may lock what it likes: ask the ring.
        ring = means & Means.RING and (pinned or self._descriptors is not None)
        buffers = self._buffers() if ring else []
        if not pinned and buffers == []:
            return self.nothing
        if buffers is None:
            return Pins(self._none, True, "a ring that does not tell its buffers may write")
        if pinned > sum(self._most(start, end) for start, end in buffers):
            return Pins(self._none, True, "pinned memory that nobody accounts for")
        size = self._none.page_size
        ranges = ((start // size * size, -(-end // size) * size) for start, end in buffers)
        return Pins(PageSet.from_ranges(ranges, size), False, "in part registered with io_uring")

    def _most(self, start: int, end: int) -> int:
        """Bytes that a buffer may be accounted with."""
        size = self._none.page_size
        low, high = start // _MOST * _MOST, -(-end // _MOST) * _MOST
        # A compound page lies within what is mapped.
        if not PageSet.from_ranges([(low, low + _MOST)], size) <= self._mapped:
            low = start // size * size
        if not PageSet.from_ranges([(high - _MOST, high)], size) <= self._mapped:
            high = -(-end // size) * size
        return high - low

    def _look_at_frames(self, ranges: PageSet) -> bool:
        """Whether the pinned pages are where they were at the last look.

        A mapping may be moved and leave its old place mapped (MREMAP_DONTUNMAP). Pinned pages have
        the same frame as long as they are; to whom frames are not shown they are at least present.
        """
        before, self._frames = self._frames, {}
        for start, end in ranges:
            count = (end - start) // self._none.page_size
            entries = os.pread(self._pagemap, 8 * count, start // self._none.page_size * 8)
            mask = int.from_bytes(_FRAME.to_bytes(8, "little") * count, "little")
            frames = int.from_bytes(entries, "little") & mask
            self._frames[start, end] = frames.to_bytes(8 * count, "little")
        return all(
            self._frames[key] == old
            if key in self._frames
            else all(self._agree(key, old, *other) for other in self._frames.items())
            for key, old in before.items()
        )

    def _agree(self, one: _Range, frames: bytes, other: _Range, others: bytes) -> bool:
        """Whether two looks at frames tell the same where they meet."""
        low, high = max(one[0], other[0]), min(one[1], other[1])
        first, second = (
            found[(low - start) // self._none.page_size * 8 :][
                : (high - low) // self._none.page_size * 8
            ]
            for start, found in ((one[0], frames), (other[0], others))
        )
        return low >= high or first == second

    def _pinned_bytes(self) -> int:
        found = _PINNED.search(os.pread(self._status, _STATUS, 0))
        if found is None:
            # It has ended before its process: the others have the memory and the descriptors.
            raise NativeError("reading VmPin", errno.ESRCH, self._tid)
        return int(found[1]) << 10

    def _buffers(self) -> list[tuple[int, int]] | None:
        """Registered buffers of all rings that are open, in bytes; None if one does not tell."""
        if self._descriptors is None:
            return None
        for _ in range(_TRIES):
            texts = self._descriptors.rings()
            if all(b"\nUserBufs:" in text for text in texts):
                break
        else:
            return None
        found = (
            (int(start, 16), int(start, 16) + int(length))
            for text in texts
            for start, length in _BUFFER.findall(text)
        )
        return sorted(found)

    def _stopped(self) -> bool:
        try:
            stats = procfs.thread_stats(self._pid)
        except ProcessLookupError:
            return False
        # A worker of io_uring at rest cannot be stopped, and does not hinder a freeze (crowd.c).
        return all(stat.state in "tT" or stat.dead or stat.worker for stat in stats)
