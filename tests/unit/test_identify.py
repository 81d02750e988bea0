"""Which pids are refused, with what words, and that a good one is named rightly.

Nothing is attached to here: `identify` only looks.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.victim import CACHE, TARGETS, Victim
from uffdtrackd import errors
from uffdtrackd.tracking import procfs
from uffdtrackd.tracking.identify import identify

Spawn = Callable[..., Victim]

NOBODY = 65534


def refuses(pid: object, kind: type[errors.TrackError], *words: str) -> errors.TrackError:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(kind) as caught:
        identify(pid)  # type: ignore[arg-type]
    assert os.listdir("/proc/self/fd") == before
    error = caught.value
    assert type(error) is kind
    text = f"{error.message} ({error.hint})"
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return error


def test_a_process(spawn: Spawn) -> None:
    idle = spawn("idle")
    identity = identify(idle.pid)
    try:
        assert (identity.pid, identity.live_tid, identity.uid) == (idle.pid, idle.pid, os.getuid())
        assert identity.name == Path(idle.argv[0]).name[:15]
        # Independent of our parser: ps and the kernel agree on the start time in ticks.
        text = Path(f"/proc/{idle.pid}/stat").read_text()
        assert identity.start_time == int(text.rsplit(") ", 1)[1].split(" ")[19])
        assert not os.get_inheritable(identity.pidfd)
        identity.check()
        idle.process.kill()
        with pytest.raises(errors.TargetGone):
            # Dead as soon as the signal is handled, which pidfds tell.
            poll = select.poll()
            poll.register(identity.pidfd, select.POLLIN)
            assert poll.poll(10_000)
            identity.check()
    finally:
        identity.close()
    idle.kill()


def test_exec_is_noticed(spawn_program: Callable[..., Victim]) -> None:
    shell = spawn_program("sh", "-c", "echo ready; read line; exec cat")
    identity = identify(shell.pid)
    try:
        identity.check()
        shell.send("go")
        assert shell.ask("echo") == "echo"
        with pytest.raises(errors.TargetExecuted):
            identity.check()
    finally:
        identity.close()


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 2**22 + 1, 2**31, 2**63, True, "1", 1.0, None])
def test_not_a_pid(pid: object) -> None:
    refuses(pid, errors.UsageError)


def test_no_such_pid() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    refuses(child.pid, errors.TargetGone, str(child.pid))


def test_ourselves() -> None:
    refuses(os.getpid(), errors.UsageError, "itself")


def test_a_thread_of_ours() -> None:
    known, done = threading.Event(), threading.Event()
    tids: list[int] = []

    def run() -> None:
        tids.append(threading.get_native_id())
        known.set()
        done.wait()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert known.wait(10)
        refuses(tids[0], errors.UsageError, "itself")
    finally:
        done.set()
        thread.join()


def test_a_thread_of_another(spawn: Spawn) -> None:
    odd = spawn("odd", "dead-leader")
    tid = int(odd.ask("where"))
    error = refuses(tid, errors.UsageError, "thread", str(odd.pid))
    assert error.pid == odd.pid


def test_dead_leader(spawn: Spawn) -> None:
    odd = spawn("odd", "dead-leader")
    tid = int(odd.ask("where"))
    identity = identify(odd.pid)
    try:
        assert tid != odd.pid
        assert identity.live_tid == tid
        identity.check()
        os.listdir(f"/proc/{identity.live_tid}/fd")
    finally:
        identity.close()
    odd.finish()


def test_zombie() -> None:
    child = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        refuses(child.pid, errors.TargetGone, "zombie", str(os.getpid()))
    finally:
        child.wait()


def test_kernel_thread() -> None:
    # kthreadd: the one kernel thread that has a fixed pid and never ends.
    if not procfs.read_stat(2).kernel_thread:
        pytest.skip("no kernel thread to be seen: /proc is of another pid namespace")
    refuses(2, errors.NotSupported, "kernel thread")


def assemble(name: str, flags: list[str], emulation: str) -> Path:
    program = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / f"{name}.o"
    subprocess.run(["as", *flags, str(TARGETS / "wait32.s"), "-o", str(made)], check=True)
    subprocess.run(["ld", "-m", emulation, str(made), "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize(
    ("word", "flags", "emulation"),
    [("32-bit", ["--32"], "elf_i386"), ("x32", ["--x32", "--defsym", "X32=1"], "elf32_x86_64")],
)
def test_32_bit(
    word: str, flags: list[str], emulation: str, spawn_program: Callable[..., Victim]
) -> None:
    program = assemble(f"wait-{emulation}", flags, emulation)
    try:
        victim = spawn_program(program)
    except OSError as error:
        pytest.skip(f"this kernel runs no {word} programs: {error.strerror}")
    refuses(victim.pid, errors.NotSupported, word, "64-bit")


def test_being_traced(spawn: Spawn, spawn_program: Callable[..., Victim]) -> None:
    idle = spawn("idle")
    # strace says so on stderr once it holds the process; sh turns that into a line of stdout.
    strace = spawn_program(
        "sh", "-c", f"exec strace -p {idle.pid} -o /dev/null 2>&1", ready="attached"
    )
    refuses(idle.pid, errors.BeingTraced, "strace", str(strace.pid))
    strace.kill()
    idle.finish()


def refused_to_nobody(pid: int) -> str:
    """What identify(pid) says to a process of user nobody."""
    code = (
        "import os, sys\n"
        "from uffdtrackd.tracking.identify import identify\n"
        "from uffdtrackd import errors\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"try: identify({pid})\n"
        "except errors.TrackError as e: print(type(e).__name__, e.message, '/', e.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_not_permitted(spawn: Spawn) -> None:
    idle = spawn("idle")
    said = refused_to_nobody(idle.pid)
    assert said.startswith("NotPermitted")
    assert "belongs to root" in said and f"uid {NOBODY}" in said and "CAP_SYS_PTRACE" in said

    # nobody's own, but not dumpable.
    odd = spawn("odd", "nodump", user=NOBODY, group=NOBODY)
    said = refused_to_nobody(odd.pid)
    assert said.startswith("NotPermitted") and "dumpable" in said
    odd.finish()
    idle.finish()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_own_process_of_a_user(spawn: Spawn) -> None:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    idle = spawn("idle", user=NOBODY, group=NOBODY)
    said = refused_to_nobody(idle.pid)
    if scope.exists() and scope.read_text().strip() != "0":
        assert "ptrace_scope" in said
    else:
        assert said == ""


def test_stopped_is_fine(spawn: Spawn) -> None:
    idle = spawn("idle")
    os.kill(idle.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, idle.pid, os.WSTOPPED | os.WNOWAIT)
    identity = identify(idle.pid)
    identity.close()
    assert procfs.read_stat(idle.pid).state == "T"
    os.kill(idle.pid, signal.SIGCONT)
    idle.finish()


def test_a_name_that_is_hard_to_read(spawn_program: Callable[..., Victim]) -> None:
    code = (
        r"open('/proc/self/comm', 'wb').write(b') R 1\n\xff (x'); print('ready', flush=True);"
        " input()"
    )
    python = spawn_program("python3", "-c", code)
    identity = identify(python.pid)
    identity.close()
    assert identity.name.startswith(") R 1")
    assert identity.start_time > 0


def test_a_process_without_ids_is_about_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Being reaped its Tgid reads 0: it is no thread of another process."""
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()
        status = procfs.read_status(os.getpid())
        monkeypatch.setattr(procfs, "read_status", lambda pid: replace(status, tgid=0))
        child.wait()
        with pytest.raises(errors.TargetGone):
            identify(child.pid)
