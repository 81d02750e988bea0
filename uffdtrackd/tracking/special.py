"""Mappings that the kernel ought to have refused, and does not before Linux 6.12.105.

    vdso, vvar, rings of io_uring, AIO and perf, memory of devices

Their pages are put there by the kernel or a driver, one by one, where nothing is yet. A protected
hole is not nothing: it has a marker. A target that reads such a place, the time of day in vvar
say, then faults for ever; so does everybody who reads it from outside. Newer kernels refuse to
register such mappings (CVE-2026-68166). On the others they are given back before anything is
protected, and count as refused:

    register the gap --> smaps: VmFlags --io, pf, mm, de, but not ht--> unregister

A mapping that comes later than the look is not registered either, until the next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..native.layout import SHARED, WRITE, Vma

_PIECE = 1 << 20

# Of VM_SPECIAL (include/linux/mm.h), by the names of proc_pid_smaps(5): io, dont expand, pfn map,
# mixed map. Huge pages do not expand either, and are ordinary otherwise.
_SPECIAL = frozenset((b"io", b"de", b"pf", b"mm"))
_HUGE = b"ht"


def special_mappings(smaps: int) -> list[Vma]:
    """Those of the process whose /proc/PID/smaps is open as `smaps`. Raises OSError."""
    return list(_special(_read(smaps)))


def _read(fd: int) -> bytes:
    text = bytearray()
    while piece := os.pread(fd, _PIECE, len(text)):
        text += piece
    return bytes(text)


def _special(text: bytes) -> Iterator[Vma]:
    header = b""
    for line in text.splitlines():
        name = line.split(b" ", 1)[0]
        if not name.endswith(b":"):
            header = line
        elif name == b"VmFlags:":
            flags = set(line.split()[1:])
            if flags & _SPECIAL and _HUGE not in flags:
                yield _vma(header)


def _vma(line: bytes) -> Vma:
    fields = line.decode(errors="surrogateescape").split(maxsplit=5)
    start, end = (int(edge, 16) for edge in fields[0].split("-"))
    major, minor = (int(number, 16) for number in fields[3].split(":"))
    flags = (SHARED if fields[1][3] == "s" else 0) | (WRITE if fields[1][1] == "w" else 0)
    name = fields[5] if len(fields) > 5 else ""
    text = line.decode(errors="surrogateescape")
    return Vma(start, end, flags, int(fields[2], 16), (major, minor), int(fields[4]), name, text)
