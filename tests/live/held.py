"""An injector that is held at a step of api/inject.h while something happens.

test --held_at(point, act)--> injector --> point: stops itself
  act(pid of the injector) <------------------+
  SIGCONT ------------------> goes on, and comes there again if it tries once more
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.live.footprint import state
from tests.live.strike import injected
from uffdtrackd.native.inject import HELPER, Action, Calls, Fault, Injection, Method, Point


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            found += [int(one) for one in (task / "children").read_text().split()]
    return found


def programs() -> list[tuple[int, int]]:
    """Pairs of a minder of ours and its program."""
    found = []
    for minder in _children(os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):
            for program in _children(minder):
                if os.readlink(f"/proc/{program}/exe") == str(HELPER):
                    found.append((minder, program))
    return found


def stands(program: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return state(program) == "T"
    return False


def held_at(
    point: Point,
    act: Callable[[int], None],
    pid: int,
    tid: int = 0,
    method: Method = Method.AUTO,
    fail: Calls | None = None,
) -> Injection:
    """An injection in which act() happens each time that it comes to `point`."""
    fault = Fault(point, Action.STOP_INJECTOR, fail or Calls())
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(injected, pid, tid, method, fault)
        try:
            while not found.done():
                os.sched_yield()
                for _, program in filter(lambda pair: stands(pair[1]), programs()):
                    act(program)
                    os.kill(program, signal.SIGCONT)
                    while stands(program):
                        os.sched_yield()
        except BaseException:
            # Or else it is waited for without end.
            for _, program in programs():
                os.kill(program, signal.SIGKILL)
            raise
        return found.result()
