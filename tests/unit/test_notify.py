"""The talk with the service manager: held against a socket that stands in for systemd's."""

from __future__ import annotations

import array
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from uffdtrackd.errors import NotSupported
from uffdtrackd.service import libsystemd, notify


class Systemd:
    """The other end: what was said, with the descriptors that came along."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def heard(self) -> tuple[list[str], list[int]]:
        size = array.array("i").itemsize
        data, extra, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(16 * size))
        fds = array.array("i")
        for level, kind, content in extra:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(content)
        return data.decode().split("\n"), list(fds)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    other = Systemd(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield other
    other.socket.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "WATCHDOG_USEC"):
        monkeypatch.delenv(name, raising=False)


def test_states(systemd: Systemd) -> None:
    manager = notify.Manager()
    manager.ready("3 sessions")
    assert systemd.heard() == (["READY=1", "STATUS=3 sessions"], [])
    manager.status("one\nREADY=1")
    assert systemd.heard() == (["STATUS=one READY=1"], [])
    manager.stopping("bye")
    assert systemd.heard() == (["STOPPING=1", "STATUS=bye"], [])
    manager.extend(1.5)
    assert systemd.heard() == (["EXTEND_TIMEOUT_USEC=1500000"], [])
    manager.alive()
    assert systemd.heard() == (["WATCHDOG=1"], [])
    manager.reloading()
    (first, second), _ = systemd.heard()
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")


def test_descriptors_go_to_the_store(systemd: Systemd) -> None:
    manager = notify.Manager()
    read, write = os.pipe()
    assert manager.store("s-1.0", [read, write])
    lines, fds = systemd.heard()
    assert lines == ["FDSTORE=1", "FDNAME=s-1.0", "FDPOLL=0"]
    assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in (read, write)]
    manager.drop("s-1.0")
    assert systemd.heard() == (["FDSTOREREMOVE=1", "FDNAME=s-1.0"], [])
    for fd in (read, write, *fds):
        os.close(fd)


@pytest.mark.parametrize("name", ["", "a:b", "x" * 256, "a\nb"])
def test_names_that_the_store_would_not_take(systemd: Systemd, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        notify.Manager().store(name, [0])


def test_a_barrier_ends_when_it_was_read(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = notify.Manager()
    monkeypatch.setattr(notify, "_BARRIER_SECONDS", 0.01)
    assert not manager.barrier()
    _, (late,) = systemd.heard()
    os.close(late)
    # Now one that is answered: what is received is closed as soon as it is there.
    monkeypatch.setattr(notify, "_BARRIER_SECONDS", 5.0)
    pid = os.fork()
    if pid == 0:
        lines, (fd,) = systemd.heard()
        os.close(fd)
        os._exit(lines != ["BARRIER=1"])
    assert manager.barrier()
    assert os.waitpid(pid, 0)[1] == 0


def test_a_manager_that_went_away_is_no_failure(systemd: Systemd, tmp_path: Path) -> None:
    manager = notify.Manager()
    (tmp_path / "notify").unlink()
    manager.ready("x")
    assert not manager.store("s", [0])
    assert not manager.barrier()


@pytest.mark.usefixtures("alone")
def test_nobody_there() -> None:
    manager = notify.Manager()
    assert not manager.present
    assert manager.watchdog is None
    assert manager.inherited() == {}
    manager.ready("x")
    assert not manager.store("s", [0])
    assert not manager.barrier()


def test_without_its_library_a_unit_fails_at_once(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "daemon", None)
    with pytest.raises(NotSupported, match="systemd-python is not installed"):
        notify.Manager()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], seconds: float | None
) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.Manager().watchdog == seconds


INHERITED = """
import os
from uffdtrackd.service.notify import Manager, is_listener
os.environ["LISTEN_PID"] = str(os.getpid())
found = Manager().inherited()
assert found == {"control": [3], "s-1.0": [4, 5]}, found
assert is_listener(3) and not is_listener(4)
assert not any(os.get_inheritable(fd) for fd in (3, 4, 5))
assert not any(name.startswith("LISTEN_") for name in os.environ)
"""


def test_what_systemd_passes(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        read, write = os.pipe()
        environment = os.environ | {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "control:s-1.0:s-1.0"}
        given = [os.dup(fd) for fd in (listener.fileno(), read, write)]
        # Each is moved down onto 3, 4, 5: none may be overwritten before it was moved.
        assert min(given) > 5
        moves = "; ".join(f"exec {3 + i}<&{fd}" for i, fd in enumerate(given))
        command = ["bash", "-c", f'{moves}; exec "$@"', "-", sys.executable, "-c", INHERITED]
        done = subprocess.run(command, env=environment, pass_fds=given, check=False)
        for fd in (read, write, *given):
            os.close(fd)
    assert done.returncode == 0


def test_systemd_python_is_here() -> None:
    """The tests above mean something only with it; a folder of the same name must not do."""
    assert libsystemd.daemon is not None
    assert libsystemd.journal is not None
