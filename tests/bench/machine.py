"""Where the numbers were taken: they mean nothing without it."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path


def _first(path: str, key: str) -> str:
    """The first `key : value` of a file of /proc; "unknown" if there is none."""
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"


def _chosen(path: str) -> str:
    """The word in [brackets] of a sysfs file; "absent" without the file."""
    try:
        text = Path(path).read_text()
    except OSError:
        return "absent"
    return text.partition("[")[2].partition("]")[0]


def describe() -> dict[str, object]:
    """Hardware, kernel, versions, and what else was running (the load) when it began."""
    kernel = platform.uname()
    family, model = (_first("/proc/cpuinfo", key) for key in ("cpu family", "model"))
    return {
        "cpu": f"{_first('/proc/cpuinfo', 'model name')} (family {family}, model {model})",
        "cpus": os.cpu_count(),
        "virtual": "hypervisor" in _first("/proc/cpuinfo", "flags").split(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": kernel.release,
        "arch": kernel.machine,
        "thp": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "python": platform.python_version(),
        "version": metadata.version("uffdtrackd"),
        "load": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
