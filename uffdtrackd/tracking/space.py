"""What an address space consists of now, sorted by what has to be done about each part.

    maps --> Layout --changed?--> Space: mapped                     (what is not, is discarded)
                                         private_files              (pages may revert to the file)
                                         huge                       (scanned by `huge`)
                                         shared_regions             (looked after by `shared`)
             Registrar.refused ---------> untracked, always         (what becomes of those)

Made anew only when the layout or the set of refused regions changed, and only the regions that
are more than private anonymous memory cost anything here.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from ..model.pageset import PageSet
from ..model.region import Region, Tracking
from ..native.descriptors import Means
from ..native.error import NativeError
from ..native.layout import SHARED, Layout, Vma
from .pinned import Pins
from .registrar import Refused
from .untracked import Judge, Untracked, kind_of

# The two rings of a umem, in bytes into the socket (linux/if_xdp.h).
_UMEM_RINGS = (0x100000000, 0x180000000)


def _means(vma: Vma) -> Means:
    """RING: io_setup(2). DEVICE: AF_XDP, whose memory is pinned, and counted by nobody."""
    if vma.name.startswith("/[aio]"):
        return Means.RING
    if vma.name.startswith("socket:[") and vma.offset in _UMEM_RINGS:
        return Means.DEVICE
    return Means.NONE


class Space:
    """One look at an address space; see the module."""

    def __init__(
        self,
        layout: Layout,
        refused: Collection[Refused],
        judge: Judge,
        page_size: int,
        huge_sizes: dict[tuple[int, int], int],
    ) -> None:
        self._page_size = page_size
        self._huge_sizes = huge_sizes
        self._regions: tuple[dict[int, str], Pins, list[Region]] | None = None
        self.mapped = PageSet.from_runs(layout.mapped(), page_size)
        self.text = layout.text()
        self.untracked = judge.judge(refused)
        always = [u for u in self.untracked.values() if u.tracking is Tracking.ALWAYS]
        self.always = PageSet.from_ranges(
            ((u.vma.start, u.vma.end) for u in always if u.whole), page_size
        )
        self.always_if_populated = [u for u in always if not u.whole and not u.shared]
        self._judge = judge
        self._moved = False  # something did, meanwhile
        self.huge: list[tuple[Vma, int]] = []
        self.shared_regions: list[Vma] = []
        self.shared_huge: list[tuple[Vma, int]] = []  # a part of shared_regions
        # Writes through these are not seen, whoever else maps what they show. EPERM: none can be.
        self.shared_unseen = [
            one.vma for one in refused if one.vma.flags & SHARED and one.errno != errno.EPERM
        ]
        self.means = Means.NONE  # of writing past the page table that mappings tell of
        files: list[tuple[int, int]] = []
        for vma in layout.special():
            self.means |= _means(vma)
            if untracked := self.untracked.get(vma.start):
                if untracked.shared:
                    self.shared_regions.append(vma)
            elif vma.flags & SHARED:
                self.shared_regions.append(vma)
                if (size := self._size_at(layout, vma)) > page_size:
                    self.shared_huge.append((vma, size))
            elif (size := self._size_at(layout, vma)) > page_size:
                self.huge.append((vma, size))
            elif vma.inode:
                files.append((vma.start, vma.end))
        self.private_files = PageSet.from_ranges(files, page_size)
        self.shared = PageSet.from_ranges(
            ((vma.start, vma.end) for vma in self.shared_regions), page_size
        )
        self.excluded = PageSet.from_ranges(
            ((vma.start, vma.end) for vma, _ in self.huge), page_size
        )
        # Whether one scan says of every page what there is to say.
        self.private = not (
            self._moved
            or self.huge
            or self.shared_regions
            or self.always_if_populated
            or self.means
        )

    @property
    def unsure(self) -> bool:
        """Whether it is to be made anew: what was asked was of something else."""
        return self._moved or self._judge.mistaken

    def _size_at(self, layout: Layout, vma: Vma) -> int:
        """Bytes in a page of a file-backed VMA. All mappings of one file system agree."""
        if vma.device[0] or not vma.inode:
            return self._page_size
        if vma.device not in self._huge_sizes:
            try:
                size = layout.page_size_of(vma)
            except NativeError:
                self._moved = True  # unmapped meanwhile
                return self._page_size
            if not size:
                # Before PROCMAP_QUERY (6.11) only the name tells.
                size = 2 << 20 if vma.name.startswith("/anon_hugepage") else self._page_size
            self._huge_sizes[vma.device] = size
        return self._huge_sizes[vma.device]

    def regions(
        self, tracking: Tracking, shared_reasons: dict[int, str], pins: Pins
    ) -> list[Region]:
        """Every region, by address; the same list as long as nothing changed.

        tracking: of what the backend tracks. shared_reasons: by start of a shared region, why it
        is `always`, "" if it is tracked. pins: what is pinned, all of it or in part.
        """
        if self._regions is None or self._regions[:2] != (shared_reasons, pins):
            found = self._list_regions(tracking, shared_reasons, pins)
            self._regions = shared_reasons, pins, found
        return self._regions[2]

    def _list_regions(
        self, tracking: Tracking, shared_reasons: dict[int, str], pins: Pins
    ) -> list[Region]:
        sizes = {vma.start: size for vma, size in (*self.huge, *self.shared_huge)}
        found = []
        for line in self.text.decode(errors="surrogateescape").splitlines():
            fields = line.split(maxsplit=5)
            start, end = (int(edge, 16) for edge in fields[0].split("-"))
            major, minor = (int(number, 16) for number in fields[3].split(":"))
            size = sizes.get(start, self._page_size)
            vma = Vma(
                start,
                end,
                SHARED if fields[1][3] == "s" else 0,
                int(fields[2], 16),
                (major, minor),
                int(fields[4]),
                fields[5] if len(fields) > 5 else "",
                line,
            )
            how, reason = tracking, ""
            refused: Untracked | None = self.untracked.get(start)
            if refused is not None:
                how, reason = refused.tracking, refused.reason
            elif reason := shared_reasons.get(start, ""):
                how = Tracking.ALWAYS
            elif vma.name == "[vsyscall]":
                how, reason = Tracking.SKIP, "made by the kernel, the same in every process"
            elif pins.everything:
                how, reason = Tracking.ALWAYS, pins.reason
            elif pins.ranges & PageSet.from_ranges([(start, end)], self._page_size):
                reason = pins.reason
            found.append(
                Region(
                    start,
                    end,
                    fields[1],
                    vma.offset,
                    vma.device,
                    vma.inode,
                    vma.name,
                    kind_of(vma, size),
                    how,
                    reason,
                    size,
                )
            )
        return found
