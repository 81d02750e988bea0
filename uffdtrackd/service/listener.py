"""The socket that clients connect to: inherited from systemd, or made here.

    path --> nobody listens there? --> bind, 0660, group uffdtrackd --> listen --> accept, accept...

A socket file that is left over by a daemon which was killed is replaced; one on which somebody
answers is not.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

from ..model.errors import ConfigError, TrackError
from .peer import group_id
from .policy import GROUP

log = logging.getLogger(__name__)

_BACKLOG = 1024
# Accepted in one go; then the others have their turn.
_BURST = 64
# Seconds without accepting when there is no descriptor left.
_PAUSE = 0.5


def make(path: str) -> socket.socket:
    """Binds and listens. Raises ConfigError: it cannot be there, TrackError: one is there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o755)
        _remove_stale(path)
        # Nobody may come in before the mode and the group are what they should be.
        mask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        group = group_id(GROUP)
        if group is not None:
            with suppress(PermissionError):
                os.chown(path, -1, group)
        os.chmod(path, 0o660)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {path}: {error.strerror or error}",
            hint="choose another with --socket PATH",
        ) from error
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{path} is there and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
    raise TrackError(
        f"a daemon listens on {path} already",
        hint="use that one, or choose another path with --socket PATH",
    )


class Listener:
    """Accepts until close(). admit: told each connection. path: unlinked at the end if given."""

    def __init__(
        self, sock: socket.socket, admit: Callable[[socket.socket], None], path: str = ""
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._admit = admit
        self._path = path
        self._inode = _inode(path)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._acceptable)

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        # Another daemon may have put its own there.
        if self._path and self._inode == _inode(self._path):
            with suppress(OSError):
                os.unlink(self._path)

    def _acceptable(self) -> None:
        for _ in range(_BURST):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # It would be readable again at once, and for ever.
                log.warning("no connection can be accepted for a while: %s", error.strerror)
                self._loop.remove_reader(self._sock.fileno())
                self._loop.call_later(_PAUSE, self._resume)
                return
            self._admit(connection)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self._acceptable)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
