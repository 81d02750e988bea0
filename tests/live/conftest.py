"""Fixtures of live tests: a puppet, one under a session, huge pages, a frozen control group."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import hugepool
from tests.live.row import Row
from tests.puppet import Puppet
from tests.victim import Victim


@pytest.fixture
def puppet(spawn: Callable[..., Victim]) -> Puppet:
    return Puppet(spawn("obey"))


@pytest.fixture
def row(puppet: Puppet, request: pytest.FixtureRequest) -> Iterator[Row]:
    """A puppet that is not watched yet; closed at the end."""
    made = Row(puppet)
    yield made
    made.close()
    request.node.user_properties.append(("tracking", made.tracking))


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """12 huge pages of 2 MiB more than there were."""
    if not hugepool.SETTING.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    with hugepool.huge_pages(12) as had:
        if not had:
            pytest.skip("12 huge pages of 2 MiB cannot be had here: memory is too fragmented")
        yield


@pytest.fixture
def frozen_group(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """A cgroup (v2) of its own: call it with a pid to move that in, then with 1 or 0 to freeze."""
    root = tmp_path / "cgroup"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "cgroup2", "none", root], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no cgroup v2 can be mounted: {mounted.stderr.strip()}")
    group = root / f"uffdtrackd-test-{os.getpid()}"
    group.mkdir()

    def freeze(what: int) -> None:
        if what > 1:
            (group / "cgroup.procs").write_text(str(what))
            return
        (group / "cgroup.freeze").write_text(str(what))
        while f"frozen {what}" not in (group / "cgroup.events").read_text():
            os.sched_yield()

    yield freeze
    freeze(0)
    for pid in (group / "cgroup.procs").read_text().split():
        (root / "cgroup.procs").write_text(pid)
    group.rmdir()
    subprocess.run(["umount", root], check=True)
