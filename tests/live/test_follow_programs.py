"""Trees of real programs: a shell that forks all the time, PostgreSQL under load."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.follow import Counting
from tests.live.tree import Followed
from tests.victim import Victim

pytestmark = pytest.mark.live

SpawnProgram = Callable[..., Victim]
TARGETS = Path(__file__).parent.parent / "targets"
NOBODY = 65534


def test_children_that_die_while_they_are_attached_to(spawn_program: SpawnProgram) -> None:
    """A shell whose children live for a millisecond: each is exact or not there, none an error."""
    shell = spawn_program("bash", TARGETS / "forking.sh")
    counting = Counting(shell, 2)
    with Followed(shell.pid) as tree:
        met = finals = 0
        # Seldom does one live long enough to be listed; frozen it cannot end.
        while met < 3 and finals < 100:
            for _ in range(10):
                assert tree.step().untracked == {}
            tree.final()
            finals += 1
            met += len(tree.pids) - 1
            counting()
        assert met >= 3, f"{met} children met in {finals} finals"
    shell.finish()


def _postgres() -> tuple[str, str, str]:
    folders = [os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    found = [
        shutil.which(name, path=":".join(folders)) for name in ("postgres", "initdb", "pgbench")
    ]
    if not all(found):
        pytest.skip("postgres, initdb and pgbench are not installed (apt: postgresql)")
    server, init, bench = (str(one) for one in found)
    return server, init, bench


@pytest.fixture
def cluster(spawn_program: SpawnProgram, tmp_path: Path) -> Iterator[tuple[Victim, list[str]]]:
    """A private server, and the command that puts load on it."""
    server, init, bench = _postgres()
    # The server refuses root; others may not walk into pytest's folder.
    folder = Path(f"/tmp/uffdtrackd-pg-{os.getpid()}")
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    data = folder / "data"
    quiet = {"check": True, "capture_output": True, "user": NOBODY, "group": NOBODY}
    try:
        subprocess.run([init, "-D", data, "-U", "test", "-A", "trust", "-N"], cwd=folder, **quiet)  # type: ignore[call-overload]
        postgres = spawn_program(
            "sh",
            "-c",
            f"exec {server} -D {data} -k {folder} -c listen_addresses= -c shared_buffers=16MB"
            " -c fsync=off -c logging_collector=off 2>&1",
            ready="ready to accept",
            user=NOBODY,
            group=NOBODY,
            cwd=folder,
        )
        command = [bench, "-h", str(folder), "-U", "test", "postgres"]
        subprocess.run([*command, "-i", "-s", "1", "-q"], cwd=folder, **quiet)  # type: ignore[call-overload]
        yield postgres, command
        postgres.process.terminate()
        postgres.process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_postgres(cluster: tuple[Victim, list[str]], spawn_program: SpawnProgram) -> None:
    """Connections come and go, and all processes share the buffers: every one is exact."""
    postgres, command = cluster
    with Followed(postgres.pid, deadline=20.0) as tree:
        tree.step()
        # -C: a connection, so a process, for each transaction.
        load = spawn_program(*command, "-C", "-c", 3, "-T", 60, "-n", "-P", 1, ready="")
        most = 0
        for _ in range(12):
            tree.step()
            most = max(most, len(tree.pids))
        tree.final()
        assert most > 4, "no connection was ever met"
        assert load.alive()
        for _ in range(3):
            tree.step()
        tree.final()
        load.kill()
