"""The sessions of the daemon, from attach to detach.

    attach: limits --> worker: policy --> our turn? --> tracking.attach --> same process? --> Held
    look(): a target has ended --> let go of it; remembered for a while, so that its clients
            are told; then forgotten

A name is drawn at random: one of before a restart must not mean another session after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import select
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ..model.errors import (
    AlreadyTracked,
    BadRequest,
    LimitReached,
    NoSuchSession,
    NotPermitted,
    TargetGone,
    TrackError,
)
from ..tracking import restore, session
from ..tracking.identify import has_ended
from . import journal, memento, messages
from .crew import Crew
from .heartbeat import Heartbeat
from .held import Held, Tracked
from .keeper import Keeper, Left, put_back
from .peer import Peer
from .policy import Policy
from .settings import Config
from .turns import Turn, Turns
from .worker import Worker

log = logging.getLogger(__name__)

# Seconds for which an ended session is remembered.
_REMEMBERED = 600.0
# Sessions of an earlier daemon that are attached to at a time, and seconds that one may take.
_AT_ONCE = 16
_TAKE_OVER_DEADLINE = 10.0
# Seconds that the end of the daemon waits for sessions: less than systemd does.
_END = 20.0


@dataclass(frozen=True)
class Wish:
    """What attach was asked for. start_time None: not given. pidfd: owned by who asks, or -1.

    keep: the session outlives the connection, and the daemon.
    """

    pid: int
    start_time: int | None
    pidfd: int
    backend: str
    follow: str
    deadline: float
    most_processes: int
    keep: bool = True


class Registry:
    """attach, restore: as in tracking; others in tests."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        attach: Callable[..., Tracked] = session.attach,
        heart: Heartbeat | None = None,
        keeper: Keeper | None = None,
        restore: Callable[..., tuple[Tracked, dict[str, bytes], bool]] = restore.restore,
    ) -> None:
        self.config = config
        self._keeper = keeper
        self._restore = restore
        self._policy = policy
        self._attach = attach
        self._heart = heart
        self._crew: Crew | None = None
        self._held: dict[str, Held] = {}
        # One poll for all that can be asked: most of the time none has ended.
        self._pidfds: dict[str, int] = {}
        self._poll = select.poll()
        self._ended: dict[str, float] = {}
        self._attaching: dict[int, int] = {}
        self._turns = Turns()
        # Sessions that an earlier daemon had, whose targets were gone: owner, when found.
        self._gone: dict[str, tuple[int, float]] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def of(self, peer: Peer) -> list[Held]:
        """Those that the peer may see, oldest first."""
        return [one for one in self if self._policy.sees(peer, one.owner)]

    def find(self, peer: Peer, name: str) -> Held:
        """Raises NoSuchSession: also for what belongs to others."""
        held = self._held.get(name)
        if held is None and name in self._gone:
            self._policy.check_session(peer, self._gone[name][0], name)
            raise TargetGone(f"session {name} has ended, as its target has", session=name)
        if held is None:
            raise NoSuchSession(f"no session {name!r}", session=name[:64])
        self._policy.check_session(peer, held.owner, name)
        return held

    async def attach(self, peer: Peer, wish: Wish) -> Held:
        """Raises LimitReached, NotPermitted, and what tracking.session.attach() raises."""
        self._check_limits(peer)
        if wish.start_time is None and wish.pidfd < 0 and not peer.root:
            self._policy.refuse(
                peer,
                NotPermitted(
                    f"a pid alone is not enough: {wish.pid} may be another process by now",
                    hint="send its start_time (field 22 of /proc/PID/stat) or a pidfd along",
                    pid=wish.pid,
                ),
            )
        turn = self._turns.of(wish.pid)
        try:
            return await self._attach_in(turn, peer, wish)
        finally:
            # Only now: who comes next is told the session.
            turn.leave()

    async def _attach_in(self, turn: Turn, peer: Peer, wish: Wish) -> Held:
        permit = self._policy.permit(peer)
        name = f"s{secrets.token_hex(4)}"
        worker = self._worker(name)
        self._attaching[peer.uid] = self._attaching.get(peer.uid, 0) + 1
        try:
            tracked = await worker.run(partial(self._attach_checked, turn, wish, permit))
        except BaseException as error:
            worker.stop()
            if isinstance(error, AlreadyTracked) and not error.session:
                raise self._whose(peer, wish.pid, error) from error
            raise
        finally:
            self._attaching[peer.uid] -= 1
        held = Held(name, tracked, worker, peer.uid, self.config.limits.consumers)
        held.keep = wish.keep
        if self._keeper is not None and wish.keep:
            held.kept = await worker.run(partial(self._keeper.keep, held))
        self._add(held)
        journal.log(
            messages.ATTACHED,
            f"session {name}: process {tracked.pid} is tracked ({tracked.backend},"
            f" follow {tracked.follow}) for {peer.user}",
            session=name,
            pid=tracked.pid,
            peer_uid=peer.uid,
            peer_pid=peer.pid,
        )
        return held

    def _worker(self, name: str) -> Worker:
        self._crew = self._crew or Crew()
        return Worker(f"session {name}", self._heart, self._crew)

    def _add(self, held: Held) -> None:
        self._held[held.id] = held
        if held.session.follow == "none":
            with suppress(OSError):
                pidfd = self._pidfds[held.id] = os.pidfd_open(held.session.pid)
                self._poll.register(pidfd, select.POLLIN)

    async def take_over(self) -> list[tuple[Held, bool]]:
        """Goes on with the sessions that an earlier daemon left; none of them fails another.

        Returns them, with whether they had an iteration log.
        """
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(left: Left) -> tuple[Held, bool] | None:
            async with at_once:
                held = await self._take_over(left)
                return None if held is None else (held, bool(left.saved["logged"]))

        if self._keeper is None:
            return []
        found = await asyncio.gather(*map(one, self._keeper.left()))
        await asyncio.to_thread(self._keeper.clean)
        return [each for each in found if each is not None]

    async def _take_over(self, left: Left) -> Held | None:
        assert self._keeper is not None
        name, pid = left.name, left.pid
        worker = self._worker(name)
        try:
            held, complete = await worker.run(partial(self._restored, left, worker))
        except (TrackError, OSError, *memento.MISREAD) as error:
            worker.stop()
            self._keeper.forget(name)
            if isinstance(error, TargetGone):
                self._gone[name] = (left.owner, time.monotonic())
                text = f"session {name}: process {pid} ended while no daemon was there"
                journal.log(messages.TARGET_LOST, text, session=name, pid=pid)
            else:
                text = f"session {name} of process {pid} cannot be taken over: {error}"
                journal.log(messages.NOT_RESTORED, text, session=name, pid=pid)
            return None
        self._add(held)
        if complete or not held.facts.iterations:
            text = f"session {name} of process {pid} goes on"
            journal.log(messages.RESTORED, text, session=name, pid=pid)
        else:
            text = f"session {name} of process {pid} goes on with a full iteration"
            journal.log(messages.RESTORED_FULL, text, session=name, pid=pid)
        return held

    def _restored(self, left: Left, worker: Worker) -> tuple[Held, bool]:
        """The session, and whether nothing is owed; in the worker's thread."""
        assert self._keeper is not None
        permit = self._policy.permit(Peer(0, left.owner, frozenset()))
        try:
            tracked, also, complete = self._restore(
                left.state, left.descriptors, deadline=_TAKE_OVER_DEADLINE, permit=permit
            )
        finally:
            os.close(left.state)
        try:
            held = Held(left.name, tracked, worker, left.owner, self.config.limits.consumers)
            put_back(held, left, also)
            held.kept = self._keeper.keep(held)
        except BaseException:
            tracked.close()
            raise
        return held, complete

    def _attach_checked(self, turn: Turn, wish: Wish, permit: Callable[[int], None]) -> Tracked:
        # In the worker's thread: it looks at each thread of the target. And nobody has to wait for
        # who may not have it anyway.
        permit(wish.pid)
        deadline = turn.take(wish.deadline)
        tracked = self._attach(
            wish.pid,
            backend=wish.backend,
            follow=wish.follow,
            deadline=deadline,
            most_processes=wish.most_processes,
            permit=permit,
        )
        same = wish.start_time in (None, tracked.start_time)
        # A process that the pidfd is of, and that lives now, has had the pid all the time.
        if not same or (wish.pidfd >= 0 and has_ended(wish.pidfd)):
            tracked.close()
            raise TargetGone(
                f"the process meant by pid {wish.pid} has ended; another one has that pid now",
                pid=wish.pid,
            )
        return tracked

    def _whose(self, peer: Peer, pid: int, error: AlreadyTracked) -> AlreadyTracked:
        """The same error with the session, if it is one of ours that the peer may use."""
        for one in self.of(peer):
            if pid in one.facts.pids and not one.ended:
                return AlreadyTracked(
                    f"process {pid} is tracked by session {one.id}",
                    hint=f"use session {one.id}, with a consumer name of your own",
                    pid=pid,
                    session=one.id,
                )
        return error

    def _check_limits(self, peer: Peer) -> None:
        limits = self.config.limits
        own = sum(one.owner == peer.uid for one in self) + self._attaching.get(peer.uid, 0)
        if own >= limits.sessions:
            raise LimitReached(
                f"{peer.user} has {own} sessions, and may not have more",
                hint="detach some, or raise limits.sessions",
            )
        total = len(self) + sum(self._attaching.values())
        if total >= limits.sessions_total:
            raise LimitReached(
                f"the daemon has {total} sessions, and may not have more",
                hint="detach some, or raise limits.sessions_total",
            )

    async def detach(self, held: Held) -> None:
        """Ends a session; what waits in its worker is done before."""
        if self._held.pop(held.id, None) is None:
            return
        self._forget(held.id)
        await self._close(held)
        held.worker.stop()
        journal.log(
            messages.DETACHED,
            f"session {held.id}: process {held.session.pid} is not tracked any more",
            session=held.id,
            pid=held.session.pid,
        )

    async def look(self) -> None:
        """Lets go of what has ended; to be called now and then."""
        over = {pidfd for pidfd, _ in self._poll.poll(0)}
        for held in self:
            if held.id not in self._ended and (held.ended or self._pidfds.get(held.id) in over):
                self._ended[held.id] = time.monotonic()
                journal.log(
                    messages.TARGET_LOST,
                    f"session {held.id}: process {held.session.pid} has ended",
                    session=held.id,
                    pid=held.session.pid,
                )
                await self._close(held)
            elif time.monotonic() - self._ended.get(held.id, time.monotonic()) > _REMEMBERED:
                del self._held[held.id]
                self._forget(held.id)
                held.worker.stop()

        forgotten = time.monotonic() - _REMEMBERED
        self._gone = {name: one for name, one in self._gone.items() if one[1] > forgotten}

    async def close(self) -> None:
        """Ends all sessions, or leaves them to the next daemon.

        One whose worker is stuck is left as it is: what it has in the kernel ends with us.
        """
        leaving = {asyncio.ensure_future(self._leave(held)): held for held in self}
        if not leaving:
            return
        done, late = await asyncio.wait(leaving.keys(), timeout=_END)
        for one in late:
            held = leaving[one]
            log.error("session %s does not end: its worker is stuck", held.id)
        for one in done:
            one.result()

    async def _leave(self, held: Held) -> None:
        if held.kept is None or not held.keep:
            await self.detach(held)
            return
        self._held.pop(held.id, None)
        self._forget(held.id)
        await self._close(held, leave=True)

    async def _close(self, held: Held, *, leave: bool = False) -> None:
        try:
            await held.worker.run(partial(held.do_close, leave=leave))
        except RuntimeError:
            return  # stopped already: it had ended
        except TrackError as error:
            log.warning("session %s: %s", held.id, error.message)

    def _forget(self, name: str) -> None:
        self._ended.pop(name, None)
        pidfd = self._pidfds.pop(name, -1)
        if pidfd >= 0:
            self._poll.unregister(pidfd)
            os.close(pidfd)


def pid_of(pidfd: int) -> int:
    """The pid of a pidfd. Raises BadRequest if it is none, TargetGone."""
    lines = {}
    # First its name: what the kernel has to tell of others, as inotify, has no end. With pidfs
    # (6.9) it is the same, or has a number in it.
    if os.readlink(f"/proc/self/fd/{pidfd}").startswith(("anon_inode:[pidfd]", "pidfd:[")):
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
    # Only a pidfd has it: Documentation/filesystems/proc.rst.
    if "Pid" not in lines:
        raise BadRequest("the descriptor that came along is no pidfd")
    pid = int(lines["Pid"])
    if pid <= 0:
        raise TargetGone("the process of that pidfd has ended, or cannot be seen from here")
    return pid
