"""What a failure of the C floor becomes, by errno, step and what the process looks like now."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from tests.victim import Victim
from uffdtrackd import errors
from uffdtrackd.native.error import NativeError
from uffdtrackd.tracking import failure
from uffdtrackd.tracking.identify import Identity, identify

Spawn = Callable[..., Victim]


@pytest.fixture
def identity(spawn: Spawn) -> Iterator[Identity]:
    found = identify(spawn("idle").pid)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("step", "code", "kind", "word"),
    [
        ("UFFDIO_REGISTER", errno.ESRCH, errors.TargetExecuted, "exec"),
        ("PTRACE_SEIZE", errno.ESRCH, errors.TrackError, "thread has exited"),
        ("PTRACE_SEIZE", errno.EPERM, errors.NotPermitted, "PTRACE_SEIZE"),
        ("PTRACE_O_SUSPEND_SECCOMP", errno.EPERM, errors.NotPermitted, "CAP_SYS_ADMIN"),
        ("userfaultfd in the target", errno.EPERM, errors.NotPermitted, "/dev/userfaultfd"),
        ("waiting for the stop", errno.ETIMEDOUT, errors.TimedOut, "unharmed"),
        ("wait for io_uring to be idle", errno.ETIMEDOUT, errors.TimedOut, "request"),
        ("userfaultfd in the target", errno.EMFILE, errors.TrackError, "prlimit --pid"),
        ("choosing a thread", errno.EBUSY, errors.TimedOut, "system call"),
        ("UFFDIO_REGISTER", errno.EBUSY, errors.AlreadyTracked, "another userfaultfd"),
        ("UFFDIO_API", errno.ENOSYS, errors.NotSupported, "uffdtrack check"),
        ("socketpair", errno.EMFILE, errors.TrackError, "ulimit -n"),
        ("mmap in the target", errno.ENOMEM, errors.TrackError, "mmap in the target at 0x1000"),
        ("a check of ours", 0, errors.TrackError, "a check of ours"),
    ],
)
def test_kinds(
    identity: Identity, step: str, code: int, kind: type[errors.TrackError], word: str
) -> None:
    raw = NativeError(step, code, identity.pid, 0x1000 if code == errno.ENOMEM else 0)
    with pytest.raises(kind) as caught, failure.translated(identity):
        raise raw
    error = caught.value
    assert type(error) is kind
    assert error.__cause__ is raw
    assert error.pid == identity.pid
    text = f"{error.message} ({error.hint})"
    assert word in text and str(identity.pid) in text and "\n" not in text


def test_a_thread_is_named(identity: Identity) -> None:
    error = failure.explain(NativeError("PTRACE_CONT", errno.EIO, 4242), identity)
    assert "thread 4242" in error.message


def test_what_cannot_be_read_has_its_place_and_a_hint(identity: Identity) -> None:
    failed = NativeError("read the target's memory", errno.EFAULT, identity.pid, 0x5000, 0x1000)
    error = failure.explain(failed, identity)
    assert (error.start, error.end) == (0x5000, 0x6000)
    assert "at 0x5000" in error.message and "proc_mem.force_override" in error.hint


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EPERM, errno.ETIMEDOUT, errno.EIO, 0])
def test_gone_comes_first(spawn: Spawn, code: int) -> None:
    idle = spawn("idle")
    identity = identify(idle.pid)
    try:
        idle.process.kill()
        idle.process.wait()
        error = failure.explain(NativeError("PTRACE_SEIZE", code, idle.pid), identity)
        assert type(error) is errors.TargetGone
    finally:
        identity.close()


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EPERM, errno.EFAULT])
def test_exec_comes_first(spawn_program: Callable[..., Victim], code: int) -> None:
    shell = spawn_program("sh", "-c", "echo ready; read line; exec cat")
    identity = identify(shell.pid)
    try:
        shell.send("go")
        assert shell.ask("echo") == "echo"
        error = failure.explain(NativeError("PAGEMAP_SCAN", code, shell.pid), identity)
        assert type(error) is errors.TargetExecuted
    finally:
        identity.close()


def test_tracer_comes_before_permission(
    identity: Identity, spawn_program: Callable[..., Victim]
) -> None:
    spawn_program("sh", "-c", f"exec strace -p {identity.pid} -o /dev/null 2>&1", ready="attached")
    for code in (errno.EPERM, errno.EBUSY):
        error = failure.explain(NativeError("PTRACE_SEIZE", code, identity.pid), identity)
        assert type(error) is errors.BeingTraced
        assert "strace" in error.message


def test_vfork_is_named(spawn: Spawn) -> None:
    odd = spawn("odd", "vfork")
    identity = identify(odd.pid)
    try:
        error = failure.explain(NativeError("stop", errno.ETIMEDOUT, odd.pid), identity)
        assert type(error) is errors.TimedOut
        assert "vfork" in error.message
    finally:
        identity.close()


def test_our_own_errors_pass(identity: Identity) -> None:
    with pytest.raises(errors.TargetGone, match="mine"), failure.translated(identity):
        raise errors.TargetGone("mine")
