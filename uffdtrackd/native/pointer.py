"""The address of a buffer, for a call into C, with nothing left that holds on to the buffer.

    ffi.from_buffer(view)    an export of `view`: as long as it is there, so must the view be
    words(view)              a plain pointer: whoever calls keeps the view until the call is over

The garbage collector of CPython (seen in 3.11) clears a memoryview that is part of a dead cycle
although it has exports, and whoever uses one after that reads freed memory: a segmentation fault
in the collector itself. An error is enough for that: its traceback holds the frame that called
into C, with the view and its export, and soon itself. So no export outlives the call that makes it.
"""

from __future__ import annotations

from typing import Any

from ._native import ffi


def words(buffer: Any) -> Any:
    """`uint64_t *` to the first word of a buffer of such."""
    return ffi.cast("uint64_t *", ffi.from_buffer(buffer))


def octets(buffer: Any) -> Any:
    """`uint8_t *` to the first byte of a buffer."""
    return ffi.cast("uint8_t *", ffi.from_buffer(buffer))
