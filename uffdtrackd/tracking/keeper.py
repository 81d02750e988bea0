"""Keeps a session's state where another process can find it: the writing half of `restore`.

    iterate()  --> begin()   "bits are being taken off"
        caller puts the iteration away
    keep()     --> members, what their readers hold, the caller's own data   `statefile`

A process that is killed between the two leaves a state that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .statefile import StateFile
from .tree import Tree

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Keeper:
    """fd: a memfd or a file, the caller's. fixed: what of the session never changes, for JSON."""

    def __init__(self, fd: int, fixed: Mapping[str, Any]) -> None:
        self._file = StateFile(fd)
        self._fixed = fixed

    def begin(self) -> None:
        """An iteration begins. Raises OSError."""
        self._file.begin()

    def keep(self, number: int, tree: Tree, also: Mapping[str, Buffer]) -> None:
        """What there is to know between two iterations. number: of the next. Raises OSError."""
        members: list[dict[str, Any]] = []
        parts: dict[str, Buffer] = {}
        for pid, member in tree.members.items():
            found, known = member.remembered()
            members.append(found)
            parts[f"known.{pid}"] = known.runs
        parts |= {f"left.{pid}": pages.runs for pid, pages in tree.left.items()}
        parts |= {f"also.{name}": data for name, data in also.items()}
        changing = {"group": tree.group, "members": members}
        self._file.write(number, {**self._fixed, **changing}, parts)
