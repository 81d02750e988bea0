"""Who may do what: other users, through the socket, at processes that are theirs or not quite."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.procfs import thread_states
from tests.rawclient import RawClient
from tests.victim import Victim, build
from uffdtrackd.tracking.procfs import read_stat

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users"),
]
Spawn = Callable[..., Victim]
# Neither needs to exist.
USER, OTHER, GROUP = 47011, 47012, 47013

# The group uffdtrackd is that of the machine; here it has a number that nobody has.
_PROGRAM = f"""
import sys
from uffdtrackd.service import main, policy
policy.group_id = lambda name: {GROUP}
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    settings = "[limits]\nsessions = 2\n"
    with Daemon(folder, settings, program=(sys.executable, "-c", _PROGRAM)) as one:
        # As the unit and the folder of the socket have it, but for everybody.
        folder.chmod(0o711)
        one.socket.chmod(0o666)
        yield one


@pytest.fixture
def member(daemon: Daemon) -> Iterator[RawClient]:
    with RawClient(daemon.socket, USER, [GROUP]) as one:
        yield one


def of(victim: Victim) -> dict[str, Any]:
    return {"pid": victim.pid, "start_time": read_stat(victim.pid).start_time}


def test_who_is_not_a_member_is_told_so(daemon: Daemon) -> None:
    with RawClient(daemon.socket, USER, [OTHER]) as raw:
        error = raw.refused("hello")
        assert (error["name"], error["code"]) == ("uffdtrack.NotPermitted", 5)
        assert raw.closed() == []
    assert f"of uid {USER}: uid {USER} may not use this daemon" in daemon.errors()


def test_a_primary_group_counts(daemon: Daemon) -> None:
    with RawClient(daemon.socket, GROUP) as raw:
        raw.call("hello")


def test_a_member_and_its_own_process(member: RawClient, spawn: Spawn) -> None:
    victim = spawn("churn", user=USER, group=USER)
    found = member.call("attach", of(victim))
    assert (found["owner"], found["pid"]) == (USER, victim.pid)
    session = {"session": found["session"]}
    first = member.call("iterate", session)["processes"][0]
    start = first["dirty"][0][0]
    assert member.call("read", {**session, "pid": victim.pid, "start": start, "length": 8})
    member.call("freeze", session)
    assert set(thread_states(victim.pid).values()) <= {"t", "T"}
    member.call("thaw", session)
    member.call("detach", session)
    victim.finish()


def test_a_pid_alone_is_not_enough(member: RawClient, spawn: Spawn) -> None:
    victim = spawn("idle", user=USER, group=USER)
    assert member.refused("attach", {"pid": victim.pid})["name"] == "uffdtrack.NotPermitted"
    error = member.refused("attach", {"pid": victim.pid, "start_time": 1})
    assert error["name"] == "uffdtrack.TargetGone"
    pidfd = os.pidfd_open(victim.pid)
    try:
        found = member.call("attach", {"pidfd": 0}, [pidfd])
    finally:
        os.close(pidfd)
    member.call("detach", {"session": found["session"]})


def test_the_log_is_not_flooded(daemon: Daemon, member: RawClient) -> None:
    """Neither by what the policy refuses nor by what is no request."""
    before = daemon.errors().count("\n")
    for _ in range(500):
        assert member.refused("attach", {"pid": 1})["name"] == "uffdtrack.NotPermitted"
    for _ in range(100):
        with RawClient(daemon.socket, USER, [GROUP]) as raw:
            raw.send(b"\xc1")
            assert raw.closed()
    said = daemon.errors()
    assert said.count("\n") - before < 100
    assert f"uid {USER}" in said


@pytest.mark.parametrize("owner", ["root", "other"])
def test_processes_of_others(member: RawClient, spawn: Spawn, owner: str) -> None:
    ids = {} if owner == "root" else {"user": OTHER, "group": OTHER}
    victim = spawn("idle", **ids)
    assert member.refused("attach", of(victim))["name"] == "uffdtrack.NotPermitted"
    victim.finish()


def test_sessions_of_others_are_not_there(daemon: Daemon, member: RawClient, spawn: Spawn) -> None:
    victim = spawn("idle", user=USER, group=USER)
    name = {"session": member.call("attach", of(victim))["session"]}
    with RawClient(daemon.socket, OTHER, [GROUP]) as other:
        assert other.call("list") == {"sessions": []}
        for method in ("iterate", "pending", "freeze", "thaw", "detach", "watch", "status"):
            error = other.refused(method, {**name, "iteration": 0})
            assert error["name"] == "uffdtrack.NoSuchSession", method
        assert name["session"] not in other.call("metrics")["text"]
    with RawClient(daemon.socket) as root:
        assert root.call("list")["sessions"][0]["session"] == name["session"]
        root.call("detach", name)
    victim.finish()


def test_limits_are_for_each_user(daemon: Daemon, member: RawClient, spawn: Spawn) -> None:
    victims = [spawn("idle", user=USER, group=USER) for _ in range(3)]
    names = [member.call("attach", of(one))["session"] for one in victims[:2]]
    assert member.refused("attach", of(victims[2]))["name"] == "uffdtrack.LimitReached"
    with RawClient(daemon.socket, OTHER, [GROUP]) as other:
        mine = spawn("idle", user=OTHER, group=OTHER)
        other.call("detach", {"session": other.call("attach", of(mine))["session"]})
    for name in names:
        member.call("detach", {"session": name})


def test_a_set_uid_program(member: RawClient, spawn_program: Spawn, tmp_path: Path) -> None:
    """Started by the user, with the rights of another: not its own."""
    for mode, owner in ((0o4755, OTHER), (0o2755, USER)):
        program = _public(tmp_path, "idle")
        os.chown(program, owner, OTHER)
        program.chmod(mode)
        victim = spawn_program(program, user=USER, group=USER)
        assert member.refused("attach", of(victim))["name"] == "uffdtrack.NotPermitted"
        victim.finish()


def test_a_process_that_hides(member: RawClient, spawn_program: Spawn, tmp_path: Path) -> None:
    """Its program file cannot be read, so it is not dumpable: the kernel would refuse too."""
    program = _public(tmp_path, "idle")
    program.chmod(0o711)
    victim = spawn_program(program, user=USER, group=USER)
    error = member.refused("attach", of(victim))
    assert error["name"] == "uffdtrack.NotPermitted" and "dumpable" in error["message"]
    victim.finish()


def test_exec_of_a_set_uid_program_under_tracking(
    member: RawClient, spawn_program: Spawn, tmp_path: Path
) -> None:
    """The session was of the user's own program; what runs now is none of its business."""
    shell = _shell_of_set_uid(spawn_program, tmp_path)
    session = {"session": member.call("attach", of(shell))["session"]}
    pages = member.call("iterate", session)["processes"][0]["dirty"]
    shell.send("go")
    shell.wait_for("ready")
    error = member.refused("iterate", session)
    assert error["name"] == "uffdtrack.NotPermitted", error
    start = pages[0][0]
    for method, more in (
        ("read", {"pid": shell.pid, "start": start, "length": 1}),
        ("freeze", {}),
    ):
        error = member.refused(method, {**session, **more})
        assert error["name"] == "uffdtrack.NotPermitted", (method, error)
    member.call("detach", session)
    shell.finish()


def test_what_was_read_before_is_not_read_after_exec(
    member: RawClient, spawn_program: Spawn, tmp_path: Path
) -> None:
    """The memory was opened, and permitted, when the program was the user's own."""
    shell = _shell_of_set_uid(spawn_program, tmp_path)
    session = {"session": member.call("attach", of(shell))["session"]}
    pages = member.call("iterate", session)["processes"][0]["dirty"]
    asked = {**session, "pid": shell.pid, "start": pages[0][0], "length": 1}
    member.call("read", asked)
    shell.send("go")
    shell.wait_for("ready")
    # Where the new program has something, and where it has nothing.
    stack = read_stat(shell.pid).image[2] & ~4095
    for start in (stack, pages[0][0]):
        error = member.refused("read", {**asked, "start": start})
        assert error["name"] == "uffdtrack.NotPermitted", error
    member.call("detach", session)
    shell.finish()


def _shell_of_set_uid(spawn_program: Spawn, folder: Path) -> Victim:
    """The user's own program, which runs one with the rights of another when it is told "go"."""
    program = _public(folder, "idle")
    os.chown(program, OTHER, OTHER)
    program.chmod(0o4755)
    return spawn_program(
        "sh", "-c", f"echo ready; read line; exec {program}", user=USER, group=USER
    )


def _public(folder: Path, name: str) -> Path:
    """A copy of a victim's program that everybody may run."""
    place = Path(os.path.realpath("/tmp")) / f"uffdtrackd-test-{os.getpid()}"
    place.mkdir(mode=0o755, exist_ok=True)
    place.chmod(0o755)
    copy = place / f"{name}-{folder.name}"
    copy.unlink(missing_ok=True)
    shutil.copy2(build(name), copy)
    copy.chmod(0o755)
    return copy


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    yield
    shutil.rmtree(Path(os.path.realpath("/tmp")) / f"uffdtrackd-test-{os.getpid()}", True)
