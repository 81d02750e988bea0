"""Refusals that come in crowds: logged at once, then counted, so that nobody can flood the log.

refused --> the first of a user since the last look --> logged
        --> each further one -------------------------> counted; the sum is logged at the look
"""

from __future__ import annotations

import threading

from ..model.errors import TrackError
from . import journal, messages
from .peer import Peer


class Crowd:
    """Of all users. tell() is to be called now and then; both from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._more: dict[int, int] = {}

    def add(self, peer: Peer, error: TrackError) -> None:
        """What the peer was refused, and why."""
        with self._lock:
            if peer.uid in self._more:
                self._more[peer.uid] += 1
                return
            self._more[peer.uid] = 0
        journal.log(
            messages.REFUSED,
            f"refused pid {peer.pid} of {peer.user}: {error.message}",
            pid=error.pid,
            peer_uid=peer.uid,
            peer_pid=peer.pid,
            error=error.name,
        )

    def tell(self) -> None:
        """Logs what was only counted."""
        with self._lock:
            more, self._more = self._more, {}
        for uid, count in more.items():
            if count:
                journal.log(messages.REFUSED, f"refused uid {uid} {count} times more", peer_uid=uid)
