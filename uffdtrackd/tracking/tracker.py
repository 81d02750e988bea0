"""One address space, iteration by iteration, with the asynchronous backend.

    Sweep: has anything changed? No: all of the below in one call     native `sweep`
            |  yes               |   and only known pages were written: that is the Collection
            v                    v   (`_quiet`; nearly all iterations of a target that has settled)
    maps, registration --> Space: what is mapped and of which sort    `space`, `registrar`
            |  newly registered: all its pages are dirty; what was known there is gone
            v
    Collector: get+clear of everything, at the speed of one ioctl     native `collect`
            |  written pages, emptied blocks
            v
    what such a scan cannot say:  pages back to their file            native `reverted`
                                  huge pages zapped                   `huge`
    View -> SharedPages           holes and writers of shared memory  `shared`, of the session
                                  writes to pinned pages              `pinned`
                                  regions that cannot be tracked      `untracked`
            v
    Collection: dirty, discarded, always          known = known + dirty - discarded

`known` is what a consumer that followed every iteration holds; only such a page can be
discarded. Order is always protect, then report, then (the reader) copy: a write at any moment is
either in the copy or in the next iteration.

If anything fails on the way, bits may have been cleared and not been told: the next iteration
then takes all memory for registered a moment ago, and lists everything.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from ..model.pageset import PageSet
from ..model.region import Region, Tracking
from ..native import scan
from ..native.collect import Collected, Collector
from ..native.error import NativeError
from ..native.layout import Layout, Vma
from ..native.reverted import find_reverted
from ..native.sweep import Asked, Quiet, Sweep, Swept
from .collection import Collection, Half, Remembered, Same, Unseen
from .huge import HugePages
from .known import Known
from .object import View
from .pinned import Pinned, Pins
from .probe import works
from .registrar import Registrar
from .shared import SharedPages
from .space import Space
from .untracked import Judge, populated


class Tracker:
    """Tracks one address space through descriptors that the caller owns and keeps open.

    pid, tid: the process, and a live thread of it. uffd: a userfaultfd of that address space,
    UFFDIO_API not called yet. earlier: of the tracker that had this uffd before; it has called
    it, which only one may. Raises NativeError where the kernel cannot do it, and ESRCH where the
    address space is gone.
    """

    backend = Tracking.ASYNC

    def __init__(
        self,
        pid: int,
        tid: int,
        uffd: int,
        pagemap: int,
        page_size: int,
        earlier: Remembered | None = None,
    ) -> None:
        self._pagemap = pagemap
        self._page_size = page_size
        self._none = PageSet(page_size)
        if earlier is None:
            self._enable(uffd)
        self._limit = limit = scan.limit(pagemap)
        # maps ends with [vsyscall], which is of no address space and no scan may touch.
        self._scannable = PageSet.from_ranges([(0, limit)], page_size)
        self._pinned = Pinned(pid, tid, page_size, pagemap)
        self._maps, self._mem, self._smaps = _open_files(tid)
        try:
            self._begin(pid, tid, uffd, earlier)
        except BaseException:
            Tracker.close(self)
            raise

    def _begin(self, pid: int, tid: int, uffd: int, earlier: Remembered | None) -> None:
        pagemap, limit, page_size = self._pagemap, self._limit, self._page_size
        self._layout = Layout(self._maps)
        self._judge = Judge(self._mem, tid)
        self._registrar = Registrar(uffd, pagemap, limit, page_size, self._smaps)
        self._collector = Collector(pagemap, limit, silent_holes=not works("empty_huge_page"))
        self._huge = HugePages(pagemap, self._mem, page_size)
        self._pid, self._tid, self._uffd = pid, tid, uffd
        self._armed = True  # all that shared objects have, or so it was in the last iteration
        self._asked: Asked | None = None  # of the sweep; None: it changed, or something is new
        self._half: Half | Collection | None = None
        self._space: Space | None = None
        self._same: Same | None = None
        self._huge_sizes: dict[tuple[int, int], int] = {}
        self._known = Known(page_size)
        self._own_file_pages = PageSet(page_size)  # known pages of private file mappings
        self._sees_swap_types = _sees_swap_types()
        self._sweeper = Sweep(
            self._layout, self._collector, pagemap, limit, swap_types=self._sees_swap_types
        )
        self._complete = True
        self._taken = self._none  # off what is known, by the last iteration
        self._newly = PageSet(page_size)  # registered since the last iteration
        self._unsettled = False  # the layout moved during the last iteration
        self._blind = earlier is not None  # the collector does not know where pages are
        if earlier is not None:
            self._known.pages = earlier.known
            self._pinned.recall(earlier.pinned, earlier.known)
            self._complete = not earlier.owed

    def _enable(self, uffd: int) -> None:
        scan.enable_async(uffd)

    @property
    def known(self) -> PageSet:
        """What a consumer of all iterations so far holds."""
        return self._known.pages if self._complete else self._known.pages | self._taken

    @property
    def remembered(self) -> Remembered:
        """For a tracker that goes on where this one ends, between two iterations."""
        owed = not self._complete or bool(self._newly) or self._bits_may_lie()
        return Remembered(self.known, self._pinned.memory, owed)

    def _bits_may_lie(self) -> bool:
        return self._registrar.settled is None

    def alive(self) -> bool:
        """Whether the address space still exists: exec() and exit make an end of it."""
        try:
            return os.pread(self._maps, 1, 0) != b""
        except ProcessLookupError:  # the process itself has ended
            return False

    def close(self) -> None:
        """Gives back what it opened; the userfaultfd is its owner's."""
        self._pinned.close()
        for fd in (self._maps, self._mem, self._smaps):
            if fd >= 0:
                os.close(fd)
        self._maps = self._mem = self._smaps = -1

    def leave(self) -> None:
        """As close(), and another tracker goes on."""
        self.close()

    def register(self) -> None:
        """Registers what is there now, so that a refusal shows at once. Raises NativeError."""
        self._asked = None
        self._newly, _ = self._update_layout(self._layout.refresh())

    def owned_elsewhere(self) -> list[Vma]:
        """Regions that belong to another userfaultfd."""
        refused = self._registrar.refused.values()
        return [region.vma for region in refused if region.errno == errno.EBUSY]

    def relist(self) -> None:
        """The last collection was not told to anybody: the next lists everything."""
        self._complete = False

    def gather(self, frozen: bool = False) -> View:
        """The first half of an iteration: collects, and says what it found of shared memory.

        frozen: the target stands still, and this may be the last one. Raises NativeError: ESRCH
        when the address space is gone.
        """
        if not self._complete:
            self._distrust()
        self._complete = False
        half, view = self._gather()
        if frozen and self._own_file_pages:
            half = half._replace(dirty=half.dirty | self._between_faults(half))
        self._half = half
        return view

    def _between_faults(self, half: Half | Collection) -> PageSet:
        """Pages that may have been given up although they are there, protected and not the file's.

        A write to one that was given up first makes a copy of the file's page, which has the
        protection of what was there before (pte_marker_handle_uffd_wp(), mm/memory.c), and then
        takes that off by a fault of its own. A thread that was stopped between the two has not
        written yet, and may never: nothing but its content tells that page from the one before.
        """
        lost = half.lost if isinstance(half, Half) else self._none
        return self._own_file_pages - half.discarded - lost

    def finish(self, shared: SharedPages) -> Collection:
        """The second half. shared: the answer to the View. Raises NativeError."""
        half, self._half = self._half, None
        assert half is not None, "gather() first"
        if isinstance(half, Collection):
            self._taken = self._none
            self._complete = True
            return half
        self._armed = True
        collection = self._finish(half, shared)
        self._complete = self._armed
        return collection

    def _distrust(self) -> None:
        """What was found before was told to nobody: the next iteration finds all of it again."""
        self._asked = None
        self._known.pages |= self._taken
        self._unsettled = True
        self._registrar.distrust()
        self._huge.distrust()

    def _gather(self) -> tuple[Half | Collection, View]:
        newly = gone = self._none
        asked = self._asked
        swept = self._try_sweep() if asked is None else self._sweeper.run(asked)
        if isinstance(swept, Quiet):
            if self._same is not None and self._pinned.at_rest:
                return self._quiet(swept, self._same), self._same.view
            swept = swept.in_full()
        self._asked = None
        if not isinstance(swept, Swept):
            self._check_mapped()
            newly, gone = self._update_layout(changed=swept)
        space = self._space
        assert space is not None  # _update_layout() made it
        if isinstance(swept, Swept):
            found = swept.collected
            dirty = self._written(found, space)
        else:
            unclean = self._registrar.unclean
            doubted = self._populated(unclean, space) if unclean else self._none
            self._collector.forget(newly.runs)
            found = self._collector.collect(space.always.runs)
            dirty = doubted | self._written(found, space)

        # Seen after the scan, so these win over what the scan said of the same pages.
        discarded = self._none
        if found.discarded:
            emptied = PageSet.from_runs(found.discarded, self._page_size)
            discarded = emptied & (self._known.pages | dirty)
        if self._own_file_pages:
            reverted, doubtful = self._find_reverted(swept)
            if reverted:
                discarded |= PageSet.from_runs(reverted, self._page_size)
            if doubtful:
                dirty |= PageSet.from_runs(doubtful, self._page_size)
        if space.huge:
            huge_dirty, huge_gone = self._huge.collect(space.huge, self._known.pages)
            dirty |= huge_dirty
            discarded |= huge_gone
        always = space.always
        for region in space.always_if_populated:
            there = PageSet.from_ranges(populated(region, self._pagemap), self._page_size)
            whole = PageSet.from_ranges([(region.vma.start, region.vma.end)], self._page_size)
            always |= there
            discarded |= (self._known.pages & whole) - there
        lost = gone | newly
        unseen = self._look_for_unseen(space, lost, swept)
        half = Half(dirty, discarded, always, lost, space, unseen, self._stats(found))
        return half, self._view(space, dirty, newly, unseen)

    def _quiet(self, found: Quiet, same: Same) -> Collection:
        """All of an iteration in which only known pages of private memory were written."""
        stats = {
            "regions": same.regions,
            "spans": found.spans,
            "span_bytes": found.span_bytes,
            "scan_calls": found.calls,
            "scan_failures": 0,
        }
        dirty = PageSet.from_runs(found.dirty, self._page_size)
        return Collection(dirty, self._none, same.always, same.load_regions, stats)

    def _view(
        self, space: Space, written: PageSet, fresh: PageSet, held: Unseen | None = None
    ) -> View:
        regions = space.shared_regions
        pinned = False
        if held is not None and held.pins:
            pinned = held.pins.everything or bool(held.pins.ranges & space.shared)
        if regions:
            if held is not None and held.overdue:
                written |= held.overdue
            written, fresh = written & space.shared, fresh & space.shared
            known = self._known.pages & space.shared
        else:
            written = fresh = known = self._none
        huge = [vma.start for vma, _ in space.shared_huge]
        unseen = space.shared_unseen
        return View(self._pid, self._tid, regions, huge, unseen, written, fresh, known, pinned)

    def _finish(self, half: Half, shared: SharedPages) -> Collection:
        dirty, discarded, always, lost, space, unseen, stats = half
        if space.shared_regions:
            dirty = (dirty - space.shared) | shared.dirty
            discarded = (discarded - space.shared) | shared.discarded
            always |= shared.always
            self._arm(shared.data)
        if discarded:
            dirty -= discarded
        if discarded or always is not space.always:
            dirty |= always
        if lost:
            discarded |= (self._known.pages & lost) - dirty
        again, pinned, pins = self._written_unseen(dirty, discarded, unseen)
        if again:
            dirty |= again
            always |= pinned
        self._learn(dirty, discarded, space)
        regions = self._regions(space, shared.reasons, pins)
        return Collection(dirty, discarded, always, regions, stats, shared.windows)

    def _arm(self, data: PageSet) -> None:
        """Whoever writes what a shared object has must meet protection, wherever it is mapped."""
        try:
            self._collector.arm(self._uffd, data.runs)
        except NativeError as error:
            if error.errno == errno.ESRCH:
                raise
            # Mapped and unmapped too fast: what is left may be without.
            self._armed = False

    def _learn(self, dirty: PageSet, discarded: PageSet, space: Space) -> None:
        """What a consumer holds from now on."""
        self._taken = discarded
        if fresh := self._known.update(dirty, discarded):
            self._own_file_pages |= fresh & space.private_files
            # Mapped after maps was read: whoever unmaps it before the next reading is found out
            # by comparing once more, although no maps will have shown it.
            self._unsettled |= bool(fresh - space.mapped)
        if discarded:
            self._own_file_pages -= discarded

    def _check_mapped(self) -> None:
        """Nothing is mapped in an address space that exec() or exit has ended, and with nothing to
        register no other call says so. Raises NativeError."""
        if not len(self._layout):
            raise NativeError("reading maps", errno.ESRCH)

    def _try_sweep(self) -> Quiet | Swept | bool:
        """A whole collection in one call if nothing is new; else whether maps changed."""
        settled = self._registrar.settled
        space = self._space
        if settled is None or self._unsettled or self._newly or space is None or space.unsure:
            return self._layout.refresh()
        own, always = self._own_file_pages.runs, space.always.runs
        known = self._known.pages.runs
        asked = Asked(settled, own, self._pinned.fds, always, known)
        self._asked = asked if self._judge.final else None
        return self._sweeper.run(asked)

    def _update_layout(self, changed: bool) -> tuple[PageSet, PageSet]:
        """Registers what is new. Returns that, and known pages that are not mapped any more.

        changed: whether the layout did when it was refreshed just now.
        """
        newly = self._registrar.settle(self._layout, changed)
        newly, self._newly = newly | self._newly, self._none
        moved = changed or bool(newly)
        if moved or self._space is None or self._space.unsure:
            self._space = self._look_around()
        # What was mapped after maps was read, and unmapped before it is read again, is reported
        # although no maps ever showed it: a layout that moved is compared once more.
        gone = self._none
        if moved or self._unsettled:
            gone = self._known.pages - self._space.mapped
        self._unsettled = moved
        return newly, gone

    def _look_around(self) -> Space:
        """The layout as it is now, told to everybody who goes by it."""
        before = self._space.mapped if self._space else self._none
        space = Space(
            self._layout,
            self._registrar.refused.values(),
            self._judge,
            self._page_size,
            self._huge_sizes,
        )
        self._collector.exclude(space.excluded.runs)
        self._collector.shared(space.shared.runs)
        self._collector.forget((before - space.mapped).runs)
        # A mapping that came between the reading of maps and the scan was reported before anybody
        # knew that a file is behind it.
        self._own_file_pages = self._known.pages & space.private_files
        if self._blind:
            # Every hole in a block with pages is protected: what was given up since shows there.
            self._blind = False
            held = self._known.pages & space.mapped
            self._collector.adopt((held - space.excluded - space.always).runs)
        self._same = None
        if space.private:
            view = self._view(space, self._none, self._none)
            load_regions = self._regions(space, {}, self._pinned.nothing)
            self._same = Same(view, len(self._layout), space.always, load_regions)
        return space

    def _populated(self, where: PageSet, space: Space) -> PageSet:
        """Everything that has a page of its own in `where`, protected or not.

        For regions whose bits lie, see `stale`. Only where all is new once more next time: what is
        listed here the collector may not have seen, and would not miss when it is given back.
        """
        found = self._none
        files: list[tuple[int, int]] = []
        own: list[tuple[int, int]] = []
        for start, end in where & self._scannable & space.mapped - space.excluded:
            for first, last, categories in scan.get(
                self._pagemap,
                start,
                end,
                mask=scan.Page.WPALLOWED,
                anyof=scan.Page.PRESENT | scan.Page.SWAPPED,
                ret=scan.Page.FILE,
            ):
                (files if categories & scan.Page.FILE else own).append((first, last))
        found |= PageSet.from_ranges(own, self._page_size)
        return found | (PageSet.from_ranges(files, self._page_size) - space.private_files)

    def _written(self, found: Collected, space: Space) -> PageSet:
        dirty = PageSet.from_runs(found.dirty, self._page_size)
        if found.file:
            dirty |= PageSet.from_runs(found.file, self._page_size) - space.private_files
        # A failed call is dirty as a whole: that may reach beyond what is mapped.
        return dirty & space.mapped if found.failed else dirty

    def _look_for_unseen(self, space: Space, lost: PageSet, swept: Swept | bool = False) -> Unseen:
        """After the scan: what is pinned later than that is dirty in the next one."""
        seen = None
        if isinstance(swept, Swept) and swept.means is not None:
            seen = swept.means, swept.pinned
        pins, before = self._pinned.look(space.means, space.mapped, lost, seen)
        return Unseen(pins, before, self._pinned.overdue())

    def _written_unseen(
        self, dirty: PageSet, discarded: PageSet, unseen: Unseen
    ) -> tuple[PageSet, PageSet, Pins]:
        """Pages to list because they are, or were, pinned; those of them that still are; why."""
        pins, before = unseen.pins, unseen.before
        late = self._pinned.late(dirty)
        if not (late or pins or before):
            return self._none, self._none, pins
        # Whatever was pinned for writing was written then: it is known, if it is still there.
        held = (self._known.pages | dirty) - discarded
        if pins.everything:
            return held, held, pins
        pinned = held & pins.ranges
        return held if before.everything else held & (late | before.ranges) | pinned, pinned, pins

    def _find_reverted(self, swept: Swept | bool = False) -> tuple[memoryview, memoryview]:
        if isinstance(swept, Swept):
            return swept.reverted, swept.doubtful
        own = self._own_file_pages.runs
        return find_reverted(self._pagemap, own, swap_types=self._sees_swap_types)

    def _regions(
        self, space: Space, reasons: Mapping[int, str], pins: Pins
    ) -> Callable[[], Sequence[Region]]:
        return lambda: space.regions(self.backend, dict(reasons), pins)

    def _stats(self, found: Collected) -> dict[str, int]:
        return {
            "regions": len(self._layout),
            "spans": found.spans,
            "span_bytes": found.span_bytes,
            "scan_calls": found.calls,
            "scan_failures": found.failed,
        }


def _open_files(tid: int) -> tuple[int, int, int]:
    """maps, mem, and smaps where that is needed, else -1. Raises OSError."""
    names = ("maps", "mem") if works("special_refused") else ("maps", "mem", "smaps")
    fds: list[int] = []
    with ExitStack() as stack:
        for name in names:
            fds.append(os.open(f"/proc/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        stack.pop_all()
    maps, mem, *smaps = fds
    return maps, mem, smaps[0] if smaps else -1


def _sees_swap_types() -> bool:
    """Whether /proc/PID/pagemap shows us frame numbers and swap types (CAP_SYS_ADMIN at open)."""
    probe = bytearray(b"x" * 4096)
    address = id(probe)  # any resident page of ours will do
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            entry = os.pread(file.fileno(), 8, address // 4096 * 8)
    except OSError:
        return False
    return bool(int.from_bytes(entry, "little") & ((1 << 55) - 1))
