"""Every kind of message that the daemon logs: its fixed id, its level and what it tells people.

    MESSAGES --+--> journal.py                  MESSAGE_ID= of an entry, its level
               +--> systemd/uffdtrackd.catalog  what `journalctl -x` shows below the entry
               +--> docs/operations.md          the same, in one list

An id never changes and is never used again for another kind; the words may.
"""

from __future__ import annotations

import logging
import textwrap
from dataclasses import dataclass

# Between info and warning, as in syslog: part of the life of the daemon or of a session.
NOTICE = 25
logging.addLevelName(NOTICE, "NOTICE")


@dataclass(frozen=True)
class Message:
    """One kind. id: 128 bits in hex. subject: one line. text: what it means and what to do."""

    name: str
    id: str
    level: int
    subject: str
    text: str


STARTED = Message(
    "started",
    "9df3f398ec4249d8b12aa1609f121f8b",
    NOTICE,
    "uffdtrackd is ready",
    "The daemon listens on its socket. Sessions that an earlier one had are with it again.",
)
STOPPING = Message(
    "stopping",
    "d0b9d7e5eeb949039e9d1cd40873faa9",
    NOTICE,
    "uffdtrackd is stopping",
    "The daemon ends. Under systemd its sessions are kept for the next one; no target waits for"
    " it.",
)
RELOADED = Message(
    "reloaded",
    "d183f6f264db4806b9b4b02377798157",
    NOTICE,
    "The configuration was read again",
    "What needs a restart to change is named in the message and stays as it was.",
)
RELOAD_FAILED = Message(
    "reload-failed",
    "ce8426e357ef4d4392a2ddf4ebe79fd1",
    logging.WARNING,
    "The configuration was not read again",
    "The message names the file and the key. Nothing was changed: the daemon goes on with what it"
    " had. Mend the file and reload again.",
)
ATTACHED = Message(
    "attached",
    "dce0979392a84656a243d1c4c8a3852a",
    NOTICE,
    "A session began: process @UFFDTRACK_TARGET_PID@ is tracked",
    "Session @UFFDTRACK_SESSION@ was asked for by user @UFFDTRACK_PEER_UID@. The target was"
    " stopped for a fraction of a millisecond, and runs on.",
)
DETACHED = Message(
    "detached",
    "7a22b406a24f4f82bc6a5387c546f71a",
    NOTICE,
    "A session was ended",
    "Session @UFFDTRACK_SESSION@ of process @UFFDTRACK_TARGET_PID@ was ended as it was asked for."
    " Nothing of it is left in the target.",
)
TARGET_LOST = Message(
    "target-lost",
    "4828be2e0b8b4424a825afb33f9471c3",
    NOTICE,
    "The target of a session ended",
    "Process @UFFDTRACK_TARGET_PID@ of session @UFFDTRACK_SESSION@ exited or was killed. Its"
    " clients are told uffdtrack.TargetGone for some minutes more.",
)
REFUSED = Message(
    "refused",
    "6d3380a20fbf4120a403cd9084617ad2",
    logging.WARNING,
    "A request was refused",
    "User @UFFDTRACK_PEER_UID@ (process @UFFDTRACK_PEER_PID@) asked for what they may not do, or"
    " for more than the limits allow. root may do everything; a member of the group uffdtrackd may"
    " track processes that run entirely as that same user and are not privileged.",
)
RESTORED = Message(
    "restored",
    "111ec35038564ef19dfda6a427ff73df",
    NOTICE,
    "A session was taken over from an earlier daemon",
    "Session @UFFDTRACK_SESSION@ of process @UFFDTRACK_TARGET_PID@ goes on with its numbering and"
    " with what its consumers have not yet fetched. No write was missed.",
)
RESTORED_FULL = Message(
    "restored-full",
    "32ac1792614249a6ad5d8d190b8fece5",
    logging.WARNING,
    "A session goes on with a full iteration",
    "What was written in session @UFFDTRACK_SESSION@ of process @UFFDTRACK_TARGET_PID@ since its"
    " last iteration could not be kept over the restart of the daemon. Its next iteration lists"
    " everything, so that a reader's copy is right again; it costs a full copy.",
)
NOT_RESTORED = Message(
    "not-restored",
    "7ec14f667c0243c7a01943873c2d001b",
    logging.WARNING,
    "A session ended with an earlier daemon",
    "Session @UFFDTRACK_SESSION@ could not be taken over; the message says why. Its clients get"
    " NoSuchSession and attach again. The target, if it lives, is not tracked and not hurt.",
)
LEASE_EXPIRED = Message(
    "lease-expired",
    "5ca53b7abc0d4f9d860a3bbf5541ae12",
    logging.WARNING,
    "A frozen target was let go",
    "The holder of the freeze of session @UFFDTRACK_SESSION@ neither thawed it nor renewed it in"
    " time, or its connection ended. The target runs on. A copy that was being made of it is not"
    " final.",
)
WORKER_STUCK = Message(
    "worker-stuck",
    "94d48c561de441b38f3fdce99c5f1db8",
    logging.ERROR,
    "A worker gets nowhere",
    "The message says at what. The watchdog is not fed any more: systemd will kill the daemon and"
    " start it again, and its sessions go on. If it happens again, keep the stacks that follow in"
    " the journal and report them.",
)
LOG_FAILED = Message(
    "log-failed",
    "5a3e1666e2e140c48addb639de268f82",
    logging.WARNING,
    "The iteration log of a session cannot be written",
    "Session @UFFDTRACK_SESSION@ goes on without a log. The message says why: most often the disk"
    " is full or the state directory cannot be written to.",
)
ITERATED = Message(
    "iterated",
    "53a762449720499fbff0d58022f2384d",
    logging.DEBUG,
    "An iteration was collected",
    "Iteration @UFFDTRACK_ITERATION@ of session @UFFDTRACK_SESSION@ found @UFFDTRACK_DIRTY_PAGES@"
    " dirty pages. Logged at the level debug.",
)

MESSAGES: tuple[Message, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Message)
)

# Keyword of journal.log() --> field of an entry.
FIELDS = {
    "pid": "UFFDTRACK_TARGET_PID",
    "session": "UFFDTRACK_SESSION",
    "iteration": "UFFDTRACK_ITERATION",
    "dirty_pages": "UFFDTRACK_DIRTY_PAGES",
    "peer_uid": "UFFDTRACK_PEER_UID",
    "peer_pid": "UFFDTRACK_PEER_PID",
    "error": "UFFDTRACK_ERROR",
}


def catalog() -> str:
    """The text of systemd/uffdtrackd.catalog (systemd's CATALOG: header, subject, text)."""
    entries = []
    for one in MESSAGES:
        entries.append(
            f"-- {one.id}\nSubject: {one.subject}\nDefined-By: uffdtrackd\n"
            f"Documentation: man:uffdtrackd(8)\n\n{_wrapped(one.text)}\n"
        )
    return "\n".join(entries)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 80, break_long_words=False, break_on_hyphens=False)
