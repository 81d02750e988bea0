"""Refusals that come in crowds: logged at once, then counted, so that nobody can flood the log.

refused --> the first of a user since the last look --> logged
        --> each further one -------------------------> counted; the sum is logged at the look
"""

from __future__ import annotations

from . import journal, messages


class Crowd:
    """Of all users. tell() is to be called now and then."""

    def __init__(self) -> None:
        self._more: dict[int, int] = {}

    def add(self, uid: int, text: str) -> None:
        if uid in self._more:
            self._more[uid] += 1
            return
        self._more[uid] = 0
        journal.log(messages.REFUSED, text, peer_uid=uid)

    def tell(self) -> None:
        """Logs what was only counted."""
        more, self._more = self._more, {}
        for uid, count in more.items():
            if count:
                journal.log(messages.REFUSED, f"refused uid {uid} {count} times more", peer_uid=uid)
