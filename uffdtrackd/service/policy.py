"""Who may do what: every refusal of the daemon that is not the kernel's comes from here.

    peer                               may use           which processes
    root, or the daemon's own user     the daemon        all that the kernel lets the daemon have
    member of the group uffdtrackd     the daemon        its own, unless they are privileged
    anybody else                       nothing

"Its own" is real, effective and saved uid, and gid, alike and the uid the peer's: else a user
could look into a set-uid program. "Privileged" is what the kernel would refuse to that user as
well: capabilities, or a process that is not dumpable (set-uid, set-gid, unreadable program file,
or by its own wish, as key agents do: PR_SET_DUMPABLE(2const)). A root daemon has to ask this
itself, and each time that memory is opened: by then the process may have run exec().
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from ..model.errors import NoSuchSession, NotPermitted
from ..tracking import procfs
from .crowd import Crowd
from .peer import Peer, group_id, own_uid

GROUP = "uffdtrackd"


class Policy:
    """The rules, for a daemon that runs as `owner`; group: name of those who may use it.

    crowd: told each refusal, to be logged.
    """

    def __init__(self, owner: int | None = None, group: str = GROUP) -> None:
        self._owner = own_uid() if owner is None else owner
        self._group = group
        self.crowd = Crowd()

    def _rules(self, peer: Peer) -> bool:
        """Whether the peer could do all that the daemon does without the daemon."""
        return peer.root or peer.uid == self._owner

    def check_peer(self, peer: Peer) -> None:
        """Raises NotPermitted if it may not use the daemon at all."""
        if self._rules(peer) or group_id(self._group) in peer.groups:
            return
        self.refuse(
            peer,
            NotPermitted(
                f"{peer.user} may not use this daemon",
                hint=f"become root or a member of the group {self._group}: usermod -aG"
                f" {self._group} USER, and log in again",
            ),
        )

    def permit(self, peer: Peer) -> Callable[[int], None]:
        """A function of a pid that raises NotPermitted if the peer may not have that process."""
        if self._rules(peer):
            return _all
        return lambda pid: self._check_own(peer, pid)

    def _check_own(self, peer: Peer, pid: int) -> None:
        try:
            tids = procfs.threads(pid)
        except ProcessLookupError:
            # It has ended: there is nothing to protect, and what comes next will say so.
            return
        for tid in tids:
            try:
                reason = _privileged(peer, pid, tid)
            except ProcessLookupError:
                continue  # that thread; the others are there still
            if reason:
                self.refuse(
                    peer,
                    NotPermitted(
                        f"process {pid} {reason}, and {peer.user} may track only processes"
                        " that are entirely its own",
                        hint="ask as root",
                        pid=pid,
                    ),
                )

    def sees(self, peer: Peer, owner: int) -> bool:
        """Whether the peer may use a session of `owner`."""
        return self._rules(peer) or peer.uid == owner

    def check_session(self, peer: Peer, owner: int, session: str) -> None:
        """Raises NoSuchSession: what belongs to others is not even there."""
        if self.sees(peer, owner):
            return
        self.refuse(peer, NoSuchSession(f"no session {session!r}", session=session))

    def refuse(self, peer: Peer, error: NotPermitted | NoSuchSession) -> NoReturn:
        """Logs and raises."""
        self.crowd.add(peer, error)
        raise error


def _all(pid: int) -> None:
    pass


def _privileged(peer: Peer, pid: int, tid: int) -> str:
    """What makes the thread more than an ordinary one of the peer's; "" if nothing does."""
    status = procfs.read_status(pid, tid)
    if set(status.uids[:3]) != {peer.uid}:
        return f"has the uids {', '.join(map(str, status.uids[:3]))}"
    if len(set(status.gids[:3])) > 1:
        return f"has the gids {', '.join(map(str, status.gids[:3]))}"
    if status.permitted:
        return "has capabilities"
    try:
        # Its files in /proc belong to root when it is not dumpable: proc_pid(5).
        dumpable = os.stat(f"/proc/{pid}/task/{tid}/stat").st_uid == status.uids[1]
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    return "" if dumpable else "is not dumpable"
