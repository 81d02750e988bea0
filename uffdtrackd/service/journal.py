"""Where the daemon's messages go: the journal with fields, or plain lines on stderr.

    log(messages.ATTACHED, "...", session=.., pid=..)  --> logging "uffdtrackd"
        stderr is the journal's ($JOURNAL_STREAM names its device and inode)
            systemd-python there --> JournalHandler: MESSAGE_ID=, UFFDTRACK_*=, OBJECT_PID=
            not there            --> "<5>text": the journal takes the level from the prefix
        else                     --> "uffdtrackd: notice: text"

Levels: error = it failed; warning = the administrator should look; notice = the life of the daemon
and of sessions; info = one a request; debug = one an iteration.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from .libsystemd import journal
from .messages import FIELDS, NOTICE, Message

LOGGER = logging.getLogger("uffdtrackd")

_LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "notice": NOTICE,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
# Above the level on the left, syslog's number.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (NOTICE, 5), (logging.INFO, 6))


def setup(level: str, stream: TextIO | None = None) -> None:
    """Sends what is logged from here on to where this process's messages belong."""
    stream = stream or sys.stderr
    handler: logging.Handler
    if not _is_journal(stream):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_Plain())
    elif journal is None:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_Prefixed())
    else:
        handler = journal.JournalHandler(SYSLOG_IDENTIFIER="uffdtrackd")
        # Its own has no notice, and calls it a warning.
        handler.map_priority = priority  # type: ignore[attr-defined]
    for old in list(LOGGER.handlers):
        LOGGER.removeHandler(old)
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """One of settings.LOG_LEVELS."""
    LOGGER.setLevel(_LEVELS[level])


def log(message: Message, text: str, **fields: object) -> None:
    """Logs one message of a fixed kind. fields: by the names in messages.FIELDS; None = absent."""
    extra: dict[str, object] = {"MESSAGE_ID": message.id}
    for name, value in fields.items():
        if value is not None:
            extra[FIELDS[name]] = str(value)
    if fields.get("pid") is not None:
        # Shows the entry under the target too: journalctl OBJECT_PID= (only root may set it).
        extra["OBJECT_PID"] = str(fields["pid"])
    LOGGER.log(message.level, "%s", text, extra=extra, stacklevel=2)


def priority(level: int) -> int:
    """Syslog's number of a level of logging."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def _is_journal(stream: TextIO) -> bool:
    """systemd.exec(5): whoever redirects stderr leaves the variable, so compare what is there."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Plain(logging.Formatter):
    """For a terminal or a file."""

    def format(self, record: logging.LogRecord) -> str:
        return f"uffdtrackd: {record.levelname.lower()}: {super().format(record)}"


class _Prefixed(logging.Formatter):
    """For the journal without its library: a prefix a line (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())
