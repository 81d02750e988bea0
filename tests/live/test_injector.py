"""The process that injects: small, alone, and a fork of the tracker where it cannot be a program.

tracker (a thread of pytest) --> minder --> uffd-inject --> target
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.footprint import state, traced
from tests.live.held import held_at, programs
from tests.live.strike import Watched, injected, killed
from tests.puppet import Puppet
from tests.slowfile import SlowFile
from tests.victim import Victim
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.inject import HELPER, Point

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]

_KEEPCAPS = 8  # linux/prctl.h
_CAPGET, _CAPSET = 125, 126  # asm/unistd_64.h
_VERSION_3 = 0x20080522  # linux/capability.h

_libc = ctypes.CDLL(None, use_errno=True)


class Waiting:
    """An injection that waits for a thread which cannot be stopped, until its time is over.

    minder, program: pids. error: what came of it, when it has ended.
    """

    def __init__(self, spawn: Spawn, deadline: float) -> None:
        self.target = spawn("odd", "vfork")
        self.error: NativeError | None = None
        tids = [int(name) for name in os.listdir(f"/proc/{self.target.pid}/task")]
        self._tid = next(tid for tid in tids if state(self.target.pid, tid) == "D")
        self._deadline = deadline
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        while not (found := programs()):
            os.sched_yield()
        self.minder, self.program = found[0]

    def _run(self) -> None:
        try:
            injected(self.target.pid, self._tid, deadline=self._deadline)
        except NativeError as error:
            self.error = error

    def end(self) -> NativeError:
        self.thread.join(30)
        assert self.error is not None
        assert not programs()
        return self.error


def test_it_shares_nothing_with_the_tracker(spawn: Spawn) -> None:
    """Neither memory, nor descriptors, nor signals, nor the session; only its pid tells of us."""
    ballast = b"x" * (64 << 20)
    waiting = Waiting(spawn, 3.0)
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{waiting.program}/status").read_text().splitlines()
    )
    assert int(status["VmHWM"].split()[0]) << 10 < len(ballast) // 4
    assert status["Name"] == "uffd-inject"
    assert int(status["SigBlk"], 16) | 1 << 8 | 1 << 18 == (1 << 64) - 1  # not KILL, STOP
    assert int(status["SigCgt"], 16) in (0, 1 << signal.SIGALRM - 1)  # its own, in a moment
    assert os.getsid(waiting.program) == os.getsid(waiting.minder) == waiting.minder
    # The socket, /proc/PID, the pidfd, the device; and what it reads itself at this moment.
    assert len(os.listdir(f"/proc/{waiting.program}/fd")) <= 6
    # Its minder keeps none of them, as soon as it has run again.
    while os.listdir(f"/proc/{waiting.minder}/fd"):
        assert waiting.thread.is_alive()
        os.sched_yield()
    assert Path(f"/proc/{waiting.program}/environ").read_bytes() == b""
    assert "can be stopped" in waiting.end().step


def test_its_minder_is_killed(spawn: Spawn) -> None:
    """Nobody is told that it is over before it is: the report comes from the program."""
    waiting = Waiting(spawn, 1.0)
    pidfd = os.pidfd_open(waiting.program)
    os.kill(waiting.minder, signal.SIGKILL)
    assert "can be stopped" in waiting.end().step
    # An orphan now: init reaps it, or whoever stands for init here.
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000)
    os.close(pidfd)


def test_it_is_killed(spawn: Spawn) -> None:
    waiting = Waiting(spawn, 10.0)
    os.kill(waiting.program, signal.SIGKILL)
    assert waiting.end().step == "injector"


@pytest.mark.parametrize("arguments", [[], ["0"], ["99"], ["0", "1"]])
def test_it_does_nothing_for_others(arguments: list[str]) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        here.send(b"do something")
        done = subprocess.run(
            [str(HELPER), *arguments], stdin=there.fileno(), capture_output=True, check=False
        )
    assert (done.returncode, done.stdout, done.stderr) == (125, b"", b"")


@pytest.mark.parametrize("kind", ["missing", "forbidden", "no program", "fails", "folder"])
def test_a_fork_does_it_where_a_program_cannot(spawn: Spawn, tmp_path: Path, kind: str) -> None:
    helper = tmp_path / "helper"
    if kind == "folder":
        helper.mkdir()
    elif kind == "fails":
        helper = Path("/bin/false")
    elif kind != "missing":
        helper.write_bytes(HELPER.read_bytes() if kind == "forbidden" else b"\0")
        helper.chmod(0o600 if kind == "forbidden" else 0o700)
    target = Watched(spawn, "epoll")
    assert injected(target.pid, target.tid, helper=helper).tid == target.tid
    target.unharmed()
    target.victim.finish()


def test_a_fork_does_it_where_exec_takes_rights(spawn: Spawn) -> None:
    """Capabilities of a user other than root do not pass exec(): the program would be refused."""
    target = Watched(spawn, "epoll")
    child = os.fork()
    if not child:
        code = 1
        try:
            _libc.prctl(_KEEPCAPS, 1, 0, 0, 0)
            os.setresuid(65534, 65534, 65534)
            header = struct.pack("Ii", _VERSION_3, 0)
            data = ctypes.create_string_buffer(24)
            _libc.syscall(_CAPGET, header, data)
            low, high = (struct.unpack_from("I", data, at)[0] for at in (4, 16))
            struct.pack_into("6I", data, 0, low, low, 0, high, high, 0)
            _libc.syscall(_CAPSET, header, data)
            code = 0 if injected(target.pid, target.tid).tid == target.tid else 2
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert not killed(status) and os.waitstatus_to_exitcode(status) == 0
    target.unharmed()
    target.victim.finish()


def test_nothing_of_it_stays_in_the_tracker(spawn: Spawn) -> None:
    target = Watched(spawn, "epoll")

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("\n")

    injected(target.pid)
    before = mapped(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(100):
        injected(target.pid)
    assert mapped() <= before[0] + 2  # Python's own
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= before[1] + 4096
    target.unharmed()
    target.victim.finish()


def inject_while_they_fork(puppet: Puppet, most: int) -> tuple[int, list[int]]:
    """Each thread that is chosen makes a child before it is stopped, but not more than `most` do.

    Returns the thread that was used, and those that forked.
    """
    threads = {puppet.pid: puppet}
    agent = puppet.agent("thread")
    (tid,) = {int(one) for one in os.listdir(f"/proc/{puppet.pid}/task")} - {puppet.pid}
    threads[tid] = agent
    forked: list[int] = []

    def fork(program: int) -> None:
        seized = next(tid for tid in threads if traced(puppet.pid, tid) == program)
        if len(forked) < most:
            threads[seized].agent("child")
            forked.append(seized)

    return held_at(Point.SEIZED, fork, puppet.pid).tid, forked


def test_a_thread_that_forks_before_it_is_stopped(puppet: Puppet) -> None:
    """It is let go for another: the end of its child would wake that one, with EINTR."""
    used, forked = inject_while_they_fork(puppet, 1)
    assert len(forked) == 1
    assert used not in forked


def test_all_fork_before_they_are_stopped(puppet: Puppet) -> None:
    """There is no better one then, and no end of looking for it would be worse."""
    used, forked = inject_while_they_fork(puppet, 100)
    assert sorted(set(forked)) == sorted(forked[:2])
    assert used in forked


def test_a_thread_in_exec_of_a_file_that_does_not_come(spawn: Spawn, tmp_path: Path) -> None:
    """PTRACE_SEIZE of any other thread waits for it, and the deadline holds all the same."""
    try:
        slow = SlowFile(tmp_path)
    except OSError as error:
        pytest.skip(f"no file system can be mounted over /dev/fuse here: {error}")
    with slow:
        target = spawn("late_exec")
        target.ask(f"exec {slow.path}")
        read = slow.wait_for_read()
        with pytest.raises(NativeError) as found:
            injected(target.pid, target.pid, deadline=0.2)
        assert found.value.errno == errno.ETIMEDOUT
        assert not programs() and not traced(target.pid, target.pid)
        slow.answer(read)
        target.send("stop")
        slow.answer_until(lambda: target.process.poll() is not None)
        target.finish()
