"""What outlives the daemon: sessions go on with the next one, under a service manager.

    attach    state file (`statefile`)
    iterate   mark UNSURE --> collect --> pending sets and numbers written --> answer
    the end   of the daemon, in any way: files stay
    start     files --> sessions attached to again, numbers and pending sets as they were
              what was between them: told as a full iteration

Without a service manager nobody starts the next daemon: nothing is kept then, and sessions end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import memento, statefile
from .statefile import StateFile, Unreadable

if TYPE_CHECKING:
    from .held import Held

log = logging.getLogger(__name__)

VERSION = 1
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


@dataclass(frozen=True)
class Plan:
    """How the session was asked for: what is needed to attach again."""

    pid: int
    start_time: int
    backend: str
    follow: str
    deadline: float
    most_processes: int


@dataclass(frozen=True)
class Left:
    """A session that an earlier daemon left.

    sure: nothing was collected that is not in it. state: for Kept.put_back().
    """

    name: str
    owner: int
    plan: Plan
    sure: bool
    state: dict[str, Any]


class Keeper:
    """All states of a daemon, in one folder that only its user can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, held: Held, plan: Plan) -> Kept:
        """Begins to keep a session. Its worker calls this, and everything of Kept."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = Kept(StateFile(self.folder, held.id), held, plan)
        kept.save()
        return kept

    def left(self) -> Iterator[Left]:
        """What earlier daemons left. What cannot be read is told, and removed."""
        if not self.folder.is_dir():
            return
        for name in statefile.names(self.folder):
            path = self.folder / name
            try:
                yield _left(name, *statefile.read(path))
            except (Unreadable, *memento.MISREAD) as error:
                log.warning("the state of session %s cannot be read: %s", name, error)
                self.forget(name)

    def forget(self, name: str) -> None:
        """The session has ended, or cannot be taken over."""
        StateFile(self.folder, name).remove()


class Kept:
    """The state of one session."""

    def __init__(self, file: StateFile, held: Held, plan: Plan) -> None:
        self._file = file
        self._held = held
        self._plan = plan
        self._failed = False

    def begin(self) -> None:
        """Something is about to be collected."""
        self._file.begin()

    def save(self) -> None:
        """All that was collected is in the pending sets; nobody has been answered yet."""
        held = self._held
        try:
            self._file.write(
                {
                    "version": VERSION,
                    "owner": held.owner,
                    "made_ns": held.made_ns,
                    "logged": bool(held.log_path),
                    "plan": asdict(self._plan),
                    "page_size": held.session.page_size,
                    "known": {
                        pid: memento.of_pages(pages) for pid, pages in held.session.known.items()
                    },
                    "consumers": [one.save() for one in held.consumers],
                    "facts": {name: getattr(held.facts, name) for name in _FACTS},
                }
            )
        except OSError as error:
            # What is on disk keeps its mark: after a restart a full iteration says it all.
            if not self._failed:
                log.warning(
                    "session %s: its state cannot be written, and a restart of the daemon would"
                    " cost a full iteration: %s",
                    held.id,
                    error,
                )
            self._failed = True
        else:
            self._failed = False

    def leave(self) -> None:
        """The daemon ends, the session does not."""
        self._file.close()

    def end(self) -> None:
        """The session ends."""
        self._file.remove()


def put_back(held: Held, left: Left) -> None:
    """Gives a session that was attached to again all that its state says.

    Raises what memento.MISREAD has if it cannot be understood: the session is of no use then.
    """
    state = left.state
    size = state["page_size"]
    if size != os.sysconf("SC_PAGE_SIZE"):
        raise ValueError(f"pages of {size} bytes")
    known = {pid: memento.to_pages(runs, size) for pid, runs in state["known"].items()}
    facts = state["facts"]
    last = facts["last"]
    if last is not None:
        held.session.resume(last["iteration"] + 1, known)
    for one in state["consumers"]:
        held.consumers.put_back(one)
    held.made_ns = state["made_ns"]
    held.facts = replace(held.facts, **{name: facts[name] for name in _FACTS})


def _left(name: str, state: Any, sure: bool) -> Left:
    if state["version"] != VERSION:
        raise ValueError(f"version {state['version']}, not {VERSION}")
    return Left(name, state["owner"], Plan(**state["plan"]), sure, state)


def runtime_folder() -> Path | None:
    """Where systemd lets us keep what outlives the process, None if it was not asked to."""
    named = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(named) / "sessions" if named else None
