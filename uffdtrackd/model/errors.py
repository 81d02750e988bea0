"""The one error tree.

    TrackError                      exit 1   uffdtrack.TrackError
    +-- UsageError                  exit 2   a parameter makes no sense
    |   +-- BadRequest              exit 2   what came through the socket is no request
    |   |   +-- UnknownMethod       exit 2   the daemon has no such method
    |   +-- NoSuchSession           exit 2   the daemon has no such session, or not for this peer
    +-- NoDaemon                    exit 3   nobody listens on the socket
    |   +-- ConnectionLost          exit 3   the daemon went away, or said what makes no sense
    +-- TargetGone                  exit 4   no such process, or it ended
    |   +-- TargetExecuted          exit 4   it ran exec(): its old memory is gone
    +-- NotPermitted                exit 5   the kernel or a policy says no
    |   +-- BeingTraced             exit 5   a debugger holds it
    +-- NotSupported                exit 6   not on this kernel, architecture or kind of process
    +-- TimedOut                    exit 7   not converged, not stopped or not answered in time
    +-- AlreadyTracked              exit 1   another tracker holds it
    +-- AlreadyFrozen               exit 1   somebody else froze the session, and holds it so
    +-- LimitReached                exit 1   a limit of the daemon: sessions, requests, bytes, ...
    +-- LogError                    exit 1   an iteration log cannot be read or written
    +-- ConfigError                 exit 78  a configuration file is wrong

Each class has a wire name, an exit code and a default hint. The message says what failed and on
what; the hint says what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class TrackError(Exception):
    """Base of all errors of this package.

    pid: the process it is about, None if none. start, end: range in bytes, None if none.
    hint: what the reader can do, one line, "" if nothing. session: of the daemon, "" if none.
    """

    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        pid: int | None = None,
        start: int | None = None,
        end: int | None = None,
        session: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.pid = pid
        self.start = start
        self.end = end
        self.session = session

    @property
    def name(self) -> str:
        """Name on the wire, as in `uffdtrack.TargetGone`."""
        return f"uffdtrack.{type(self).__name__}"

    def to_map(self) -> dict[str, Any]:
        """The error as the wire carries it: {code, name, message, data}."""
        data: dict[str, Any] = {"hint": self.hint}
        for key in ("pid", "start", "end"):
            if getattr(self, key) is not None:
                data[key] = getattr(self, key)
        if self.session:
            data["session"] = self.session
        return {
            "code": self.exit_code,
            "name": self.name,
            "message": self.message,
            "data": data,
        }


def from_map(found: Mapping[str, Any]) -> TrackError:
    """The error that to_map() made such a map of; a name that is not known here is a TrackError."""
    kinds = {f"uffdtrack.{kind.__name__}": kind for kind in tree()}
    data = found.get("data")
    if not isinstance(data, Mapping):
        data = {}
    numbers = {
        key: value for key in ("pid", "start", "end") if isinstance(value := data.get(key), int)
    }
    return kinds.get(str(found.get("name")), TrackError)(
        str(found.get("message", "")),
        hint=str(data.get("hint", "")),
        session=str(data.get("session", "")),
        **numbers,
    )


def tree() -> list[type[TrackError]]:
    """Every class of the tree, a parent before its children."""
    found: list[type[TrackError]] = [TrackError]
    for kind in found:
        found += kind.__subclasses__()
    return found


class UsageError(TrackError):
    """A parameter makes no sense."""

    exit_code = 2


class BadRequest(UsageError):
    """What came through the socket is no request, or a parameter of it has the wrong type."""

    default_hint = "docs/protocol.md says what each method takes; so does the method `describe`"


class UnknownMethod(BadRequest):
    """The daemon has no such method."""


class NoSuchSession(UsageError):
    """The daemon has no such session, or it belongs to another user."""

    default_hint = "`uffdtrack list` shows the sessions there are"


class NoDaemon(TrackError):
    """Nobody listens on the daemon's socket."""

    exit_code = 3
    default_hint = "start uffdtrackd, or use --embedded"


class ConnectionLost(NoDaemon):
    """The daemon went away, or what it said makes no sense."""

    default_hint = "connect again: a session outlives its connections, and nothing was lost"


class TargetGone(TrackError, ProcessLookupError):
    """No such process, or it ended."""

    exit_code = 4


class TargetExecuted(TargetGone):
    """The target ran exec(): the memory that was tracked is gone, another program lives."""

    default_hint = "attach again to track the new program"


class NotPermitted(TrackError, PermissionError):
    """The kernel or a policy refuses."""

    exit_code = 5


class BeingTraced(NotPermitted):
    """A debugger or another tracer holds the target: Linux allows one."""

    default_hint = "detach the debugger (gdb, strace, ...) and try again"


class NotSupported(TrackError):
    """This kernel, architecture or kind of process cannot be tracked."""

    exit_code = 6


class TimedOut(TrackError, TimeoutError):
    """Not converged, not stopped or not answered in time."""

    exit_code = 7


class AlreadyTracked(TrackError):
    """Another tracker holds the target: a region can belong to one userfaultfd only."""

    default_hint = "use the session that exists, or end it first"


class AlreadyFrozen(TrackError):
    """Somebody else froze the session, and holds it so."""

    default_hint = "wait until it is thawed, or thaw it: `uffdtrack thaw SESSION`"


class LimitReached(TrackError):
    """A limit of the daemon: on sessions, requests in flight, bytes, ..."""


class LogError(TrackError):
    """An iteration log cannot be read or written."""


class ConfigError(TrackError):
    """A configuration file is wrong: names the file and the key."""

    exit_code = 78
