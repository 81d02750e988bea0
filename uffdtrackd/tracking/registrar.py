"""Keeps every region of an address space registered with its userfaultfd.

Nothing new is ever registered by itself: mmap, brk, mremap, or a mapping over another are born
untracked, and a scan skips them in silence. So each iteration begins here:

    PAGEMAP_SCAN "not WPALLOWED" over everything  --> what is not registered
        less what is known to be refused          --> what is new: nothing, most of the time
        UFFDIO_REGISTER of the gap around it      --> registered; all of it counts as written
        `stale`: bits from before are taken off   --> no page looks protected that is not

    0        refused         new      refused                       limit
    |---------[vvar]----#####[~~~]#####[r--s]------------------------|
                   |<----- one call ------>|

A call must never cover part of a VMA: that would split it, and an mremap() of the target over the
two halves would fail. The gap between two refused regions begins and ends at VMA borders;
registered VMAs and holes inside it are no hindrance. Only when the kernel refuses a gap is the
culprit looked for, by borders of a fresh /proc/PID/maps. But a border of maps may have gone by the
time of the call, for refused regions come and go as others do (a file mapped shared for reading, a
ring): c/register.c looks at both ends just before and after, and the rest is tried again.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from ..model.pageset import PageSet
from ..native import scan
from ..native.error import NativeError
from ..native.faults import unregister
from ..native.layout import SHARED, WRITE, Layout, Vma
from ..native.protect import register_whole
from . import stale
from .special import special_mappings

REFUSALS = (errno.EINVAL, errno.EPERM, errno.EBUSY)

# A target that maps all the time always has something new: what is left is found next time,
# and a frozen target cannot run away.
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Refused:
    """A region that the kernel does not let us register, and why.

    errno: EINVAL its kind cannot be (vdso, rings), EPERM a shared mapping that can never become
    writable, EBUSY it belongs to another userfaultfd (ioctl_userfaultfd(2)); of our own making:
    EADDRNOTAVAIL it begins below the lowest address, so that no call can cover all of it.
    """

    vma: Vma
    errno: int


def _lowest_address() -> int:
    """UFFDIO_REGISTER refuses ranges that begin below vm.mmap_min_addr (fs/userfaultfd.c)."""
    try:
        with open("/proc/sys/vm/mmap_min_addr") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65536


class Registrar:
    """Registers one address space, from outside, through its userfaultfd and pagemap.

    asks: whether the kernel tells what is registered.
    postponed: what could not be registered yet, for a border had gone.
    """

    asks = True

    def __init__(
        self, uffd: int, pagemap: int, limit: int, page_size: int, smaps: int = -1
    ) -> None:
        """smaps: /proc/PID/smaps, the caller's, where this kernel refuses too little."""
        self._smaps = smaps
        self._uffd = uffd
        self._pagemap = pagemap
        self._limit = limit
        self._lowest = _lowest_address()
        self._page_size = page_size
        self._layout: Layout | None = None
        self._none = self.postponed = PageSet(page_size)
        self._also = self._none  # registered outside of what was to be
        self._late = self._none  # what was not registered, when asked just before each call
        # What is not registered and need not be; None: not all is done, and it may look the same
        # next time.
        self._settled: list[tuple[int, int, int]] | None = None
        self._unclean = PageSet(page_size)  # fresh again next time: see `stale`
        self.refused: dict[int, Refused] = {}

    def settle(self, layout: Layout, changed: bool) -> PageSet:
        """Registers what is new. Returns it: its pages are all dirty, whatever their bits say.

        layout: refreshed; it is refreshed again when something was registered.
        changed: whether that showed a difference. Raises NativeError.
        """
        self._layout = layout
        if changed:
            self._review_refused(layout)
        newly = self._unclean
        before = layout.text() if newly else b""
        for _ in range(_ROUNDS):
            missing = scan.get(
                self._pagemap,
                0,
                self._limit,
                mask=scan.Page.WPALLOWED,
                inverted=scan.Page.WPALLOWED,
            )
            if missing == self._settled and not changed:
                break
            self._settled = missing
            unregistered = PageSet.from_ranges(
                ((start, end) for start, end, _ in missing), self._page_size
            )
            fresh = unregistered - self._refused_ranges()
            if not fresh:
                break
            before = before or layout.text()
            newly |= fresh
            changed = True
            self._also = self._late = self.postponed = self._none
            done = self._lowest
            for start, end in fresh:
                if end > done:
                    done = self._register_around(start, end, layout)
            newly |= self._also & unregistered | self._late
            if self.postponed:
                layout.refresh()
                self._review_refused(layout)
        else:
            self._settled = None
        if newly:
            # Registered neighbours merge into one VMA: the layout is the one after that.
            layout.refresh()
            if self._review_refused(layout):
                self._settled = None  # what it now is has been left out, and is not refused
            if self._smaps >= 0:
                self._give_back_special()
            swallowed = stale.swallowed(before, layout.text())
            newly |= PageSet.from_ranges(swallowed, self._page_size) - self._refused_ranges()
            mapped = PageSet.from_runs(layout.mapped(), self._page_size)
            self._unclean = stale.clean(self._uffd, self._pagemap, newly & mapped)
        return newly

    def distrust(self) -> None:
        """All memory counts as registered a moment ago: its bits were told to nobody, or lie."""
        self._unclean = PageSet.from_ranges([(self._lowest, self._limit)], self._page_size)

    @property
    def unclean(self) -> PageSet:
        """Where older bits could not be taken off; it is new once more next time."""
        return self._unclean

    @property
    def settled(self) -> Sequence[tuple[int, int, int]] | None:
        """What is not registered and need not be, as `scan.get` has it; None: not all is done."""
        return None if self._unclean else self._settled

    def _give_back_special(self) -> None:
        """Unregisters what the kernel ought to have refused: see `special`."""
        for vma in special_mappings(self._smaps):
            # Also what is refused already: a call that ended there may have mended it.
            try:
                unregister(self._uffd, vma.start, vma.end)
            except NativeError as error:
                if error.errno not in (*REFUSALS, errno.ENOMEM):
                    raise
                continue  # it could not be registered either, or is gone
            self.refused[vma.start] = Refused(vma, errno.EINVAL)

    def _refused_ranges(self) -> PageSet:
        ranges = ((r.vma.start, r.vma.end) for r in self.refused.values())
        # What lies below the lowest address cannot be registered at all.
        return PageSet.from_ranges([(0, self._lowest), *ranges], self._page_size)

    def _review_refused(self, layout: Layout) -> bool:
        """Drops the refused regions that are not in maps any more, as they were, to the letter.

        And adds what cannot even be tried. Whether anything was dropped, or added.
        """
        before = dict(self.refused)
        mapped = layout.mapped()
        if mapped and mapped[0] < self._lowest:
            for vma in layout.vmas():
                if vma.start < self._lowest:
                    self.refused[vma.start] = Refused(vma, errno.EADDRNOTAVAIL)
        if not self.refused:
            return False
        lines = set(layout.text().split(b"\n"))
        for start, refused in list(self.refused.items()):
            if refused.vma.line.encode(errors="surrogateescape") not in lines:
                del self.refused[start]
        return self.refused != before

    def _gap(self, start: int, end: int) -> tuple[int, int]:
        """The gap between refused regions that holds [start, end)."""
        low, high = self._lowest, self._limit
        for refused in self.refused.values():
            if refused.vma.end <= start:
                low = max(low, refused.vma.end)
            elif refused.vma.start >= end:
                high = min(high, refused.vma.start)
        return low, high

    def _register_around(self, start: int, end: int, layout: Layout) -> int:
        """Registers the gap around a new range; returns its end: what is below is done."""
        low, high = self._gap(start, end)
        self._register_gap(low, high, layout)
        return high

    def _register_gap(self, low: int, high: int, layout: Layout) -> None:
        """Registers everything in [low, high), whose ends are borders of VMAs, but the refused."""
        if self._registered(low, high):
            return
        layout.refresh()
        vmas = [vma for vma in layout.vmas() if low <= vma.start and vma.end <= high]
        # Likely culprits are tried alone first: nearly always that is all, and the rest goes
        # through in one call a gap. Those first that do not come and go.
        before, postponed = len(self.refused), len(self.postponed)
        suspects = [vma for vma in vmas if self._is_suspect(vma)]
        for made_by_kernel in (True, False):
            for vma in suspects:
                if vma.name.startswith("[") is made_by_kernel:
                    self._register_alone(vma)
            if len(self.refused) > before:
                break
        if len(self.refused) > before:
            at = low
            for vma in vmas:
                if vma.start in self.refused:
                    self._register_gap(at, vma.start, layout)
                    at = vma.end
            self._register_gap(at, high, layout)
        elif len(self.postponed) > postponed:
            self._postpone(low, high)  # it has gone since
        elif len(vmas) > 1:
            border = vmas[len(vmas) // 2].start
            self._register_gap(low, border, layout)
            self._register_gap(border, high, layout)
        elif vmas:
            self._register_alone(vmas[0])

    def _register_alone(self, vma: Vma) -> None:
        error = self._register_whole(vma.start, vma.end)
        # ENOMEM: no VMA there any more (fs/userfaultfd.c), the target was quicker.
        if error is not None and error.errno in REFUSALS:
            self.refused[vma.start] = Refused(vma, error.errno)

    def _registered(self, low: int, high: int) -> bool:
        return low >= high or self._register_whole(low, high) is None

    def _postpone(self, start: int, end: int) -> None:
        self.postponed |= PageSet.from_ranges([(start, end)], self._page_size)

    def _register_whole(self, start: int, end: int) -> NativeError | None:
        """Registers what lies between two borders, or postpones it. Returns why it is refused."""
        assert self._layout is not None
        late = self._unregistered(start, end) if self.asks else self._none
        try:
            also = register_whole(self._uffd, self._layout, start, end)
        except NativeError as error:
            if error.errno not in (*REFUSALS, errno.ENOMEM):
                raise
            return error
        if also is None:
            self._postpone(start, end)
        else:
            self._also |= PageSet.from_runs(also, self._page_size)
            self._late |= late
        return None

    def _unregistered(self, start: int, end: int) -> PageSet:
        wpallowed = scan.Page.WPALLOWED
        found = scan.get(self._pagemap, start, end, mask=wpallowed, inverted=wpallowed)
        return PageSet.from_ranges(((low, high) for low, high, _ in found), self._page_size)

    def _is_suspect(self, vma: Vma) -> bool:
        if vma.flags & SHARED and not vma.flags & WRITE:
            return True
        if vma.name.startswith(("[heap]", "[stack]", "[anon")):
            return False
        return vma.name.startswith(("[", "/[", "anon_inode:", "/dev/"))
