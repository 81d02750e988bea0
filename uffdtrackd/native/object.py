"""Shared objects from their own side: which one it is, and what of it is zero; see api/object.h."""

from __future__ import annotations

import os

from ._native import ffi, lib
from .copy import PAGE_SIZE, new_runs, view_of
from .error import new_error, raised
from .pointer import octets, words


def handle(path: str) -> bytes:
    """What names the file behind `path` for good on its file system. Raises NativeError."""
    room = ffi.new("uint8_t[]", lib.UT_HANDLE_ROOM)
    error = new_error()
    size = lib.ut_object_handle(os.fsencode(path), room, error)
    if size < 0:
        raise raised(error)
    return bytes(ffi.buffer(room, size))


def born_ns(path: str) -> int:
    """When the file behind `path` was made, in ns since 1970; 0 where that is not known."""
    return int(lib.ut_object_born_ns(os.fsencode(path)))


def zero_pages(fd: int, runs: memoryview, hints: bytearray) -> memoryview:
    """Those of the pages (runs, in bytes into the file) that hold nothing but zero.

    hints: two bytes a page from the start of the file, zero at first, kept between calls.
    Raises NativeError (ENOMEM).
    """
    zero = new_runs()
    error = new_error()
    memory = ffi.cast("uint16_t *", octets(hints))
    if lib.ut_object_zero(
        fd, words(runs), len(runs) // 2, PAGE_SIZE, memory, len(hints) // 2, zero, error
    ):
        raise raised(error)
    return view_of(zero)
