"""The daemon without a socket of its own: connections come in, calls are answered.

    accepted socket --> admit() --> Guest --> Connection
                                                 | Call
                                                 v
                     find + check --> HANDLERS --> Reply --> Connection.answer
                           |              |
                           +--------------+--> TrackError --> Connection.refuse

Two things happen by themselves every few seconds: sessions whose targets ended are let go of, and
connections whose clients do not read are closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Coroutine
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from ..model.errors import LimitReached, NoSuchSession, NotPermitted, TrackError
from . import journal, messages, methods, protocol, schema
from .connection import Connection
from .disposal import Disposal
from .fdset import FdSet
from .guest import Guest
from .heartbeat import Heartbeat
from .held import Held
from .keeper import Keeper
from .lease import Leases
from .logs import Logs
from .peer import peer_of
from .policy import Policy
from .registry import Registry
from .settings import Config
from .wire import Call

log = logging.getLogger(__name__)

# Seconds between two looks around, and for which a client may not read what it asked for.
_LOOK = 2.0
_STALLED = 60.0
# Seconds between two looks at the logs of sessions that ended.
_PRUNE = 600.0


class Daemon:
    """All that is held for clients. Made on the event loop; close() ends it.

    requests: calls answered since the start. refused: with an error.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy | None = None,
        registry: Registry | None = None,
        heart: Heartbeat | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.config = config
        self.policy = policy or Policy()
        self.registry = registry or Registry(config, self.policy, heart=heart, keeper=keeper)
        self.leases = Leases()
        self.logs = Logs(config.state_dir, config.log)
        self.version = version_text()
        self.started_ns = time.time_ns()
        self.requests = 0
        self.refused = 0
        # By uid. They stay: there are no more than users who ever came.
        self._disposals: dict[int, Disposal] = {}
        self._guests: dict[Connection, Guest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looker: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        return len(self._guests)

    @property
    def queued(self) -> int:
        """Bytes of answers that clients have not taken yet."""
        return sum(one.out.queued for one in self._guests)

    def status_line(self) -> str:
        """For people, in one line."""
        sessions = [one for one in self.registry if not one.ended]
        rate = sum(one.rate or 0.0 for one in sessions)
        return (
            f"{len(sessions)} sessions, {self.connections} connections,"
            f" {rate / (1 << 20):.1f} MiB/s dirty"
        )

    def reconfigure(self, config: Config) -> None:
        """Limits and defaults for what comes from here on."""
        self.config = self.registry.config = config
        self.logs.config = config.log

    def start(self) -> None:
        """Begins to look around now and then."""
        self._looker = asyncio.get_running_loop().create_task(self._look())

    def admit(self, sock: socket.socket) -> None:
        """A connection was accepted. One that is too many is told so and closed."""
        try:
            peer = peer_of(sock)
        except OSError as error:
            log.debug("a connection without credentials: %s", error)
            sock.close()
            return
        disposal = self._disposals.setdefault(peer.uid, Disposal())
        connection = Connection(sock, peer, self.config.limits, self._serve, self._left, disposal)
        connection.on_refusal = self.policy.crowd.add
        guest = self._guests[connection] = Guest(connection)
        limits = self.config.limits
        own = sum(one.peer.uid == peer.uid for one in self._guests.values())
        if own > limits.connections or len(self._guests) > limits.connections_total:
            connection.refuse(
                None,
                LimitReached(
                    f"{peer.user} has {own - 1} connections, the daemon {len(self._guests) - 1}:"
                    " there may not be more",
                    hint="close some, or raise limits.connections or limits.connections_total",
                ),
            )
            connection.end()
            return
        if disposal.full:
            connection.refuse(
                None,
                LimitReached(
                    f"too many descriptors that {peer.user} sent wait to be closed",
                    hint="send none whose close() waits",
                ),
            )
            connection.end()
            return
        try:
            self.policy.check_peer(peer)
        except NotPermitted as error:
            # Told as the answer to what it asks first: most clients listen to nothing else.
            guest.refusal = error

    async def close(self) -> None:
        """Ends everything, but for what the next daemon goes on with: freezes are thawed."""
        if self._looker is not None:
            self._looker.cancel()
        for connection in list(self._guests):
            connection.close()
        await self.registry.close()

    def _serve(self, connection: Connection, call: Call, fds: FdSet) -> None:
        guest = self._guests.get(connection)
        if guest is None:
            fds.close()
            return
        if guest.refusal is not None:
            fds.close()
            connection.refuse(call.msgid, guest.refusal)
            connection.end()
            return
        connection.call_begins()
        self.requests += 1
        try:
            method = protocol.find(call.method)
            params = schema.check(method, call.params)
            # The call lives until it is answered; what the method does not know need not.
            call.params.clear()
            if method.name in methods.HANDLERS:
                self._spawn(self._handle(guest, call, method.name, params, fds))
                return
            job = methods.JOBS[method.name](self, guest, params)
            job.held.worker.hand(partial(self._do, job, guest, call, fds))
        except Exception as error:
            # Kept nowhere: an error holds all that was on the way to it.
            self._failed(guest, call, error)
        else:
            return
        fds.close()
        connection.call_ends()

    def _do(self, job: methods.Job, guest: Guest, call: Call, fds: FdSet) -> None:
        """A job, in its worker's thread, which answers as well."""
        try:
            made = job.run(guest)
        except BaseException as error:
            fds.close()
            guest.connection.later(partial(self._failed, guest, call, error))
        else:
            fds.close()
            guest.connection.finish(call, made)

    async def _handle(
        self, guest: Guest, call: Call, name: str, params: methods.Params, fds: FdSet
    ) -> None:
        try:
            made = await methods.HANDLERS[name](self, guest, params, fds)
        except Exception as error:
            self._failed(guest, call, error)
        else:
            guest.connection.answer(call, made)
        finally:
            fds.close()
            guest.connection.call_ends()

    def _failed(self, guest: Guest, call: Call, error: BaseException) -> None:
        self.refused += 1
        if isinstance(error, TrackError):
            found = error
            log.debug("%s for pid %d: %s", call.method, guest.peer.pid, error.message)
        else:
            found = methods.unexpected(error)
            level = logging.DEBUG if isinstance(found, NoSuchSession) else logging.ERROR
            log.log(level, "%s for pid %d failed", call.method, guest.peer.pid, exc_info=error)
        if call.msgid is not None:
            guest.connection.refuse(call.msgid, found)

    def _left(self, connection: Connection) -> None:
        """A connection has been closed: what it held ends."""
        guest = self._guests.pop(connection, None)
        if guest is None:
            return
        for one in guest.watches.values():
            one.stop()
        guest.watches.clear()
        self.leases.leave(guest)
        for name in guest.bound:
            self._spawn(self._detach(name))

    async def _detach(self, name: str) -> None:
        for held in self.registry:
            if held.id == name:
                await self.registry.detach(held)

    async def begin_log(self, held: Held, wanted: bool | None) -> None:
        """An iteration log for the session, if it or the configuration wants one.

        Raises LogError if it was asked for and cannot be; as configured it is only said.
        """
        if self.config.log.enabled if wanted is None else wanted:
            await self._begin_log(held, strict=bool(wanted))

    async def take_over(self) -> None:
        """Goes on with the sessions of an earlier daemon, each with a new log if it had one."""
        for held, logged in await self.registry.take_over():
            if logged:
                await self._begin_log(held, strict=False)

    async def _begin_log(self, held: Held, *, strict: bool) -> None:
        try:
            await held.worker.run(partial(self.logs.begin, held))
        except TrackError as error:
            if strict:
                await self.registry.detach(held)
                raise
            held.note_error(error)
            journal.log(
                messages.LOG_FAILED,
                f"session {held.id}: {error.message}",
                session=held.id,
                pid=held.session.pid,
            )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        prune_at = loop.time()
        while True:
            if loop.time() >= prune_at:
                prune_at = loop.time() + _PRUNE
                await asyncio.to_thread(self.logs.prune)
            await asyncio.sleep(_LOOK)
            try:
                self.policy.crowd.tell()
                await self.registry.look()
            except Exception:
                log.exception("looking after the sessions failed")
            for connection, guest in list(self._guests.items()):
                if connection.out.stalled_seconds > _STALLED:
                    log.warning(
                        "closing the connection of pid %d of %s: it does not read %d bytes",
                        guest.peer.pid,
                        guest.peer.user,
                        connection.out.queued,
                    )
                    connection.close()


def version_text() -> str:
    try:
        return version("uffdtrackd")
    except PackageNotFoundError:
        return "unknown"
