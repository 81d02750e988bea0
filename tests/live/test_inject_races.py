"""What other threads of a target do while one of them is stopped, at the worst moment for us.

The injector is held at a step of api/inject.h; the puppet's first thread does something; then the
injector goes on. The thread that is stopped is another one.
"""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress

import pytest

from tests.live.footprint import footprint, state, tracer
from tests.live.held import held_at
from tests.puppet import Puppet
from uffdtrackd.native.error import NativeError
from uffdtrackd.native.inject import Calls, Injection, Method, Point

pytestmark = pytest.mark.live

UFFD = "anon_inode:[userfaultfd]"


def meanwhile(
    pid: int,
    point: Point,
    act: Callable[[], None],
    method: Method = Method.CALL,
    tid: int = 0,
    fail: Calls | None = None,
) -> Injection:
    """An injection in which act() happens at `point`, the first time that it comes there."""
    left = iter([act])

    def once(program: int) -> None:
        for first in left:
            first()

    found = held_at(point, once, pid, tid, method, fail)
    assert not list(left)
    return found


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


def begin_exec(puppet: Puppet, path: int, arguments: int) -> None:
    """Its first thread runs another program, which waits for the others to end."""
    (tid,) = {int(one) for one in os.listdir(f"/proc/{puppet.pid}/task")} - {puppet.pid}
    puppet.victim.send(f"call execve {path} {arguments} 0")
    # Dead now, and the injector's to bury.
    while state(puppet.pid, tid) != "Z":
        os.sched_yield()


def program(puppet: Puppet) -> tuple[int, int]:
    """What begin_exec() is to be given."""
    path, arguments = puppet.mmap(1), puppet.mmap(1)
    puppet.store(path, b"/bin/sleep\0" + b"60\0")
    puppet.store(arguments, struct.pack("QQQ", path, path + 11, 0))
    return path, arguments


def limits(pid: int) -> tuple[int, int]:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)


def no_descriptor_free(puppet: Puppet) -> tuple[int, int]:
    """Its limits from now on; the soft one is in the way of a userfaultfd."""
    used = len(os.listdir(f"/proc/{puppet.pid}/fd"))
    assert max(fd for fd, _ in open_files(puppet.pid)) == used - 1
    resource.prlimit(puppet.pid, resource.RLIMIT_NOFILE, (used, used + 100))
    return limits(puppet.pid)


def test_a_child_is_left_by_who_runs_another_program(pair: Puppet) -> None:
    """It has one thread then, and may have had another before that forked."""
    children: list[int] = []
    other = program(pair)

    def act() -> None:
        children.append(pair.agent("child").pid)
        begin_exec(pair, *other)

    meanwhile(pair.pid, Point.RECEIVED, act)
    assert UFFD not in dict(open_files(children[0])).values()


def test_a_child_takes_raised_limits_along(pair: Puppet) -> None:
    children: list[int] = []
    before = no_descriptor_free(pair)
    meanwhile(pair.pid, Point.RECEIVED, lambda: children.append(pair.agent("child").pid))
    assert limits(pair.pid) == before
    assert limits(children[0]) == before


def test_limits_of_who_runs_another_program(pair: Puppet) -> None:
    """They are of the process, and the thread that was stopped is no more."""
    other = program(pair)
    before = no_descriptor_free(pair)
    with pytest.raises(NativeError):
        meanwhile(pair.pid, Point.SOCKET, lambda: begin_exec(pair, *other), method=Method.PARASITE)
    assert limits(pair.pid) == before


@pytest.mark.parametrize("failing", [0, 3], ids=["", "fails"])
@pytest.mark.parametrize(
    "point", [Point.MADE, Point.MAPPED, Point.SENT], ids=["made", "mapped", "sent"]
)
def test_a_child_takes_the_parasite_along(pair: Puppet, point: Point, failing: int) -> None:
    """Neither its pages nor its descriptors, whatever comes of the injection."""
    children: list[int] = []
    before = footprint(pair.pid)
    # The third call of the parasite is the one that makes the userfaultfd.
    with (
        pytest.raises(NativeError, match="userfaultfd in the target") if failing else nullcontext()
    ):
        meanwhile(
            pair.pid,
            point,
            lambda: children.append(pair.agent("child").pid),
            method=Method.PARASITE,
            fail=Calls(parasite=failing),
        )
    now, child = footprint(pair.pid), footprint(children[0])
    assert set(before.maps) == set(now.maps) == set(child.maps)
    # With the pipes of the new agent.
    assert child.fds == now.fds
    assert len(now.fds) == len(before.fds) + 4
