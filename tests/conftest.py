"""What every test may ask for: victims, and a machine left as it was found.

    build_target("churn")            -> Path of the program, compiled when its source changed
    spawn("churn", "--seed", "7")    -> Victim: .pid .send() .ask() .line() .finish() .kill()
    spawn_program("redis-server", ready="Ready to accept")   the same for a program that is not ours

All victims are killed, by pid, when the test ends. Around every test marked `live` the children,
threads and fds of pytest itself are compared: a tracker that leaks fails the test it leaked in.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import uffdtrackd.tracking.backend as tracking_backend
from tests import preflight, victim
from tests.victim import Victim
from uffdtrackd.model.region import Tracking
from uffdtrackd.native import scan

# As `make test` has it: uffdtrack, and on Debian redis-server, are beside this Python.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def pytest_configure() -> None:
    """A shell that starts us in the background, or nohup, ignores signals for all we start too."""
    for signum in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Say once, before anything runs, that this machine cannot run the live tests."""
    if any(item.get_closest_marker("live") for item in session.items):
        problem = preflight.problem()
        if problem and not session.config.option.collectonly:
            pytest.exit(
                f"the live tests cannot run here: {problem}\n"
                "run the others with: pytest -m 'not live'",
                returncode=3,
            )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=("async", "sync", "reading", "both"),
        help="run all live tests with this backend (default: async, and some with both); reading:"
        " sync, as on a kernel without PAGEMAP_SCAN",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which backends a live test is run with: see `backend`."""
    if metafunc.definition.get_closest_marker("live") is None:
        return
    asked = metafunc.config.getoption("--backend")
    both = metafunc.definition.get_closest_marker("both_backends") is not None
    usual = ("async", "sync") if both else ("async",)
    names = {None: usual, "both": ("async", "sync")}.get(asked, (asked,))
    if metafunc.definition.get_closest_marker("sync_only") is not None:
        names = () if asked == "async" else ("reading",) if asked == "reading" else ("sync",)
    metafunc.fixturenames.append("backend")
    metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What `attach(backend="auto")` takes in this test: "async" or "sync"."""
    name = "sync" if request.param == "reading" else request.param
    monkeypatch.setattr(tracking_backend, "automatic", lambda: Tracking(name))
    scan.forgo(request.param == "reading")
    yield name
    scan.forgo(False)


@pytest.fixture(scope="session")
def build_target() -> Callable[..., Path]:
    """build_target(name, cflags=()) -> Path: see tests.victim.build."""
    return victim.build


@pytest.fixture
def spawn_program() -> Iterator[Callable[..., Victim]]:
    """spawn_program(*argv, ready="ready", **options of Victim) -> Victim."""
    victims: list[Victim] = []

    def start(*argv: object, ready: str = "ready", **options: Any) -> Victim:
        victims.append(Victim([str(arg) for arg in argv], ready=ready, **options))
        return victims[-1]

    yield start
    for one in reversed(victims):
        one.kill()


@pytest.fixture
def spawn(spawn_program: Callable[..., Victim]) -> Callable[..., Victim]:
    """spawn(name, *args, cflags=(), **options of Victim) -> Victim of tests/targets/NAME.c."""

    def start(name: str, *args: object, cflags: Sequence[str] = (), **options: Any) -> Victim:
        return spawn_program(victim.build(name, cflags), *args, **options)

    return start


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread may end meanwhile: the timer of the test before.
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def _fds() -> Counter[str]:
    """Open fds by what they point to, pipe and socket numbers left out: a new one is a new one."""
    found: Counter[str] = Counter()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # the fd of listdir itself
        found[target.split(":[")[0] if target.startswith(("pipe", "socket")) else target] += 1
    return found


def _threads() -> set[threading.Thread]:
    # pytest-timeout's own timer is no business of the code under test.
    return {one for one in threading.enumerate() if not isinstance(one, threading.Timer)}


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a live test that leaves children, threads or fds behind in pytest's own process."""
    if request.node.get_closest_marker("live") is None:
        yield
        return
    request.getfixturevalue("backend")  # also for tests that do not ask which it is
    children, threads, fds = _children(), _threads(), _fds()
    yield
    gc.collect()
    left = {
        "children": sorted(_children() - children),
        "threads": sorted(thread.name for thread in _threads() - threads),
        "fds": dict(_fds() - fds),
    }
    assert not any(left.values()), f"left behind: {left}"
