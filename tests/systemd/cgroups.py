"""A control group of our own for the container, where no systemd of this machine makes one.

    /proc/self/mountinfo, /proc/self/cgroup --> where we are in the hierarchies that systemd uses
        (cgroup2, and v1's name=systemd)    --> OURS/uffdtrackd-PID/{supervisor,payload/...}

nspawn names the groups below its own always the same: without this two containers at a time would
share them. Control groups are in no namespace of ours, so they are removed one by one at the end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _hierarchies() -> list[Path]:
    """Folder of our group in each hierarchy that systemd looks at."""
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            mounts[""] = Path(before.split()[4])
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            mounts["name=systemd"] = Path(before.split()[4])
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, name, path = line.split(":", 2)
        if name in mounts:
            found.append(mounts[name] / path.lstrip("/"))
    return found


@contextmanager
def own(name: str) -> Iterator[list[Path]]:
    """Makes a group of that name in each; yields the files to write a pid into to join them."""
    made = [folder / name for folder in _hierarchies()]
    try:
        for folder in made:
            folder.mkdir()
        yield [folder / "cgroup.procs" for folder in made]
    finally:
        for folder in made:
            for below, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(below)
