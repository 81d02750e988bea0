"""The one table of the protocol: what each method takes, gives and refuses.

METHODS --+--> find()       the method of a request
          +--> describe()   the answer to `describe`
          +--> page.py      the reference part of docs/protocol.md
"""

from __future__ import annotations

from typing import Any

from ..model.errors import UnknownMethod, tree
from .consumers import DEFAULT
from .delivery import DELIVERIES, FORMATS
from .schema import MOST_INT, Method, Notification, Param, Result

# [major, minor]: a client's major may be this one or the one before.
API = (1, 0)
OLDEST_API = API[0] - 1

COMMON_ERRORS = ("BadRequest", "NotPermitted", "LimitReached", "TrackError")

_SESSION = Param("session", "str", "as attach gave it")
_CONSUMER = Param("consumer", "str", "whose pending set it is", DEFAULT)
_DELIVER = Param(
    "deliver",
    "str",
    "inline: ranges in the answer; memfd: in a sealed memfd that comes with it",
    "inline",
    DELIVERIES,
)
_FORMAT = Param("format", "str", "of a memfd: u64 pairs, or one bit a page", "runs", FORMATS)

_ITERATION = (
    Result("iteration", "int", "its number, from 0; what ack() is given"),
    Result("frozen", "bool", "taken while every thread of the target was stopped: final"),
    Result("time_ns", "int", "CLOCK_REALTIME when it was collected"),
    Result("duration_ns", "int", "how long collecting took"),
    Result("stopped_ns", "int", "how long a thread of the target was stopped for it"),
    Result("page_size", "int", "bytes"),
    Result(
        "processes",
        "list",
        "maps of pid, dirty, discarded, always; each a list of [start, end) in bytes. In a memfd:"
        " {offset, count} of u64 pairs start, end in native byte order, or for bitmaps a list of"
        " [start, end, offset], page i of it being bit i & 63 of little-endian word i >> 6. And"
        " windows, if there are any: [start, end, object, offset], what is shared with others: the"
        " same offset of the same object is the same page, and need be copied once only",
    ),
    Result("stats", "map", "counters for people and logs, by name"),
    Result("exited", "list", "pids that ended: drop what is held of them first", True),
    Result("sharing", "list", "{pid, with}: processes in the memory of another", True),
    Result("untracked", "list", "{pid, reason}: followed, but could not be looked at", True),
    Result("memfd", "map", "{fd, size, format}: place of the descriptor, bytes, and what", True),
)

_SESSION_MAP = (
    Result("session", "str", "its name"),
    Result("pid", "int", "the first target"),
    Result("start_time", "int", "its, clock ticks after boot: field 22 of /proc/PID/stat"),
    Result("owner", "int", "uid of whom the session belongs to"),
    Result("backend", "str", "how writes are seen"),
    Result("follow", "str", "none, fork or cgroup"),
    Result("page_size", "int", "bytes"),
    Result("pids", "list", "processes as of the last iteration"),
    Result("iterations", "int", "collected so far"),
    Result("frozen", "bool", "whether it is frozen now"),
    Result("ended", "bool", "whether every process has ended"),
    Result("keep", "bool", "whether it outlives the connection that made it"),
    Result("status", "list", "lines: what cannot be seen, and why"),
    Result("dirty_bytes", "int", "of the last iteration"),
    Result("rate", "number", "dirty bytes a second between the last two iterations; nil if none"),
    Result("consumers", "list", "maps of name, delivered, acknowledged, pending_bytes"),
    Result("last", "map", "the last iteration without its pages; nil before the first"),
    Result("log", "str", "path of its iteration log; empty if it has none"),
    Result("error", "map", "the last error of it and its time_ns; nil if there was none"),
)

METHODS = (
    Method(
        "hello",
        "Says who is there. Not required, but first: it tells a client whether they fit.",
        (
            Param("api", "int", "major version of the protocol that the client speaks", API[0]),
            Param("client", "str", "name and version of the client, for the log", ""),
        ),
        (
            Result("product", "str", '"uffdtrackd"'),
            Result("version", "str", "of the daemon"),
            Result("api", "list", "[major, minor] of the protocol"),
            Result("features", "list", "names of what this daemon can do beyond the protocol"),
            Result("limits", "map", "what a client may take, by name"),
        ),
        ("NotSupported",),
    ),
    Method(
        "describe",
        "The protocol, for programs: this page as a map.",
        (),
        (
            Result("api", "list", "[major, minor]"),
            Result("methods", "list", "maps of name, help, params, results, errors"),
            Result("notifications", "list", "maps of name, help, params"),
            Result("errors", "list", "maps of name, code, help, parent"),
        ),
    ),
    Method(
        "attach",
        "Begins to track a process. Root may name it by pid alone, others by pid and start time or"
        " by a pidfd; what is given is checked.",
        (
            Param("pid", "int", "of the process; may be left out with a pidfd", None, high=1 << 22),
            Param("start_time", "int", "field 22 of /proc/PID/stat", None),
            Param("pidfd", "int", "place of a pidfd among the descriptors sent along", None),
            Param("backend", "str", "how writes are seen", "auto", ("auto", "async", "sync")),
            Param("follow", "str", "what else is tracked", "none", ("none", "fork", "cgroup")),
            Param("deadline", "number", "seconds to find a moment to attach", 10.0, high=30.0),
            Param("most_processes", "int", "of a session that follows", None, low=1),
            Param("keep", "bool", "false: the session ends with this connection", True),
            Param("log", "bool", "keep an iteration log; nil: as configured", None),
        ),
        _SESSION_MAP,
        (
            "TargetGone",
            "BeingTraced",
            "NotSupported",
            "AlreadyTracked",
            "TimedOut",
            "UsageError",
        ),
    ),
    Method(
        "list",
        "The sessions of this user; root sees all.",
        (),
        (Result("sessions", "list", "maps as attach returns them"),),
    ),
    Method(
        "status",
        "The daemon, and the sessions of this user or one of them. Looks at no target.",
        (Param("session", "str", "only this one", None),),
        (
            Result("version", "str", "of the daemon"),
            Result("pid", "int", "of the daemon"),
            Result("started_ns", "int", "CLOCK_REALTIME"),
            Result("connections", "int", "open now"),
            Result("requests", "int", "answered since the start"),
            Result("refused", "int", "of them with an error"),
            Result("sessions", "list", "maps as attach returns them"),
        ),
        ("NoSuchSession",),
    ),
    Method(
        "iterate",
        "Collects what was written, for all consumers of the session, and returns what the caller's"
        " has not acknowledged. The first of a consumer is everything that is populated. What it"
        " returns stays pending until ack(), and is returned again by the next iterate.",
        (
            _SESSION,
            _CONSUMER,
            Param("ack", "int", "first acknowledge this iteration", None),
            _DELIVER,
            _FORMAT,
        ),
        _ITERATION,
        ("NoSuchSession", "TargetGone", "TimedOut", "UsageError"),
    ),
    Method(
        "pending",
        "What iterate would return, without a look at the target; nil if nothing is pending.",
        (_SESSION, _CONSUMER, _DELIVER, _FORMAT),
        _ITERATION,
        ("NoSuchSession", "UsageError"),
    ),
    Method(
        "ack",
        "What was delivered to the consumer up to an iteration is taken care of. What was collected"
        " after that stays pending.",
        (_SESSION, _CONSUMER, Param("iteration", "int", "its number")),
        (Result("acknowledged", "int", "the highest number so far"),),
        ("NoSuchSession", "UsageError"),
    ),
    Method(
        "regions",
        "The layout of one process as the last iteration found it.",
        (_SESSION, Param("pid", "int", "a process of the session")),
        (
            Result(
                "regions",
                "list",
                "maps of start, end, perms, offset, device, inode, label, kind, tracking, reason,"
                " page_size",
            ),
        ),
        ("NoSuchSession", "UsageError", "TargetGone"),
    ),
    Method(
        "freeze",
        "Stops every thread of the session. An iteration now is final. Ends by thaw, when the lease"
        " is over, or when this connection is closed; asked again by the same connection, the lease"
        " begins anew, up to the longest one from the freeze on.",
        (
            _SESSION,
            Param("lease_seconds", "number", "nil: as configured", None),
            Param("deadline", "number", "seconds to get everything stopped", 10.0, high=30.0),
        ),
        (Result("lease_seconds", "number", "as granted: it may be less than asked for"),),
        ("NoSuchSession", "AlreadyFrozen", "TargetGone", "TimedOut"),
    ),
    Method(
        "thaw",
        "Lets the session run on, whoever froze it.",
        (_SESSION,),
        (Result("thawed", "bool", "false: it was not frozen"),),
        ("NoSuchSession",),
    ),
    Method(
        "read",
        "Memory of a process of the session, also while it runs.",
        (
            _SESSION,
            Param("pid", "int", "a process of the session"),
            Param("start", "int", "address, any alignment"),
            Param("length", "int", "bytes"),
        ),
        (Result("data", "bin", "exactly that many bytes"),),
        ("NoSuchSession", "TargetGone", "UsageError"),
    ),
    Method(
        "watch",
        "Collects at an interval and sends each iteration as a notification `iteration`. With a"
        " consumer it is as if that called iterate: everything pending is sent until it is"
        " acknowledged. Without, the watch is a consumer of its own, and what has been sent is"
        " acknowledged.",
        (
            _SESSION,
            Param(
                "interval",
                "number",
                "seconds from one to the next, a tenth more or less",
                1.0,
                high=86400.0,
            ),
            Param(
                "consumer", "str", "whose pending set is sent; nil: one of the watch's own", None
            ),
            _DELIVER,
            _FORMAT,
        ),
        (
            Result("watch", "int", "what its notifications carry, and unwatch takes"),
            Result("interval", "number", "as granted"),
        ),
        ("NoSuchSession", "UsageError"),
    ),
    Method(
        "unwatch",
        "Ends a watch of this connection.",
        (Param("watch", "int", "as watch gave it"),),
        (Result("lost", "int", "iterations that were merged into later ones"),),
        ("UsageError",),
    ),
    Method(
        "detach",
        "Ends a session: the targets run on, untracked.",
        (_SESSION,),
        (Result("iterations", "int", "collected in its life"),),
        ("NoSuchSession",),
    ),
    Method(
        "metrics",
        "OpenMetrics text. Looks at no target.",
        (),
        (
            Result("content_type", "str", "with its version"),
            Result("text", "str", "of all sessions for root, of the peer's otherwise"),
        ),
    ),
)

NOTIFICATIONS = (
    Notification(
        "iteration",
        "One iteration of a watch.",
        (
            Result("watch", "int", "as watch gave it"),
            Result("session", "str", "of the watch"),
            Result("lost", "int", "iterations so far that were merged into later ones"),
            Result("...", "", "and all that iterate returns"),
        ),
    ),
    Notification(
        "watch_ended",
        "A watch that ended by itself.",
        (
            Result("watch", "int", "as watch gave it"),
            Result("session", "str", "of the watch"),
            Result("error", "map", "why"),
        ),
    ),
    Notification(
        "thawed",
        "A freeze of this connection that ended by itself, or by another connection.",
        (
            Result("session", "str", "that runs on"),
            Result("reason", "str", '"lease over", or "by pid N"'),
        ),
    ),
    Notification(
        "error",
        "What was sent was no request that an answer could name; the parameters are the error's.",
        (
            Result("code", "int", "see below"),
            Result("name", "str", "see below"),
            Result("message", "str", "what failed, on what"),
            Result("data", "map", "hint, and pid, start, end, session where they say something"),
        ),
    ),
)


_BY_NAME = {one.name: one for one in METHODS}


def find(name: str) -> Method:
    """Raises UnknownMethod."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownMethod(f"no method {name!r}", hint=f"known: {', '.join(_BY_NAME)}") from None


def describe() -> dict[str, Any]:
    """The table as a map."""
    return {
        "api": list(API),
        "methods": [
            {
                "name": one.name,
                "help": one.help,
                "params": [_param(param) for param in one.params],
                "results": [_result(result) for result in one.results],
                "errors": [f"uffdtrack.{name}" for name in (*one.errors, *COMMON_ERRORS)],
            }
            for one in METHODS
        ],
        "notifications": [
            {"name": one.name, "help": one.help, "params": [_result(p) for p in one.params]}
            for one in NOTIFICATIONS
        ],
        "errors": [
            {
                "name": f"uffdtrack.{kind.__name__}",
                "code": kind.exit_code,
                "help": (kind.__doc__ or "").split("\n")[0],
                "parent": f"uffdtrack.{kind.__mro__[1].__name__}"
                if kind.__mro__[1] in tree()
                else "",
            }
            for kind in tree()
        ],
    }


def _param(one: Param) -> dict[str, Any]:
    found: dict[str, Any] = {"name": one.name, "type": one.kind, "help": one.help}
    found["required"] = one.required
    if not one.required:
        found["default"] = one.default
    if one.choices:
        found["choices"] = list(one.choices)
    if one.kind in ("int", "number") and (one.low != 0 or one.high != MOST_INT):
        found["range"] = [one.low, one.high]
    return found


def _result(one: Result) -> dict[str, Any]:
    return {"name": one.name, "type": one.kind, "help": one.help, "optional": one.optional}
