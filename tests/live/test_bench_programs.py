"""The reference programs do what the benchmarks say they do, counted by each other."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.bench.programs import Forker, Program, Target, Writer

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


def test_rounds_see_what_was_written_in_each_and_a_new_layout() -> None:
    with Target(1) as one, Target(3) as other:
        places = [place for each in (one, other) for place in (each.pid, each.start, each.end)]
        with Program("ref_rounds", *places) as rounds:
            for index, target in enumerate((one, other)):
                target.ask("track")
                assert rounds.ask(f"round {index}")[1:3] == [target.pages, 0]
            other.dirty(7)
            assert rounds.ask("round 0")[1:3] == [0, 1]
            assert rounds.ask("round 1")[1:3] == [7, 1]
            other.more_threads(2)
            assert rounds.ask("round 1")[2] == 0


def test_a_bare_userfaultfd_leaves_nothing_behind() -> None:
    with Target(1, threads=3) as target, target.stopper() as stopper:
        before = sorted(Path(f"/proc/{target.pid}/fd").iterdir())
        for _ in range(3):
            asked, whole, registered = stopper.ask("userfaultfd")
            assert whole > asked > 0 and registered > 5
        assert sorted(Path(f"/proc/{target.pid}/fd").iterdir()) == before


def test_block_and_more_threads_do_as_asked() -> None:
    with Target(4) as target, target.scanner() as scanner:
        target.ask("track")
        scanner.ask("clear")
        target.block(300)
        assert scanner.ask("clear")[1:] == [300, 1]
        target.more_threads(7)
        assert len(list(Path(f"/proc/{target.pid}/task").iterdir())) == 7


@pytest.mark.parametrize("waiting", ["poll", "spin"])
def test_the_bare_handler_notes_every_page_once(waiting: str) -> None:
    with Writer(1) as writer, writer.handler(waiting) as handler:
        assert handler.ask("protect")[1] == 0
        for how, share, pages in (("order", 4, 64), ("random", 8, 32), ("order", 2, 128)):
            assert writer.ask(f"first {how} {share}")[1] == pages
            assert handler.ask("protect")[1] == pages


def test_each_pattern_writes_what_its_name_says() -> None:
    with Writer(4) as writer, writer.scanner() as scanner:
        writer.ask("track")
        written = {}
        for pattern in ("order", "random", "zipf"):
            writer.ask(f"run 1 {pattern} 0")  # its table is made
            scanner.ask("clear")
            taken, writes = writer.ask(f"run 20 {pattern} 0")
            assert taken >= 20_000_000 and writes > 0
            written[pattern] = scanner.ask("get")[1]
        assert all(0 < pages <= writer.pages for pages in written.values())
        scanner.ask("clear")
        writer.ask("passes 1")
        assert scanner.ask("get")[1] == writer.pages


def test_a_writer_that_protects_itself_goes_on() -> None:
    with Writer(4) as writer:
        writer.ask("protect")
        assert writer.ask("first order 1")[1] == writer.pages
        _taken, writes = writer.ask("run 60 random 10")
        assert writes > 0
        writer.ask("passes 1")


def test_a_forker_forks_and_its_children_obey() -> None:
    with Forker(1) as forker:
        median, p99, longest = forker.ask("fork 20")
        assert 0 < median <= p99 <= longest
        forker.ask("children 3")
        children = Path(f"/proc/{forker.pid}/task/{forker.pid}/children")
        assert len(children.read_text().split()) == 3
        assert forker.ask("write 10")[0] > 0
        forker.ask("end")
        assert children.read_text() == ""
