"""A target never sees that it was stopped: no EINTR, no timeout over too early, no signal lost.

    tests/targets/eintr.c     threads in every call that a stop could disturb, which count faults
    tests/targets/handler.c   one thread that must see each signal of its own, and nothing else

Each round stops the target by one way, a freeze of all threads or an attach that stops one, and
waits until its calls have come to an end again, so that every round falls into fresh ones.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import victim
from tests.victim import Victim
from uffdtrackd import errors
from uffdtrackd.native.freeze import freeze
from uffdtrackd.tracking.attach import open_target

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]


def by_freeze(pid: int) -> None:
    freeze([pid]).thaw()


def by_attach(pid: int) -> None:
    open_target(pid).close()


WAYS = {"freeze": by_freeze, "attach": by_attach}
way = pytest.mark.parametrize("stop", WAYS.values(), ids=WAYS.keys())


def names() -> list[str]:
    return subprocess.run(
        [victim.build("eintr"), "list"], capture_output=True, text=True, check=True
    ).stdout.split()


def counts(target: Victim) -> dict[str, int]:
    """Calls that have ended, by name; fails at the first fault."""
    words = target.ask("stats").split()
    if words[1] != "faults=0":
        target.send("stop")
        pytest.fail(target.line())
    return {name: int(calls) for name, calls in (word.split(":") for word in words[2:])}


def wait_for_more(target: Victim, before: dict[str, int]) -> dict[str, int]:
    limit = time.monotonic() + 30
    while True:
        now = counts(target)
        if all(now[name] > before[name] for name in before):
            return now
        stuck = [name for name in before if now[name] <= before[name]]
        assert time.monotonic() < limit, f"these never end: {stuck}"


@way
@pytest.mark.parametrize("name", names())
def test_the_only_thread(spawn: Spawn, name: str, stop: Callable[[int], None]) -> None:
    if stop is by_attach and name == "send":
        pytest.skip("an attach does not interrupt what could be cut short: see test_refusal")
    target = spawn("eintr", name)
    now = counts(target)
    if not now:
        pytest.skip(f"this kernel has no {name}")
    for _ in range(10):
        stop(target.pid)
        now = wait_for_more(target, now)
    target.finish()


def test_refusal(spawn: Spawn) -> None:
    """A thread in a call that could come back half done is left alone."""
    target = spawn("eintr", "send")
    now = counts(target)
    with suppress(errors.TimedOut):
        open_target(target.pid, deadline=0.05).close()
    wait_for_more(target, now)
    target.finish()


@way
def test_all_calls_at_once(spawn: Spawn, stop: Callable[[int], None]) -> None:
    target = spawn("eintr")
    now = counts(target)
    assert len(now) > 30
    for _ in range(60):
        stop(target.pid)
        stop(target.pid)
        now = wait_for_more(target, now)
    target.finish()


@way
def test_threads_with_children(spawn: Spawn, stop: Callable[[int], None]) -> None:
    """A child that ends while its parent is stopped wakes some other thread of the process."""
    target = spawn("eintr", "epoll_wait", "wait4", "waitid", "recv", "accept", "sigtimedwait")
    for _ in range(15):
        for _ in range(15):
            stop(target.pid)
        counts(target)
    target.finish()


@pytest.fixture
def storm() -> Iterator[Callable[[int, int], None]]:
    """storm(pid, signal) sends it again and again until the test ends."""
    done = threading.Event()
    threads: list[threading.Thread] = []

    def start(pid: int, number: int) -> None:
        def send() -> None:
            # Until the target has ended, at the latest.
            with suppress(ProcessLookupError):
                while not done.wait(0.0001):
                    os.kill(pid, number)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield start
    done.set()
    for thread in threads:
        thread.join()


@way
def test_ignored_signals(
    spawn: Spawn, storm: Callable[[int, int], None], stop: Callable[[int], None]
) -> None:
    """A tracee is woken even by what it ignores; its calls must go on all the same."""
    target = spawn("eintr", "epoll_wait", "sigtimedwait", "recv", "futex", "poll", "io_getevents")
    single = spawn("handler")
    storm(target.pid, signal.SIGWINCH)
    storm(single.pid, signal.SIGWINCH)
    now = counts(target)
    for round_ in range(60):
        stop(target.pid)
        stop(single.pid)
        # The very next line: no EINTR came before it.
        assert single.ask(f"round {round_}") == f"round {round_}"
        if round_ % 4 == 3:
            now = wait_for_more(target, now)
    target.finish()
    assert single.finish() == ["ok"]


def wait_for_epoll(target: Victim) -> None:
    """Until its only thread is blocked: before that a signal would not end a call."""
    limit = time.monotonic() + 30
    while Path(f"/proc/{target.pid}/stat").read_text().rsplit(") ", 1)[1][0] != "S":
        assert time.monotonic() < limit
        os.sched_yield()


kinds = pytest.mark.parametrize("kind", ["plain", "masked"])


@kinds
def test_its_own_signal_while_frozen(spawn: Spawn, kind: str) -> None:
    target = spawn("handler", kind)
    for _ in range(50):
        wait_for_epoll(target)
        with freeze([target.pid]):
            os.kill(target.pid, signal.SIGUSR1)
        assert target.line() == "EINTR 1"
    assert target.finish() == ["ok"]


@way
@kinds
def test_its_own_signals_at_any_time(spawn: Spawn, kind: str, stop: Callable[[int], None]) -> None:
    """Sent from another thread while the target is being stopped and let go."""
    target = spawn("handler", kind)
    for _ in range(50):
        wait_for_epoll(target)
        thread = threading.Thread(target=os.kill, args=(target.pid, signal.SIGUSR1))
        thread.start()
        stop(target.pid)
        thread.join()
        assert target.line() == "EINTR 1"
    assert target.finish() == ["ok"]


@way
def test_queued_signals_all_come_in_order(spawn: Spawn, stop: Callable[[int], None]) -> None:
    target = spawn("handler")
    libc = ctypes.CDLL(None, use_errno=True)
    number = 2000

    def send() -> None:
        for value in range(number):
            while libc.sigqueue(target.pid, signal.SIGRTMIN, ctypes.c_void_p(value)):
                assert ctypes.get_errno() == 11  # EAGAIN: RLIMIT_SIGPENDING
                os.sched_yield()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        while thread.is_alive():
            stop(target.pid)
    finally:
        thread.join()
    target.send("values")
    while not (answer := target.line()).startswith("values"):
        assert answer.startswith("EINTR") and answer != "EINTR 0"
    # The last may still be pending when the command comes: they come before the next line.
    if answer != f"values {number} 0":
        target.send("values")
        while not (answer := target.line()).startswith("values"):
            assert answer.startswith("EINTR")
    assert answer == f"values {number} 0"
    target.finish()


def test_handler_runs_though_the_holder_is_killed(spawn: Spawn) -> None:
    """What a stop needs repaired is repaired at once, not when it ends."""
    target = spawn("handler")
    calls = spawn("eintr", "epoll_wait", "sigtimedwait", "semtimedop", "recv", "io_getevents")
    now = counts(calls)
    for round_ in range(20):
        wait_for_epoll(target)
        held, held_calls = freeze([target.pid]), freeze([calls.pid])
        if round_ % 2:
            os.kill(target.pid, signal.SIGUSR1)
        os.kill(held.holder, signal.SIGKILL)
        os.kill(held_calls.holder, signal.SIGKILL)
        held.thaw()
        held_calls.thaw()
        if round_ % 2:
            assert target.line() == "EINTR 1"
        else:
            assert target.ask("still") == "still"
        now = wait_for_more(calls, now)
    target.finish()
    calls.finish()


def test_too_late_for_the_stop(spawn: Spawn) -> None:
    """The time is over when the thread has left its call, and not stopped yet: it is awaited."""
    target = spawn("handler")
    for round_ in range(100):
        wait_for_epoll(target)
        with suppress(errors.TimedOut):
            open_target(target.pid, deadline=0).close()
        # The very next line: no EINTR came before it.
        assert target.ask(f"round {round_}") == f"round {round_}"
    assert target.finish() == ["ok"]
