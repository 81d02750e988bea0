"""Pending sets as small maps and arrays, for the state that outlives a daemon.

    Consumer  <--> {name, delivered, acknowledged, full, closed: [...], open}
    Iteration <--> {number, ..., processes: {pid: [part, part, part]}} + parts: name --> runs

The runs are the arrays as they are in memory, each a part of its own: what did not change since
the last time is the same object, and is not written again. Layouts are not kept: they are asked of
the target again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..model.errors import UsageError
from ..model.iteration import Iteration, ProcessPages
from ..model.pageset import PageSet
from ..model.region import Window

Parts = dict[str, memoryview]


def of_iteration(one: Iteration, parts: Parts, prefix: str) -> dict[str, Any]:
    """prefix: of the names of its parts, one that no other iteration has."""

    def part(pid: int, name: str, pages: PageSet) -> str:
        key = f"{prefix}.{one.number}.{pid}.{name}"
        parts[key] = pages.runs
        return key

    return {
        "number": one.number,
        "frozen": one.frozen,
        "time_ns": one.time_ns,
        "duration_ns": one.duration_ns,
        "stopped_ns": one.stopped_ns,
        "page_size": one.page_size,
        "processes": {
            pid: [part(pid, name, getattr(pages, name)) for name in _SETS]
            for pid, pages in one.processes.items()
        },
        "windows": {
            pid: [[each.start, each.end, each.object, each.offset] for each in pages.windows]
            for pid, pages in one.processes.items()
            if pages.windows
        },
        "stats": dict(one.stats),
        "exited": None if one.exited is None else list(one.exited),
        "sharing": dict(one.sharing),
        "untracked": dict(one.untracked),
    }


def to_iteration(found: Mapping[str, Any], parts: Mapping[str, bytes]) -> Iteration:
    """Raises what MISREAD has for what of_iteration() did not make."""
    size = found["page_size"]

    def pages(pid: int, names: list[str]) -> ProcessPages:
        dirty, discarded, always = (PageSet.from_runs(parts[name], size) for name in names)
        windows = [Window(*one) for one in found["windows"].get(pid, ())]
        return ProcessPages(dirty, discarded, always, windows=windows)

    return Iteration(
        number=found["number"],
        frozen=found["frozen"],
        time_ns=found["time_ns"],
        duration_ns=found["duration_ns"],
        stopped_ns=found["stopped_ns"],
        page_size=size,
        processes={pid: pages(pid, names) for pid, names in found["processes"].items()},
        stats=found["stats"],
        exited=None if found["exited"] is None else tuple(found["exited"]),
        sharing=found["sharing"],
        untracked=found["untracked"],
    )


_SETS = ("dirty", "discarded", "always")
# What a state that is broken or of another version may raise when it is read.
MISREAD = (KeyError, TypeError, ValueError, AttributeError, UsageError)
