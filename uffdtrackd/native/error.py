"""What the C floor raises: one exception, made in one place from one struct.

`NativeError` says which step failed, with which errno, on which process and range. It knows
nothing of policy: `tracking.failure` decides what such a failure means for a caller.
"""

from __future__ import annotations

import os
from typing import Any

from ._native import ffi


class NativeError(OSError):
    """A step of the C floor failed.

    step: what was being done, in words ("PTRACE_SEIZE", "mmap in the target").
    errno: of the call that failed, 0 if no call did.
    pid: process or thread it was done to, 0 if none.
    address, length: bytes in the target, 0 if they say nothing.
    """

    def __init__(self, step: str, err: int, pid: int = 0, address: int = 0, length: int = 0):
        super().__init__(err, os.strerror(err) if err else "failed")
        self.step = step
        self.pid = pid
        self.address = address
        self.length = length

    def __str__(self) -> str:
        where = f" on pid {self.pid}" if self.pid else ""
        at = f" at {self.address:#x}" if self.address else ""
        length = f"+{self.length:#x}" if self.length else ""
        return f"{self.step}{where}{at}{length}: {self.strerror}"


def new_error() -> Any:
    """An empty struct ut_error to hand to a C function."""
    return ffi.new("struct ut_error *")


def raised(error: Any) -> NativeError:
    """The exception for a struct ut_error that a C function filled."""
    step = ffi.string(error.step).decode()
    return NativeError(step, error.err, error.pid, error.address, error.length)
