"""What other threads of a target do while one of them is stopped, at the worst moment for us.

The injector is held at a step of api/inject.h; the puppet's first thread does something; then the
injector goes on. The thread that is stopped is another one.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.live.footprint import footprint, state, tracer
from tests.live.strike import injected
from tests.live.test_injector import programs, stands
from tests.puppet import Puppet
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.inject import Action, Fault, Injection, Method, Point

pytestmark = pytest.mark.live

UFFD = "anon_inode:[userfaultfd]"


def meanwhile(
    pid: int, point: Point, act: Callable[[], None], method: Method = Method.CALL, tid: int = 0
) -> Injection:
    """An injection in which act() happens at `point`, the first time that it comes there."""
    left = iter([act])
    fault = Fault(point, Action.STOP_INJECTOR)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(injected, pid, tid, method, fault)
        try:
            while not found.done():
                os.sched_yield()
                for _, program in filter(lambda pair: stands(pair[1]), programs()):
                    for once in left:
                        once()
                    os.kill(program, signal.SIGCONT)
                    while stands(program):
                        os.sched_yield()
        except BaseException:
            # Or else it is waited for without end.
            for _, program in programs():
                os.kill(program, signal.SIGKILL)
            raise
        assert not list(left)
        return found.result()


def open_files(pid: int) -> Iterator[tuple[int, str]]:
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            yield int(name), os.readlink(f"/proc/{pid}/fd/{name}")


def the_userfaultfd(pid: int) -> int:
    (found,) = (fd for fd, what in open_files(pid) if what == UFFD)
    return found


@pytest.fixture
def pair(puppet: Puppet) -> Puppet:
    """With a second thread, which is the better one to stop."""
    # Once it has answered it is no more at its start, where the C library blocks signals.
    puppet.agent("thread").call("getpid")
    return puppet


@pytest.mark.parametrize("point", [Point.MADE, Point.RECEIVED], ids=["made", "received"])
def test_another_thread_takes_the_number(pair: Puppet, point: Point) -> None:
    """By dup3() onto what is ours for the moment: from then on it is the target's."""
    taken: list[int] = []

    def take() -> None:
        taken.append(the_userfaultfd(pair.pid))
        pair.call("dup3", 1, taken[0], os.O_CLOEXEC)

    found = meanwhile(pair.pid, point, take)
    assert found.tid != pair.pid
    now = dict(open_files(pair.pid))
    assert now[taken[0]] == now[1]
    assert UFFD not in now.values()
    assert tracer(pair.pid) == 0


def test_another_thread_closes_the_number(pair: Puppet) -> None:
    before = footprint(pair.pid)
    meanwhile(pair.pid, Point.MADE, lambda: pair.close(the_userfaultfd(pair.pid)))
    assert before.differences(footprint(pair.pid)) == []


def test_no_second_attempt_with_a_given_thread(pair: Puppet) -> None:
    (tid,) = {int(one) for one in os.listdir(f"/proc/{pair.pid}/task")} - {pair.pid}
    before = footprint(pair.pid)
    with pytest.raises(NativeError, match="fetch the userfaultfd"):
        meanwhile(pair.pid, Point.MADE, lambda: pair.close(the_userfaultfd(pair.pid)), tid=tid)
    assert before.differences(footprint(pair.pid)) == []


@pytest.mark.parametrize("brood", [0, 900])
def test_a_child_takes_the_userfaultfd_along(pair: Puppet, brood: int) -> None:
    """The newest child is the last in a list that may be long."""
    pair.ask(f"brood {brood}")
    children: list[int] = []
    # The first thread has children; and no other is stopped instead of the one that has none.
    found = meanwhile(pair.pid, Point.RECEIVED, lambda: children.append(pair.agent("child").pid))
    assert found.tid != pair.pid
    assert UFFD not in dict(open_files(children[0])).values()
    assert tracer(children[0]) == 0


def test_a_child_is_left_by_who_runs_another_program(pair: Puppet) -> None:
    """It has one thread then, and may have had another before that forked."""
    path, arguments = pair.mmap(1), pair.mmap(1)
    pair.store(path, b"/bin/sleep\0" + b"60\0")
    pair.store(arguments, struct.pack("QQQ", path, path + 11, 0))
    (tid,) = {int(one) for one in os.listdir(f"/proc/{pair.pid}/task")} - {pair.pid}
    children: list[int] = []

    def act() -> None:
        children.append(pair.agent("child").pid)
        pair.victim.send(f"call execve {path} {arguments} 0")
        # All others are dead; that one is still the injector's to bury.
        while state(pair.pid, tid) != "Z":
            os.sched_yield()

    meanwhile(pair.pid, Point.RECEIVED, act)
    assert UFFD not in dict(open_files(children[0])).values()
