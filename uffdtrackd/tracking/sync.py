r"""One address space, iteration by iteration, with the synchronous backend.

    target writes --> kernel stops it --> handler thread takes the page's bit off --> it goes on
                                                  |                  (native `faults`, all the time)
                                                  v
    Space, registration   sweep: every populated page, with its bit or without
                            |  without: written                       native `protect`
                            |  not there, but known: discarded
                            v
    what the sweep cannot say, as in `tracker`
                            v
    protect what is listed, and nothing else --> Collection

The page table is the whole state. What a sweep finds without a bit is listed, also what was never
protected, so that a mapping nobody has seen yet, a page that appeared, or one that could not be
protected costs listing it again and no more. `c/protect.c` argues why nothing is missed.

What of a shared object is not in the page table was not protected either: it is listed, if the
object has it, and a marker put in its place says from then on that it is clean.
"""

from __future__ import annotations

from contextlib import suppress

from ..model.pageset import PageSet
from ..model.region import Tracking
from ..native import protect, scan
from ..native.error import NativeError
from ..native.faults import Faults, enable_sync
from ..native.protect import Swept, Vmas
from . import stale
from .collection import Collection, Half, Remembered
from .huge import HugePages
from .object import View
from .shared import SharedPages
from .space import Space
from .sync_registrar import SyncRegistrar
from .tracker import Tracker
from .untracked import populated

_TOP = (1 << 64) - (1 << 16)


class SyncTracker(Tracker):
    """As Tracker, for kernels without asynchronous protection, or by choice.

    uffd: must deliver faults from kernel mode. From the first iteration until close() writes of
    the target wait for a thread of this process.
    """

    backend = Tracking.SYNC

    def __init__(
        self,
        pid: int,
        tid: int,
        uffd: int,
        pagemap: int,
        page_size: int,
        earlier: Remembered | None = None,
    ) -> None:
        super().__init__(pid, tid, uffd, pagemap, page_size, earlier)
        self._huge = HugePages(pagemap, self._mem, page_size, self._clear_huge)
        self._sync_registrar = SyncRegistrar(uffd, pagemap, self._limit, page_size)
        self._registrar = self._sync_registrar
        self._vmas: Vmas | None = None
        self._plain = self._none  # private, tracked, of small pages
        self._to_protect = self._none  # between the halves of an iteration
        self._late = self._none  # refused to be protected
        self._lines_moved = True  # maps may have lines that nobody looked at
        self._unclean = self._none  # bits there may mean nothing
        self._everything = False  # list all that is populated, whatever its bit says
        try:
            self._faults = Faults(uffd)
            if earlier is not None:
                # A handler that was killed may have taken messages that it never answered.
                self._sync_registrar.wake()
        except BaseException:
            super().close()
            raise

    def _enable(self, uffd: int) -> None:
        enable_sync(uffd)

    def close(self) -> None:
        """Takes all protection off, then ends the handler: nobody may be left waiting for it."""
        if self._maps >= 0:
            # Not by unregistering: that may split mappings. Closing the descriptor does not,
            # but leaves bits behind before Linux 6.8.10, which keep huge pages from forming.
            with suppress(NativeError):
                self._layout.refresh()
                self._unprotect(self._pages(self._layout.mapped()))
            self._faults.stop()
        super().close()

    def leave(self) -> None:
        """Ends the handler and takes nothing off: who writes now waits for the next one."""
        if self._maps >= 0:
            self._faults.stop()
        super().close()

    def _bits_may_lie(self) -> bool:
        return bool(self._unclean)

    def register(self) -> None:
        """Registers what is there now, so that a refusal shows at once. Raises NativeError."""
        # Only between borders that were there before is registered: see `sync_registrar`.
        for _ in range(2):
            self._look()

    def _distrust(self) -> None:
        super()._distrust()
        self._everything = True
        # It may have ended between a registration and the taking off of older bits.
        self._unclean = self._scannable

    def _gather(self) -> tuple[Half, View]:
        everything, self._everything = self._everything, False
        before = self._faults.counts()
        swept, gone = self._look()
        space = self._space
        assert space is not None  # _look() made it
        clean = self._pages(swept.clean)
        files = self._pages(swept.written_file)
        written = (self._pages(swept.written) | (files - space.private_files)) & self._plain
        there = written | clean
        dirty = there & self._plain if everything else written

        discarded = (self._known.pages & self._plain) - there - files
        if self._own_file_pages:
            reverted, doubtful = self._find_reverted()
            discarded |= self._pages(reverted)
            dirty |= self._pages(doubtful)
        if space.huge:
            huge_dirty, huge_gone = self._huge.collect(space.huge, self._known.pages)
            dirty |= huge_dirty
            discarded |= huge_gone
        always, given_back = self._always(space)
        discarded |= given_back
        unseen = self._look_for_unseen(space, gone)
        half = Half(dirty, discarded, always, gone, space, unseen, self._told(before.faults))
        self._to_protect = written
        open_to_writes = space.shared if everything else space.shared - clean
        return half, self._view(space, open_to_writes, self._none, unseen)

    def _finish(self, half: Half, shared: SharedPages) -> Collection:
        dirty, discarded, always, gone, space, unseen, stats = half
        written = self._to_protect
        if space.shared_regions:
            written |= shared.dirty - shared.always
            dirty |= shared.dirty
            discarded |= shared.discarded
            always |= shared.always
        dirty = (dirty - discarded) | always
        discarded |= (self._known.pages & gone) - dirty
        again, pinned, pins = self._written_unseen(dirty, discarded, unseen)
        dirty |= again
        always |= pinned
        self._protect(written & dirty)
        self._learn(dirty, discarded, space)
        regions = self._regions(space, shared.reasons, pins)
        return Collection(dirty, discarded, always, regions, stats, shared.windows)

    def _told(self, faults_before: int) -> dict[str, int]:
        counts = self._faults.counts()
        return {
            "regions": len(self._layout),
            "faults": counts.faults - faults_before,
            "faults_total": counts.faults,
            "faults_at_once": counts.most,
        }

    def _pages(self, runs: memoryview) -> PageSet:
        return PageSet.from_runs(runs, self._page_size)

    def _look(self) -> tuple[Swept, PageSet]:
        """Looks at all pages and registers what is new. Returns the pages, and what is gone."""
        changed = self._layout.refresh()
        self._check_mapped()
        if self._vmas is None or changed:
            self._choose_vmas()
        swept = self._sweep()
        missing = self._late | self._pages(swept.unregistered) | self._sync_registrar.postponed
        if changed or self._lines_moved:
            missing |= self._sync_registrar.new_lines(self._layout)
            self._lines_moved = False
        # Registering reads maps again: what changed meanwhile will not show as a change later.
        moved = changed or bool(missing) or bool(self._unclean)
        if missing or self._unclean:
            swept = self._register(missing, swept)
        if moved or self._space is None or self._space.unsure:
            self._space = space = self._look_around()
            aside = space.shared | space.excluded | self._untracked(space)
            self._plain = space.mapped - aside
        if self._unclean:
            swept = self._disbelieve(swept)
        # What was mapped after maps was read, and unmapped before it is read again, is reported
        # although no maps ever showed it: a layout that moved is compared once more.
        gone = self._none
        if moved or self._unsettled:
            gone = self._known.pages - self._space.mapped
        self._unsettled = moved
        return swept, gone

    def _choose_vmas(self) -> None:
        refused = self._sync_registrar.still_refused(self._layout)
        ranges = [(one.vma.start, one.vma.end) for one in refused]
        skipped = PageSet.from_ranges([*ranges, (self._limit, _TOP)], self._page_size)
        self._vmas = Vmas.of(self._layout, skipped.runs)

    def _sweep(self) -> Swept:
        assert self._vmas is not None
        return protect.sweep(self._pagemap, self._uffd, self._vmas)

    def _register(self, missing: PageSet, swept: Swept) -> Swept:
        """Registers, and takes off the bits that were there before. Returns the pages anew."""
        text = self._layout.text()
        also = self._sync_registrar.register(self._layout, missing)
        self._lines_moved = True
        self._choose_vmas()
        swallowed = PageSet.from_ranges(stale.swallowed(text, self._layout.text()), self._page_size)
        unclean = self._unclean | self._pages(swept.unregistered) | swallowed | also
        if not unclean:
            return swept
        self._unclean = self._unprotect(unclean)
        return self._sweep()

    def _unprotect(self, unclean: PageSet) -> PageSet:
        """Takes the bits off; returns where the target was in the way."""
        left = []
        for vma in self._layout.vmas():
            part = PageSet.from_ranges([(vma.start, vma.end)], self._page_size)
            if not part & unclean or vma.start in self._sync_registrar.refused:
                continue
            try:
                scan.unprotect(self._uffd, vma.start, vma.end)
            except NativeError:
                left.append((vma.start, vma.end))
        return PageSet.from_ranges(left, self._page_size)

    def _disbelieve(self, swept: Swept) -> Swept:
        """What has bits that may mean nothing counts as written."""
        doubted = self._pages(swept.clean) & self._unclean
        return swept._replace(
            written=(self._pages(swept.written) | doubted).runs,
            clean=(self._pages(swept.clean) - doubted).runs,
        )

    def _untracked(self, space: Space) -> PageSet:
        return PageSet.from_ranges(
            ((one.vma.start, one.vma.end) for one in space.untracked.values()), self._page_size
        )

    def _always(self, space: Space) -> tuple[PageSet, PageSet]:
        """What of the untracked is listed every time; and what of it is not there any more."""
        always = space.always
        for region in space.always_if_populated:
            always |= PageSet.from_ranges(populated(region, self._pagemap), self._page_size)
        held = self._known.pages & (self._untracked(space) - space.shared)
        return always, held - always

    def _protect(self, pages: PageSet) -> None:
        assert self._vmas is not None
        self._late = self._pages(protect.protect(self._uffd, self._vmas, pages.runs))

    def _clear_huge(self, start: int, end: int) -> list[tuple[int, int]]:
        written = scan.get(
            self._pagemap, start, end, mask=scan.Page.WRITTEN, anyof=scan.Page.PRESENT
        )
        ranges = [(first, last) for first, last, _ in written]
        assert self._vmas is not None
        runs = PageSet.from_ranges(ranges, self._page_size).runs
        protect.protect(self._uffd, self._vmas, runs)
        return ranges
