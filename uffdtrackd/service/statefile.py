"""What a session needs after the death of its daemon: one small file each, right at any moment.

    /run/uffdtrackd/sessions/ID     | magic | mark | size | MessagePack |

    begin()   mark = UNSURE in place      from here on what was collected may die with us
    (collecting)
    write()   ID.new, whole --> ID        the new state, mark = SURE: one rename
    (answering)

kill -9 at any instruction leaves either the old state with UNSURE, which the next daemon answers
with a full iteration, or a state that is true. /run is memory: a machine that loses power loses
the targets too, so nothing is synced.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

_MAGIC = b"uftstat1"
_HEAD = struct.Struct("=8sB7xQ")
_MARK_AT = len(_MAGIC)
_SURE, _UNSURE = b"\0", b"\1"
_NEW = ".new"


class StateFile:
    """The state of one session. Made without a file; close() leaves it, remove() does not."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._fd = -1

    def write(self, state: Any) -> None:
        """Replaces what is there. Raises OSError: what was there stays, with its mark."""
        data = msgpack.packb(state, use_bin_type=True)
        new = self.path.with_name(self.path.name + _NEW)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(new, flags, 0o600)
        try:
            _write_all(fd, _HEAD.pack(_MAGIC, _SURE[0], len(data)))
            _write_all(fd, data)
            os.rename(new, self.path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        self.close()
        self._fd = fd

    def begin(self) -> None:
        """What is there is not the whole truth any more, until the next write()."""
        if self._fd >= 0:
            os.pwrite(self._fd, _UNSURE, _MARK_AT)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """May be called twice."""
        self.close()
        self.path.unlink(missing_ok=True)


class Unreadable(Exception):
    """A file that is no state of ours, and why."""


def read(path: Path) -> tuple[Any, bool]:
    """The state, and whether it is sure. Raises Unreadable."""
    try:
        data = path.read_bytes()
        magic, mark, size = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise Unreadable(f"{path}: not a state, or one of another version")
        if len(data) != _HEAD.size + size:
            raise Unreadable(f"{path}: {len(data)} bytes, not {_HEAD.size + size}")
        body = memoryview(data)[_HEAD.size :]
        return msgpack.unpackb(body, strict_map_key=False, use_list=True), mark == _SURE[0]
    except (OSError, struct.error, ValueError, msgpack.exceptions.UnpackException) as error:
        raise Unreadable(f"{path}: {error}") from error


def names(folder: Path) -> Iterator[str]:
    """Of all states in a folder; what was never finished is removed."""
    for path in sorted(folder.iterdir()):
        if path.suffix == _NEW:
            path.unlink(missing_ok=True)
        else:
            yield path.name


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
