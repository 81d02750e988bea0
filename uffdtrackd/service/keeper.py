"""What outlives the daemon: sessions go on with the next one, under a service manager.

                     /run/uffdtrackd/sessions/ID     systemd's fd store
    attach           state, see tracking.statefile   uffd, pagemap, pidfd of each process
    iterate          mark --> collect --> new state  those of processes that came or went
    (answer)
    the daemon ends  stays                           stays: the kernel goes on noting writes
    next daemon      restore() of both: no write is missed, nothing is told twice
                     state alone (the store was emptied): attached to again, a full iteration

A session with the synchronous backend makes its target wait for a handler. With nobody there it
would wait for ever, so its descriptors are never stored: when the daemon ends the kernel lets the
target go, and the next daemon begins with a full iteration.

Without a service manager nobody starts the next daemon: nothing is kept then, and sessions end.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgpack

from ..model.errors import TrackError
from ..tracking import statefile
from . import memento

if TYPE_CHECKING:
    from .held import Held

log = logging.getLogger(__name__)

VERSION = 1
_PART = "service"
_NEW = ".new"
# The backend whose targets wait for nobody.
_STORED = "async"
# Of Facts: what metrics and `status` go on counting.
_FACTS = (
    "iterations",
    "last",
    "dirty_bytes",
    "dirty_bytes_total",
    "discarded_bytes_total",
    "collect_ns_total",
    "stopped_ns_total",
    "errors",
)


class Store(Protocol):
    """What is needed of notify.Manager."""

    def store(self, name: str, fds: list[int]) -> bool: ...
    def drop(self, name: str) -> None: ...
    def barrier(self) -> bool: ...


@dataclass(frozen=True)
class Left:
    """A session that an earlier daemon left.

    state: an open file. descriptors: those that the store had, by their names in the session. Both
    belong to whoever restores the session.
    collecting: an iteration came after the state, told or not (see tracking.statefile).
    """

    name: str
    owner: int
    pid: int
    state: int
    descriptors: dict[str, int]
    saved: dict[str, Any]
    collecting: bool


class Keeper:
    """All that a daemon keeps. inherited: name --> descriptors that were in the store."""

    def __init__(self, folder: Path, store: Store, inherited: dict[str, list[int]]) -> None:
        self.folder = folder
        self._store = store
        self._given: dict[str, dict[str, int]] = {}
        # What the store has of a session that nobody keeps yet.
        self._names: dict[str, set[str]] = {}
        for stored, fds in inherited.items():
            session, dot, name = stored.partition(".")
            if dot:
                # Of several by one name, which we never store, one will do.
                self._given.setdefault(session, {})[name] = fds[0]
                self._names.setdefault(session, set()).add(stored)
                _close(fds[1:])

    def keep(self, held: Held) -> Kept | None:
        """Begins to keep a session; None if that is not possible, which is told.

        The worker of the session calls this, and everything of Kept.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.folder / held.id
            return Kept(path, self._store, held, self._names.pop(held.id, set()))
        except OSError as error:
            log.warning("session %s will end with the daemon: %s", held.id, error)
            return None

    def left(self) -> Iterator[Left]:
        """What earlier daemons left. What cannot be read is told, and removed."""
        names = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        for path in names:
            if path.suffix == _NEW:
                path.unlink(missing_ok=True)
                continue
            try:
                yield self._left(path)
            except (TrackError, OSError, msgpack.UnpackException, *memento.MISREAD) as error:
                log.warning("the state of session %s cannot be read: %s", path.name, error)
                self.forget(path.name)

    def forget(self, name: str) -> None:
        """The session has ended, or cannot be taken over."""
        (self.folder / name).unlink(missing_ok=True)
        _close(list(self._given.pop(name, {}).values()))
        for stored in self._names.pop(name, ()):
            self._store.drop(stored)

    def clean(self) -> None:
        """Drops what no session wanted, and waits until it is gone."""
        for name in list(self._names):
            self.forget(name)
        self._store.barrier()

    def _left(self, path: Path) -> Left:
        state = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = statefile.read(state)
            saved = msgpack.unpackb(found.parts[f"also.{_PART}"], strict_map_key=False)
            if saved["version"] != VERSION:
                raise ValueError(f"version {saved['version']}, not {VERSION}")
            owner, pid = int(saved["owner"]), int(found.meta["pid"])
            given = self._given.pop(path.name, {})
            return Left(path.name, owner, pid, state, given, saved, found.collecting)
        except BaseException:
            os.close(state)
            raise


class Kept:
    """The state of one session and its entries in the store. Raises OSError, TrackError."""

    def __init__(self, path: Path, store: Store, held: Held, stored: set[str]) -> None:
        """stored: names that the store has of the session, some of them of no use."""
        self._path = path
        self._store = store
        self._held = held
        self._stored = set(stored)
        self._failed = False
        # A new file: the state that is there must stand until there is another.
        new = path.with_name(path.name + _NEW)
        self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            held.session.keep_in(self._fd)
            self._save()
            os.rename(new, path)
        except BaseException:
            self._close()
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise

    def save(self) -> None:
        """All that was collected is in the pending sets; nobody has been answered yet."""
        try:
            self._save()
        except OSError as error:
            # What is on disk says that it is not the whole truth: a full iteration will be.
            if not self._failed:
                log.warning(
                    "session %s: its state cannot be written, and a restart of the daemon would"
                    " cost a full iteration: %s",
                    self._held.id,
                    error,
                )
            self._failed = True
        else:
            self._failed = False

    def leave(self) -> None:
        """The daemon ends, the session does not."""
        self._close()
        if self._held.session.backend == _STORED:
            self._held.session.leave()
        else:
            self._held.session.close()

    def end(self) -> None:
        """The session has ended; when this returns nobody has its descriptors any more."""
        self._close()
        self._path.unlink(missing_ok=True)
        for name in self._stored:
            self._store.drop(name)
        if self._stored:
            self._store.barrier()

    def _save(self) -> None:
        # First the descriptors: a state without them costs a full iteration, they alone nothing.
        self._put_away()
        held, parts = self._held, memento.Parts()
        facts = held.facts
        saved = {
            "version": VERSION,
            "owner": held.owner,
            "made_ns": held.made_ns,
            "logged": bool(held.log_path),
            "in_doubt": held.in_doubt,
            "consumers": [
                one.save(parts, str(number))
                for number, one in enumerate(held.consumers)
                if not one.passing
            ],
            "facts": {name: getattr(facts, name) for name in _FACTS},
        }
        held.session.keep({_PART: msgpack.packb(saved), **parts})

    def _put_away(self) -> None:
        now: dict[str, int] = {}
        if self._held.session.backend == _STORED:
            found = self._held.session.descriptors()
            now = {f"{self._held.id}.{name}": fd for name, fd in found.items()}
        for name in now.keys() - self._stored:
            if self._store.store(name, [now[name]]):
                self._stored.add(name)
        for name in self._stored - now.keys():
            self._store.drop(name)
            self._stored.discard(name)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def put_back(held: Held, left: Left, parts: dict[str, bytes]) -> None:
    """Gives a restored session all that its state says. parts: `also` of restore().

    Raises what memento.MISREAD has if it cannot be understood: the session is of no use then.
    """
    for one in left.saved["consumers"]:
        held.consumers.put_back(one, parts)
    # Of an earlier daemon without it: nothing is known of any doubt.
    held.in_doubt = left.saved.get("in_doubt", False)
    if left.collecting:
        # Readers may have been told what could not be written, and hold pages that nobody knows.
        held.in_doubt = True
        for each in held.consumers:
            each.forget()
    held.made_ns = left.saved["made_ns"]
    facts = left.saved["facts"]
    held.facts = held.facts._replace(**{name: facts[name] for name in _FACTS})


def runtime_folder() -> Path | None:
    """Where systemd lets us keep what outlives the process, None if it was not asked to."""
    named = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(named) / "sessions" if named else None


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
