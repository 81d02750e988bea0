"""What a tracker hands on: of one iteration, of half of one, and to the tracker after it.

Tracker.gather() --> Half --> finish(SharedPages) --+--> Collection --> Iteration
                 --> quiet: Same, what was written -+
Tracker.remembered --> Remembered --> another Tracker, with the same userfaultfd
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..model.pageset import PageSet
from ..model.region import Region, Window
from .object import View
from .pinned import Pins
from .space import Space


class Collection(NamedTuple):
    """What one iteration found in one address space; see `model.iteration.ProcessPages`."""

    dirty: PageSet
    discarded: PageSet
    always: PageSet
    load_regions: Callable[[], Sequence[Region]]
    stats: dict[str, int]
    windows: tuple[Window, ...] = ()


class Unseen(NamedTuple):
    """What no page table tells. pins: what is pinned; before: a look ago. overdue: written, maybe,
    after it was listed."""

    pins: Pins
    before: Pins
    overdue: PageSet


class Half(NamedTuple):
    """An iteration before shared memory was looked at. lost: not mapped any more, or anew."""

    dirty: PageSet
    discarded: PageSet
    always: PageSet
    lost: PageSet
    space: Space
    unseen: Unseen
    stats: dict[str, int]


class Same(NamedTuple):
    """What is told of each quiet iteration, as long as the layout is one of private memory only."""

    view: View
    regions: int
    always: PageSet
    load_regions: Callable[[], Sequence[Region]]


class Remembered(NamedTuple):
    """What a tracker must know of an earlier one to go on with its userfaultfd.

    known: what a consumer holds. pinned: see `Pinned.memory`. owed: bits were taken off and
    nobody was told what they said, or some may lie: the next iteration lists everything.
    """

    known: PageSet
    pinned: tuple[int, bool]
    owed: bool
