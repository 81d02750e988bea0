"""Which of the two ways to see writes is taken.

async   the kernel notes a write by itself              UFFD_FEATURE_WP_ASYNC (Linux 6.7)
sync    a handler of ours is told, and lets it go on    UFFD_FEATURE_PAGEFAULT_FLAG_WP, and
                                                        a userfaultfd for kernel mode
"""

from __future__ import annotations

from functools import cache

from ..model.region import Tracking
from ..native.error import NativeError
from ..native.faults import Feature, features

BACKENDS = ("auto", "async", "sync")


def choose(name: str) -> Tracking:
    """name: one of BACKENDS; "auto" is what this kernel can do best."""
    return automatic() if name == "auto" else Tracking(name)


@cache
def automatic() -> Tracking:
    """What "auto" means here; found out by asking a userfaultfd that is thrown away."""
    try:
        found = features()
    except NativeError:
        # We may not make one. The target may be allowed to, and then it shows.
        return Tracking.ASYNC
    return Tracking.ASYNC if Feature.WP_ASYNC in found else Tracking.SYNC
