"""What the comparison of a frozen process with its copy has shown (`shadow`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..model.iteration import ProcessPages
from ..model.pageset import PageSet
from ..model.region import Region

# Why a page may be listed although it has the content that it had.
SAME = "written with the content it had, or listed in vain"
SHARED = "shared memory, written by another or listed as a whole"


@dataclass(frozen=True)
class Miss:
    """Pages [start, end) that the copy has wrong. region: where they are, if in any. byte: the
    address of the first byte that differs, None where contents were not kept."""

    start: int
    end: int
    region: Region | None
    byte: int | None


@dataclass(frozen=True)
class Comparison:
    """What the comparison of one process with its copy has shown.

    compared: pages read in the target and found in the copy, or not.
    missed: pages that differ although the copy followed every report: none, or tracking failed.
    misses: the first of them.
    over_reported: pages of the final `dirty` that the copy already held with the same content.
    why: how many of these for which reason.
    final_dirty: pages of the final `dirty`.
    unreadable: pages that nobody can read in the target: guard pages, memfd_secret, and PROT_NONE
    where only a debugger may read it (proc_mem.force_override).
    unverified: pages held of which no one can say whether they still exist.
    exact: contents were compared; else digests.
    """

    pid: int
    compared: int
    missed: PageSet
    over_reported: int
    final_dirty: int
    unreadable: PageSet
    unverified: PageSet
    misses: tuple[Miss, ...] = ()
    why: Mapping[str, int] = field(default_factory=dict)
    exact: bool = True

    @property
    def equal(self) -> bool:
        return not self.missed


def reasons(same: PageSet, pages: ProcessPages) -> dict[str, int]:
    """Why pages were listed that have the content that they had; how many of each."""
    size = same.page_size
    found: Counter[str] = Counter()
    if always := same & pages.always:
        for region in pages.regions:
            if region.reason:
                here = always & PageSet.from_ranges([(region.start, region.end)], size)
                found[f"always: {region.reason}"] += len(here)
    rest = same - always
    shown = PageSet.from_ranges(((one.start, one.end) for one in pages.windows), size)
    found[SHARED] += len(rest & shown)
    found[SAME] += len(rest - shown)
    return {why: count for why, count in found.items() if count}
