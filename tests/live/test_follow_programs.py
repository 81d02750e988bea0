"""Trees of real programs: a shell that forks all the time, PostgreSQL under load."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.live.follow import Counting
from tests.live.tree import Followed, no_process_events
from tests.victim import Victim
from uffdtrackd import PageSet, Region

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
        while met < 2 and finals < 1000:
            for _ in range(10):
                assert tree.step().untracked == {}
            tree.final()
            finals += 1
            met += len(tree.pids) - 1
            counting()
        assert met >= 2, f"{met} children met in {finals} finals"
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
            " -c fsync=off -c huge_pages=off -c logging_collector=off 2>&1",
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


def _buffers(tree: Followed) -> dict[int, Region]:
    """By process, the memory that a fork server and its children share."""
    return {
        pid: region
        for pid, pages in tree.iteration.processes.items()
        for region in pages.regions
        if region.label.startswith("/dev/zero") and region.bytes > 16 << 20
    }


def _listed(tree: Followed, region: Region, pages: Mapping[int, PageSet]) -> list[int]:
    """How many pages of the buffers are in each of the sets."""
    place = PageSet.from_ranges([(region.start, region.end)])
    return [len(pages[pid] & place) for pid in tree.iteration.processes]


def _must_share(tree: Followed) -> int:
    """The buffers are tracked, alike in all processes, and copied once. Returns pages listed."""
    buffers = _buffers(tree)
    region = buffers[tree.pid]
    # Some have let go of it, the logger for one.
    assert len(buffers) > 4
    found = {(one.start, str(one.tracking), one.reason) for one in buffers.values()}
    assert found == {(region.start, "async", "")}, tree.iteration.untracked
    dirty = {pid: pages.dirty for pid, pages in tree.iteration.processes.items()}
    listed = _listed(tree, region, dirty)
    (pages,) = {count for pid, count in zip(dirty, listed, strict=True) if pid in buffers}
    assert sum(_listed(tree, region, tree.iteration.copies())) == pages
    return pages


def test_postgres(cluster: tuple[Victim, list[str]], spawn_program: SpawnProgram) -> None:
    """Connections come and go, and all processes share the buffers: every one is exact."""
    if why := no_process_events():
        pytest.skip(why)
    postgres, command = cluster
    with Followed(postgres.pid, deadline=20.0) as tree:
        tree.step()
        everything = _must_share(tree)
        # -C: a connection, so a process, for each transaction.
        load = spawn_program(*command, "-C", "-c", 3, "-T", 60, "-n", "-P", 1, ready="")
        most = tracked = 0
        for _ in range(60):
            tree.step()
            most = max(most, len(tree.pids))
            # Who is born while it is looked who else has it makes it `always`, that once: on a
            # busy machine now and then.
            tracked += all(str(one.tracking) == "async" for one in _buffers(tree).values())
            if tracked == 6:
                break
        assert tracked == 6
        tree.final()
        assert most > 4, "no connection was ever met"
        assert load.alive()
        tree.step()
        tree.final()
        _must_share(tree)
        load.kill()
        # The same connections all the time: what is written is listed, not all there is.
        load = spawn_program(*command, "-c", 3, "-T", 60, "-n", ready="")
        fewest = everything
        for _ in range(200):
            tree.step()
            if 0 < (pages := _must_share(tree)) < fewest:
                fewest = pages
            if fewest < everything:
                break
        # How much less is a matter of how fast the machine is.
        assert fewest < everything, f"never less than all {everything} pages"
        assert load.alive()
        tree.final()
        load.kill()
