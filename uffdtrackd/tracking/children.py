"""Descendants of processes, by walking /proc/PID/task/TID/children from parent to child.

The file lists the children of a single thread, and a child belongs to the thread that made it, so
all threads are asked. It may leave one out if another child ends while it is read
(proc_pid_children(5)), so a walk is repeated until two in a row agree. What no walk finds is a
child whose parent ended before it was looked at: it belongs to another parent now.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import procfs

# A crowd in which somebody ends all the time never agrees; the next walk finds what is left.
_WALKS = 4


def descendants(roots: Iterable[int]) -> dict[int, int]:
    """Descendants of the processes that are still there: pid -> pid of the parent.

    A root is listed only if it descends from another one. Zombies may be among them.
    """
    given = list(roots)
    before: dict[int, int] = {}
    for _ in range(_WALKS):
        found = _walk(given)
        if found == before:
            break
        before |= found
    return before


def _walk(roots: list[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    waiting = list(roots)
    seen = set(roots)
    while waiting:
        parent = waiting.pop()
        for child in children(parent):
            found[child] = parent
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return found


def children(pid: int) -> list[int]:
    """The children of all threads of a process; none if it has gone."""
    found: list[int] = []
    try:
        for tid in procfs.threads(pid):
            try:
                with open(f"/proc/{pid}/task/{tid}/children", "rb") as file:
                    found += map(int, file.read().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    except ProcessLookupError:
        pass
    return found
