"""What tracking uses of a machine: how each thing is tried, and what is lost where it is missing.

    TABLE row --native.probe--> works, or the step that failed --> Capability

`needed_by` names the backends that do nothing without it; those whose needs are all met can be
used, and the first of BACKENDS is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..native.probe import Probe

#: In order of preference: the first costs the target a microsecond a page, and never waits for us.
BACKENDS = ("async", "sync")

EVERY = BACKENDS
ASYNC = ("async",)
SYNC = ("sync",)


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that tracking uses.

    name: for programs. title: for people. works: it was done. needed: nothing can be tracked
    without it. needed_by: backends that cannot do without it. how: what was done to find out.
    detail: how it failed, or what was found. without: what is lost where it does not work, or
    what to change.
    """

    name: str
    title: str
    works: bool
    needed: bool
    needed_by: tuple[str, ...]
    how: str
    detail: str
    without: str


@dataclass(frozen=True, slots=True)
class Row:
    """What is tried for a capability; the words are those of Capability."""

    name: str
    probe: Probe
    title: str
    needed_by: tuple[str, ...]
    how: str
    without: str


TABLE: tuple[Row, ...] = (
    Row(
        "ptrace",
        Probe.PTRACE,
        "stop a thread of another process",
        EVERY,
        "a child was seized, stopped and let go",
        "allow ptrace in the seccomp filter, and CAP_SYS_PTRACE, of this container or service",
    ),
    Row(
        "pidfd_getfd",
        Probe.PIDFD_GETFD,
        "take a file descriptor from another process",
        EVERY,
        "a descriptor was copied out of a child",
        "allow pidfd_open and pidfd_getfd (Linux 5.6) in the seccomp filter",
    ),
    Row(
        "read_memory",
        Probe.READ_MEMORY,
        "read the memory of another process",
        (),
        "some bytes of a child were read and compared",
        "Session.read and `verify` do not work; allow process_vm_readv",
    ),
    Row(
        "userfaultfd_user_mode",
        Probe.UFFD_USER_MODE,
        "make a userfaultfd for user mode",
        ASYNC,
        "one was made, with UFFD_USER_MODE_ONLY",
        "needs Linux 5.11 with CONFIG_USERFAULTFD, and userfaultfd allowed by the seccomp filter",
    ),
    Row(
        "wp_async",
        Probe.WP_ASYNC,
        "let the kernel note writes by itself (asynchronous write protection)",
        ASYNC,
        "a userfaultfd was asked for UFFD_FEATURE_WP_ASYNC",
        "needs Linux 6.7 with CONFIG_PTE_MARKER_UFFD_WP",
    ),
    Row(
        "private_file",
        Probe.PRIVATE_FILE,
        "protect private mappings of files",
        ASYNC,
        "a private mapping of our own program was registered",
        "needs Linux 6.7: programs and libraries keep their data in such mappings",
    ),
    Row(
        "pagemap_scan",
        Probe.PAGEMAP_SCAN,
        "ask which pages were written (PAGEMAP_SCAN)",
        ASYNC,
        "two pages were protected, one was written, and exactly that one was found",
        "needs Linux 6.7",
    ),
    Row(
        "empty_huge_page",
        Probe.EMPTY_HUGE_PAGE,
        "see huge pages that the target gave back",
        (),
        "memory without a page table was registered, and reported as written",
        "slower: every 2 MiB that had pages are looked at in each iteration "
        "(fixed in Linux 6.12.103, 6.18.44)",
    ),
    Row(
        "special_refused",
        Probe.SPECIAL_REFUSED,
        "be refused what must not be protected (vdso, rings, devices)",
        (),
        "registering our own vdso was refused",
        "slower: /proc/PID/smaps is read when mappings come (fixed in Linux 6.12.105)",
    ),
    Row(
        "wp_sync",
        Probe.WP_SYNC,
        "answer writes by ourselves (synchronous write protection)",
        SYNC,
        "a page was protected, its writer was stopped, reported, and let go",
        "no sync backend, which kernels before 6.7 need; run as root (Linux 5.7)",
    ),
    Row(
        "userfaultfd",
        Probe.UFFD,
        "make a userfaultfd for kernel mode too",
        (),
        "one was made, without UFFD_USER_MODE_ONLY",
        "the sync backend needs this or /dev/userfaultfd; CAP_SYS_PTRACE, or "
        "vm.unprivileged_userfaultfd=1",
    ),
    Row(
        "dev_userfaultfd",
        Probe.UFFD_DEVICE,
        "use /dev/userfaultfd",
        (),
        "it was opened, and made a userfaultfd",
        "targets whose seccomp filter forbids userfaultfd may be refused; run as root (Linux 6.1)",
    ),
    Row(
        "suspend_seccomp",
        Probe.SUSPEND_SECCOMP,
        "attach to targets with a strict seccomp filter",
        (),
        "a child with a filter was seized with PTRACE_O_SUSPEND_SECCOMP",
        "needs CAP_SYS_ADMIN and no seccomp filter on the tracker itself",
    ),
    Row(
        "map_files",
        Probe.MAP_FILES,
        "look behind shared mappings (/proc/PID/map_files)",
        (),
        "a mapping of a memfd was opened by its address",
        "holes in deleted or shared memory are not seen as discarded; CAP_CHECKPOINT_RESTORE",
    ),
)
