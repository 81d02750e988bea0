"""What was found out about this machine, kept until it boots again.

    probe --keep--> FOLDER/probe-UID.json --recall--> the next process of the same user
                       {"key": boot, rights, settings; "found": [...]}

The file is a short cut and nothing else: where it cannot be written, or is not as we would have
written it, everything is tried again. It is believed only if nobody else can have written it: a
regular file of ours, in a folder of ours or root's, both closed to the writing of others.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

_NAME = "uffdtrackd"

#: Longer is not ours.
_MOST_BYTES = 64 << 10

_STATUS = ("Uid:", "Gid:", "CapEff:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:")


def folder() -> Path | None:
    """Where it is kept: what systemd gave us, else the usual places; None if there is none."""
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.geteuid() == 0:
        return Path("/run") / _NAME
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / _NAME
    return None


def rights() -> tuple[str, ...]:
    """What this process may do, as far as probes depend on it (proc_pid_status(5))."""
    lines = _read("/proc/thread-self/status").splitlines()
    found = [line for line in lines if line.startswith(_STATUS)]
    for name in ("user", "pid"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/ns/{name}"))
    return tuple(found)


def key() -> list[str]:
    """All that has to be the same for what was found to be true still."""
    device = ""
    with suppress(OSError):
        about = os.stat("/dev/userfaultfd")
        device = f"{about.st_mode:o} {about.st_uid} {about.st_gid}"
    return [
        _read("/proc/sys/kernel/random/boot_id").strip(),
        os.uname().release,
        _read("/proc/sys/vm/unprivileged_userfaultfd").strip(),
        device,
        *rights(),
    ]


def keep(found: list[dict[str, Any]]) -> bool:
    """Write it down for others; whether that could be done."""
    place = folder()
    if place is None:
        return False
    try:
        place.mkdir(mode=0o755, exist_ok=True)
        if not _is_ours(os.lstat(place), directory=True):
            return False
        with tempfile.NamedTemporaryFile("w", dir=place, prefix=".probe-", delete=False) as file:
            try:
                json.dump({"key": key(), "found": found}, file)
                file.flush()
                os.rename(file.name, _file(place))
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return False
    return True


def recall() -> list[dict[str, Any]] | None:
    """What was kept; None if there is nothing, or nothing to be believed."""
    place = folder()
    if place is None:
        return None
    try:
        if not _is_ours(os.lstat(place), directory=True):
            return None
        fd = os.open(_file(place), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, encoding="utf-8") as file:
            about = os.fstat(fd)
            if not _is_ours(about, directory=False) or about.st_size > _MOST_BYTES:
                return None
            kept = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or kept.get("key") != key():
        return None
    found = kept.get("found")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return None
    return found


def _file(place: Path) -> Path:
    return place / f"probe-{os.geteuid()}.json"


def _is_ours(about: os.stat_result, directory: bool) -> bool:
    """Whether nobody but us (for a folder: or root) can have put it there."""
    right = stat.S_ISDIR if directory else stat.S_ISREG
    owners = {os.geteuid(), 0} if directory else {os.geteuid()}
    others = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return right(about.st_mode) and about.st_uid in owners and not others


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
