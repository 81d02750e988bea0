"""The processes of a control group and those below it.

    /proc/PID/cgroup      "0::/system.slice/x"      the unified hierarchy, version 2
                          "4:memory:/x"             one of version 1
    /proc/self/mountinfo  where that hierarchy is mounted
    .../x/cgroup.procs    its processes, and those of every folder below

The group is the one that the target is in when it is attached to. With both versions mounted the
first one in which the target is not at the top is meant: the top is the whole machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..model.errors import TargetGone, UsageError
from . import procfs

# Of version 1, those that service managers and container engines make for every service.
_V1_ORDER = ("name=systemd", "pids", "memory", "cpu", "devices", "freezer")


class ControlGroup:
    """The control group of a process, or the one at `path`.

    Raises UsageError if the process has none of its own, or ours; TargetGone.
    """

    def __init__(self, pid: int, path: str = "") -> None:
        self.path = path or _folder(pid)
        if os.getpid() in self.pids():
            raise UsageError(
                f"the tracker is in the control group that it is to follow ({self.path})",
                hint="start the tracker in another control group, or use --follow fork",
                pid=pid,
            )

    def pids(self) -> list[int]:
        """All processes, those of the groups below included; none if it was removed."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.path):
            try:
                with open(f"{folder}/cgroup.procs", "rb") as file:
                    found += map(int, file.read().split())
            except OSError:
                # Removed meanwhile; or (EOPNOTSUPP) its threads are listed further up.
                continue
        # 0: a process of a pid namespace that is not below ours.
        return [pid for pid in dict.fromkeys(found) if pid]


def _folder(pid: int) -> str:
    groups = dict(_groups(pid))
    mounts = dict(_mounts())
    for name in ("", *_V1_ORDER):
        group, mount = groups.get(name, "/"), mounts.get(name)
        if mount is None or group == "/":
            continue
        root, point = mount
        # A container sees its own part of the hierarchy only, mounted at the top.
        inside = os.path.relpath(group, root)
        if not inside.startswith(".."):
            return os.path.normpath(os.path.join(point, inside))
    raise UsageError(
        f"process {pid} is in no control group of its own: to follow it is to follow the machine",
        hint="start it as a service or in a container, or use --follow fork",
        pid=pid,
    )


def _groups(pid: int) -> Iterator[tuple[str, str]]:
    """(name of the hierarchy, path within): "" for version 2, each controller for version 1."""
    try:
        with open(f"/proc/{pid}/cgroup", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        raise TargetGone(f"process {pid} has ended", pid=pid) from None
    for line in lines:
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            yield name, path.removesuffix(" (deleted)")


def _mounts() -> Iterator[tuple[str, tuple[str, str]]]:
    """(name of the hierarchy, (its folder that is mounted, where)), as proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(maxsplit=2)
            root, point = (_plain(word) for word in left.split()[3:5])
            if kind == "cgroup2":
                yield "", (root, point)
            elif kind == "cgroup":
                for name in options.strip().split(","):
                    yield name, (root, point)


def _plain(word: str) -> str:
    """A path of mountinfo without its escapes."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, char)
    return word


def living(pids: list[int]) -> dict[int, int]:
    """Those that have not ended, kernel threads left out: pid -> start time in clock ticks."""
    found = {}
    for pid in pids:
        try:
            stat = procfs.read_stat(pid)
            dead = stat.dead and all(one.dead for one in procfs.thread_stats(pid))
        except ProcessLookupError:
            continue
        if not dead and not stat.kernel_thread:
            found[pid] = stat.start_time
    return found
