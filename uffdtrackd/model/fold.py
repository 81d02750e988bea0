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
    that is not in `later` has ended, and nothing of it is left to copy: it is dropped. Not so one
    that could not be looked at (`untracked`): what was written to it before is still to be copied.
    A pid that ended and then was another process is in `exited` and in `processes`: what is held
    of it goes first. UsageError: page sizes differ.
    """
    processes: dict[int, ProcessPages] = {}
    for pid, pages in later.processes.items():
        ended = pid in (later.exited or ())
        before = None if ended else earlier.processes.get(pid)
        if before is not None:
            dirty, discarded = fold_sets(
                (before.dirty, before.discarded), (pages.dirty, pages.discarded)
            )
            processes[pid] = ProcessPages(
                dirty, discarded, pages.always, partial(_regions, pages), pages.windows
            )
        else:
            processes[pid] = pages
    for pid, before in earlier.processes.items():
        if pid in later.untracked and pid not in (later.exited or ()):
            processes.setdefault(pid, before)
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
