"""The one error tree.

    TrackError                      exit 1   uffdtrack.TrackError
    +-- UsageError                  exit 2   a parameter makes no sense
    +-- NoDaemon                    exit 3   nobody listens on the socket
    +-- TargetGone                  exit 4   no such process, or it ended
    |   +-- TargetExecuted          exit 4   it ran exec(): its old memory is gone
    +-- NotPermitted                exit 5   the kernel or a policy says no
    |   +-- BeingTraced             exit 5   a debugger holds it
    +-- NotSupported                exit 6   not on this kernel, architecture or kind of process
    +-- TimedOut                    exit 7   not converged, not stopped or not answered in time
    +-- AlreadyTracked              exit 1   another tracker holds it
    +-- LogError                    exit 1   an iteration log cannot be read or written
    +-- ConfigError                 exit 78  a configuration file is wrong

Each class has a wire name, an exit code and a default hint. The message says what failed and on
what; the hint says what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class TrackError(Exception):
    """Base of all errors of this package.

    pid: the process it is about, None if none. start, end: range in bytes, None if none.
    hint: what the reader can do, one line, "" if nothing.
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.pid = pid
        self.start = start
        self.end = end

    @property
    def name(self) -> str:
        """Name on the wire, as in `uffdtrack.TargetGone`."""
        return f"uffdtrack.{type(self).__name__}"


class UsageError(TrackError):
    """A parameter makes no sense."""

    exit_code = 2


class NoDaemon(TrackError):
    """Nobody listens on the daemon's socket."""

    exit_code = 3
    default_hint = "start uffdtrackd, or use --embedded"


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


class LogError(TrackError):
    """An iteration log cannot be read or written."""


class ConfigError(TrackError):
    """A configuration file is wrong: names the file and the key."""

    exit_code = 78
