"""What this machine lets us do, found out by doing it; the face of c/probe.c."""

from __future__ import annotations

from enum import IntEnum

from ._native import lib
from .error import NativeError, new_error, raised


class Probe(IntEnum):
    """What can be tried; c/probe.c says how."""

    PIDFD_GETFD = lib.UT_PROBE_PIDFD_GETFD
    PTRACE = lib.UT_PROBE_PTRACE
    SUSPEND_SECCOMP = lib.UT_PROBE_SUSPEND_SECCOMP
    READ_MEMORY = lib.UT_PROBE_READ_MEMORY
    MAP_FILES = lib.UT_PROBE_MAP_FILES
    UFFD = lib.UT_PROBE_UFFD
    UFFD_USER_MODE = lib.UT_PROBE_UFFD_USER_MODE
    UFFD_DEVICE = lib.UT_PROBE_UFFD_DEVICE
    WP_ASYNC = lib.UT_PROBE_WP_ASYNC
    PRIVATE_FILE = lib.UT_PROBE_PRIVATE_FILE
    PAGEMAP_SCAN = lib.UT_PROBE_PAGEMAP_SCAN
    EMPTY_HUGE_PAGE = lib.UT_PROBE_EMPTY_HUGE_PAGE
    WP_SYNC = lib.UT_PROBE_WP_SYNC
    SPECIAL_REFUSED = lib.UT_PROBE_SPECIAL_REFUSED


#: The step of a failure that says nothing of the machine: it took too long, or was killed.
DIED = "the probe died or hung"


def probe(which: Probe) -> NativeError | None:
    """Tries it in a child process, within seconds; None if it works, else why it does not."""
    error = new_error()
    return raised(error) if lib.ut_probe(which, error) else None
