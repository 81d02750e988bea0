"""Without root: an ordinary user tracks a process of its own, and no other.

    test (root): Oracle --"iterate", "freeze", "thaw"--> child (uid 65534): Session --> victim
                        <------ ranges, regions ---------                              (uid 65534)

The tracker runs in a child of the test that has given up root for good: no capabilities, no
/dev/userfaultfd, no /proc/PID/map_files, no frame numbers in pagemap. Everything it needs was
imported before, for the checkout may lie where that user cannot read. The judge stays root: it
looks into files that a user without rights may not open.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

import uffdtrackd
from tests.live.follow import Counting
from tests.oracle import Oracle
from tests.victim import Victim
from uffdtrackd import Iteration, PageSet, ProcessPages
from uffdtrackd.model.errors import NotPermitted
from uffdtrackd.tracking import permission

pytestmark = pytest.mark.live

USER = 65534

Spawn = Callable[..., Victim]

# Loaded on first use otherwise, which would be too late.
attach = uffdtrackd.attach


@contextmanager
def child_of_user(body: Callable[[Connection], None]) -> Iterator[Connection]:
    """Runs body(pipe) in a child as an ordinary user; gives the other end of the pipe.

    What fails there comes through the pipe as text. Waits for the child in the end.
    """
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if not child:
        try:
            ours.close()
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            body(theirs)
        except BaseException:
            theirs.send(traceback.format_exc())
        finally:
            theirs.close()
            os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(child, 0)


def answer(pipe: Connection) -> Any:
    """What the child sent; raises AssertionError if that is how it failed."""
    got = pipe.recv()
    if isinstance(got, str):
        raise AssertionError(got)
    return got


def serve(pid: int) -> Callable[[Connection], None]:
    """The child: a session that does as it is told until the pipe is closed."""

    def body(pipe: Connection) -> None:
        with attach(pid) as session:
            frozen = None
            while True:
                try:
                    command = pipe.recv()
                except EOFError:
                    return
                if command == "iterate":
                    iteration = session.iterate()
                    pages = iteration.processes[pid]
                    sets = [list(each) for each in (pages.dirty, pages.discarded, pages.always)]
                    pipe.send((iteration.number, iteration.frozen, sets, pages.regions))
                elif command == "freeze":
                    frozen = session.frozen()
                    frozen.__enter__()
                    pipe.send(True)
                elif frozen is not None:
                    frozen.__exit__(None, None, None)
                    pipe.send(True)

    return body


class Remote:
    """The session in the child, as the oracle wants to see one."""

    def __init__(self, pid: int, pipe: Connection) -> None:
        self._pid = pid
        self._pipe = pipe

    def _ask(self, command: str) -> Any:
        self._pipe.send(command)
        return answer(self._pipe)

    def iterate(self) -> Iteration:
        number, frozen, sets, regions = self._ask("iterate")
        dirty, discarded, always = map(PageSet.from_ranges, sets)
        pages = ProcessPages(dirty, discarded, always, lambda: regions)
        return Iteration(number, frozen, 0, 0, 0, 4096, {self._pid: pages})

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self._ask("freeze")
        yield
        self._ask("thaw")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("churn", ("-s", "7", "-t", "3", "-m", "16", "-p", "50")),
        ("filemap", ()),
        ("shmem", ("3", "wred")),
    ],
)
def test_own_process_is_sound(
    spawn: Spawn, name: str, arguments: tuple[str, ...], backend: str
) -> None:
    if os.geteuid():
        pytest.skip("the judge needs root")
    if backend == "sync":
        pytest.skip("a handler of faults from kernel mode needs privilege")
    victim = spawn(name, *arguments, user=USER, group=USER)
    progress = Counting(victim, 50)
    with child_of_user(serve(victim.pid)) as pipe:
        oracle = Oracle(Remote(victim.pid, pipe))
        for _ in range(20):
            oracle.step()
            progress()
        oracle.final().check(iterations=21)
    victim.finish()


def test_synchronous_protection_needs_privilege(spawn: Spawn) -> None:
    """A userfaultfd for user mode only would make system calls of the target fail."""
    if os.geteuid():
        pytest.skip("needs root to start a process of another user")
    victim = spawn("churn", "-s", "7", "-t", "2", "-m", "8", user=USER, group=USER)

    def refused(pipe: Connection) -> None:
        with pytest.raises(NotPermitted) as caught, attach(victim.pid, backend="sync"):
            pass
        assert "userfaultfd" in str(caught.value) and "root" in caught.value.hint
        pipe.send(True)

    with child_of_user(refused) as pipe:
        assert answer(pipe)
    Counting(victim, 50)()
    victim.finish()


def test_a_process_of_another_user_is_refused(spawn: Spawn) -> None:
    if os.geteuid():
        pytest.skip("needs root to start a process of another user")
    victim = spawn("idle")

    def refused(pipe: Connection) -> None:
        with pytest.raises(NotPermitted) as caught, attach(victim.pid):
            pass
        assert caught.value.exit_code == 5
        assert caught.value.hint and "\n" not in caught.value.hint
        assert str(victim.pid) in str(caught.value)
        pipe.send(True)

    with child_of_user(refused) as pipe:
        assert answer(pipe)
    victim.finish()


@pytest.mark.parametrize(("scope", "hint"), [(1, "kernel.yama.ptrace_scope=0"), (2, "run as root")])
def test_yama_is_named_with_what_to_change(
    monkeypatch: pytest.MonkeyPatch, spawn: Spawn, scope: int, hint: str
) -> None:
    """This machine may have no Yama: what it would say is put in its place."""
    victim = spawn("idle", user=USER, group=USER)
    monkeypatch.setattr(permission, "yama_scope", lambda: scope)

    def explained(pipe: Connection) -> None:
        error = permission.refused(victim.pid, "PTRACE_SEIZE")
        assert f"ptrace_scope is {scope}" in str(error) and hint in error.hint
        pipe.send(True)

    with child_of_user(explained) as pipe:
        assert answer(pipe)
    victim.finish()
