"""An injection brings a userfaultfd of the target and leaves no trace in it."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

import pytest

from tests.live.strike import Watched, bring, injected
from tests.procfs import read_maps
from tests.victim import Victim
from uffdtrackd.native.inject import Method

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]

KINDS = ("spin", "epoll", "nanosleep", "futex", "poll", "read")
both = pytest.mark.parametrize(
    "method", [Method.CALL, Method.PARASITE], ids=lambda method: method.name.lower()
)

# linux/userfaultfd.h: requests, and struct uffdio_api, struct uffdio_register.
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
WP_ASYNC, MODE_WP = 1 << 15, 2


@both
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes(spawn: Spawn, kind: str, method: Method) -> None:
    target = Watched(spawn, kind)
    for _ in range(30):
        found = injected(target.pid, target.tid, method)
        assert found.tid == target.tid
        assert found.method is method
        assert found.user_mode_only == (method is Method.CALL)
        assert found.stopped_ns > 0
    target.unharmed()
    target.victim.finish()


@both
def test_the_userfaultfd_is_of_the_target(spawn: Spawn, method: Method) -> None:
    """A range that only the target has mapped can be registered with it."""
    target = Watched(spawn, "spin")
    heap = next(vma for vma in read_maps(target.pid) if vma.label == "[heap]")
    assert not any(vma.start <= heap.start < vma.end for vma in read_maps(os.getpid()))
    uffd = bring(target.pid, method=method).uffd
    try:
        assert os.readlink(f"/proc/self/fd/{uffd}") == "anon_inode:[userfaultfd]"
        assert fcntl.fcntl(uffd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert fcntl.fcntl(uffd, fcntl.F_GETFL) & os.O_NONBLOCK
        # Not called yet: a second UFFDIO_API would be EINVAL.
        fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", 0xAA, WP_ASYNC, 0))
        register = struct.pack("QQQQ", heap.start, heap.end - heap.start, MODE_WP, 0)
        fcntl.ioctl(uffd, UFFDIO_REGISTER, register)
    finally:
        os.close(uffd)
    target.unharmed()
    target.victim.finish()


def test_kernel_faults_without_privilege(spawn: Spawn) -> None:
    """A target that may not make one that sees them gets it through the parasite."""
    nobody = spawn("idle", user=65534, group=65534)
    found = injected(nobody.pid, kernel_faults=True)
    assert (found.method, found.user_mode_only) == (Method.PARASITE, False)
    found = injected(nobody.pid)
    assert (found.method, found.user_mode_only) == (Method.CALL, True)
    nobody.finish()
    root = spawn("idle")
    found = injected(root.pid, kernel_faults=True)
    assert (found.method, found.user_mode_only) == (Method.CALL, False)
    root.finish()
