"""A connection and what it holds: all of that ends with it.

connection closed --> freezes thawed, watches ended, sessions with keep=false detached
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..model.errors import ConnectionLost, TrackError
from .connection import Connection
from .peer import Peer

if TYPE_CHECKING:
    from .watch import Watch


@dataclass(eq=False)
class Guest:
    """refusal: why it may not use the daemon, None if it may. client: what it calls itself."""

    connection: Connection
    refusal: TrackError | None = None
    client: str = ""
    # Sessions by name: those it made with keep=false.
    bound: set[str] = field(default_factory=set)
    watches: dict[int, Watch] = field(default_factory=dict)
    next_watch: int = 1
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def peer(self) -> Peer:
        return self.connection.peer

    @property
    def open(self) -> bool:
        return self.connection.open

    def check_open(self) -> None:
        """For jobs that waited: raises ConnectionLost if nobody waits for them any more."""
        if not self.open:
            raise ConnectionLost("the client has gone")
