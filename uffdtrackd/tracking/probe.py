"""What can be tracked on this machine, by us, now; and what to change where it cannot.

    native.probe (does each thing once) --+
    Yama, architecture -------------------+--> Capability for each, and the backend they allow

Versions are not compared: stable kernels carry fixes their number does not promise, and
containers forbid what their kernel can do.
"""

from __future__ import annotations

import errno
import os
import platform
from dataclasses import dataclass

from ..native.error import NativeError
from ..native.probe import Probe, probe
from .permission import yama_scope


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that tracking uses.

    name: for programs. title: for people. works: it was done. needed: nothing can be tracked
    without it. detail: how it failed, or what was found. without: what is lost where it does
    not work, or what to change.
    """

    name: str
    title: str
    works: bool
    needed: bool
    detail: str
    without: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. backend: what attach(backend="auto") takes here, None if nothing can."""

    kernel: str
    machine: str
    page_size: int
    user: int
    capabilities: tuple[Capability, ...]
    backend: str | None


# (name, what is tried, title, needed, what is lost or what to change)
_TABLE: tuple[tuple[str, Probe, str, bool, str], ...] = (
    (
        "ptrace",
        Probe.PTRACE,
        "stop a thread of another process",
        True,
        "allow ptrace in the seccomp filter, and CAP_SYS_PTRACE, of this container or service",
    ),
    (
        "pidfd_getfd",
        Probe.PIDFD_GETFD,
        "take a file descriptor from another process",
        True,
        "allow pidfd_open and pidfd_getfd (Linux 5.6) in the seccomp filter",
    ),
    (
        "read_memory",
        Probe.READ_MEMORY,
        "read the memory of another process",
        False,
        "Session.read and `verify` do not work; allow process_vm_readv",
    ),
    (
        "userfaultfd_user_mode",
        Probe.UFFD_USER_MODE,
        "make a userfaultfd for user mode",
        True,
        "needs Linux 5.11 with CONFIG_USERFAULTFD, and userfaultfd allowed by the seccomp filter",
    ),
    (
        "wp_async",
        Probe.WP_ASYNC,
        "let the kernel note writes by itself (asynchronous write protection)",
        True,
        "needs Linux 6.7 with CONFIG_PTE_MARKER_UFFD_WP",
    ),
    (
        "private_file",
        Probe.PRIVATE_FILE,
        "protect private mappings of files",
        True,
        "needs Linux 6.7: programs and libraries keep their data in such mappings",
    ),
    (
        "pagemap_scan",
        Probe.PAGEMAP_SCAN,
        "ask which pages were written (PAGEMAP_SCAN)",
        True,
        "needs Linux 6.7",
    ),
    (
        "empty_huge_page",
        Probe.EMPTY_HUGE_PAGE,
        "see huge pages that the target gave back",
        False,
        "slower: what is populated is compared from one iteration to the next",
    ),
    (
        "userfaultfd",
        Probe.UFFD,
        "make a userfaultfd for kernel mode too",
        False,
        "only the sync backend needs it; CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1",
    ),
    (
        "dev_userfaultfd",
        Probe.UFFD_DEVICE,
        "use /dev/userfaultfd",
        False,
        "targets whose seccomp filter forbids userfaultfd may be refused; run as root (Linux 6.1)",
    ),
    (
        "suspend_seccomp",
        Probe.SUSPEND_SECCOMP,
        "attach to targets with a strict seccomp filter",
        False,
        "needs CAP_SYS_ADMIN and no seccomp filter on the tracker itself",
    ),
    (
        "map_files",
        Probe.MAP_FILES,
        "look behind shared mappings (/proc/PID/map_files)",
        False,
        "holes in deleted or shared memory are not seen as discarded; CAP_CHECKPOINT_RESTORE",
    ),
)

_YAMA = {
    0: "0: every process of the same user",
    1: "1: only children, unless privileged",
    2: "2: only with CAP_SYS_PTRACE",
    3: "3: nobody",
}


def report() -> Report:
    """Tries everything; takes a few milliseconds."""
    found = [_architecture(), *(_tried(*row) for row in _TABLE), _yama()]
    usable = all(one.works for one in found if one.needed)
    return Report(
        kernel=platform.release(),
        machine=platform.machine(),
        page_size=os.sysconf("SC_PAGE_SIZE"),
        user=os.geteuid(),
        capabilities=tuple(found),
        backend="async" if usable else None,
    )


def _tried(name: str, which: Probe, title: str, needed: bool, without: str) -> Capability:
    failure = probe(which)
    detail = "" if failure is None else _detail(failure)
    return Capability(name, title, failure is None, needed, detail, without)


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
        f"kernel.yama.ptrace_scope is {_YAMA.get(scope, str(scope))}",
        "run as root, or set kernel.yama.ptrace_scope=0",
    )
