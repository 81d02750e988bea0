"""Which of the two ways to see writes is taken.

async   the kernel notes a write by itself              UFFD_FEATURE_WP_ASYNC (Linux 6.7)
sync    a handler of ours is told, and lets it go on    UFFD_FEATURE_PAGEFAULT_FLAG_WP, and
                                                        a userfaultfd for kernel mode
"""

from __future__ import annotations

from ..model.region import Tracking
from .probe import works

BACKENDS = ("auto", "async", "sync")


def choose(name: str) -> Tracking:
    """name: one of BACKENDS; "auto" is what this kernel can do best."""
    return automatic() if name == "auto" else Tracking(name)


def automatic() -> Tracking:
    """What "auto" means here; see `probe`.

    Where neither works, asynchronous: the target may be allowed what we are not, and then it shows.
    """
    return Tracking.SYNC if works("wp_sync") and not works("wp_async") else Tracking.ASYNC
