"""Registration without anybody to ask what is not registered.

PAGEMAP_SCAN tells the asynchronous backend what is not registered. Under synchronous protection
it tells nothing, and before Linux 6.7 there is none. So what may be new is

    lines of maps that were not there before    a mapping that came, grew, was cut or merged
    VMAs with bits and no registration          the sweep finds those (c/protect.c)
    VMAs that refused to be protected           the rest: they have pages without bits only

Nothing depends on finding all of it at once. Pages of a VMA that is not registered have no bit,
and are listed in every iteration until it is.
"""

from __future__ import annotations

from contextlib import suppress

from ..model.pageset import PageSet
from ..native.error import NativeError
from ..native.faults import unregister
from ..native.layout import SHARED, Layout, Vma
from .registrar import Refused, Registrar
from .untracked import is_shared_memory


class SyncRegistrar(Registrar):
    """Registers one address space, from outside, for synchronous protection."""

    _lines: frozenset[bytes] = frozenset()

    def new_lines(self, layout: Layout) -> PageSet:
        """What maps shows now and did not when it was last looked at by this."""
        lines = frozenset(layout.text().splitlines())
        fresh, self._lines = lines - self._lines, lines
        ranges = (line.split(b" ", 1)[0].split(b"-") for line in fresh)
        return PageSet.from_ranges(
            ((int(start, 16), int(end, 16)) for start, end in ranges), self._page_size
        )

    def still_refused(self, layout: Layout) -> list[Refused]:
        """The refused regions that `layout` shows as they were."""
        self._forget_refused(layout)
        return list(self.refused.values())

    def register(self, layout: Layout, missing: PageSet) -> None:
        """Registers what can be of `missing`; `layout` is refreshed. Raises NativeError."""
        self._forget_refused(layout)
        reachable = PageSet.from_ranges([(self._lowest, self._limit)], self._page_size)
        done = 0
        for start, end in (missing & reachable) - self._refused_ranges():
            if end > done:
                done = self._register_around(start, end, layout)
        layout.refresh()

    def unregister(self) -> None:
        """Takes everything back, whatever of it is still there."""
        at = self._lowest
        for refused in [*sorted(one.vma.start for one in self.refused.values()), self._limit]:
            if at < refused:
                # Where the layout has moved on, closing the descriptor does the same, later.
                with suppress(NativeError):
                    unregister(self._uffd, at, refused)
            at = self.refused[refused].vma.end if refused in self.refused else refused

    def _is_suspect(self, vma: Vma) -> bool:
        # Only anonymous and shared memory can be protected (mm/userfaultfd.c, Linux 6.6).
        if vma.inode and not (vma.flags & SHARED and is_shared_memory(vma)):
            return True
        return super()._is_suspect(vma)
