"""What each method of the protocol does: one function a method, by its name.

    daemon: Call --> schema.check --> HANDLERS[name](daemon, guest, params, fds) --> Reply
                                  --> JOBS[name](daemon, guest, params) --> Job --> Reply

Parameters are typed by then. What takes time is a job for the worker of the session; what an
answer weighs is encoded there too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..model.errors import (
    BadRequest,
    ConnectionLost,
    LimitReached,
    NoSuchSession,
    NotSupported,
    TrackError,
    UsageError,
)
from ..model.iteration import Iteration
from .delivery import Reply, deliver, reply
from .fdset import FdSet
from .guest import Guest
from .held import Held
from .protocol import API, OLDEST_API, describe
from .registry import Wish, pid_of
from .session_map import session_map
from .watch import Watch
from .worker import Stopped

if TYPE_CHECKING:
    from .daemon import Daemon

log = logging.getLogger(__name__)

Params = dict[str, Any]
Handler = Callable[["Daemon", Guest, Params, FdSet], Awaitable[Reply]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """A request that is nothing but work for a session's worker: no task waits for it."""

    held: Held
    work: Callable[[], Reply]

    def run(self, guest: Guest) -> Reply:
        """In the worker's thread. Raises ConnectionLost if its client has gone by then."""
        guest.check_open()
        return self.work()


FEATURES = ("memfd", "bitmap", "pidfd", "watch", "freeze", "regions", "follow")


async def hello(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    if not OLDEST_API <= p["api"] <= API[0]:
        raise NotSupported(
            f"this daemon speaks version {API[0]} of the protocol, and down to {OLDEST_API},"
            f" not {p['api']}",
            hint="use a client and a daemon of versions that are next to each other",
        )
    guest.client = p["client"]
    limits = asdict(daemon.config.limits)
    limits |= {
        "lease_seconds": daemon.config.freeze.lease_max,
        "interval_seconds": daemon.config.watch.interval_min,
        "watch_queue": daemon.config.watch.queue,
    }
    return reply(
        {
            "product": "uffdtrackd",
            "version": daemon.version,
            "api": list(API),
            "features": list(FEATURES),
            "limits": limits,
        }
    )


async def describe_(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    return reply(describe())


async def attach(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    pid, pidfd = p["pid"], -1
    if p["pidfd"] is not None:
        of = pid_of(fds.find(p["pidfd"]))
        if pid is not None and pid != of:
            raise BadRequest(f"attach: the pidfd is of process {of}, not of {pid}", pid=pid)
        # Only now: to close anything else may take long.
        pid, pidfd = of, fds.take(p["pidfd"])
    try:
        if pid is None:
            raise BadRequest("attach: pid is missing, and no pidfd came along")
        wish = Wish(
            pid,
            p["start_time"],
            pidfd,
            daemon.config.backend if p["backend"] == "auto" else p["backend"],
            p["follow"],
            p["deadline"],
            min(p["most_processes"] or 1 << 30, daemon.config.limits.processes),
            p["keep"],
        )
        held = await daemon.registry.attach(guest.peer, wish)
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    await daemon.begin_log(held, p["log"])
    if not p["keep"]:
        guest.bound.add(held.id)
        if not guest.open:
            await daemon.registry.detach(held)
            raise ConnectionLost("the client has gone")
    return reply(session_map(held))


async def list_(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    return reply({"sessions": [session_map(one) for one in daemon.registry.of(guest.peer)]})


async def status(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    if p["session"] is None:
        sessions = daemon.registry.of(guest.peer)
    else:
        sessions = [daemon.registry.find(guest.peer, p["session"])]
    return reply(
        {
            "version": daemon.version,
            "pid": os.getpid(),
            "started_ns": daemon.started_ns,
            "connections": daemon.connections,
            "requests": daemon.requests,
            "refused": daemon.refused,
            "sessions": [session_map(one) for one in sessions],
        }
    )


def iterate(daemon: Daemon, guest: Guest, p: Params) -> Job:
    held = daemon.registry.find(guest.peer, p["session"])
    return _delivered(daemon, held, p, partial(held.do_iterate, p["consumer"], p["ack"]))


def pending(daemon: Daemon, guest: Guest, p: Params) -> Job:
    held = daemon.registry.find(guest.peer, p["session"])
    return _delivered(daemon, held, p, partial(held.do_pending, p["consumer"]))


def _delivered(daemon: Daemon, held: Held, p: Params, get: Callable[[], Iteration | None]) -> Job:
    most = daemon.config.limits.queued_bytes

    def job() -> Reply:
        found = get()
        return reply(None) if found is None else deliver(found, p["deliver"], p["format"], most)

    return Job(held, job)


def ack(daemon: Daemon, guest: Guest, p: Params) -> Job:
    held = daemon.registry.find(guest.peer, p["session"])

    def job() -> Reply:
        return reply({"acknowledged": held.do_ack(p["consumer"], p["iteration"])})

    return Job(held, job)


def regions(daemon: Daemon, guest: Guest, p: Params) -> Job:
    held = daemon.registry.find(guest.peer, p["session"])

    def job() -> Reply:
        return reply({"regions": [asdict(one) for one in held.do_regions(p["pid"])]})

    return Job(held, job)


def read(daemon: Daemon, guest: Guest, p: Params) -> Job:
    held = daemon.registry.find(guest.peer, p["session"])
    most = daemon.config.limits.read_bytes
    if p["length"] > most:
        raise LimitReached(
            f"read of {p['length']} bytes, more than {most} in one go",
            hint="read it in pieces",
        )

    def job() -> Reply:
        return reply({"data": held.do_read(p["pid"], p["start"], p["length"])})

    return Job(held, job)


async def freeze(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    held = daemon.registry.find(guest.peer, p["session"])
    config = daemon.config.freeze
    seconds = config.lease if p["lease_seconds"] is None else float(p["lease_seconds"])
    seconds = min(seconds, config.lease_max)
    granted = await daemon.leases.freeze(guest, held, seconds, p["deadline"], config.lease_max)
    return reply({"lease_seconds": granted})


async def thaw(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    held = daemon.registry.find(guest.peer, p["session"])
    return reply({"thawed": await daemon.leases.thaw(guest, held)})


async def watch(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    held = daemon.registry.find(guest.peer, p["session"])
    config = daemon.config
    if len(guest.watches) >= config.limits.watchers:
        raise LimitReached(
            f"this connection has {len(guest.watches)} watches, and may not have more",
            hint="unwatch some",
        )
    if held.ended:
        await held.worker.run(held.do_touch)
    # It may have gone since it asked, and what it held has been ended.
    guest.check_open()
    interval = max(float(p["interval"]), config.watch.interval_min)
    one = Watch(
        guest.next_watch,
        guest,
        held,
        interval,
        p["consumer"] or "",
        p["deliver"],
        p["format"],
        config.watch.queue,
        config.limits.queued_bytes,
    )
    guest.next_watch += 1
    guest.watches[one.number] = one
    one.start()
    return reply({"watch": one.number, "interval": interval})


async def unwatch(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    one = guest.watches.pop(p["watch"], None)
    if one is None:
        raise UsageError(f"this connection has no watch {p['watch']}")
    one.stop()
    return reply({"lost": one.lost})


async def detach(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    held = daemon.registry.find(guest.peer, p["session"])
    await daemon.registry.detach(held)
    return reply({"iterations": held.facts.iterations})


async def metrics(daemon: Daemon, guest: Guest, p: Params, fds: FdSet) -> Reply:
    from . import metrics as exposition

    text = await exposition.text(daemon, daemon.registry.of(guest.peer))
    return reply({"content_type": exposition.CONTENT_TYPE, "text": text})


HANDLERS: dict[str, Handler] = {
    "hello": hello,
    "describe": describe_,
    "attach": attach,
    "list": list_,
    "status": status,
    "freeze": freeze,
    "thaw": thaw,
    "watch": watch,
    "unwatch": unwatch,
    "detach": detach,
    "metrics": metrics,
}
JOBS: dict[str, Callable[[Daemon, Guest, Params], Job]] = {
    "iterate": iterate,
    "pending": pending,
    "ack": ack,
    "regions": regions,
    "read": read,
}


def unexpected(error: BaseException) -> TrackError:
    """The answer for what has no class of its own."""
    if isinstance(error, Stopped):
        return NoSuchSession(str(error))
    if isinstance(error, OSError) and error.strerror:
        return TrackError(f"{error.strerror} ({type(error).__name__})")
    return TrackError(
        f"unexpected {type(error).__name__}: {error}",
        hint="this is a bug of uffdtrackd: please report it with the journal of the daemon",
    )
