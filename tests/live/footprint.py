"""What an attach must leave as it found it, as one comparable object.

Read from /proc by plain reads, nothing of the code under test is used: what a process has mapped,
open, limited and blocked, and how much of its text became private. Registers are not here: the
victim `registers` watches its own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Lines of proc_pid_status(5) that an attach has no business with. State is compared by callers
#: for targets that stand still.
STATUS = frozenset(
    word
    for line in (
        "TracerPid Uid Gid Groups Threads NoNewPrivs Seccomp Cpus_allowed",
        "VmSize VmLck VmPin VmData VmStk VmExe VmLib",
        "SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm CapEff",
    )
    for word in line.split()
)


@dataclass(frozen=True)
class Footprint:
    """maps: lines of proc_pid_maps(5). fds: number -> (what it is, flags, position).
    private_text: bytes of Private_Dirty and Anonymous of executable mappings, by line of maps.
    limits: proc_pid_limits(5). threads: tid -> (signal mask, nice, scheduling policy, processors).
    """

    maps: tuple[str, ...]
    fds: dict[int, tuple[str, str]]
    private_text: dict[str, int]
    limits: str
    status: dict[str, str]
    threads: dict[int, tuple[str, ...]]

    def differences(self, other: Footprint) -> list[str]:
        """In words, for a failed assertion; empty when all is the same."""
        found = []
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine == theirs:
                continue
            if isinstance(mine, dict):
                keys = sorted(k for k in mine | theirs if mine.get(k) != theirs.get(k))
                found += [f"{name}[{k}]: {mine.get(k)} -> {theirs.get(k)}" for k in keys]
            elif isinstance(mine, tuple):
                found += [f"{name}: - {line}" for line in mine if line not in theirs]
                found += [f"{name}: + {line}" for line in theirs if line not in mine]
            else:
                found.append(f"{name}: {mine} -> {theirs}")
        return found


def footprint(pid: int) -> Footprint:
    """The footprint of a process that changes none of this by itself meanwhile."""
    return Footprint(
        maps=tuple(_text(pid, "maps").splitlines()),
        fds=_fds(pid),
        private_text=_private_text(pid),
        limits=_text(pid, "limits"),
        status={key: value for key, value in _status(pid).items() if key in STATUS},
        threads={int(tid): _thread(pid, tid) for tid in os.listdir(f"/proc/{pid}/task")},
    )


def state(pid: int, tid: int | None = None) -> str:
    """The state letter of a thread, the leader by default."""
    return _text(pid, f"task/{tid or pid}/stat").rsplit(") ", 1)[1][0]


def tracer(pid: int) -> int:
    """Who traces any of its threads, 0 if nobody. Threads may end meanwhile."""
    found = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found = max(found, traced(pid, int(tid)))
    return found


def traced(pid: int, tid: int) -> int:
    """Who traces that thread, 0 if nobody."""
    return int(_status(pid, f"task/{tid}/status")["TracerPid"])


def _text(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def _status(pid: int, name: str = "status") -> dict[str, str]:
    pairs = (line.split(":", 1) for line in _text(pid, name).splitlines())
    return {key: value.strip() for key, value in pairs}


def _fds(pid: int) -> dict[int, tuple[str, str]]:
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        what = os.readlink(f"/proc/{pid}/fd/{number}")
        info = _text(pid, f"fdinfo/{number}").splitlines()
        # The descriptor's own flags only: counters (of an epoll, say) may move.
        found[int(number)] = what, " ".join(line for line in info if line.startswith("flags"))
    return found


def _private_text(pid: int) -> dict[str, int]:
    found: dict[str, int] = {}
    executable = ""
    for line in _text(pid, "smaps").splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            executable = line if words[1][2] == "x" else ""
        elif executable and words[0] in ("Private_Dirty:", "Anonymous:"):
            found[executable] = found.get(executable, 0) + int(words[1]) * 1024
    return found


def _thread(pid: int, tid: str) -> tuple[str, ...]:
    status = _status(pid, f"task/{tid}/status")
    stat = _text(pid, f"task/{tid}/stat").rsplit(") ", 1)[1].split()
    # proc_pid_stat(5): nice is field 19, rt_priority 40, policy 41; the state is field 3.
    scheduling = (stat[19 - 3], stat[40 - 3], stat[41 - 3])
    return (status["SigBlk"], status["SigPnd"], *scheduling, status["Cpus_allowed"])
