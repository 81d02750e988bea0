"""Rows 1-3, 21-26, 30-33 of docs/soundness.md: writes through the page table, by whomever."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import uffdtrackd
from tests.live.row import Row
from tests.procfs import PAGE
from tests.puppet import PROT_READ, RW, Puppet

pytestmark = [pytest.mark.live, pytest.mark.both_backends]

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.mark.parametrize("kind", ["main", "thread", "twin"])
def test_row_01_store(row: Row, kind: str) -> None:
    """A twin has the memory without being a thread of the process (CLONE_VM, as vfork)."""
    who = row.puppet if kind == "main" else row.puppet.agent(kind)
    at = row.puppet.mmap(8)
    row.puppet.fill(at, 8)
    row.watch()
    who.fill(at + PAGE, 3)
    row.judge((at + PAGE, 3))
    who.store(at + 8 * PAGE - 1, b"!")
    row.judge((at + 7 * PAGE, 1))


def test_row_02_read_by_system_call(row: Row) -> None:
    at = row.puppet.mmap(4)
    row.puppet.fill(at, 4)
    fd = row.puppet.open("/dev/urandom", os.O_RDONLY)
    row.watch()
    assert row.puppet.call("read", fd, at + 100, 2 * PAGE) == 2 * PAGE
    row.judge((at, 3))
    row.puppet.call("clock_gettime", 1, at + 3 * PAGE)
    row.judge((at + 3 * PAGE, 1))


def test_row_02_vmsplice_out_of_a_pipe(row: Row) -> None:
    at, other = row.puppet.mmap(2), row.puppet.mmap(1)
    row.puppet.fill(at, 2)
    row.puppet.call("pipe2", other, 0)
    reader, writer = struct.unpack("ii", row.puppet.load(other, 8))
    row.puppet.store(other, struct.pack("QQ", at, 100))
    row.watch()
    assert row.puppet.call("write", writer, other, 100) == 100
    assert row.puppet.call("vmsplice", reader, other, 1, 0) == 100
    row.judge((at, 1))


def test_row_02_signal_frame(row: Row) -> None:
    at = row.puppet.mmap(16)
    row.puppet.fill(at, 16)
    row.watch()
    row.puppet.ask(f"signal {at} {16 * PAGE}")
    row.judge((at + 15 * PAGE, 1))


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def test_row_03_process_vm_writev(row: Row) -> None:
    at = row.puppet.mmap(4)
    row.puppet.fill(at, 4)
    row.watch()
    content = ctypes.create_string_buffer(b"from another process")
    ours = _Vector(ctypes.addressof(content), len(content))
    theirs = _Vector(at + PAGE - 5, len(content))
    done = _libc.process_vm_writev(
        row.puppet.pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0
    )
    assert done == len(content), os.strerror(ctypes.get_errno())
    row.judge((at, 2))


@pytest.mark.parametrize("prot", [RW, PROT_READ])
def test_row_03_proc_mem(row: Row, prot: int, backend: str) -> None:
    """Even where the target itself may only read (FOLL_FORCE).

    Such a write does not wait for a handler (mm/memory.c, __access_remote_vm()): it fails, and
    the page is as it was.
    """
    at = row.puppet.mmap(4)
    row.puppet.fill(at, 4)
    row.puppet.call("mprotect", at, 4 * PAGE, prot)
    row.watch()
    with open(f"/proc/{row.puppet.pid}/mem", "r+b", buffering=0) as mem:
        if backend == "sync":
            with pytest.raises(OSError, match="Input/output error"):
                os.pwrite(mem.fileno(), b"from another process", at + 2 * PAGE)
            row.judge()
            return
        assert os.pwrite(mem.fileno(), b"from another process", at + 2 * PAGE) == 20
    row.judge((at + 2 * PAGE, 1))


def test_row_03_ptrace_poke(row: Row, backend: str) -> None:
    at = row.puppet.mmap(4)
    row.puppet.fill(at, 4)
    row.watch()
    seize, interrupt, poke, detach = 0x4206, 0x4207, 5, 17
    pid = row.puppet.pid
    _libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    _libc.ptrace.restype = ctypes.c_long
    assert _libc.ptrace(seize, pid, None, None) == 0, os.strerror(ctypes.get_errno())
    assert _libc.ptrace(interrupt, pid, None, None) == 0
    os.waitpid(pid, 0x40000000)  # __WALL
    done = _libc.ptrace(poke, pid, at + 3 * PAGE, 0x6162636465666768)
    assert _libc.ptrace(detach, pid, None, None) == 0
    if backend == "sync":
        assert done == -1  # as test_row_03_proc_mem says
        row.judge()
        return
    assert done == 0
    row.judge((at + 3 * PAGE, 1))


def test_row_21_direct_read_after_the_scan(row: Row, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4 * PAGE))
    at = row.puppet.mmap(4)
    row.puppet.fill(at, 4)
    try:
        fd = row.puppet.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        assert error.errno == errno.EINVAL
        pytest.skip("the file system of the temporary directory has no O_DIRECT")
    row.watch()
    assert row.puppet.call("read", fd, at, 4 * PAGE) == 4 * PAGE
    row.judge((at, 4))


def test_row_23_fork(row: Row) -> None:
    """The parent's copy-on-write is seen; what the child writes is none of the parent's."""
    at = row.puppet.mmap(8)
    row.puppet.fill(at, 8)
    row.watch()
    child = row.puppet.agent("child")
    row.puppet.fill(at, 2)
    child.fill(at + 4 * PAGE, 4)
    row.judge((at, 2))
    child.fill(at, 8)
    row.puppet.fill(at + 5 * PAGE, 1)
    row.judge((at + 5 * PAGE, 1))


def _features(session: uffdtrackd.Session) -> int:
    """What the only userfaultfd of ours was made with, from its fdinfo."""
    assert session
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[userfaultfd]":
                text = Path(f"/proc/self/fdinfo/{fd}").read_text()
                return int(text.split("API:")[1].split(":")[1], 16)
        except FileNotFoundError:
            continue
    raise LookupError("no userfaultfd")


def test_row_07_08_24_no_events(row: Row) -> None:
    """Event features block the target in mremap() and fork() until somebody reads: none is on."""
    row.watch()
    fork, remap, remove, unmap = 1 << 1, 1 << 2, 1 << 3, 1 << 6
    assert _features(row.session) & (fork | remap | remove | unmap) == 0


def test_row_25_exec(row: Row) -> None:
    """Another address space: the old one is discarded, the new one is listed in full."""
    scratch = row.puppet.mmap(4)
    row.puppet.fill(scratch, 4)
    row.watch()
    path = row.puppet.victim.argv[0].encode() + b"\0"
    row.puppet.store(scratch, struct.pack("QQQ", scratch + 64, 0, 0) + bytes(40) + path)
    row.puppet.victim.send(f"call execve {scratch + 64} {scratch} {scratch + 8}")
    row.puppet.victim.wait_for("ready")
    row.judge((scratch, 4))
    row.writes_are_seen(row.puppet.mmap(4), 4)


def test_row_26_exit(row: Row) -> None:
    row.watch()
    row.puppet.victim.finish()
    with pytest.raises(uffdtrackd.errors.TargetGone):
        row.step()


@contextmanager
def _broken_pagemap() -> Iterator[None]:
    """The session's pagemap answers no ioctl and no read for a while."""
    names = os.listdir("/proc/self/fd")
    (fd,) = [
        int(fd) for fd in names if os.path.realpath(f"/proc/self/fd/{fd}").endswith("/pagemap")
    ]
    saved = os.dup(fd)
    folder = os.open("/", os.O_RDONLY)
    os.dup2(folder, fd, inheritable=False)
    try:
        yield
    finally:
        os.dup2(saved, fd, inheritable=False)
        os.close(saved)
        os.close(folder)


def test_row_30_failed_scan(row: Row) -> None:
    """Bits that a failed call took away are listed by the next one that works."""
    at = row.puppet.mmap(64)
    row.puppet.fill(at, 64)
    row.watch()
    row.puppet.fill(at + 10 * PAGE, 5)
    # The failing call did its work on half of the range before it failed.
    with open(f"/proc/{row.puppet.pid}/pagemap", "rb") as file:
        clear = struct.pack(
            "12Q", 96, 1, at, at + 12 * PAGE, 0, 0, 0, 0, 0, 2, 0, 2
        )  # struct pm_scan_arg: PM_SCAN_WP_MATCHING, PAGE_IS_WRITTEN, no vec
        try:
            fcntl.ioctl(file, 0xC0606610, bytearray(clear))
        except OSError as error:
            pytest.skip(f"no scan that protects, and so none that fails: {error.strerror}")
    with _broken_pagemap(), pytest.raises(uffdtrackd.errors.TrackError):
        row.session.iterate()
    row.judge((at + 10 * PAGE, 5))


def test_row_31_detached_and_attached_again(row: Row) -> None:
    """All bits went with the first userfaultfd: iteration 0 of the next session is full."""
    at = row.puppet.mmap(8)
    row.puppet.fill(at, 8)
    row.watch()
    row.close()
    row.puppet.fill(at, 2)
    again = Row(row.puppet)
    try:
        again.watch()
        assert len(again.oracle.shadows[row.puppet.pid].content(at, at + PAGE)[0]) == PAGE
        again.judge()
        again.writes_are_seen(at, 8)
    finally:
        again.close()


def test_row_32_written_while_it_is_copied(row: Row) -> None:
    """A store after the scan and before the copy is in the copy, and listed again."""
    at = row.puppet.mmap(8)
    row.puppet.fill(at, 8)
    row.watch()
    row.puppet.fill(at, 4)
    iteration = row.session.iterate()
    assert row.listed(iteration, at, 8) == 4
    row.puppet.fill(at + PAGE, 1)
    again = row.session.iterate()
    assert row.listed(again, at, 8) == 1


def test_row_32_a_writer_that_never_rests(row: Row) -> None:
    writer = row.puppet.agent("thread")
    at = row.puppet.mmap(256)
    row.puppet.fill(at, 256)
    row.watch()
    ended = writer.begin(f"churn {at} {256 * PAGE} 3000000")
    for _ in range(20):
        row.step()
    row.oracle.final().check()
    ended()
    row.oracle.final().check()


def _kvm_guest(puppet: Puppet, at: int) -> int:
    """A guest with one page of memory at `at`, in real mode at address 0x1000: its vcpu."""
    kvm = puppet.open("/dev/kvm")
    vm = puppet.call("ioctl", kvm, 0xAE01, 0)  # KVM_CREATE_VM
    scratch = puppet.mmap(1)
    puppet.store(scratch, struct.pack("IIQQQ", 0, 0, 0x1000, 4 * PAGE, at))
    puppet.call("ioctl", vm, 0x4020AE46, scratch)  # KVM_SET_USER_MEMORY_REGION
    vcpu = puppet.call("ioctl", vm, 0xAE41, 0)  # KVM_CREATE_VCPU
    sregs = puppet.mmap(1)
    puppet.call("ioctl", vcpu, 0x8138AE83, sregs)  # KVM_GET_SREGS
    content = bytearray(puppet.load(sregs, 0x138))
    struct.pack_into("Q", content, 0, 0)  # cs.base
    struct.pack_into("H", content, 12, 0)  # cs.selector
    puppet.store(sregs, bytes(content))
    puppet.call("ioctl", vcpu, 0x4138AE84, sregs)  # KVM_SET_SREGS
    registers = [0] * 18
    registers[16], registers[17] = 0x1000, 2  # rip, rflags
    puppet.store(sregs, struct.pack("18Q", *registers))
    puppet.call("ioctl", vcpu, 0x4090AE82, sregs)  # KVM_SET_REGS
    return vcpu


def test_row_33_kvm_guest(row: Row) -> None:
    """The guest writes through tables of its own, which follow the host's."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or os.uname().machine != "x86_64":
        pytest.skip("no /dev/kvm here (x86-64): there is no guest to write")
    puppet = row.puppet
    at = puppet.mmap(4)
    puppet.fill(at, 4)
    # inc byte [0x2000]; inc byte [0x3fff]; hlt; jmp to the start
    puppet.store(at, bytes.fromhex("fe060020fe06ff3ff4ebf5"))
    try:
        vcpu = _kvm_guest(puppet, at)
    except OSError as error:
        pytest.skip(f"/dev/kvm cannot run a guest here: {error}")
    assert puppet.call("ioctl", vcpu, 0xAE80, 0) == 0  # KVM_RUN, so that all is mapped in it
    row.watch()
    for _ in range(3):
        assert puppet.call("ioctl", vcpu, 0xAE80, 0) == 0
        row.judge((at + PAGE, 1), (at + 2 * PAGE, 1))
