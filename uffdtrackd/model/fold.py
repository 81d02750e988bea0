"""Two iterations in a row as one: what a consumer that saw neither has to do.

    page          in earlier   in later     in the fold
                  dirty        -            dirty
                  dirty        discarded    discarded
                  discarded    dirty        dirty
                  (the later word counts)

So folding is associative: a log may fold its oldest records, a consumer may fold what it missed,
in any order, and copying what the result lists gives the same memory.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from .iteration import Iteration, ProcessPages
from .pageset import PageSet
from .region import Region


def fold_sets(
    earlier: tuple[PageSet, PageSet], later: tuple[PageSet, PageSet]
) -> tuple[PageSet, PageSet]:
    """(dirty, discarded) of both, in this order. UsageError: page sizes differ."""
    dirty, discarded = earlier
    dirty_later, discarded_later = later
    return (
        (dirty - discarded_later) | dirty_later,
        (discarded | discarded_later) - dirty_later,
    )


def fold(earlier: Iteration, later: Iteration) -> Iteration:
    """One iteration that says what `earlier` and then `later` say.

    Number, time, layout, `always` and stats are those of `later`, durations are summed. A process
    that is not in `later` has ended, and nothing of it is left to copy: it is dropped.
    UsageError: page sizes differ.
    """
    processes: dict[int, ProcessPages] = {}
    for pid, pages in later.processes.items():
        before = earlier.processes.get(pid)
        if before is not None:
            dirty, discarded = fold_sets(
                (before.dirty, before.discarded), (pages.dirty, pages.discarded)
            )
            processes[pid] = ProcessPages(dirty, discarded, pages.always, partial(_regions, pages))
        else:
            processes[pid] = pages
    exited = (earlier.exited or ()) + (later.exited or ())
    return replace(
        later,
        exited=None if later.exited is None else tuple(dict.fromkeys(exited)),
        duration_ns=earlier.duration_ns + later.duration_ns,
        stopped_ns=earlier.stopped_ns + later.stopped_ns,
        processes=processes,
    )


def _regions(pages: ProcessPages) -> list[Region]:
    return pages.regions
