"""Registration without anybody to ask what is not registered.

PAGEMAP_SCAN tells the asynchronous backend what is not registered. Under synchronous protection
it tells nothing, and before Linux 6.7 there is none. So what may be new is

    lines of maps that were not there before    a mapping that came, or was cut out of another
    VMAs with bits and no registration          the sweep finds those (c/protect.c)
    VMAs that refused to be protected           the rest: they have pages without bits only

Nothing depends on finding all of it at once. Pages of a VMA that is not registered have no bit,
and are listed in every iteration until it is. So what only grew, shrank or merged, as far as its
lines tell, is left to the others: whatever is registered counts as written, for no call may cover
what was registered before (see `registrar`), and that would list all of it.

That leaves time to be careful. Every mapping of a file is a border here, mappings of files come
and go, and a border that went just now would let a call split a mapping (c/register.c). So a gap
is registered only between borders that are expected to last:

    the program and its libraries, the kernel's own      from the beginning
    another mapping of a file                            when it is a second old
    whatever it is, where some of it were seen to go     when it is far older than those were
"""

from __future__ import annotations

import time

from ..model.pageset import PageSet
from ..native import scan
from ..native.layout import EXEC, SHARED, Layout, Vma
from ..native.protect import Vmas
from .registrar import Refused, Registrar
from .untracked import is_shared_memory

# Seconds that a mapping of a file must have been there, and how many times older it must be than
# the oldest that was seen to go.
_PATIENCE = 1.0
_FACTOR = 20.0
_MOST_PATIENCE = 60.0

_Line = tuple[int, int, tuple[object, ...]]
_Edges = frozenset[tuple[int, tuple[object, ...]]]


def _parse(line: bytes) -> _Line:
    """start, end, and what must agree for two VMAs to be parts of one."""
    fields = line.split(maxsplit=5)
    start, _, end = fields[0].partition(b"-")
    low = int(start, 16)
    # The offset of a file at address 0, so that neighbours agree.
    shift = int(fields[2], 16) - low if fields[4] != b"0" else 0
    return low, int(end, 16), (fields[1], shift, *fields[3:])


def _edges(lines: list[_Line]) -> tuple[_Edges, _Edges]:
    """Where lines start and end, with what they are of."""
    return (
        frozenset((start, place) for start, _, place in lines),
        frozenset((end, place) for _, end, place in lines),
    )


def _file(vma: Vma) -> tuple[object, ...]:
    return (*vma.device, vma.inode)


class SyncRegistrar(Registrar):
    """Registers one address space, from outside, for synchronous protection."""

    def __init__(
        self, uffd: int, pagemap: int, limit: int, page_size: int, inherited: bool
    ) -> None:
        """inherited: another tracker registered what is there already."""
        super().__init__(uffd, pagemap, limit, page_size)
        self._inherited = inherited
        self._shown = self._none  # by maps, when it was last looked at by this
        self._lines: frozenset[bytes] = frozenset()
        # Refused regions: since when, and whether they are code.
        self._seen: dict[Refused, tuple[float, bool]] = {}
        self._code: frozenset[tuple[object, ...]] = frozenset()  # files that are executed
        self._patience = {True: 0.0, False: _PATIENCE}  # seconds; code or not
        self._young: set[int] = set()  # borders that may not last

    def new_lines(self, layout: Layout) -> PageSet:
        """What maps shows now and did not when it was last looked at by this."""
        lines = frozenset(layout.text().splitlines())
        gone, fresh, self._lines = self._lines - lines, lines - self._lines, lines
        self._shown = PageSet.from_runs(layout.mapped(), self._page_size)
        refused = {one.vma.start for one in self._seen}
        before = [one for one in map(_parse, gone) if one[0] not in refused]
        found = list(map(_parse, fresh))
        (before_starts, before_ends), (starts, ends) = _edges(before), _edges(found)
        new = PageSet.from_ranges(
            (
                (start, end)
                for start, end, place in found
                if not ((start, place) in before_starts or (end, place) in before_ends)
                # What agrees with its neighbour and does not merge is registered, or the other.
                or (start, place) in ends
                or (end, place) in starts
            ),
            self._page_size,
        )
        if self._inherited:
            self._inherited = False
            suspects = ((vma.start, vma.end) for vma in layout.special() if self._is_suspect(vma))
            new &= PageSet.from_ranges(suspects, self._page_size)
        return new

    def still_refused(self, layout: Layout) -> list[Refused]:
        """The refused regions that `layout` shows as they were."""
        self._review_refused(layout)
        return list(self.refused.values())

    def register(self, layout: Layout, missing: PageSet) -> PageSet:
        """Registers what can be of `missing` and of what was postponed.

        Returns all that may be registered by now and was not. layout: it is refreshed. Raises
        NativeError.
        """
        layout.refresh()
        self._layout = layout
        self._code = frozenset(
            _file(vma) for vma in layout.special() if vma.flags & EXEC and vma.inode
        )
        self._note_ages(self.still_refused(layout))
        wanted, self.postponed = missing | self.postponed, self._none
        reachable = PageSet.from_ranges([(self._lowest, self._limit)], self._page_size)
        wanted = (wanted & reachable) - self._refused_ranges()
        registered = self._shown - wanted
        others = PageSet.from_runs(layout.mapped(), self._page_size) - registered
        self._tells = Vmas.of(layout, others.runs)
        done = self._register_around(wanted, registered, layout)
        layout.refresh()
        return done - self.postponed - self._refused_ranges()

    def _note_ages(self, refused: list[Refused]) -> None:
        """Which of the borders are expected to last, after those that did not."""
        now = time.monotonic()
        gone = self._seen.keys() - set(refused)
        for one in gone:
            since, code = self._seen.pop(one)
            patience = min(_FACTOR * (now - since), _MOST_PATIENCE)
            self._patience[code] = max(self._patience[code], _PATIENCE, patience)
        self._young = {
            border
            for one in refused
            if not self._lasts(one)
            for border in (one.vma.start, one.vma.end)
        }

    def _is_code(self, vma: Vma) -> bool:
        return _file(vma) in self._code or vma.name.startswith("[")

    def _lasts(self, one: Refused) -> bool:
        now = time.monotonic()
        since, code = self._seen.setdefault(one, (now, self._is_code(one.vma)))
        return now - since >= self._patience[code]

    def _registered(self, low: int, high: int) -> bool:
        if low < high and {low, high} & self._young:
            self._postpone(low, high)
            return True
        return super()._registered(low, high)

    def _register_alone(self, vma: Vma) -> None:
        super()._register_alone(vma)
        one = self.refused.get(vma.start)
        if one is not None and not self._lasts(one):
            self._young |= {vma.start, vma.end}

    def wake(self) -> None:
        """Lets everybody who waits for a handler tell it once more. Raises NativeError."""
        scan.wake(self._uffd, self._lowest, self._limit)

    def _is_suspect(self, vma: Vma) -> bool:
        # Only anonymous memory, shmem and hugetlb can be protected (mm/userfaultfd.c, Linux 6.6);
        # a SysV segment is shmem in a wrapping of its own (ipc/shm.c).
        shared = vma.flags & SHARED and is_shared_memory(vma)
        if vma.inode and (not shared or vma.name.startswith("/SYSV")):
            return True
        return super()._is_suspect(vma)
