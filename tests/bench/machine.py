"""Where the numbers were taken, and how the rest of the machine is kept out of them."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.bench.pace import free_memory

ROOT = Path(__file__).resolve().parent.parent.parent


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


def _says(*command: str) -> str:
    """The first line that a program prints; "absent" without the program."""
    if shutil.which(command[0]) is None:
        return "absent"
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return (done.stdout.splitlines() or ["unknown"])[0]


def _on(yes: bool) -> str:
    return "on" if yes else "off"


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
        # A thread of the kernel's that looks at all memory again and again, milliseconds at a time.
        "damon": _on(any(one.name().startswith("kdamond") for one in psutil.process_iter())),
        "thp": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "python": platform.python_version(),
        # The installed one's may be of an earlier commit.
        "version": _says(sys.executable, "-m", "setuptools_scm", "--root", str(ROOT)),
        "gcc": _says("gcc", "-dumpfullversion"),
        "redis": _says("redis-benchmark", "--version").removeprefix("redis-benchmark "),
        "postgres": _says("pgbench", "--version").partition(") ")[2],
        "load": round(os.getloadavg()[0], 2),
        "free_bytes": free_memory(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


@contextmanager
def realtime(wanted: bool = True) -> Iterator[bool]:
    """Run this process and all it starts in the block before everything else (SCHED_RR).

    A measurement beside a compiler says more about the compiler. Needs CAP_SYS_NICE; gives whether
    it was granted. What disturbs caches and memory is still felt, by both sides alike.
    Not for what keeps a CPU busy for longer: from that the kernel takes it away for 50 ms in
    every second (sched_rt_runtime_us, sched(7)).
    """
    if not wanted:
        yield False
        return
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
