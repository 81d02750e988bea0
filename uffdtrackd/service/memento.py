"""Iterations and pending sets as plain maps, for the state that outlives a daemon.

    Consumer <--> {name, delivered, acknowledged, full, closed: [...], open}
    Iteration <--> {number, ..., processes: [[pid, runs, runs, runs], ...]}     runs: bytes

The runs are the arrays as they are in memory (native u64 pairs): the reader is the same program on
the same machine. Layouts are not kept: they are asked of the target again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..model.errors import UsageError
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet


def of_pages(pages: PageSet) -> memoryview:
    return pages.runs.cast("B")


def to_pages(runs: bytes, page_size: int) -> PageSet:
    return PageSet.from_runs(runs, page_size)


def of_iteration(one: Iteration) -> dict[str, Any]:
    return {
        "number": one.number,
        "frozen": one.frozen,
        "time_ns": one.time_ns,
        "duration_ns": one.duration_ns,
        "stopped_ns": one.stopped_ns,
        "page_size": one.page_size,
        "processes": [
            [pid, of_pages(pages.dirty), of_pages(pages.discarded), of_pages(pages.always)]
            for pid, pages in one.processes.items()
        ],
        "stats": dict(one.stats),
        "exited": None if one.exited is None else list(one.exited),
        "sharing": dict(one.sharing),
        "untracked": dict(one.untracked),
    }


def to_iteration(found: Mapping[str, Any]) -> Iteration:
    """Raises KeyError, TypeError, ValueError, UsageError for what of_iteration() did not make."""
    size = found["page_size"]
    return Iteration(
        number=found["number"],
        frozen=found["frozen"],
        time_ns=found["time_ns"],
        duration_ns=found["duration_ns"],
        stopped_ns=found["stopped_ns"],
        page_size=size,
        processes={
            pid: ProcessPages(
                to_pages(dirty, size), to_pages(discarded, size), to_pages(always, size)
            )
            for pid, dirty, discarded, always in found["processes"]
        },
        stats=found["stats"],
        exited=None if found["exited"] is None else tuple(found["exited"]),
        sharing=found["sharing"],
        untracked=found["untracked"],
    )


# What a state that is broken or of another version may raise when it is read.
MISREAD = (KeyError, TypeError, ValueError, AttributeError, UsageError)
