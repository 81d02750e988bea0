"""What the daemon sent as an iteration, as page sets: ranges inline, or runs in a memfd.

    {"dirty": [[start, end], ...]}                   --from_ranges--> PageSet
    {"dirty": {"offset", "count"}} + sealed memfd    --mmap-----> PageSet over the mapping, or
                                                                  what was read of a small one

The mapping is read-only and the memfd sealed: nobody can change the pages under a set, and the
mapping lives as long as the sets over it do.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any

from .model.errors import ConnectionLost, UsageError
from .model.pageset import PageSet
from .model.region import Window

SETS = ("dirty", "discarded", "always")
# Bytes below which to read is cheaper than to map: a page fault for every 4096.
_SMALL = 1 << 18


@dataclass(slots=True)
class Parcel:
    """head: the map as sent. processes: (pid, dirty, discarded, always, windows)."""

    head: dict[str, Any]
    processes: list[tuple[int, PageSet, PageSet, PageSet, tuple[Window, ...]]]


def decode(found: dict[str, Any], fds: list[int]) -> Parcel:
    """fds: what came along; closed here. Raises ConnectionLost if it makes no sense."""
    try:
        view = _mapped(found, fds)
        processes = []
        for one in found["processes"]:
            sets = [_pages(one[name], view, found["page_size"]) for name in SETS]
            windows = tuple(Window(*window) for window in one.get("windows", ()))
            processes.append((one["pid"], sets[0], sets[1], sets[2], windows))
        return Parcel(found, processes)
    except (LookupError, TypeError, ValueError, ArithmeticError, UsageError, OSError) as error:
        raise ConnectionLost(
            f"the daemon sent an iteration that makes no sense: {error}"
        ) from error
    finally:
        for fd in fds:
            os.close(fd)


def _mapped(found: dict[str, Any], fds: list[int]) -> memoryview | None:
    if "memfd" not in found:
        return None
    memfd = found["memfd"]
    size = memfd["size"]
    if memfd["format"] != "runs":
        raise ValueError(f"format {memfd['format']!r} was not asked for")
    if not size:
        return memoryview(b"")
    fd = fds[memfd["fd"]]
    if 0 < size <= _SMALL:
        data = os.pread(fd, size, 0)
        if len(data) < size:
            raise ValueError(f"the memfd has {len(data)} bytes, not {size}")
        return memoryview(data)
    # Raises ValueError if the file is shorter: reading past its end would kill us.
    return memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))


def _pages(said: Any, view: memoryview | None, page_size: int) -> PageSet:
    if view is None:
        return PageSet.from_ranges(said, page_size)
    offset, length = said["offset"], 16 * said["count"]
    if offset % 8 or offset < 0 or length < 0 or offset + length > len(view):
        raise ValueError(f"{length} bytes at {offset} are not in the memfd")
    if not length:
        return PageSet(page_size)
    return PageSet.from_runs(view[offset : offset + length], page_size)
