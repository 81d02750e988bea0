"""Who is on the other end of a connection, as the kernel says it.

    accept --> SO_PEERCRED    pid, uid, gid of who called connect(2)     unix(7)
           --> SO_PEERGROUPS  its supplementary groups at that time      socket(7), Linux 4.13

Nothing of it is what the peer says of itself, and none of it changes while the connection lasts.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from functools import cached_property

# include/uapi/asm-generic/socket.h; Python has no name for it.
SO_PEERGROUPS = 59
_UCRED = struct.Struct("3i")
# NGROUPS_MAX, include/uapi/linux/limits.h, each a gid_t.
_MOST_GROUPS = 65536


@dataclass(frozen=True)
class Peer:
    """pid: at the time of connect(2), only for messages. groups: primary and supplementary."""

    pid: int
    uid: int
    groups: frozenset[int]

    @property
    def root(self) -> bool:
        return self.uid == 0

    @cached_property
    def user(self) -> str:
        try:
            return f"{pwd.getpwuid(self.uid).pw_name} (uid {self.uid})"
        except KeyError:
            return f"uid {self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """Raises OSError if the connection is not of a UNIX socket."""
    size = _UCRED.size
    pid, uid, gid = _UCRED.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return Peer(pid, uid, frozenset({gid, *_groups(connection)}))


def _groups(connection: socket.socket) -> tuple[int, ...]:
    for count in (64, _MOST_GROUPS):
        try:
            raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, count * 4)
        except (OverflowError, OSError):
            continue
        return struct.unpack(f"{len(raw) // 4}I", raw)
    return ()


def group_id(name: str) -> int | None:
    """The gid of a group, None if there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def own_uid() -> int:
    return os.geteuid()
