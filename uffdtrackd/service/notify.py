"""The talk with the service manager (systemd), or with nobody where there is none.

    systemd --LISTEN_FDS, LISTEN_FDNAMES--> inherited()   the listening socket, stored descriptors
            --WATCHDOG_USEC---------------> watchdog      how often it wants to hear from us
            <--NOTIFY_SOCKET-- ready, status, reloading, stopping, extend, alive, store, drop

Facts: sd_notify(3), sd_listen_fds(3), systemd's FILE_DESCRIPTOR_STORE. Type=notify-reload would
need systemd 253, so the unit has Type=notify and ExecReload=kill -HUP; RELOADING=1 with
MONOTONIC_USEC suits both.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterable, Mapping

from ..model.errors import NotSupported
from .libsystemd import daemon

# Systemd gives at most this long for what it was sent (sd_notify_barrier).
_BARRIER_SECONDS = 5.0
_PASSED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


class Manager:
    """The service manager that started this process. Every method is harmless without one."""

    def __init__(self) -> None:
        self.present = "NOTIFY_SOCKET" in os.environ
        if daemon is None and (self.present or _passed_to_us()):
            raise NotSupported(
                "started by systemd, but the Python package systemd-python is not installed",
                hint="install uffdtrackd with its extra `systemd`, or Debian's python3-systemd",
            )
        #: Seconds between two signs of life that are asked for; None: no watchdog.
        self.watchdog = _watchdog(os.environ)

    def inherited(self) -> dict[str, list[int]]:
        """Name --> descriptors that systemd passed: the socket "control" and the fd store.

        They are closed on exec from here on, and the variables are gone: a child has no use for
        either. Call it once.
        """
        found: dict[str, list[int]] = {}
        if daemon is None:
            return found
        for fd, name in daemon.listen_fds_with_names(True).items():
            os.set_inheritable(fd, False)
            found.setdefault(name, []).append(fd)
        for name in _PASSED:  # the library took them from C's environment, not from Python's
            os.environ.pop(name, None)
        return found

    def ready(self, status: str) -> None:
        """Startup, or a reload, is over."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1", f"STATUS={_line(status)}")

    def extend(self, seconds: float) -> None:
        """Asks for more time to start or to stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """A sign of life for the watchdog."""
        self._send("WATCHDOG=1")

    def store(self, name: str, fds: Iterable[int]) -> bool:
        """Gives copies of descriptors to the store, under one name; False without a manager.

        FDPOLL=0: systemd would drop a descriptor that polls as error or hang-up, as a
        userfaultfd may and a pidfd of a process that ended does. We want to say ourselves what
        went away.
        """
        if not name or len(name) > 255 or ":" in name or not name.isprintable():
            raise ValueError(f"{name!r} is not a name for the store")
        return self._send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=list(fds))

    def drop(self, name: str) -> None:
        """Takes everything of that name out of the store; it is closed there."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def barrier(self) -> bool:
        """Waits until systemd has read all of the above; False if it did not, or is not there."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            sent = self._send("BARRIER=1", fds=[write])
            os.close(write)
            write = -1
            if not sent:
                return False
            waiting = select.poll()
            waiting.register(read, 0)
            return bool(waiting.poll(_BARRIER_SECONDS * 1000))
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)

    def _send(self, *lines: str, fds: list[int] | None = None) -> bool:
        if daemon is None or not self.present:
            return False
        # A manager that is restarting itself, or a full queue, is no reason for us to fail.
        try:
            more = {"fds": fds} if fds else {}
            return bool(daemon.notify("\n".join(lines), **more))
        except OSError:
            return False


def is_listener(fd: int) -> bool:
    """Whether a descriptor is a listening UNIX stream socket, as the unit's must be."""
    try:
        with socket.socket(fileno=os.dup(fd)) as one:
            kind = (one.family, one.type)
            listening = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return False
    return kind == (socket.AF_UNIX, socket.SOCK_STREAM) and bool(listening)


def _passed_to_us() -> bool:
    return os.environ.get("LISTEN_PID") == str(os.getpid())


def _watchdog(environment: Mapping[str, str]) -> float | None:
    # Not for us if it names another process: systemd-python leaves that check to the caller.
    pid = environment.get("WATCHDOG_PID")
    if pid not in (None, "", str(os.getpid())):
        return None
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 2e6 if microseconds > 0 else None


def _line(text: str) -> str:
    """A line break would end the field and begin another."""
    return " ".join(text.split())
