"""Whatever becomes of the daemon, a session goes on, its target is well, and a copy stays exact."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import uffdtrackd
from tests import victim
from tests.live.follow import tracked_by_nobody
from tests.procfs import PAGE
from tests.puppet import Puppet
from tests.victim import Victim
from uffdtrackd.errors import NoDaemon, NoSuchSession, TargetGone
from uffdtrackd.service import messages

from .conftest import PATIENCE, Unit, entries
from .steady import BusyRedis, Steady

STATES = Path("/run/uffdtrackd/sessions")
# Not so short that a busy machine makes the daemon late.
SHORT = "WatchdogSec=4s\n"


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[BusyRedis]:
    one = BusyRedis(tmp_path)
    yield one
    one.close()


def restart(unit: Unit) -> None:
    unit.control("restart")


def stop_and_start(unit: Unit) -> None:
    unit.control("stop")


def kill(unit: Unit) -> None:
    os.kill(unit.pid(), signal.SIGKILL)


def hang(unit: Unit) -> None:
    """All of it: the watchdog must notice."""
    os.kill(unit.pid(), signal.SIGSTOP)


WAYS: list[Callable[[Unit], None]] = [restart, stop_and_start, kill, hang]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_copy_stays_exact(unit: Unit, busy: BusyRedis, way: Callable[[Unit], None]) -> None:
    if way is hang:
        unit.override(SHORT)
    steady = Steady(busy.pid)
    for _ in range(3):
        steady.oracle.step()
        busy.progress()
    before = unit.pid()
    way(unit)
    busy.progress()
    for _ in range(3):
        steady.oracle.step()
        busy.progress()
    assert steady.lost == 1
    assert unit.pid() not in (0, before)
    report = steady.oracle.final()
    print(report)
    report.check(iterations=7)
    # A stop empties systemd's store of descriptors, before 254 always: a full iteration, then.
    message = messages.RESTORED if way is not stop_and_start else messages.RESTORED_FULL
    assert [one["UFFDTRACK_SESSION"] for one in entries(message, unit.pid())] == [steady.name]
    assert [path.name for path in STATES.iterdir()] == [steady.name]
    steady.close()
    assert list(STATES.iterdir()) == []
    assert unit.show("NFileDescriptorStore") == "0"
    assert tracked_by_nobody(busy.pid)


@pytest.mark.parametrize("way", [kill, stop_and_start], ids=lambda way: way.__name__)
def test_a_target_never_waits_for_a_daemon(
    unit: Unit, busy: BusyRedis, way: Callable[[Unit], None]
) -> None:
    """The synchronous backend needs a handler at each first write; where there is none, it ends."""
    unit.override("Restart=no\n")
    steady = Steady(busy.pid, backend="sync")
    assert steady.session.backend == "sync"
    for _ in range(2):
        steady.oracle.step()
        busy.progress()
    way(unit)
    assert unit.show("NFileDescriptorStore") == "0"
    busy.progress()
    for _ in range(2):
        steady.oracle.step()
        busy.progress()
    assert entries(messages.RESTORED_FULL, unit.pid())
    steady.oracle.final().check(iterations=5)
    steady.close()


def test_a_family(unit: Unit) -> None:
    """Descendants too: one runs on, one ends and one is born while no daemon is there."""
    puppet = Puppet(Victim([str(victim.build("obey"))]))
    try:
        at = puppet.alone(16)
        puppet.fill(at, 16)
        ends, stays = puppet.agent("child"), puppet.agent("child")
        stays.fill(at, 4)
        steady = Steady(puppet.pid, follow="fork")
        for _ in range(2):
            steady.oracle.step()
        assert set(steady.oracle.shadows) == {puppet.pid, ends.pid, stays.pid}
        kill(unit)
        os.kill(ends.pid, signal.SIGKILL)
        born = puppet.agent("child")
        stays.fill(at + 8 * PAGE, 2)
        pages = steady.oracle.step().processes
        assert {puppet.pid, stays.pid} <= set(pages) and ends.pid not in pages
        # Not a full one: what it has been since is all there is.
        assert len(pages[stays.pid].dirty) < 16
        assert entries(messages.RESTORED, unit.pid())
        # A list of children that is read while one ends may lack another, and a machine that is
        # busy may not let us attach in time: then the one after that has it.
        late = 0
        while born.pid not in steady.oracle.shadows:
            late += 1
            assert late < 20, steady.session.status
            steady.oracle.step()
        steady.oracle.final().check(iterations=4)
        steady.close()
    finally:
        puppet.victim.kill()


def test_killed_at_any_moment(unit: Unit, busy: BusyRedis) -> None:
    """Also while it collects, writes its state or starts: nothing is lost, nothing comes twice."""
    steady = Steady(busy.pid)
    steady.oracle.step()
    seed = random.randrange(1 << 30)
    print(f"SEED={seed}")
    draw = random.Random(seed)
    for _ in range(8):
        over = threading.Event()

        def strike(over: threading.Event = over) -> None:
            time.sleep(draw.uniform(0.0, 0.3))
            if pid := unit.pid():
                os.kill(pid, signal.SIGKILL)
            over.set()

        striker = threading.Thread(target=strike)
        striker.start()
        while not over.is_set():
            steady.oracle.step()
        striker.join()
        busy.progress()
    assert steady.lost > 0
    steady.oracle.final().check(iterations=8)
    steady.close()


def test_a_stuck_worker(unit: Unit, busy: BusyRedis) -> None:
    """The loop turns, and other sessions go on, but one worker gets nowhere: the watchdog hangs on
    the workers."""
    unit.override(SHORT)
    steady = Steady(busy.pid)
    steady.oracle.step()
    pid = unit.pid()
    # Its thread waits for its child's exec(), so that there is time to stop who waits for it.
    target = Victim([str(victim.build("odd")), "vfork"])
    stuck = uffdtrackd.connect(timeout=PATIENCE)
    attaching = threading.Thread(target=_lost, args=(stuck, target.pid))
    try:
        attaching.start()
        injectors = _injectors()
        for injector in injectors:
            os.kill(injector, signal.SIGSTOP)
        while not entries(messages.WORKER_STUCK, pid):
            steady.oracle.step()
        attaching.join()
        assert unit.pid() != pid
        busy.progress()
        steady.oracle.final().check(iterations=3)
        for injector in injectors:
            with suppress(ProcessLookupError):
                os.kill(injector, signal.SIGKILL)
    finally:
        stuck.close()
        target.kill()
    steady.close()


def _injectors() -> list[int]:
    """The processes that inject, when there are some."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (folder / "comm").read_text() == "uffd-inject\n":
                    found.append(int(folder.name))
        if found:
            return found
    raise TimeoutError("nobody injects")


def _lost(client: uffdtrackd.Client, pid: int) -> None:
    with pytest.raises(NoDaemon):
        client.attach(pid)


def test_a_freeze_ends_with_the_daemon(unit: Unit, busy: BusyRedis) -> None:
    steady = Steady(busy.pid)
    steady.oracle.step()
    with pytest.raises(uffdtrackd.errors.TrackError), steady.session.frozen():
        kill(unit)
        busy.progress()
        steady.session.iterate()
    steady.again()
    busy.progress()
    steady.oracle.final().check()
    steady.close()


def test_many_sessions(unit: Unit) -> None:
    """More descriptors than one message could carry, and than a usual limit of 256."""
    number = 100
    victims = [subprocess.Popen(["sleep", "infinity"]) for _ in range(number)]
    try:
        with uffdtrackd.connect() as client:
            for one in victims:
                client.attach(one.pid).iterate()
        assert unit.show("NFileDescriptorStore") == str(3 * number)
        kill(unit)
        with uffdtrackd.connect() as client:
            names = [one["session"] for one in client.sessions()]
            assert len(names) == number
            assert len(entries(messages.RESTORED, unit.pid())) == number
            for name in names:
                session = client.session(name)
                iteration = session.iterate()
                # Delivered again with what came since: nobody has acknowledged anything.
                assert iteration.number == 1
                session.close()
        assert unit.show("NFileDescriptorStore") == "0"
    finally:
        for one in victims:
            one.kill()
            one.wait()


def test_a_session_of_a_connection_ends_with_the_daemon(unit: Unit) -> None:
    with uffdtrackd.connect() as client:
        bound = client.attach(unit.victim, keep=False)
        kill(unit)
        with uffdtrackd.connect() as again, pytest.raises(NoSuchSession):
            again.session(bound.name)


def test_a_target_that_ended_meanwhile(unit: Unit, busy: BusyRedis, tmp_path: Path) -> None:
    client = uffdtrackd.connect()
    session = client.attach(unit.victim)
    session.iterate()
    unit.control("stop")
    os.kill(unit.victim, signal.SIGKILL)
    os.waitpid(unit.victim, 0)
    with uffdtrackd.connect() as again, pytest.raises(TargetGone):
        again.session(session.name)
    assert entries(messages.TARGET_LOST, unit.pid())
    assert list(STATES.iterdir()) == []


def test_states_that_make_no_sense(unit: Unit) -> None:
    with uffdtrackd.connect() as client:
        client.attach(unit.victim).iterate()
    unit.control("stop")
    (state,) = STATES.iterdir()
    whole = state.read_bytes()
    for number, broken in enumerate(
        (b"", whole[:-1], whole[:40], b"x" * 100, whole[:32] + b"\xc1")
    ):
        (STATES / f"broken{number}").write_bytes(broken)
    (STATES / "half.new").write_bytes(whole)
    with uffdtrackd.connect() as client:
        assert [one["session"] for one in client.sessions()] == [state.name]
    assert [path.name for path in STATES.iterdir()] == [state.name]
