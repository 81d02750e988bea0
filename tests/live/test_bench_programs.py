"""The reference programs do what the benchmarks say they do, counted by each other."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.bench.programs import Program, Target

pytestmark = pytest.mark.live


@pytest.mark.parametrize("mib", [1, 3, 16])
def test_dirty_writes_as_many_pages_as_asked(mib: int) -> None:
    with Target(mib) as target, target.scanner() as scanner:
        target.ask("track")
        assert scanner.ask("clear")[1] == target.pages
        assert scanner.ask("clear")[1] == 0
        # More than 512 runs at once: the kernel then empties its own buffer in mid-scan.
        for count in (0, 1, target.pages // 3, target.pages):
            target.dirty(count)
            assert scanner.ask("get")[1] == count
            assert scanner.ask("clear")[1] == count


@pytest.mark.parametrize("waiting", ["block", "yield", "spin"])
def test_a_stop_leaves_the_victim_answering(waiting: str) -> None:
    with Target(1, threads=3) as target, target.stopper(waiting) as stopper:
        for _ in range(5):
            asked, stopped, calls = stopper.ask("attach")
            assert asked > stopped > calls > 0
            assert target.touch() > 0
        assert "TracerPid:\t0\n" in Path(f"/proc/{target.pid}/status").read_text()


def test_layout_sees_every_region_and_what_is_new() -> None:
    with Target(1, regions=100) as target, Program("ref_layout", target.pid) as layout:
        # Bare: nothing is registered, so what is mapped is new; touching mappings are one run.
        assert layout.ask("new")[1] >= 1
        target.ask("track")
        _ns, runs = layout.ask("new")
        refused = Path(f"/proc/{target.pid}/maps").read_text().count("[v")
        assert runs <= refused
        layout.ask("maps")
        assert layout.ask("maps")[2] == 1
        assert layout.ask("refuse 3")[1] == errno.EPERM
