"""Freezes that end by themselves: a client may die with one, and the target must not wait.

    freeze(guest, held, seconds) --> frozen --> timer --> thawed, the guest is told
                                        |-----> the guest's connection is closed --> thawed
                                        |-----> thaw() by whoever may use the session

The holder of the stopped threads is a process of its own: when the daemon dies they run on too.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial

from ..model.errors import AlreadyFrozen, TrackError
from . import journal, messages
from .delivery import reply
from .guest import Guest
from .held import Held

log = logging.getLogger(__name__)


# Seconds for which the worker may finish what it is at before a thaw.
_PATIENCE = 0.5


@dataclass(eq=False)
class Lease:
    """until: when the holder of the threads lets go by itself, in the loop's time. timer: None
    while the threads are being stopped."""

    guest: Guest
    held: Held
    until: float
    timer: asyncio.TimerHandle | None = None


class Leases:
    """Of all sessions, by name."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._tasks: set[asyncio.Task[bool]] = set()

    def holder(self, held: Held) -> int | None:
        """pid of who holds the session frozen, None if nobody does."""
        lease = self._leases.get(held.id)
        return None if lease is None else lease.guest.peer.pid

    async def freeze(
        self, guest: Guest, held: Held, seconds: float, deadline: float, most: float
    ) -> float:
        """Freezes for so many seconds; the same guest again: that many from now. Returns how many
        they are.

        most: seconds that renewals can reach, counted from the freeze. The holder of the threads
        keeps to that by itself.

        Raises AlreadyFrozen, and what Session.frozen() raises.
        """
        lease = self._leases.get(held.id)
        if lease is not None:
            if lease.guest is not guest or lease.timer is None:
                raise AlreadyFrozen(
                    f"session {held.id} is frozen for pid {lease.guest.peer.pid}",
                    session=held.id,
                )
            if held.session.is_frozen:
                return self._start(lease, seconds)
            # The holder has let go before our timer said so: what is asked for is another freeze.
            self._tell_over(lease)
            await self._thaw(lease)
            return await self.freeze(guest, held, seconds, deadline, most)
        until = asyncio.get_running_loop().time() + most
        lease = self._leases[held.id] = Lease(guest, held, until)
        try:
            await held.worker.run(partial(_freeze, guest, held, deadline, most))
        except BaseException:
            self._drop(lease)
            raise
        if guest.open and self._leases.get(held.id) is lease:
            return self._start(lease, seconds)
        await self._thaw(lease)
        return 0.0

    async def thaw(self, guest: Guest, held: Held) -> bool:
        """Whether it was frozen until now."""
        lease = self._leases.get(held.id)
        if lease is not None:
            if lease.guest is not guest:
                reason = f"by pid {guest.peer.pid}"
                lease.guest.connection.notify(
                    "thawed", reply({"session": held.id, "reason": reason})
                )
            return await self._thaw(lease)
        return await held.worker.run(held.do_thaw, urgent=True)

    def leave(self, guest: Guest) -> None:
        """The guest has gone: all that it froze runs on."""
        for lease in list(self._leases.values()):
            if lease.guest is guest and lease.timer is not None:
                journal.log(
                    messages.LEASE_EXPIRED,
                    f"session {lease.held.id}: pid {guest.peer.pid} of {guest.peer.user} went away"
                    " while it held the target frozen: thawing",
                    session=lease.held.id,
                    pid=lease.held.session.pid,
                )
                self._thaw_soon(lease)

    def _start(self, lease: Lease, seconds: float) -> float:
        if lease.timer is not None:
            lease.timer.cancel()
        loop = asyncio.get_running_loop()
        seconds = max(0.0, min(seconds, lease.until - loop.time()))
        lease.timer = loop.call_later(seconds, self._over, lease)
        return seconds

    def _over(self, lease: Lease) -> None:
        self._tell_over(lease)
        self._thaw_soon(lease)

    def _tell_over(self, lease: Lease) -> None:
        journal.log(
            messages.LEASE_EXPIRED,
            f"session {lease.held.id}: the lease of its freeze is over: thawing",
            session=lease.held.id,
            pid=lease.held.session.pid,
        )
        lease.guest.connection.notify(
            "thawed", reply({"session": lease.held.id, "reason": "lease over"})
        )

    def _thaw_soon(self, lease: Lease) -> None:
        # Before the worker has its turn: what it does may wait for the target.
        lease.held.session.let_go()
        task = asyncio.get_running_loop().create_task(self._thaw(lease))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _thaw(self, lease: Lease) -> bool:
        self._drop(lease)
        try:
            thawing = lease.held.worker.submit(lease.held.do_thaw, urgent=True)
            await asyncio.wait({thawing}, timeout=_PATIENCE)
            if not thawing.done():
                # The worker may wait for the target: for a page that a thread of it must bring.
                lease.held.session.let_go()
            return await thawing
        except (TrackError, RuntimeError) as error:
            # Its session has ended, and that thaws.
            log.debug("session %s: %s", lease.held.id, error)
            return False

    def _drop(self, lease: Lease) -> None:
        if lease.timer is not None:
            lease.timer.cancel()
        if self._leases.get(lease.held.id) is lease:
            del self._leases[lease.held.id]


def _freeze(guest: Guest, held: Held, deadline: float, most: float) -> None:
    guest.check_open()
    held.do_freeze(deadline, most)
