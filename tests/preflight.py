"""Whether this machine lets a live test attach at all: asked once, so that 100 tests need not fail.

It tries the two things no tracker can do without, by plain system calls and not through the code
under test: tracing a process, and making a userfaultfd.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import subprocess

_libc = ctypes.CDLL(None, use_errno=True)

_PTRACE_SEIZE = 0x4206  # ptrace(2)
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}  # userfaultfd(2)
_USERFAULTFD_IOC_NEW = 0xAA00
_UFFD_USER_MODE_ONLY = 1


def problem() -> str:
    """One sentence that says what is missing and how to get it; "" if all is there."""
    return _ptrace_problem() or _userfaultfd_problem()


def _ptrace_problem() -> str:
    # cat ends by itself when its stdin closes, should we be killed here.
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        _libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        _libc.ptrace.restype = ctypes.c_long
        if _libc.ptrace(_PTRACE_SEIZE, child.pid, None, None) == 0:
            return ""
        number = ctypes.get_errno()
        return (
            f"ptrace of a child: {os.strerror(number)} "
            "(see /proc/sys/kernel/yama/ptrace_scope, or the container's seccomp filter)"
        )
    finally:
        child.kill()
        child.communicate()


def _userfaultfd_problem() -> str:
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        number = _USERFAULTFD.get(platform.machine())
        if number is None:
            return f"no userfaultfd system call number known for {platform.machine()}"
        fd = _libc.syscall(number, os.O_CLOEXEC | _UFFD_USER_MODE_ONLY)
        if fd < 0:
            code = ctypes.get_errno()
            if code == errno.ENOSYS:
                return "the kernel has no userfaultfd (CONFIG_USERFAULTFD)"
            return f"userfaultfd: {os.strerror(code)} (a container's seccomp filter?)"
        os.close(fd)
        return ""
    try:
        os.close(fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/userfaultfd: {error.strerror}"
    finally:
        os.close(device)
    return ""
