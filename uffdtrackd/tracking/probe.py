"""What can be tracked on this machine, by us, now; and what to change where it cannot.

    native.probe (does each thing once) --+
    architecture -------------------------+--> remembered until the next boot
    Yama, read each time -----------------+--> Capability for each, and the backend they allow

Versions are not compared: stable kernels carry fixes their number does not promise, and
containers forbid what their kernel can do.
"""

from __future__ import annotations

import errno
import os
import platform
from dataclasses import asdict, dataclass
from functools import cache

from ..native.error import NativeError
from ..native.probe import DIED, probe
from . import remembered
from .capability import BACKENDS, EVERY, TABLE, Capability, Row
from .permission import yama_scope


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. backend: what attach(backend="auto") takes here, None if nothing can.

    remembered: nothing was tried now: it was by an earlier process in this boot.
    """

    kernel: str
    machine: str
    page_size: int
    user: int
    capabilities: tuple[Capability, ...]
    backend: str | None
    remembered: bool


_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EBUSY)

_YAMA = {
    0: "0: every process of the same user",
    1: "1: only children, unless privileged",
    2: "2: only with CAP_SYS_PTRACE",
    3: "3: nobody",
}


def report(afresh: bool = True) -> Report:
    """Everything; takes some milliseconds where it has to be tried.

    afresh: try it in any case. What is found is kept for others, see `remembered`.
    """
    tried = None if afresh else _recalled()
    known = tried is not None
    if tried is None:
        failures = [(row, probe(row.probe)) for row in TABLE]
        tried = tuple(_tried(row, failure) for row, failure in failures)
        if all(failure is None or _lasting(failure) for _, failure in failures):
            remembered.keep([asdict(one) for one in tried])
    found = (_architecture(), *tried, _yama())
    return Report(
        kernel=platform.release(),
        machine=platform.machine(),
        page_size=os.sysconf("SC_PAGE_SIZE"),
        user=os.geteuid(),
        capabilities=found,
        backend=next((name for name in BACKENDS if _usable(name, found)), None),
        remembered=known,
    )


def works(name: str) -> bool:
    """Whether the capability `name` is there, by what is known of this boot and of our rights."""
    return name in _working(remembered.rights())


@cache
def _working(rights: tuple[str, ...]) -> frozenset[str]:
    """rights: what it depends on, so that a process that drops its own asks again."""
    return frozenset(one.name for one in report(afresh=False).capabilities if one.works)


def _usable(backend: str, found: tuple[Capability, ...]) -> bool:
    return all(one.works for one in found if backend in one.needed_by)


def _recalled() -> tuple[Capability, ...] | None:
    """What an earlier process found; None if nobody did, or it was not about the same things."""
    kept = remembered.recall()
    if kept is None:
        return None
    try:
        found = tuple(Capability(**{**one, "needed_by": tuple(one["needed_by"])}) for one in kept)
    except (TypeError, KeyError):
        return None
    if [one.name for one in found] != [row.name for row in TABLE]:
        return None
    return found


def _lasting(failure: NativeError) -> bool:
    """Whether it would fail again: not for want of memory, descriptors or time."""
    if not failure.errno:
        return failure.step != DIED
    return failure.errno not in _PASSING


def _tried(row: Row, failure: NativeError | None) -> Capability:
    return Capability(
        row.name,
        row.title,
        failure is None,
        row.needed_by == EVERY,
        row.needed_by,
        row.how,
        "" if failure is None else _detail(failure),
        row.without,
    )


def _detail(failure: NativeError) -> str:
    if not failure.errno:
        return f"{failure.step}: it did not"
    return f"{failure.step}: {errno.errorcode.get(failure.errno, '?')}, {failure.strerror}"


def _architecture() -> Capability:
    machine = platform.machine()
    return Capability(
        "architecture",
        "run on an architecture that code can be injected on",
        machine == "x86_64",
        True,
        EVERY,
        "the kernel was asked (uname)",
        machine,
        "x86_64 only for now",
    )


def _yama() -> Capability:
    scope = yama_scope()
    # CAP_SYS_PTRACE lifts 1 and 2; what is asked is whether an ordinary attach would work.
    free = scope == 0 or (scope < 3 and os.geteuid() == 0)
    return Capability(
        "yama",
        "attach to processes that are not our children (Yama)",
        free,
        False,
        (),
        "kernel.yama.ptrace_scope was read",
        f"kernel.yama.ptrace_scope is {_YAMA.get(scope, str(scope))}",
        "run as root, or set kernel.yama.ptrace_scope=0",
    )
