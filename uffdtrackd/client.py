"""The blocking client of the daemon's socket: sessions with the interface of embedded ones.

    client = uffdtrackd.connect()                    /run/uffdtrackd/control.sock, or
    with client.attach(pid) as session:              $UFFDTRACKD_SOCKET
        iteration = session.iterate()                all that is not acknowledged
        ... copy it ...
        session.ack(iteration.number)                taken care of

What differs from an embedded session: an iteration is delivered again, with what came since, until
it is acknowledged. So a reader that fails half way loses nothing. `auto_ack=True` acknowledges an
iteration when the next one is asked for, as an embedded session does.

Needs no compiled code: sockets and msgpack. Not for several threads at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from .link import Link, socket_path
from .model.errors import ConnectionLost, TimedOut, TrackError, from_map
from .model.iteration import Iteration, ProcessPages
from .model.pageset import PageSet
from .model.region import Kind, Region, Tracking
from .parcel import Parcel, decode

API_MAJOR = 1
DEFAULT_CONSUMER = "default"


def connect(path: str | os.PathLike[str] | None = None, *, timeout: float = 60.0) -> Client:
    """Connects to a daemon.

    path: of its socket; by default $UFFDTRACKD_SOCKET, else /run/uffdtrackd/control.sock.
    timeout: seconds that any answer may take. Raises NoDaemon, NotPermitted, NotSupported.
    """
    return Client(Link(socket_path(path), timeout))


class Client:
    """A connection. hello: what the daemon said of itself: product, version, api, limits."""

    def __init__(self, link: Link) -> None:
        self._link = link
        try:
            self.hello: dict[str, Any] = self.call(
                "hello", api=API_MAJOR, client="uffdtrackd.client"
            )
        except BaseException:
            link.close()
            raise

    def call(self, method: str, **params: Any) -> Any:
        """Any method of the protocol by name. Raises what the daemon answers, ConnectionLost."""
        result, fds = self._link.call(method, params)
        for fd in fds:
            os.close(fd)
        return result

    def attach(
        self,
        pid: int,
        backend: str = "auto",
        follow: str = "none",
        *,
        start_time: int | None = None,
        deadline: float = 10.0,
        most_processes: int | None = None,
        consumer: str = DEFAULT_CONSUMER,
        auto_ack: bool = False,
        keep: bool = True,
        log: bool | None = None,
        deliver: str = "memfd",
    ) -> ClientSession:
        """Begins to track a process; a pidfd goes along, so that it is the one of now.

        keep: False ends the session with this connection. log: keep an iteration log there; None:
        as the daemon is configured. Other parameters as in uffdtrackd.attach() and
        ClientSession. Raises the same, LimitReached, ConnectionLost.
        """
        params: dict[str, Any] = {
            "pid": pid,
            "backend": backend,
            "follow": follow,
            "deadline": deadline,
            "keep": keep,
            "log": log,
            "most_processes": most_processes,
            "start_time": start_time,
        }
        fds: list[int] = []
        if isinstance(pid, int) and 0 < pid < 1 << 31:
            try:
                fds.append(os.pidfd_open(pid))
                params["pidfd"] = 0
            except OSError:
                pass  # the daemon says it in better words
        try:
            found, unused = self._link.call("attach", params, fds, extra_seconds=deadline)
        finally:
            for fd in fds:
                os.close(fd)
        for fd in unused:
            os.close(fd)
        return ClientSession(self, found, consumer, auto_ack, deliver)

    def session(
        self,
        name: str,
        *,
        consumer: str = DEFAULT_CONSUMER,
        auto_ack: bool = False,
        deliver: str = "memfd",
    ) -> ClientSession:
        """A session that is there already. Raises NoSuchSession."""
        found = self.call("status", session=name)["sessions"][0]
        return ClientSession(self, found, consumer, auto_ack, deliver)

    def sessions(self) -> list[dict[str, Any]]:
        """What `list` says of each."""
        return list(self.call("list")["sessions"])

    def status(self) -> dict[str, Any]:
        return dict(self.call("status"))

    def metrics(self) -> str:
        """OpenMetrics text."""
        return str(self.call("metrics")["text"])

    def wait_thawed(self, session: str, timeout: float | None = None) -> str:
        """Waits until a freeze of this connection ends by itself, or by another; gives the reason.

        Raises TimedOut, ConnectionLost.
        """
        return str(
            self._link.notification(
                lambda method, params: method == "thawed" and params.get("session") == session,
                timeout,
            )[0]["reason"]
        )

    def watch(self, session: str, interval: float, **params: Any) -> Watching:
        """Iterations as they come; iterate over it. params: as in the protocol."""
        found = self.call("watch", session=session, interval=interval, **params)
        return Watching(self, int(found["watch"]), session)

    def close(self) -> None:
        """Closes the connection; sessions go on. May be called twice."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ClientSession:
    """A session of the daemon, for one of its consumers.

    name: of the session. pid, start_time, page_size, backend, follow: as in uffdtrackd.Session.
    auto_ack: each iterate() first acknowledges what the one before returned.
    """

    def __init__(
        self, client: Client, found: dict[str, Any], consumer: str, auto_ack: bool, deliver: str
    ) -> None:
        self.name: str = found["session"]
        self.pid: int = found["pid"]
        self.start_time: int = found["start_time"]
        self.page_size: int = found["page_size"]
        self.backend: str = found["backend"]
        self.follow: str = found["follow"]
        self.consumer = consumer
        self.auto_ack = auto_ack
        self._deliver = deliver
        self._client = client
        self._last: int | None = None
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The processes of the session as of its last iteration."""
        return list(self._status()["pids"])

    @property
    def status(self) -> list[str]:
        """What is not seen, and why: one line each; empty if all is well."""
        return list(self._status()["status"])

    def _status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.call("status", session=self.name)["sessions"][0]
        return found

    def iterate(self) -> Iteration:
        """Collects, and returns what this consumer has not acknowledged.

        Raises as Session.iterate(), NoSuchSession, ConnectionLost.
        """
        more = {"ack": self._last} if self.auto_ack and self._last is not None else {}
        iteration = self._get("iterate", **more)
        assert iteration is not None
        self._last = iteration.number
        return iteration

    def pending(self) -> Iteration | None:
        """The same without a look at the target; None if nothing is pending."""
        return self._get("pending")

    def ack(self, number: int) -> None:
        """What was delivered up to iteration `number` is taken care of. Raises UsageError."""
        self._call("ack", consumer=self.consumer, iteration=number)

    @contextmanager
    def frozen(self, deadline: float = 10.0, lease: float | None = None) -> Iterator[Self]:
        """Stops every thread of every process of the session until the block ends.

        lease: seconds after which the daemon thaws by itself; None: as configured there. An
        iteration that was taken later has `frozen` False, and the block ends with TimedOut.
        Raises as Session.frozen().
        """
        self._call("freeze", extra_seconds=deadline, lease_seconds=lease, deadline=deadline)
        try:
            yield self
        except BaseException:
            with suppress(TrackError):
                self._call("thaw")
            raise
        if not self._call("thaw")["thawed"]:
            raise TimedOut(
                f"session {self.name} was thawed before its freeze was to end",
                hint="the lease was over, or somebody thawed it: what was read is not final",
                pid=self.pid,
            )

    def read(self, pid: int, start: int, length: int) -> bytes:
        """Memory of a process of the session, also while it runs. Raises as Session.read()."""
        most = int(self._client.hello["limits"]["read_bytes"])
        parts = []
        for at in range(start, start + length, most) if length > 0 else (start,):
            size = min(most, start + length - at)
            parts.append(self._call("read", pid=pid, start=at, length=size)["data"])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def regions(self, pid: int) -> list[Region]:
        """The layout of a process as the last iteration found it."""
        return [_region(one) for one in self._call("regions", pid=pid)["regions"]]

    def close(self) -> None:
        """Detaches: ends the session for everybody. May be called twice."""
        if not self._closed:
            self._closed = True
            self._call("detach")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        # What ended the block says more than what fails because of it.
        try:
            self.close()
        except TrackError:
            return

    def _call(self, method: str, *, extra_seconds: float = 0.0, **params: Any) -> Any:
        return self._client._link.call(
            method, {"session": self.name, **params}, extra_seconds=extra_seconds
        )[0]

    def _get(self, method: str, **params: Any) -> Iteration | None:
        found, fds = self._client._link.call(
            method,
            {
                "session": self.name,
                "consumer": self.consumer,
                "deliver": self._deliver,
                **params,
            },
        )
        if found is None:
            return None
        return _iteration(decode(found, fds), partial(ClientSession.regions, self))


class Watching:
    """Iterations of a watch, as they come, until it ends. lost: how many were merged into later."""

    def __init__(self, client: Client, number: int, session: str) -> None:
        self.number = number
        self.session = session
        self.lost = 0
        self._client = client

    def __iter__(self) -> Iterator[Iteration]:
        while True:
            yield self.next()

    def next(self, timeout: float | None = None) -> Iteration:
        """The next one. Raises what ended the watch, TimedOut, ConnectionLost."""
        found, fds = self._client._link.notification(
            lambda method, params: (
                method in ("iteration", "watch_ended") and params.get("watch") == self.number
            ),
            timeout,
        )
        if "error" in found:
            raise from_map(found["error"])
        self.lost = found["lost"]
        name = self.session

        def regions(pid: int) -> list[Region]:
            said = self._client.call("regions", session=name, pid=pid)["regions"]
            return [_region(one) for one in said]

        return _iteration(decode(found, fds), regions)

    def stop(self) -> int:
        """Ends it; how many were lost."""
        return int(self._client.call("unwatch", watch=self.number)["lost"])


def _iteration(parcel: Parcel, regions: Any) -> Iteration:
    found = parcel.head
    try:
        return Iteration(
            number=found["iteration"],
            frozen=found["frozen"],
            time_ns=found["time_ns"],
            duration_ns=found["duration_ns"],
            stopped_ns=found["stopped_ns"],
            page_size=found["page_size"],
            processes={
                pid: ProcessPages(dirty, discarded, always, partial(regions, pid), windows)
                for pid, dirty, discarded, always, windows in parcel.processes
            },
            stats=found["stats"],
            exited=tuple(found["exited"]) if "exited" in found else None,
            sharing={one["pid"]: one["with"] for one in found.get("sharing", ())},
            untracked={one["pid"]: one["reason"] for one in found.get("untracked", ())},
        )
    except (KeyError, TypeError) as error:
        raise ConnectionLost(f"the daemon sent an iteration without {error}") from error


def _region(found: dict[str, Any]) -> Region:
    return Region(
        **{
            **found,
            "device": tuple(found["device"]),
            "kind": Kind(found["kind"]),
            "tracking": Tracking(found["tracking"]),
        }
    )


__all__ = ["Client", "ClientSession", "PageSet", "Watching", "connect"]
