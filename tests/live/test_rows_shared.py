"""Rows 16, 17 of docs/soundness.md: memory that is written around the target's page table.

Where it cannot be known that nobody else writes an object, its regions must be `always`, with the
reason; where it can, they are tracked. Which of the two depends on whether every process may be
looked at: the last test runs this file, and the zaps, where that is so.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.row import Row
from tests.procfs import PAGE, thread_states
from tests.puppet import MAP_PRIVATE, MAP_SHARED, MREMAP_MAYMOVE, PROT_READ, RW, Puppet
from tests.victim import ROOT
from uffdtrackd.tracking import neighbours

pytestmark = [pytest.mark.live, pytest.mark.both_backends]

IPC_RMID = 0  # sys/ipc.h
#: A descriptor of the others may be anywhere, once there was one (test_rows_hidden.py).
TRUSTED = ["sealed memfd", "sysv"]
KINDS = ["memfd", "tmpfs", "disk", *TRUSTED]
F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h
#: Set in the run where every process may be examined, so that trust is possible.
ALONE = "UFFDTRACKD_TEST_ALONE" in os.environ


class Object:
    """Something shareable of 16 pages: how the puppet maps it, and how others get at it."""

    def __init__(self, kind: str, puppet: Puppet, folder: Path) -> None:
        self.puppet = puppet
        self.kind = kind
        self.fd = -1
        self.segment = -1
        if kind == "sysv":
            self.segment = puppet.call("shmget", 0, 16 * PAGE, 0o1600)
        elif "memfd" in kind:
            self.fd = puppet.memfd(16, seals=kind == "sealed memfd")
        else:
            path = (folder if kind == "disk" else Path("/dev/shm")) / f"object-{puppet.pid}"
            path.write_bytes(bytes(16 * PAGE))
            self.fd = puppet.open(path)
            path.unlink()

    def map(self, puppet: Puppet | None = None, prot: int = RW) -> int:
        puppet = puppet or self.puppet
        if self.segment >= 0:
            return puppet.call("shmat", self.segment, 0, 0 if prot == RW else 0o10000)
        return puppet.mmap(16, prot, MAP_SHARED, self.fd)

    def seal_off(self) -> None:
        """From here on only mappings reach it."""
        if self.segment >= 0:
            self.puppet.call("shmctl", self.segment, IPC_RMID, 0)
        else:
            if self.kind == "sealed memfd":
                self.puppet.call("fcntl", self.fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
            self.puppet.close(self.fd)

    def remove(self) -> None:
        """A segment lives until it is removed, whoever has ended; that may have been done."""
        if self.segment >= 0:
            ctypes.CDLL(None).shmctl(self.segment, IPC_RMID, None)


@pytest.fixture(params=KINDS)
def shared(request: pytest.FixtureRequest, row: Row, tmp_path: Path) -> Iterator[Object]:
    found = Object(str(request.param), row.puppet, tmp_path)
    yield found
    found.remove()


def must_be_always(row: Row, at: int) -> None:
    region = row.region(at)
    assert region.tracking == "always", region
    assert region.reason


def must_be_tracked_if_alone(row: Row, shared: Object, *places: int) -> None:
    """Trusted, where every process can be asked, if it is of a kind that can be."""
    for at in places:
        if shared.kind not in TRUSTED:
            must_be_always(row, at)
            continue
        region = row.region(at)
        # Kernels whose userfaultfd is synchronous protect shared memory, at best.
        refused = region.tracking == "always" and "needs asynchronous" in region.reason
        assert not ALONE or region.tracking != "always" or refused, region


def test_row_16_alone(row: Row, shared: Object) -> None:
    """One mapping and nobody else: tracked, where every process can be asked."""
    at = shared.map()
    shared.seal_off()
    row.puppet.fill(at, 16)
    row.watch()
    must_be_tracked_if_alone(row, shared, at)
    row.writes_are_seen(at + 3 * PAGE, 2)
    row.writes_are_seen(at, 16)


def test_row_16_another_process_writes(row: Row, shared: Object) -> None:
    at = shared.map()
    shared.puppet.fill(at, 16)
    child = row.puppet.agent("child")
    shared.seal_off()
    row.watch()
    must_be_always(row, at)
    child.fill(at + 2 * PAGE, 4)
    row.judge((at + 2 * PAGE, 4))
    child.fill(at, 16)
    row.judge((at, 16))


#: Maps the memfd {fd} of process {pid}; then its first thread ends, and another writes for good.
HEADLESS = """
import ctypes, mmap, os, threading
file = os.open("/proc/{pid}/fd/{fd}", os.O_RDWR)
shown = mmap.mmap(file, {size})
def write():
    while os.read(0, 1):
        shown[:] = os.urandom({size})
        os.write(1, b"w")
    os._exit(0)
threading.Thread(target=write).start()
os.write(1, b"r")
ctypes.CDLL(None).syscall({exit}, 0)
"""
SYS_EXIT = {"x86_64": 60}.get(os.uname().machine, 93)


def test_row_16_another_process_without_its_first_thread(row: Row) -> None:
    """/proc/PID shows neither its mappings nor its descriptors: a thread that lives does."""
    fd = row.puppet.memfd(16)
    at = row.puppet.mmap(16, RW, MAP_SHARED, fd)
    text = HEADLESS.format(pid=row.puppet.pid, fd=fd, size=16 * PAGE, exit=SYS_EXIT)
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        try:
            assert other.stdout.read(1) == b"r"
            while thread_states(other.pid)[other.pid] != "Z":
                os.sched_yield()
            row.puppet.close(fd)
            row.puppet.fill(at, 16)
            place = os.stat(f"/proc/{row.puppet.pid}/map_files/{at:x}-{at + 16 * PAGE:x}")
            number = os.major(place.st_dev), os.minor(place.st_dev), place.st_ino
            key = place.st_dev, place.st_ino
            wanted = {key: neighbours.Wanted(number, None)}
            for ours in ((), (other.pid,)):  # who maps it, and who has it open
                found = neighbours.look(wanted, ours, row.puppet.pid, among=[other.pid])
                assert str(other.pid) in found.get(key, ""), ours
            row.watch()
            must_be_always(row, at)
            for _ in range(2):
                other.stdin.write(b"w")
                assert other.stdout.read(1) == b"w"
                row.judge((at, 16))
        finally:
            other.kill()


def test_row_16_another_process_comes_later(row: Row, shared: Object) -> None:
    """Trusted first; then the target forks, and the child writes."""
    at = shared.map()
    shared.seal_off()
    row.puppet.fill(at, 16)
    row.watch()
    row.writes_are_seen(at, 2)
    child = row.puppet.agent("child")
    child.fill(at + 5 * PAGE, 2)
    row.judge((at + 5 * PAGE, 2))
    must_be_always(row, at)


def test_row_16_came_wrote_and_went(row: Row, shared: Object) -> None:
    """A child that has written and unmapped before anybody looked: only the object knows."""
    at = shared.map()
    shared.seal_off()
    row.puppet.fill(at, 16)
    row.watch()
    child = row.puppet.agent("child")
    child.fill(at + 5 * PAGE, 2)
    child.munmap(at, 16)
    row.judge((at + 5 * PAGE, 2))


def test_row_16_alias_mapping(row: Row, shared: Object) -> None:
    """Two mappings of one process: what is written through one is dirty in both."""
    at, alias = shared.map(), shared.map()
    shared.seal_off()
    row.puppet.fill(at, 16)
    row.watch()
    must_be_tracked_if_alone(row, shared, at, alias)
    row.puppet.fill(alias + 7 * PAGE, 2)
    row.judge((at + 7 * PAGE, 2), (alias + 7 * PAGE, 2))


def test_row_16_alias_by_mremap(row: Row, shared: Object) -> None:
    """mremap() of size 0 maps a shared mapping once more, without any descriptor."""
    at = shared.map()
    shared.seal_off()
    row.puppet.fill(at, 16)
    row.watch()
    row.writes_are_seen(at, 1)
    alias = row.puppet.call("mremap", at, 0, 16 * PAGE, MREMAP_MAYMOVE)
    row.puppet.fill(alias + 7 * PAGE, 2)
    row.judge((at + 7 * PAGE, 2))
    row.puppet.fill(alias + 3 * PAGE, 2)
    row.judge((at + 3 * PAGE, 2))


def test_row_16_alias_that_went(row: Row, shared: Object) -> None:
    """Mapped again, written, and unmapped, all between two iterations."""
    at = shared.map()
    shared.seal_off()
    row.puppet.fill(at, 16)
    row.watch()
    alias = row.puppet.call("mremap", at, 0, 16 * PAGE, MREMAP_MAYMOVE)
    row.puppet.fill(alias + 7 * PAGE, 2)
    row.puppet.munmap(alias, 16)
    row.judge((at + 7 * PAGE, 2))


def test_row_16_private_alias(row: Row, shared: Object) -> None:
    """A private mapping beside the shared one: what it has not copied changes with the object."""
    if shared.segment >= 0:
        pytest.skip("a SysV segment cannot be mapped privately")
    at = shared.map()
    private = row.puppet.mmap(16, RW, MAP_PRIVATE, shared.fd)
    row.puppet.fill(at, 16)
    row.puppet.fill(private, 4)
    row.puppet.touch(private, 16)
    row.watch()
    row.puppet.fill(at + 2 * PAGE, 8)
    row.judge((at + 2 * PAGE, 8))
    row.writes_are_seen(private + 3 * PAGE, 4)


@pytest.mark.parametrize("keep", [True, False])
def test_row_16_write_to_the_file(row: Row, shared: Object, keep: bool) -> None:
    if shared.segment >= 0:
        pytest.skip("nothing writes to a SysV segment but mappings")
    if shared.kind == "sealed memfd" and not keep:
        pytest.skip("nobody may write to that by a descriptor")
    at = shared.map()
    row.puppet.fill(at, 16)
    if not keep:
        shared.seal_off()
    row.watch()
    fd = shared.fd if keep else row.puppet.open(f"/proc/self/map_files/{at:x}-{at + 16 * PAGE:x}")
    source = row.puppet.mmap(1)
    row.puppet.fill(source, 1)
    assert row.puppet.call("pwrite64", fd, source, PAGE, 9 * PAGE) == PAGE
    if not keep:
        row.puppet.close(fd)
    row.judge((at + 9 * PAGE, 1))


def test_row_16_read_only_here_written_there(row: Row, shared: Object) -> None:
    """The target only reads what another process writes."""
    child = row.puppet.agent("child")
    there = shared.map(child)
    child.fill(there, 16)
    at = shared.map(prot=PROT_READ)
    row.puppet.touch(at, 16)
    row.watch()
    child.fill(there + PAGE, 3)
    row.judge((at + PAGE, 3))


def test_row_16_opened_read_only(row: Row, tmp_path: Path) -> None:
    """A mapping that can never be written (no VM_MAYWRITE) of shared memory that others write."""
    path = Path("/dev/shm") / f"object-{row.puppet.pid}"
    path.write_bytes(bytes(16 * PAGE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 16 * PAGE) as ours:
        at = row.puppet.mmap(16, PROT_READ, MAP_SHARED, row.puppet.open(path, os.O_RDONLY))
        path.unlink()
        row.puppet.touch(at, 16)
        row.watch()
        assert row.region(at).tracking in ("always", "skip"), row.region(at)
        ours[5 * PAGE] = 77
        row.judge()


def test_row_17_file_under_a_private_mapping(row: Row, tmp_path: Path) -> None:
    """Pages without a private copy follow the file: they are the file's, and never held."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(16 * PAGE))
    at = row.puppet.mmap(16, RW, MAP_PRIVATE, row.puppet.open(path))
    row.puppet.touch(at, 16)
    row.puppet.fill(at, 4)
    row.watch()
    with path.open("r+b") as file:
        file.write(os.urandom(16 * PAGE))
    row.judge()
    row.writes_are_seen(at + 3 * PAGE, 4)


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "UFFDTRACKD_TEST_ALONE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.skipif(ALONE, reason="this is the inner run")
@pytest.mark.parametrize("what", ["test_rows_shared.py", "test_rows_zaps.py"])
def test_where_every_process_may_be_examined(
    what: str, backend: str, request: pytest.FixtureRequest
) -> None:
    """In a pid namespace with nobody else in it objects are trusted: the same must hold."""
    if backend == "sync" and request.config.getoption("--backend") is None:
        pytest.skip("takes long; run with --backend sync")
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare(1) here")
    # A shell for process 1: orphans go to it, and not to pytest, who would call them leaked.
    inner = [
        "/bin/sh",
        "-c",
        '"$@"; exit $?',
        "sh",
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--backend={backend}",
    ]
    only = [
        "--backend",
        backend,
        "-k",
        "row_16 or row_15_hole or at_once or row_18",
        f"tests/live/{what}",
    ]
    with _running(
        [unshare, "--fork", "--kill-child", "--pid", "--mount-proc", *inner, *only]
    ) as run:
        output, _ = run.communicate(timeout=110)
        if "unshare failed" in output:
            pytest.skip(f"no pid namespace can be made here: {output.strip()}")
        assert run.returncode == 0, output[-6000:]
