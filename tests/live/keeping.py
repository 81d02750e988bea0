"""Sessions in processes of their own, that may die, and whoever holds what outlives them.

    Holder (the test)                                   tracker process (this file as a program)
      state: a memfd  ----------------------------------> restore(), or attach()
      fds: name -> descriptor  -------------------------> (for restore)
      iterate()  -- "i" --------------------------------> session.iterate()
                 <-- descriptors that are new -----------
                                                          session.keep(also: the iteration)
                 <-- the iteration ----------------------
      kill()     -- SIGKILL, at any moment -------------> x

The holder is the consumer as well. What was kept and never arrived is in `also`, so the order is
that of a daemon: a reader hears of nothing that is not in the state.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uffdtrackd
from uffdtrackd import PageSet

ROOT = Path(__file__).resolve().parents[2]
MOST_FDS = 200


class Died(Exception):
    """The tracker process is gone."""


class Holder:
    """A session in another process. `iterate` as Session has it. close() it.

    Raises Died from iterate() when that process has died.
    """

    def __init__(self, pid: int, backend: str = "auto", follow: str = "none") -> None:
        self.state = os.memfd_create("state", 0)
        self.fds: dict[str, int] = {}
        self.number = 0  # of the iteration that is expected next
        self.took = 0.0  # seconds, for the last iterate()
        self.complete = True  # nothing was owed at the last restart()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._order = {"attach": pid, "backend": backend, "follow": follow}
        self._start(self._order, [])

    def iterate(self) -> Any:
        began = time.monotonic()
        self.begin()
        iteration = self.end()
        self.took = time.monotonic() - began
        return iteration

    def frozen(self) -> AbstractContextManager[Any]:
        raise NotImplementedError("the final is taken by a session of this process")

    def begin(self) -> None:
        """Let it iterate, and do not wait."""
        assert self._socket is not None
        try:
            self._socket.sendall(b"i")
        except OSError:
            raise Died from None

    def end(self) -> Any:
        """The iteration."""
        while True:
            try:
                message = self._receive()
            except ConnectionResetError:
                raise Died from None  # before it read what we asked
            if "iteration" in message:
                self.number = message["iteration"] + 1
                return as_iteration(message)

    def kill(self) -> list[Any]:
        """End it with SIGKILL. Returns the iterations that had arrived and nobody took."""
        assert self._process is not None and self._socket is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        arrived = []
        try:
            while True:
                arrived.append(self.end())
        except Died:
            pass
        self._socket.close()
        self._process = self._socket = None
        return arrived

    def leave(self) -> None:
        """Let it end in order, for another one to go on."""
        assert self._process is not None and self._socket is not None
        self._socket.sendall(b"l")
        assert self._process.wait(30) == 0
        self._socket.close()
        self._process = self._socket = None

    def restart(self) -> list[Any]:
        """Another tracker process goes on. Returns what the last one had kept and not told."""
        assert self._process is None
        names, fds = list(self.fds), list(self.fds.values())
        self._start({"restore": names}, fds)
        message = self._receive()
        self.complete = message["complete"]
        return self._told(message["also"])

    def take_over(self) -> tuple[uffdtrackd.Session, bool, list[Any]]:
        """This process goes on. Returns the session, whether nothing is owed, and as restart()."""
        assert self._process is None
        fds, self.fds = self.fds, {}
        session, also, complete = uffdtrackd.restore(self.state, fds)
        last = also["last"].decode() if "last" in also else None
        return session, complete, self._told(last)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._socket is not None:
            self._socket.close()
        for fd in self.fds.values():
            os.close(fd)
        os.close(self.state)
        self.fds = {}

    def _told(self, last: str | None) -> list[Any]:
        found = [json.loads(last)] if last else []
        late = [one for one in found if one["iteration"] >= self.number]
        if late:
            self.number = late[-1]["iteration"] + 1
        return [as_iteration(one) for one in late]

    def _start(self, order: dict[str, Any], fds: list[int]) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.live.keeping", str(theirs.fileno()), str(self.state)],
            pass_fds=(theirs.fileno(), self.state),
            cwd=ROOT,
        )
        theirs.close()
        self._socket = ours
        _send(ours, order, fds)
        self._receive()  # it is ready

    def _receive(self) -> dict[str, Any]:
        assert self._socket is not None
        message, fds = _receive(self._socket)
        for name, fd in zip(message.get("fds", ()), fds, strict=True):
            self.fds[name] = fd
        if "now" in message:
            # The descriptors of those that ended are of no use to anybody.
            for name in self.fds.keys() - set(message["now"]):
                os.close(self.fds.pop(name))
        return message


def as_iteration(found: dict[str, Any]) -> Any:
    """The map of an iteration as an object."""

    def pages(ranges: list[list[int]]) -> PageSet:
        return PageSet.from_ranges((start, end) for start, end in ranges)

    processes = {
        one["pid"]: SimpleNamespace(
            dirty=pages(one["dirty"]),
            discarded=pages(one["discarded"]),
            always=pages(one["always"]),
            regions=[],
        )
        for one in found["processes"]
    }
    return SimpleNamespace(
        number=found["iteration"],
        frozen=found["frozen"],
        processes=processes,
        exited=found.get("exited"),
    )


def _send(to: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
    data = json.dumps(message).encode()
    socket.send_fds(to, [len(data).to_bytes(8, "little")], fds)
    to.sendall(data)


def _receive(of: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Raises Died at the end."""
    head, fds, _, _ = socket.recv_fds(of, 8, MOST_FDS)
    data = b""
    while len(head) < 8 and (more := of.recv(8 - len(head))):
        head += more
    length = int.from_bytes(head, "little")
    while len(data) < length and (more := of.recv(length - len(data))):
        data += more
    if len(head) < 8 or len(data) < length:
        for fd in fds:
            os.close(fd)
        raise Died
    return json.loads(data), list(fds)


def _track(to: socket.socket, state: int) -> None:
    order, fds = _receive(to)
    if "attach" in order:
        session = uffdtrackd.attach(
            order["attach"], backend=order["backend"], follow=order["follow"]
        )
        _send(to, {}, [])
    else:
        session, also, complete = uffdtrackd.restore(
            state, dict(zip(order["restore"], fds, strict=True))
        )
        _send(to, {}, [])
        last = also["last"].decode() if "last" in also else None
        _send(to, {"also": last, "complete": complete}, [])
    session.keep_in(state)
    sent: set[str] = set(order.get("restore", ()))
    while word := to.recv(1):
        if word == b"l":
            session.leave()
            return
        iteration = json.dumps(session.iterate().to_map())
        now = session.descriptors()
        new = [name for name in now if name not in sent]
        sent = set(now)
        _send(to, {"fds": new, "now": list(now)}, [now[name] for name in new])
        session.keep({"last": iteration.encode()})
        _send(to, json.loads(iteration), [])


if __name__ == "__main__":
    _track(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
