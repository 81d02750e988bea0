"""What people want to know of one iteration, as numbers; the views only lay them out."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.iteration import Iteration
from . import units


@dataclass(frozen=True)
class Row:
    """One iteration over all its processes.

    dirty, discarded, always: bytes. pages: dirty pages. window_ns: since the iteration before
    returned, None for the first. duration_ns, stopped_ns: as in Iteration. processes: how many.
    """

    number: int
    frozen: bool
    dirty: int
    pages: int
    discarded: int
    always: int
    window_ns: int | None
    duration_ns: int
    stopped_ns: int
    processes: int

    @classmethod
    def of(cls, iteration: Iteration, window_ns: int | None) -> Row:
        every = iteration.processes.values()
        return cls(
            number=iteration.number,
            frozen=iteration.frozen,
            dirty=sum(one.dirty.bytes for one in every),
            pages=sum(len(one.dirty) for one in every),
            discarded=sum(one.discarded.bytes for one in every),
            always=sum(one.always.bytes for one in every),
            window_ns=window_ns,
            duration_ns=iteration.duration_ns,
            stopped_ns=iteration.stopped_ns,
            processes=len(iteration.processes),
        )

    @property
    def rate(self) -> float | None:
        """Bytes a second dirtied in the window. A page counts once however often it was written,
        so a rate means nothing without its window: a longer one shows a lower rate."""
        if not self.window_ns:
            return None
        return self.dirty * 1e9 / self.window_ns

    def cells(self) -> list[str]:
        """The text of COLUMNS, in their order."""
        rate, window = "-", "-"
        if self.rate is not None and self.window_ns is not None:
            rate, window = f"{units.size(self.rate)}/s", units.duration(self.window_ns)
        return [
            str(self.number) + (" frozen" if self.frozen else ""),
            units.size(self.dirty),
            units.count(self.pages),
            units.size(self.discarded),
            rate,
            window,
            units.size(self.always),
            units.duration(self.duration_ns),
            units.duration(self.stopped_ns),
        ]

    def line(self) -> str:
        """The row as `key=value` words, for pipes: easy for awk, grep and eyes."""
        number, dirty, pages, discarded, rate, window, always, took, stopped = (
            cell.replace(" ", "") for cell in self.cells()
        )
        words = [
            f"iteration={number.removesuffix('frozen')}",
            f"dirty={dirty}",
            f"pages={pages}",
            f"discarded={discarded}",
            f"rate={rate}",
            f"window={window}",
            f"always={always}",
            f"took={took}",
            f"stopped={stopped}",
        ]
        if self.processes != 1:
            words.append(f"processes={self.processes}")
        if self.frozen:
            words.append("frozen")
        return " ".join(words)


COLUMNS = (
    "iteration",
    "dirty",
    "pages",
    "discarded",
    "rate",
    "window",
    "always",
    "took",
    "stopped",
)
