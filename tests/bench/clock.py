"""One measure in Python: how long a call takes, in ns, its result thrown away outside of it."""

from __future__ import annotations

import time
from collections.abc import Callable


def timed(call: Callable[[], object]) -> float:
    before = time.perf_counter_ns()
    result = call()
    taken = time.perf_counter_ns() - before
    del result
    return taken
