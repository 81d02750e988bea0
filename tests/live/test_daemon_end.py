"""The end of a daemon that nobody keeps sessions for: the target is let go, the client is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.live.follow import Counting, tracked_by_nobody
from tests.victim import Victim
from uffdtrackd.errors import ConnectionLost, NoDaemon, NoSuchSession

pytestmark = pytest.mark.live

Spawn = Callable[..., Victim]


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_without_a_service_manager(spawn: Spawn, tmp_path: Path, way: str) -> None:
    victim = spawn("churn", "-t", 1, "-m", 4)
    with Daemon(tmp_path) as daemon:
        client = daemon.connect()
        session = client.attach(victim.pid)
        session.iterate()
        getattr(daemon, way)()
        with pytest.raises(ConnectionLost):
            session.iterate()
        with pytest.raises(NoDaemon):
            daemon.connect()
    Counting(victim, 50)()
    assert tracked_by_nobody(victim.pid)
    with Daemon(tmp_path) as again, again.connect() as other:
        with pytest.raises(NoSuchSession) as told:
            other.session(session.name)
        assert told.value.hint
        assert other.sessions() == []
    victim.finish()
