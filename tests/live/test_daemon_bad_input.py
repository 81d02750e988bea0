"""What a client can do wrong: a named error and a live connection, or a closed one; nobody hurt."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.daemon import Daemon
from tests.procfs import thread_states
from tests.rawclient import RawClient
from tests.victim import Victim

pytestmark = pytest.mark.live
Spawn = Callable[..., Victim]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon"), "[limits]\nfds = 4\n") as one:
        yield one


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """One daemon for all: each test leaves it as good as it was, to a client that did nothing."""
    with RawClient(shared.socket) as witness:
        witness.call("hello")
        fds = len(os.listdir(f"/proc/{shared.pid}/fd"))
        yield shared
        assert witness.call("hello")["product"] == "uffdtrackd"
        assert witness.call("list") == {"sessions": []}
        _await(lambda: len(os.listdir(f"/proc/{shared.pid}/fd")) <= fds)


@pytest.fixture
def raw(daemon: Daemon) -> Iterator[RawClient]:
    with RawClient(daemon.socket) as one:
        yield one


def _await(condition: Callable[[], bool]) -> None:
    """What the daemon does after a connection has closed is seen a little later."""
    for _ in range(2000):
        if condition():
            return
        signal.sigtimedwait([], 0.005)
    assert condition()


def _runs(pid: int) -> bool:
    return not set(thread_states(pid).values()) & {"t", "T"}


def test_unknown_methods_and_wrong_types_leave_the_connection(raw: RawClient) -> None:
    assert raw.refused("no such")["name"] == "uffdtrack.UnknownMethod"
    assert raw.refused("attach", {"pid": "1"})["name"] == "uffdtrack.BadRequest"
    assert raw.refused("attach", {})["name"] == "uffdtrack.BadRequest"
    assert raw.refused("attach", {"pid": 1 << 21})["name"] == "uffdtrack.TargetGone"
    assert raw.refused("iterate", {"session": "s00000000"})["name"] == "uffdtrack.NoSuchSession"
    assert raw.refused("unwatch", {"watch": 3})["name"] == "uffdtrack.UsageError"
    assert raw.refused("hello", {"api": 99})["name"] == "uffdtrack.NotSupported"
    assert raw.call("hello", {"what": [{"ever": None}]})["api"] == [1, 0]


def test_frames_that_are_no_requests(raw: RawClient) -> None:
    frames: tuple[Any, ...] = (7, [], {}, [0, 5], [9, 9, 9, 9], None)
    for frame in frames:
        raw.send(msgpack.packb(frame))
        kind, method, (error,) = raw.frame()
        assert (kind, method, error["name"]) == (2, "error", "uffdtrack.BadRequest")
    raw.send(msgpack.packb([0, 77, "hello", "x"]))
    assert raw.answer(77)[0]["name"] == "uffdtrack.BadRequest"
    raw.call("hello")


def test_a_notification_is_done_and_not_answered(raw: RawClient) -> None:
    raw.send(msgpack.packb([2, "hello", [{}]]))
    raw.send(msgpack.packb([2, "no such", [{}]]))
    number = raw.request("hello")
    assert raw.frame()[:2] == [1, number]


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n\xc1",
        b"\xc6\x40\x00\x00\x00" + bytes(1 << 18),
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["garbage", "http", "1 GiB", "deep", "4 G items"],
)
def test_a_lost_stream_is_closed_with_a_word(raw: RawClient, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        raw.send(data)
    last = raw.closed()[-1]
    assert last[:2] == [2, "error"] and last[2][0]["name"] == "uffdtrack.BadRequest"


def test_random_bytes(daemon: Daemon) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    good = msgpack.packb([0, 1, "status", [{"session": "s1"}]])
    for _ in range(300):
        with RawClient(daemon.socket) as raw:
            data = bytearray(good * 3)
            for _ in range(rng.randrange(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            if rng.random() < 0.3:
                data[:] = rng.randbytes(rng.randrange(1, 4000))
            with suppress(BrokenPipeError):
                raw.send(bytes(data))


def test_truncated_and_gone(daemon: Daemon) -> None:
    whole = msgpack.packb([0, 1, "hello", [{}]])
    for size in range(len(whole)):
        with RawClient(daemon.socket) as raw:
            raw.send(whole[:size] or b"\x94")


def test_deep_parameters(raw: RawClient) -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"x": deep}
    assert raw.refused("hello", {"x": deep})["name"] == "uffdtrack.BadRequest"
    raw.call("hello")


def test_descriptors_that_are_not_what_they_should_be(raw: RawClient, spawn: Spawn) -> None:
    victim = spawn("idle")
    with open(os.devnull) as null:
        error = raw.refused("attach", {"pidfd": 0}, [null.fileno()])
        assert (error["name"], "no pidfd" in error["message"]) == ("uffdtrack.BadRequest", True)
    pidfd = os.pidfd_open(victim.pid)
    try:
        for params in ({"pidfd": 1}, {"pidfd": 0, "pid": 1}):
            assert raw.refused("attach", params, [pidfd])["name"] == "uffdtrack.BadRequest"
        assert raw.refused("attach", {"pidfd": 0})["name"] == "uffdtrack.BadRequest"
        # Nobody takes these.
        raw.answer(raw.request("hello", fds=[pidfd] * 4))
        error = raw.refused("hello", fds=[pidfd] * 5)
        assert error["name"] == "uffdtrack.LimitReached"
        error = raw.refused("hello", fds=[pidfd] * 200)
        assert error["name"] == "uffdtrack.LimitReached"
        found = raw.call("attach", {"pidfd": 0, "keep": False}, [pidfd])
        assert found["pid"] == victim.pid
        raw.call("detach", {"session": found["session"]})
        victim.kill()
        assert raw.refused("attach", {"pidfd": 0}, [pidfd])["name"] == "uffdtrack.TargetGone"
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("how", ["taken by none", "too many", "no pidfd", "not read", "urgent"])
def test_a_descriptor_whose_close_waits(daemon: Daemon, how: str) -> None:
    """A TCP socket with unsent data and SO_LINGER: nobody waits but who sent it."""
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    sender.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sender.send(bytes(1 << 16))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
    fds = [sender.fileno()]
    if how == "too many":
        fds = [listener.fileno()] * 252 + fds
    with listener, receiver, RawClient(daemon.socket) as raw, RawClient(daemon.socket) as other:
        other.call("hello")
        hello = msgpack.packb([0, 1, "hello", [{}]])
        # It must not close its own before we have closed ours.
        os.kill(daemon.pid, signal.SIGSTOP)
        _await(lambda: set(thread_states(daemon.pid).values()) == {"T"})
        if how == "not read":
            raw.send(b"\xc1", [listener.fileno()])
            raw.send(hello, fds)
        elif how == "urgent":
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", *fds))]
            raw.sock.sendmsg([hello[:1]], rights, socket.MSG_OOB)
        elif how == "no pidfd":
            raw.send(msgpack.packb([0, 1, "attach", [{"pidfd": 0}]]), fds)
        else:
            raw.send(hello, fds)
        sender.close()
        os.kill(daemon.pid, signal.SIGCONT)
        if how != "urgent":
            raw.frame()
        for _ in range(20):
            other.call("hello")
        raw.close()
        for _ in range(20):
            other.call("hello")
    # What nobody reads any more is reset, and the close is over.


def test_descriptors_go_with_the_request_they_came_with(raw: RawClient, spawn: Spawn) -> None:
    victim = spawn("idle")
    pidfd = os.pidfd_open(victim.pid)
    hello = msgpack.packb([0, 1, "hello", [{}]])
    attach = msgpack.packb([0, 2, "attach", [{"pidfd": 0, "keep": False}]])
    try:
        raw.send(hello + hello[:3])
        raw.send(hello[3:])
        raw.send(attach[:5], [pidfd])
        raw.send(attach[5:])
        frames = sorted((raw.frame() for _ in range(3)), key=lambda frame: int(frame[1]))
    finally:
        os.close(pidfd)
    assert [frame[2] for frame in frames] == [None] * 3
    raw.call("detach", {"session": frames[2][3]["session"]})


def test_the_wrong_start_time(raw: RawClient, spawn: Spawn) -> None:
    victim = spawn("idle")
    error = raw.refused("attach", {"pid": victim.pid, "start_time": 1})
    assert error["name"] == "uffdtrack.TargetGone"
    victim.finish()


def test_more_requests_than_may_wait(raw: RawClient, spawn: Spawn) -> None:
    session = raw.call("attach", {"pid": spawn("idle").pid})["session"]
    for number in range(100, 400):
        raw.send(msgpack.packb([0, number, "iterate", [{"session": session}]]))
    answers = [raw.frame() for _ in range(300)]
    assert {frame[1] for frame in answers} == set(range(100, 400))
    names = {frame[2]["name"] for frame in answers if frame[2]}
    assert names <= {"uffdtrack.LimitReached"}
    assert sum(frame[2] is None for frame in answers) >= 32
    raw.call("detach", {"session": session})


def test_who_does_not_read_is_not_read_from(daemon: Daemon, spawn: Spawn) -> None:
    victim = spawn("churn")
    with RawClient(daemon.socket) as raw, RawClient(daemon.socket) as other:
        session = raw.call("attach", {"pid": victim.pid, "keep": False})["session"]
        before = _rss(daemon.pid)
        raw.sock.setblocking(False)
        sent = 0
        frame = msgpack.packb([0, 5, "describe", [{}]])
        idle = 0
        while idle < 50 and sent < 1 << 24:
            try:
                sent += raw.sock.send(frame)
                idle = 0
            except BlockingIOError:
                # The daemon still answers others meanwhile.
                other.call("hello")
                idle += 1
        assert idle == 50, f"{sent} bytes were taken from a client that reads nothing"
        assert _rss(daemon.pid) - before < 16 << 20
        other.call("iterate", {"session": session})
    victim.finish()


def _rss(pid: int) -> int:
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_slow_watcher_loses_no_page(daemon: Daemon, spawn: Spawn) -> None:
    """It reads nothing for a while; what it then reads tells of every page ever written."""
    victim = spawn("churn")
    with RawClient(daemon.socket) as raw, RawClient(daemon.socket) as other:
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        session = other.call("attach", {"pid": victim.pid, "keep": False})["session"]
        raw.call("watch", {"session": session, "interval": 0.01})
        while other.call("status", {"session": session})["sessions"][0]["iterations"] < 80:
            signal.sigtimedwait([], 0.05)
        seen: set[int] = set()
        lost = 0
        while not lost:
            params = raw.frame()[2][0]
            lost = params["lost"]
            for start, end in params["processes"][0]["dirty"]:
                seen.update(range(start, end, 4096))
        last = other.call("iterate", {"session": session, "consumer": "other"})
        # It keeps coming until all that is populated was named.
        wanted = {
            page for start, end in last["processes"][0]["dirty"] for page in range(start, end, 4096)
        }
        while wanted - seen:
            params = raw.frame()[2][0]
            for start, end in params["processes"][0]["dirty"]:
                seen.update(range(start, end, 4096))
            for start, end in params["processes"][0]["discarded"]:
                wanted.difference_update(range(start, end, 4096))
    victim.finish()


def test_a_client_that_dies_with_a_freeze(daemon: Daemon, spawn: Spawn) -> None:
    victim = spawn("idle")
    with RawClient(daemon.socket) as raw:
        session = raw.call("attach", {"pid": victim.pid})["session"]
    code = f"""
import sys, time, uffdtrackd
client = uffdtrackd.connect({str(daemon.socket)!r})
client.call("freeze", session={session!r})
print("frozen", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"frozen\n"
        assert not _runs(victim.pid)
        with RawClient(daemon.socket) as other:
            error = other.refused("freeze", {"session": session})
            assert error["name"] == "uffdtrack.AlreadyFrozen"
            assert other.call("iterate", {"session": session})["frozen"]
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    _await(lambda: _runs(victim.pid))
    with RawClient(daemon.socket) as raw:
        assert not raw.call("iterate", {"session": session})["frozen"]
        raw.call("detach", {"session": session})
    victim.finish()


def test_a_lease_that_is_over(raw: RawClient, spawn: Spawn) -> None:
    victim = spawn("idle")
    session = raw.call("attach", {"pid": victim.pid})["session"]
    asked = {"session": session, "lease_seconds": 0.05}
    assert raw.call("freeze", asked) == {"lease_seconds": 0.05}
    frame = raw.frame()
    assert frame == [2, "thawed", [{"session": session, "reason": "lease over"}]]
    _await(lambda: _runs(victim.pid))
    assert raw.call("thaw", {"session": session}) == {"thawed": False}
    # Renewed, and ended by its holder.
    raw.call("freeze", {"session": session, "lease_seconds": 30})
    raw.call("freeze", {"session": session, "lease_seconds": 20})
    assert raw.call("thaw", {"session": session}) == {"thawed": True}
    assert _runs(victim.pid)
    raw.call("detach", {"session": session})
    victim.finish()


def test_a_freeze_is_not_renewed_beyond_its_longest_lease(tmp_path: Path, spawn: Spawn) -> None:
    victim = spawn("idle")
    settings = "[freeze]\nlease = 1.0\nlease_max = 1.0\n"
    with Daemon(tmp_path, settings) as daemon, RawClient(daemon.socket) as raw:
        asked = {"session": raw.call("attach", {"pid": victim.pid})["session"]}
        raw.call("freeze", asked)
        time.sleep(0.2)
        assert raw.call("freeze", asked)["lease_seconds"] < 0.9
        assert raw.frame() == [2, "thawed", [{**asked, "reason": "lease over"}]]
        _await(lambda: _runs(victim.pid))
    victim.finish()


def test_a_freeze_that_was_lost_is_not_renewed(daemon: Daemon, spawn: Spawn) -> None:
    """Its holder was killed, the target runs: whoever asks for a freeze then gets one."""
    victim = spawn("idle")
    with RawClient(daemon.socket) as raw:
        asked = {"session": raw.call("attach", {"pid": victim.pid})["session"]}
        before = _children(daemon.pid)
        raw.call("freeze", asked)
        (holder,) = _children(daemon.pid) - before
        os.kill(holder, signal.SIGKILL)
        _await(lambda: _runs(victim.pid))
        number = raw.request("freeze", asked)
        assert raw.frame() == [2, "thawed", [{**asked, "reason": "lease over"}]]
        assert raw.answer(number)[0] is None
        assert not _runs(victim.pid)
        assert raw.call("iterate", asked)["frozen"]
        raw.call("detach", asked)
    victim.finish()


def _children(pid: int) -> set[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(one) for each in lists for one in each.read_text().split()}


def test_detach_of_a_frozen_session_thaws(raw: RawClient, spawn: Spawn) -> None:
    victim = spawn("idle")
    session = raw.call("attach", {"pid": victim.pid})["session"]
    raw.call("freeze", {"session": session})
    raw.call("detach", {"session": session})
    assert _runs(victim.pid)
    victim.finish()


def test_thousands_of_connections(tmp_path: Path) -> None:
    settings = "[limits]\nconnections = 200\n"
    with Daemon(tmp_path, settings) as daemon:
        first = RawClient(daemon.socket)
        many = [RawClient(daemon.socket) for _ in range(2000)]
        try:
            assert first.call("hello")["limits"]["connections"] == 200
            assert daemon.errors().count("refused pid") < 20, "the log was flooded"
            frame = many[-1].closed()[-1]
            assert frame[2][0]["name"] == "uffdtrack.LimitReached"
            for one in many:
                one.close()
            _await(lambda: first.call("status")["connections"] == 1)
        finally:
            for one in (first, *many):
                one.close()


def test_read_is_bounded(raw: RawClient, spawn: Spawn) -> None:
    victim = spawn("idle")
    session = raw.call("attach", {"pid": victim.pid})["session"]
    start = raw.call("iterate", {"session": session})["processes"][0]["dirty"][0][0]
    ask = {"session": session, "pid": victim.pid, "start": start}
    assert len(raw.call("read", {**ask, "length": 4096})["data"]) == 4096
    assert raw.refused("read", {**ask, "length": 1 << 40})["name"] == "uffdtrack.LimitReached"
    error = raw.refused("read", {**ask, "start": 0, "length": 64})
    assert (error["name"], error["data"]["pid"]) == ("uffdtrack.TrackError", victim.pid)
    assert raw.refused("read", {**ask, "pid": 1, "length": 1})["name"] == "uffdtrack.UsageError"
    raw.call("detach", {"session": session})


def test_a_reset_in_the_middle_of_an_answer(daemon: Daemon, spawn: Spawn) -> None:
    victim = spawn("churn")
    with RawClient(daemon.socket) as keeper:
        session = keeper.call("attach", {"pid": victim.pid})["session"]
        for _ in range(20):
            with RawClient(daemon.socket) as raw:
                raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raw.request("iterate", {"session": session, "deliver": "memfd"})
        keeper.call("iterate", {"session": session})
        keeper.call("detach", {"session": session})
    victim.finish()


def test_a_watch_of_a_client_that_has_gone_by_then(daemon: Daemon, spawn: Spawn) -> None:
    """What it asked for comes in one piece with what its connection is closed for."""
    idle = spawn("idle")
    with daemon.connect() as client:
        session = client.attach(idle.pid, keep=False)
        with RawClient(daemon.socket) as raw:
            raw.send(
                msgpack.packb([0, 1, "watch", [{"session": session.name, "interval": 0.01}]])
                + b"\xc1"
            )
            raw.closed()
        # In turn with what the watch collects, if there is one.
        session.iterate()
        session.iterate()
        (found,) = client.status()["sessions"]
        assert [one["name"] for one in found["consumers"]] == ["default"]
        assert found["iterations"] == 2
    idle.finish()
