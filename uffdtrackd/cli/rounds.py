"""The loop that `track` and `verify` share: attach, and collect at a steady pace.

    attach --> [ iterate --> caller ] --> wait --> [ iterate --> caller ] ... --> [ frozen one ]
       \\________________ may be interrupted ___/

Iterations are due at whole multiples of the interval after the first; those that a slow one ran
over are left out, so that a target which takes long is not asked without a pause.
"""

from __future__ import annotations

import argparse
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import uffdtrackd

from ..client import ClientSession
from ..model.iteration import Iteration
from ..tracking.session import Session
from . import remote
from .row import Row
from .signals import Stop, stay_awake

# The client's has the same interface.
AnySession = Session | ClientSession


@contextmanager
def attached(args: argparse.Namespace, stop: Stop) -> Iterator[AnySession]:
    """A session with args.pid, of the daemon if there is one; closed at the end.

    A signal may end the attaching. With a daemon the session is its own, not one that is kept.
    """
    how = {"backend": args.backend, "follow": args.follow, "most_processes": args.most_processes}
    with ExitStack() as stack:
        session: AnySession
        with stop.allowed():
            client = remote.wanted(args)
            if client is None:
                session = uffdtrackd.attach(args.pid, **how)
                if session.backend == "sync":
                    stay_awake()
            else:
                stack.enter_context(client)
                session = client.attach(args.pid, **how, keep=False, auto_ack=True)
        with session:
            yield session


class Warnings:
    """Says on stderr, once each, what a session cannot see."""

    def __init__(self, session: AnySession, note: Callable[[str], None]) -> None:
        self._session = session
        self._note = note
        self._said: set[str] = set()

    def tell(self) -> None:
        for line in self._session.status:
            if line not in self._said:
                self._said.add(line)
                self._note(f"uffdtrack: warning: {line}")


class Rounds:
    """Collects iterations and tells how long each looked back.

    step: told what is being done.
    """

    def __init__(
        self,
        session: AnySession,
        pid: int,
        interval: float,
        stop: Stop,
        step: Callable[[str], None],
    ) -> None:
        self._session = session
        self._pid = pid
        self._interval = interval
        self._stop = stop
        self._step = step
        self._began: float | None = None
        self._returned_ns = 0

    def next(self) -> tuple[Row, Iteration]:
        """One iteration, now. Raises what Session.iterate() raises."""
        self._step("collecting")
        if self._began is None:
            self._began = time.monotonic()
        iteration = self._session.iterate()
        now = time.monotonic_ns()
        window = now - self._returned_ns if self._returned_ns else None
        self._returned_ns = now
        return Row.of(iteration, window), iteration

    def wait(self) -> None:
        """Until the next iteration is due or the target has ended. Raises Interrupted."""
        self._step("waiting")
        with self._stop.allowed():
            if self._began is None or not self._interval:
                return
            passed = time.monotonic() - self._began
            due = (passed // self._interval + 1) * self._interval - passed
            if self._session.pids != [self._pid]:
                select.select([], [], [], due)
                return
            try:
                pidfd = os.pidfd_open(self._pid)
            except OSError:
                return  # ended: the next iteration says so, in better words
            try:
                select.select([pidfd], [], [], due)
            finally:
                os.close(pidfd)
