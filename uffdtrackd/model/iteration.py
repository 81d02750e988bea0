"""One collection: what was written in each process since the previous one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .pageset import PageSet
from .region import Region, Window


class ProcessPages:
    """What one iteration says of one process.

    dirty: populated pages whose content may differ from when the previous iteration returned.
    discarded: pages that had content of their own and now read as their backing.
    always: the part of `dirty` that is listed every time because its writes cannot be seen.
    regions: the layout of the address space, by address. Made when first asked for: a target
    may have tens of thousands of them, and most readers want only the pages.
    windows: what it shows of shared objects, perhaps as others do: see Iteration.copies().
    """

    __slots__ = ("_load_regions", "_regions", "always", "dirty", "discarded", "windows")

    def __init__(
        self,
        dirty: PageSet,
        discarded: PageSet,
        always: PageSet,
        load_regions: Callable[[], Sequence[Region]] = tuple,
        windows: Sequence[Window] = (),
    ) -> None:
        self.dirty = dirty
        self.discarded = discarded
        self.always = always
        self.windows = windows
        self._load_regions = load_regions
        self._regions: list[Region] | None = None

    @property
    def load_regions(self) -> Callable[[], Sequence[Region]]:
        """As given; holds no pages, where the object itself would."""
        return self._load_regions

    @property
    def regions(self) -> list[Region]:
        if self._regions is None:
            self._regions = list(self._load_regions())
        return self._regions


# What comes after `processes` in a line.
_LAST = ("stats", "exited", "sharing", "untracked")


@dataclass(frozen=True, slots=True)
class Iteration:
    """One collection over all processes of a session.

    number: counted from 0; 0 lists everything populated.
    frozen: taken while every thread of the target was stopped.
    time_ns: CLOCK_REALTIME when it returned. duration_ns: how long it took.
    stopped_ns: how long a thread of the target was stopped for it (iteration 0: by attach).
    page_size: bytes.
    processes: by pid.
    stats: counters for people and logs, by name.
    exited: processes that ended since the iteration before; None if none are followed.
    sharing: processes that run in the memory of another (vfork(2), CLONE_VM): pid -> that other;
    they have no pages of their own.
    untracked: followed processes that are not in `processes`: pid -> why. Tried again next time.
    """

    number: int
    frozen: bool
    time_ns: int
    duration_ns: int
    stopped_ns: int
    page_size: int
    processes: Mapping[int, ProcessPages]
    stats: Mapping[str, int] = field(default_factory=dict)
    exited: tuple[int, ...] | None = None
    sharing: Mapping[int, int] = field(default_factory=dict)
    untracked: Mapping[int, str] = field(default_factory=dict)

    def copies(self) -> dict[int, PageSet]:
        """The pages of `dirty` that have to be copied, by pid, when shared ones are copied once.

        A page that is left out shows the same offset of the same object as one that is there, in
        a process before it or in its own: Window says which.
        """
        listed: dict[str, PageSet] = {}
        found = {}
        for pid, pages in self.processes.items():
            rest = pages.dirty
            for window in pages.windows:
                shift = window.start - window.offset
                place = PageSet.from_ranges([(window.start, window.end)], self.page_size)
                offsets = (pages.dirty & place).shifted(-shift)
                before = listed.get(window.object)
                if before is None:
                    listed[window.object] = offsets
                else:
                    rest -= (offsets & before).shifted(shift)
                    listed[window.object] = before | offsets
            found[pid] = rest
        return found

    def to_map(self) -> dict[str, Any]:
        """The iteration as one JSON line and the wire carry it: integers, ranges in bytes."""
        head = self.head()
        tail = {key: head.pop(key) for key in list(head) if key in _LAST}
        processes = [_process_map(pid, pages) for pid, pages in self.processes.items()]
        return head | {"processes": processes} | tail

    def head(self) -> dict[str, Any]:
        """The same without `processes`."""
        found: dict[str, Any] = {
            "iteration": self.number,
            "frozen": self.frozen,
            "time_ns": self.time_ns,
            "duration_ns": self.duration_ns,
            "stopped_ns": self.stopped_ns,
            "page_size": self.page_size,
            "stats": dict(self.stats),
        }
        if self.exited is not None:
            found["exited"] = list(self.exited)
            found["sharing"] = [{"pid": pid, "with": of} for pid, of in self.sharing.items()]
            found["untracked"] = [
                {"pid": pid, "reason": why} for pid, why in self.untracked.items()
            ]
        return found


def _process_map(pid: int, pages: ProcessPages) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pid": pid,
        "dirty": [list(run) for run in pages.dirty],
        "discarded": [list(run) for run in pages.discarded],
        "always": [list(run) for run in pages.always],
    }
    if pages.windows:
        found["windows"] = [[one.start, one.end, one.object, one.offset] for one in pages.windows]
    return found
