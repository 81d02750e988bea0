"""A file whose reads last as long as a test wants: a file system of one file, over /dev/fuse.

    with SlowFile(folder) as slow:
        target: read(open(slow.path, O_DIRECT))     blocks, its buffer pinned
        slow.wait_for_read()                        until the request is here
        slow.answer()                               the data lands in the pinned pages

What answers is this process: it writes into the pages of the request, as a disk's DMA would, and
no page table of the target is involved. Protocol: fuse(4), <linux/fuse.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.victim import PATIENCE

_libc = ctypes.CDLL(None, use_errno=True)

SIZE = 1 << 20

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ = 1, 2, 3, 14, 15
_RELEASE, _FLUSH, _INIT, _INTERRUPT, _BATCH_FORGET = 18, 25, 26, 36, 42
_ASYNC = 1 | 1 << 15  # FUSE_ASYNC_READ, FUSE_ASYNC_DIO
_HEADER = struct.Struct("IIQQIIIHH")


class SlowFile:
    """Mounted at `folder` while in its `with` block. Raises OSError where that is not allowed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "file"
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0".encode()
        if _libc.mount(b"slowfile", os.fsencode(folder), b"fuse", 2 | 4, options):
            code = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(code, os.strerror(code))
        self._reads: queue.Queue[tuple[int, int]] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, name="slowfile")
        self._thread.start()

    def __enter__(self) -> SlowFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # MNT_FORCE fails what is in flight, MNT_DETACH lets go of open files: the thread ends.
        _libc.umount2(os.fsencode(self.folder), 1)
        _libc.umount2(os.fsencode(self.folder), 2)
        self._thread.join(PATIENCE)
        os.close(self._fd)

    def wait_for_read(self) -> tuple[int, int]:
        """The next read that came in: its id and size in bytes."""
        return self._reads.get(timeout=PATIENCE)

    def answer_until(self, over: Callable[[], bool]) -> None:
        """Answers whatever comes until it is over."""
        while not over():
            with suppress(queue.Empty):
                self.answer(self._reads.get(timeout=0.05))

    def answer(self, read: tuple[int, int]) -> None:
        """Lets a read end, with random data."""
        self._reply(read[0], os.urandom(read[1]))

    def _reply(self, unique: int, data: bytes = b"", error: int = 0) -> None:
        os.write(self._fd, struct.pack("IiQ", 16 + len(data), -error, unique) + data)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, 1 << 18)
            except OSError as failure:
                if failure.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, operation, unique, node, *_ = _HEADER.unpack_from(request)
            self._handle(operation, unique, node, request[_HEADER.size :])

    def _handle(self, operation: int, unique: int, node: int, body: bytes) -> None:
        if operation in (_FORGET, _INTERRUPT, _BATCH_FORGET):
            return
        if operation == _INIT:
            head = struct.pack("IIIIHHIIHHI", 7, 31, 0, _ASYNC, 16, 16, 1 << 17, 1, 0, 0, 0)
            self._reply(unique, head.ljust(64, b"\0"))
        elif operation == _LOOKUP:
            self._reply(unique, struct.pack("QQQQII", 2, 0, 60, 60, 0, 0) + _attributes(2))
        elif operation == _GETATTR:
            self._reply(unique, struct.pack("QII", 60, 0, 0) + _attributes(node))
        elif operation == _OPEN:
            self._reply(unique, struct.pack("QII", 0, 0, 0))
        elif operation == _READ:
            self._reads.put((unique, struct.unpack_from("QQI", body)[2]))
        elif operation in (_RELEASE, _FLUSH):
            self._reply(unique)
        else:
            self._reply(unique, error=errno.ENOSYS)


def _attributes(node: int) -> bytes:
    """struct fuse_attr of the folder (1) or the file."""
    mode = 0o40755 if node == 1 else 0o100755
    return struct.pack("6Q10I", node, SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
