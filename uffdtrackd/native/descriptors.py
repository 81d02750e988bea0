"""What a process's descriptors may do to its memory behind its page tables; c/descriptors.c."""

from __future__ import annotations

import os
from enum import IntFlag

from ._native import lib
from .error import new_error, raised


class Means(IntFlag):
    """Ways to write pages without the target's page tables."""

    NONE = 0
    DIRECT = 1  # a file or block device open with O_DIRECT
    RING = 2  # io_uring
    DEVICE = 4  # InfiniBand, VFIO


class Descriptors:
    """The open descriptors of one process. tid: a live thread of it.

    Raises OSError: EACCES where we may not look, ENOENT when the thread is gone.
    """

    def __init__(self, tid: int) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._links = os.open(f"/proc/{tid}/fd", flags)
        try:
            self._infos = os.open(f"/proc/{tid}/fdinfo", flags)
        except OSError:
            os.close(self._links)
            raise

    @property
    def fds(self) -> tuple[int, int]:
        """/proc/PID/fd and /proc/PID/fdinfo."""
        return self._links, self._infos

    def look(self) -> Means:
        """What is open now; about 1 us a descriptor, more for files. Raises NativeError."""
        error = new_error()
        found = int(lib.ut_descriptors_look(self._links, self._infos, error))
        if found < 0:
            raise raised(error)
        return Means(found)

    def rings(self) -> list[bytes]:
        """The fdinfo of each io_uring. Raises OSError when the thread is gone."""
        found = []
        os.lseek(self._links, 0, os.SEEK_SET)
        for name in os.listdir(self._links):
            try:
                if os.readlink(name, dir_fd=self._links) != "anon_inode:[io_uring]":
                    continue
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._infos)
            except FileNotFoundError:
                continue  # closed meanwhile
            with open(fd, "rb") as file:
                found.append(file.read())
        return found

    def close(self) -> None:
        os.close(self._links)
        os.close(self._infos)
