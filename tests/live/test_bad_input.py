"""What cannot be tracked is refused in one line with a hint, and is left as it was.

And the other half: what only looks as if it could not be tracked is, and is left as it was too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.footprint import footprint, state, tracer
from tests.live.strike import injected
from tests.victim import CACHE, TARGETS, Victim, build
from uffdtrackd import errors
from uffdtrackd.native.error import NativeError
from uffdtrackd.tracking.attach import open_target

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]
Attach = Callable[[int], object]

NOBODY = 65534


def by_target(pid: int) -> None:
    open_target(pid, deadline=1).close()


def by_session(pid: int) -> None:
    uffdtrackd.attach(pid).close()


ways = pytest.mark.parametrize("attach", [by_target, by_session], ids=["target", "session"])


def refuses(attach: Attach, pid: int, kind: type[errors.TrackError], *words: str) -> None:
    """In the right class, with the right words, in one line, with a hint."""
    with pytest.raises(errors.TrackError) as caught:
        attach(pid)
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.message and "\n" not in error.message + error.hint
    text = f"{error.message} ({error.hint})"
    for word in words:
        assert word in text, text


@ways
def test_nothing_there(attach: Attach) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    refuses(attach, child.pid, errors.TargetGone, str(child.pid))
    for pid in (0, -1, 1 << 22 | 1, 1 << 40):
        refuses(attach, pid, errors.UsageError, "pid")


@ways
def test_zombie(attach: Attach) -> None:
    child = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        refuses(attach, child.pid, errors.TargetGone, "zombie", str(os.getpid()))
        assert state(child.pid) == "Z"
    finally:
        assert child.wait() == 0


@ways
def test_ourselves(attach: Attach) -> None:
    refuses(attach, os.getpid(), errors.UsageError, "itself")


@ways
def test_kernel_thread(attach: Attach) -> None:
    if not Path("/proc/2/comm").exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("no kernel thread to be seen: /proc is of another pid namespace")
    refuses(attach, 2, errors.NotSupported, "kernel thread")


def start_32_bit(spawn_program: Callable[..., Victim], name: str, *options: str) -> Victim:
    CACHE.mkdir(parents=True, exist_ok=True)
    made, program = CACHE / f"{name}.o", CACHE / name
    subprocess.run(["as", "--32", *options, TARGETS / "wait32.s", "-o", made], check=True)
    subprocess.run(["ld", "-m", "elf_i386", made, "-o", program], check=True)
    try:
        return spawn_program(program)
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error.strerror}")


def test_32_bit_code_at_the_stop(spawn_program: Callable[..., Victim]) -> None:
    """As of a 64-bit program that runs such code now and then: known when it has stopped."""
    victim = start_32_bit(spawn_program, "spin32", "--defsym", "SPIN=1")
    before = footprint(victim.pid)
    for _ in range(5):
        with pytest.raises(NativeError, match="read the registers"):
            injected(victim.pid)
    assert before.differences(footprint(victim.pid)) == []
    assert victim.alive()


@ways
def test_32_bit(spawn_program: Callable[..., Victim], attach: Attach) -> None:
    victim = start_32_bit(spawn_program, "wait32")
    while state(victim.pid) != "S":
        os.sched_yield()
    before = footprint(victim.pid)
    refuses(attach, victim.pid, errors.NotSupported, "32-bit")
    assert before.differences(footprint(victim.pid)) == []
    assert state(victim.pid) == "S"


@ways
@pytest.mark.parametrize("debugger", ["strace", "gdb"])
def test_being_traced(
    spawn: Spawn, spawn_program: Callable[..., Victim], debugger: str, attach: Attach
) -> None:
    idle = spawn("idle")
    command = {
        "strace": "exec strace -f -p $0 -o /dev/null 2>&1",
        "gdb": "exec gdb -nx -q -batch -p $0 -ex continue 2>&1",
    }
    tool = spawn_program("sh", "-c", command[debugger], idle.pid, ready="")
    while tracer(idle.pid) != tool.pid or state(idle.pid) != "S":
        assert tool.alive(), tool.line()
        os.sched_yield()
    before = footprint(idle.pid)
    refuses(attach, idle.pid, errors.BeingTraced, debugger, str(tool.pid), "detach")
    assert before.differences(footprint(idle.pid)) == []
    assert tracer(idle.pid) == tool.pid
    assert idle.ask("hello") == "hello"
    # Killed tracers let go.
    tool.kill()
    attach(idle.pid)
    idle.finish()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_no_permission(spawn: Spawn) -> None:
    idle = spawn("idle")
    before = footprint(idle.pid)
    code = (
        # All of it now: the other user may not be able to read where Python lives.
        "import os, uffdtrackd, uffdtrackd.tracking.session\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try:\n"
        f"    uffdtrackd.attach({idle.pid})\n"
        "except uffdtrackd.errors.TrackError as error:\n"
        "    print(type(error).__name__, error.exit_code, error.message, error.hint, sep='|')\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    kind, code_, message, hint = said.splitlines()[0].split("|")
    assert (kind, code_) == ("NotPermitted", "5")
    assert str(idle.pid) in message and "root" in message and "CAP_SYS_PTRACE" in hint
    assert len(said.splitlines()) == 1
    assert before.differences(footprint(idle.pid)) == []
    idle.finish()


def test_already_tracked(spawn: Spawn) -> None:
    idle = spawn("idle")
    before = footprint(idle.pid)
    with uffdtrackd.attach(idle.pid) as session:
        session.iterate()
        refuses(by_session, idle.pid, errors.AlreadyTracked, str(idle.pid))
        # The first goes on as if nobody had knocked.
        assert idle.ask("hello") == "hello"
        assert session.iterate().number == 1
    assert before.differences(footprint(idle.pid)) == []
    by_session(idle.pid)
    idle.finish()


ODD = ["dead-leader", "nodump", "strict", "filter", "fds", "space"]


@pytest.mark.parametrize("kind", ODD)
def test_odd_but_good(spawn: Spawn, kind: str) -> None:
    """Dead leader, not dumpable, behind seccomp, at its limits: tracked, and then as before."""
    odd = spawn("odd", kind)
    before = footprint(odd.pid)
    for _ in range(3):
        with uffdtrackd.attach(odd.pid) as session:
            assert session.iterate().processes[odd.pid].dirty
            with session.frozen():
                assert session.iterate().frozen
        assert before.differences(footprint(odd.pid)) == []
    odd.finish()


def test_no_descriptor_left(spawn: Spawn) -> None:
    """The hard limit too: that is for CAP_SYS_RESOURCE to raise, which not every root has."""
    odd = spawn("odd", "hard-fds")
    before = footprint(odd.pid)
    try:
        by_session(odd.pid)
    except errors.TrackError as error:
        assert "descriptor" in error.message and f"prlimit --pid {odd.pid}" in error.hint
    assert before.differences(footprint(odd.pid)) == []
    odd.finish()


def test_stopped_is_tracked_and_stays_stopped(spawn: Spawn) -> None:
    idle = spawn("idle")
    os.kill(idle.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, idle.pid, os.WSTOPPED | os.WNOWAIT)
    before = footprint(idle.pid)
    for _ in range(3):
        with uffdtrackd.attach(idle.pid) as session:
            assert session.iterate().processes[idle.pid].dirty
            with session.frozen():
                assert session.iterate().frozen
        # It goes back into its stop by itself, which takes it a moment.
        while (now := state(idle.pid)) != "T":
            assert now in "tR"
            os.sched_yield()
        assert before.differences(footprint(idle.pid)) == []
    os.kill(idle.pid, signal.SIGCONT)
    idle.finish()


def test_vfork_parent(spawn: Spawn) -> None:
    """One thread waits in vfork(): it cannot be stopped, but another can be attached to."""
    odd = spawn("odd", "vfork")
    with uffdtrackd.attach(odd.pid) as session:
        assert session.iterate().processes[odd.pid].dirty
        with pytest.raises(errors.TimedOut, match="vfork"), session.frozen(deadline=0.1):
            pass
        # Not frozen, but tracked all the same.
        assert not session.iterate().frozen
    odd.finish()


@pytest.mark.parametrize("frozen", [False, True])
def test_killed_under_us(spawn: Spawn, frozen: bool) -> None:
    idle = spawn("idle")
    with uffdtrackd.attach(idle.pid) as session:
        session.iterate()
        if frozen:
            with session.frozen():
                os.kill(idle.pid, signal.SIGKILL)
                idle.process.wait()
                with pytest.raises(errors.TargetGone):
                    session.iterate()
        else:
            os.kill(idle.pid, signal.SIGKILL)
            idle.process.wait()
        with pytest.raises(errors.TargetGone, match=str(idle.pid)):
            session.iterate()
        with pytest.raises(errors.TargetGone), session.frozen():
            pass


_WITHOUT_ADMIN = """
import sys, uffdtrackd
try:
    uffdtrackd.attach(int(sys.argv[1])).close()
except uffdtrackd.errors.NotPermitted as error:
    print("refused:", error.message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="to choose one's groups takes root")
@pytest.mark.parametrize("count", [1, 2000])
def test_behind_a_filter_that_we_may_not_suspend(spawn_program: Spawn, count: int) -> None:
    """It would be killed for a call of ours; its groups come before its filter in /proc."""
    groups = ",".join(str(4_000_000_000 + one) for one in range(count))
    odd = spawn_program("setpriv", "--groups", groups, build("odd"), "filter")
    before = footprint(odd.pid)
    drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    code = [sys.executable, "-c", _WITHOUT_ADMIN, str(odd.pid)]
    said = subprocess.run([*drop, *code], capture_output=True, text=True, check=True)
    assert "has a seccomp filter" in said.stdout
    assert before.differences(footprint(odd.pid)) == []
    odd.finish()
