"""One client: calls and their descriptors come in, and what is done of them is counted.

    readable --recvmsg--> Frames --> Call + FdSet --> server.handle() --> Reply
                 ^                                                          |
                 | not read while much is queued                            v
                 +------------------------------------------------------- Outbox --> peer
    worker: finish() --> Outbox, from its own thread

asyncio's streams cannot carry descriptors, so this is on add_reader() and add_writer().
The kernel ends a read after the message that carries descriptors, so they belong to the last frame
of what was read. Those that nobody takes are closed with the frame's answer.

Everything is for the loop's thread, but for finish(), tell() and later().
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import termios
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ..model.errors import BadRequest, LimitReached, TrackError
from . import wire
from .delivery import Reply, packed
from .disposal import Disposal
from .fdset import FdSet, rights
from .outbox import Outbox
from .peer import Peer
from .settings import Limits
from .wire import BadFrame, Call, Frames

log = logging.getLogger(__name__)

# Read in one go: few enough requests that the other connections have their turn.
_CHUNK = 4096
# Plain numbers: to combine members of an enumeration costs as much as the rest of a read.
_CUT = int(socket.MSG_CTRUNC)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
# SCM_MAX_FD, unix(7), of a message. With less room the kernel closes the rest, and we wait for it.
_MOST_RIGHTS = socket.CMSG_SPACE(253 * array("i").itemsize)
# Of a request without any, as most are.
_NO_FDS = FdSet(Disposal())


class Connection:
    """serve: told each call and its descriptors. closed: told once when it is over.

    out: the way out of it. disposal: of its user; one of its own if not given.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        limits: Limits,
        serve: Callable[[Connection, Call, FdSet], None],
        closed: Callable[[Connection], None],
        disposal: Disposal | None = None,
    ) -> None:
        sock.setblocking(False)
        # The kernel drops what comes out of band while we read, and closes its descriptors.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.peer = peer
        # Calls: begun in the loop's thread, ended in any, with the lock.
        self._begun = 0
        self._ended = 0
        # Told each refusal for a limit and the loss of step, to be logged.
        self.on_refusal: Callable[[Peer, TrackError], None] = lambda peer, error: None
        self._sock = sock
        self._limits = limits
        self._serve = serve
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(limits.frame_bytes)
        self._disposal = disposal or Disposal()
        self._fds = self._fd_set()
        self.out = Outbox(sock, limits.queued_bytes, self._drained, self._broken)
        # Of all that goes out, and of what says whether it may.
        self._lock = self.out.lock
        self._reading = False
        self._open = True
        self._ending = False
        self._resume_reading()

    @property
    def open(self) -> bool:
        return self._open

    def answer(self, call: Call, reply: Reply) -> None:
        """Sends the result of a call, or closes it. Too much of it becomes LimitReached."""
        if call.msgid is None or not self._open:
            reply.close()
        elif not self.out.fits(reply.weight):
            reply.close()
            self.refuse(
                call.msgid,
                LimitReached(
                    f"{self.out.queued} bytes of answers wait for you to read them",
                    hint="read them, then ask again; nothing is lost until it is acknowledged",
                ),
            )
        else:
            self._send(packed(call.msgid, reply), reply)

    @property
    def in_flight(self) -> int:
        """Calls that wait for their answers."""
        return self._begun - self._ended

    def call_begins(self) -> None:
        """A call of this connection is in the hands of whoever serves it."""
        # Without the lock: a worker may hold it that has just sent the answer to the one before.
        self._begun += 1

    def call_ends(self) -> None:
        """It is no more."""
        with self._lock:
            self._ended += 1

    def finish(self, call: Call, reply: Reply) -> None:
        """answer() and call_ends() from any thread."""
        with self._lock:
            if (
                call.msgid is None
                or self.out.busy
                or not self._open
                or self._ending
                # As it was when last asked: who asks anew is the loop.
                or self.out.away + reply.weight > self._limits.queued_bytes
            ):
                self.later(partial(self.answer, call, reply), reply)
                return
            # Before it is sent: who has it may ask anew.
            self._ended += 1
            self.out.put_now(packed(call.msgid, reply), reply)

    def tell(self, method: str, reply: Reply, wanted: Callable[[], bool]) -> None:
        """notify() from any thread; nothing if it is not wanted any more when its turn comes."""
        with self._lock:
            if not self._open or not wanted():
                reply.close()
            elif self.out.busy or self._ending:
                if not self.out.leave(partial(self._tell_later, method, reply, wanted)):
                    reply.close()
            else:
                self.out.put_now(wire.notification(method, reply.result), reply)

    def _tell_later(self, method: str, reply: Reply, wanted: Callable[[], bool]) -> None:
        if wanted():
            self.notify(method, reply)
        else:
            reply.close()

    def later(self, do: Callable[[], None], reply: Reply | None = None) -> None:
        """Has the loop do what answers a call, and call_ends(); from any thread.

        reply: is closed if the loop has ended.
        """
        if not self.out.leave(partial(self._do_later, do)) and reply is not None:
            reply.close()

    def _do_later(self, do: Callable[[], None]) -> None:
        self._ended += 1
        do()

    def refuse(self, msgid: int | None, error: TrackError) -> None:
        """Sends an error: the answer to a request, or a notification if it belongs to none."""
        if isinstance(error, LimitReached):
            self.on_refusal(self.peer, error)
        if msgid is not None:
            self._send(wire.error_response(msgid, error))
        else:
            self._send(wire.notification("error", wire.pack(error.to_map())))

    def notify(self, method: str, reply: Reply) -> None:
        """Sends a notification; `reply` holds its packed map."""
        if self._open:
            self._send(wire.notification(method, reply.result), reply)
        else:
            reply.close()

    def end(self) -> None:
        """Closes when what is queued has been sent; reads nothing more."""
        self._ending = True
        self._pause_reading()
        # A worker may be in the middle of an answer: the rest of it is queued then.
        with self._lock:
            if not self.out:
                self.close()

    def close(self) -> None:
        """At once. May be called twice."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            self._pause_reading()
            self.out.close()
            self._close_socket()
        self._fds.close()
        self._closed(self)

    def _close_socket(self) -> None:
        # From here on nothing more comes in, and the peer sees the end.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if any(fcntl.ioctl(self._sock, termios.FIONREAD, bytes(4))):
            self._disposal.put([self._sock.detach()])
        else:
            self._sock.close()

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_CHUNK, _MOST_RIGHTS, _CLOSE_ON_EXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        frames = self._frames.feed(data)
        cut = bool(flags & _CUT)
        if len(frames) == 1 and not (ancillary or cut or self._fds or self._fds.overflow):
            self._take(frames[0], _NO_FDS)
        else:
            self._deal_out(frames, ancillary, cut=cut)
        if not data:
            self.close()
        elif self._frames.broken:
            self._lost_step(self._frames.broken)
        elif self.out.full:
            self._pause_reading()

    def _deal_out(
        self,
        frames: list[Call | BadFrame],
        ancillary: list[tuple[int, int, bytes]],
        *,
        cut: bool,
    ) -> None:
        """To each frame its descriptors."""
        came = self._fd_set()
        came.add(rights(ancillary), cut=cut)
        if frames:
            sets = [self._fds, *(self._fd_set() for _ in frames[1:])]
            self._fds = self._fd_set()
            (self._fds if self._frames.partial else sets[-1]).merge(came)
            for frame, fds in zip(frames, sets, strict=True):
                self._take(frame, fds)
        else:
            self._fds.merge(came)
        if ancillary and self._open and self._disposal.full:
            self.refuse(
                None,
                LimitReached(
                    "the descriptors that were sent cannot be closed as fast as they come",
                    hint="the connection is closed; send none but those that a method takes",
                ),
            )
            self.end()

    def _fd_set(self) -> FdSet:
        return FdSet(self._disposal, self._limits.fds)

    def _lost_step(self, why: str) -> None:
        error = BadRequest(
            f"this is not MessagePack-RPC, or too long: {why}",
            hint="the connection is closed: nobody knows where the next request begins",
        )
        self.on_refusal(self.peer, error)
        self.refuse(None, error)
        if self._open:
            self.end()

    def _take(self, frame: Call | BadFrame, fds: FdSet) -> None:
        if not self._open:
            fds.close()
            return
        if isinstance(frame, BadFrame):
            fds.close()
            self.refuse(frame.msgid, frame.error)
        elif fds.overflow:
            fds.close()
            self.refuse(
                frame.msgid,
                LimitReached(
                    f"more than {self._limits.fds} descriptors came with this request",
                    hint="no method takes more than one; they were all closed",
                ),
            )
        elif self.in_flight >= self._limits.requests:
            fds.close()
            self.refuse(
                frame.msgid,
                LimitReached(
                    f"{self.in_flight} requests of this connection wait for their answers",
                    hint="wait for some of them",
                ),
            )
        else:
            self._serve(self, frame, fds)

    def _send(self, data: bytes, reply: Reply | None = None) -> None:
        if self._open and not self._ending:
            self.out.put(data, reply or Reply(b"", weight=len(data)))
        elif reply is not None:
            reply.close()

    def _drained(self) -> None:
        if not self._ending:
            self._resume_reading()
        elif not self.out:
            self.close()

    def _broken(self, error: OSError) -> None:
        log.debug("pid %d of %s: %s", self.peer.pid, self.peer.user, error)
        self.close()

    def _resume_reading(self) -> None:
        if not self._reading and self._open:
            self._loop.add_reader(self._sock.fileno(), self._readable)
            self._reading = True

    def _pause_reading(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._sock.fileno())
            self._reading = False
