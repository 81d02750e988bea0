"""A control group is followed: who is in it, in groups below it, and who comes and goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.tree import Followed, make
from tests.victim import Victim
from uffdtrackd.errors import UsageError

pytestmark = pytest.mark.live


def roots() -> list[Path]:
    """Where a group of version 2, and one of version 1, can be made here."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(maxsplit=2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            found.append(Path(left.split()[4]))
    return found


@pytest.fixture(params=[0, 1], ids=["first hierarchy", "second hierarchy"])
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A group of our own with one below it; removed in the end."""
    possible = roots()
    if len(possible) <= request.param:
        pytest.skip("this machine has no second hierarchy of control groups")
    # Below the one that we are in, as far as that is of this hierarchy: a user may be confined.
    folder = possible[request.param] / f"uffdtrackd-test-{os.getpid()}"
    try:
        (folder / "below").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield folder
    finally:
        for one in (folder / "below", folder):
            one.rmdir()


def enter(group: Path, pid: int) -> None:
    (group / "cgroup.procs").write_text(str(pid))


def leave(group: Path) -> None:
    """Everybody back to the top: only an empty group can be removed."""
    for one in (group / "below", group):
        for pid in (one / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)


def test_group(spawn: Callable[..., Victim], group: Path) -> None:
    family, stranger = spawn("family"), spawn("family")
    try:
        enter(group, family.pid)
        inner = make(family, "child")
        enter(group / "below", inner)
        with Followed(family.pid, "cgroup") as tree:
            tree.step()
            assert tree.pids == {family.pid, inner}
            orphan = make(family, "daemon")
            enter(group, stranger.pid)
            tree.step()
            assert tree.pids == {family.pid, inner, orphan, stranger.pid}
            for _ in range(3):
                tree.step()
            late = make(stranger, "child")
            tree.final()
            assert tree.pids == {family.pid, inner, orphan, stranger.pid, late}
            family.ask(f"end {inner}")
            assert tree.step().exited == (inner,)
            tree.final()
        leave(group)
        for one in (family, stranger):
            one.finish()
    finally:
        for one in (family, stranger):
            one.kill()
        leave(group)
        # A group is empty when its processes are reaped; the orphan's parent does that.
        while (group / "cgroup.procs").read_text():
            leave(group)


def test_the_whole_machine_is_no_group(spawn: Callable[..., Victim]) -> None:
    family = spawn("family")
    for line in Path(f"/proc/{family.pid}/cgroup").read_text().splitlines():
        if line.split(":")[2] != "/":
            # Then it is ours, too, which is refused as well.
            assert line in Path("/proc/self/cgroup").read_text().splitlines()
    with pytest.raises(UsageError, match="control group"):
        Followed(family.pid, "cgroup")
    family.finish()
