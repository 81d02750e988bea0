"""Which mappings will still be there in a moment, so that a registration may end where they begin.

A call that ends inside of a mapping splits it (`registrar`). Between the look at maps and the call
some microseconds pass, and a program that maps and unmaps files all day will hit them. So a border
is one only when its mapping is expected to last:

    the kernel's own; the program and its libraries      from the beginning
    what was there when tracking began                   when it is two milliseconds older
    any other                                            when it is a second old
    whatever it is, where some of it were seen to go     when it is far older than those were

Each look at maps tells which are gone.
"""

from __future__ import annotations

import time

from ..native.layout import Layout, Vma

# Seconds that a mapping must have been seen.
CERTAIN = 0.0
EARLY = 0.002
LATE = 1.0
# Where some of its sort were seen to go: at least LATE, and as many times as old as the oldest.
_FACTOR = 20.0
_MOST = 60.0


class Borders:
    """The ages of mappings, known by their lines in maps."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}  # since when; its sort
        self._patience: dict[float, float] = {}  # by sort, where that was not enough

    def review(self, layout: Layout) -> None:
        """Forgets what is gone, and learns from it. layout: as it is now."""
        if not self._seen:
            return
        text = b"\n" + layout.text()
        now = time.monotonic()
        for line in list(self._seen):
            if b"\n" + line.encode(errors="surrogateescape") + b"\n" not in text:
                since, sort = self._seen.pop(line)
                patience = min(_FACTOR * (now - since), _MOST)
                self._patience[sort] = max(self._patience.get(sort, 0.0), LATE, patience)

    def lasts(self, vma: Vma, sort: float) -> bool:
        """Whether it is old enough. sort: CERTAIN, EARLY or LATE; counts at first sight."""
        now = time.monotonic()
        since, sort = self._seen.setdefault(vma.line, (now, sort))
        return now - since >= self._patience.get(sort, sort)
