"""The oracle must be able to fail: it is shown right sessions, and sessions that lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fake import FakeSession, Lie
from tests.oracle import Oracle, Report
from tests.procfs import PAGE
from tests.victim import Victim

Spawn = Callable[..., Victim]
ANON, FILE, SHARED = range(3)


class Scene:
    """A `pieces` victim under a fake session: two iterations, something happens, the final one."""

    def __init__(self, spawn: Spawn, *happens: str, kinds: int = 3) -> None:
        self.victim = spawn("pieces")
        self.where = [int(word, 16) for word in self.victim.ask("where").split()]
        for kind in range(kinds):
            self.tell(*(f"set {kind} {page} {page + kind + 1}" for page in range(3, 20)))
        self.happens = happens

    def tell(self, *commands: str) -> None:
        for command in commands:
            assert self.victim.ask(command) == "done"

    def page(self, kind: int, page: int) -> int:
        return self.where[kind] // PAGE + page

    def judge(self, lie: Lie | None = None, *, freeze: bool = True) -> Report:
        oracle = Oracle(FakeSession(self.victim.pid, lie, freeze=freeze))
        oracle.steps(2)
        self.tell(*self.happens)
        report = oracle.final()
        self.victim.finish()
        return report


HAPPENINGS = [
    f"{verb} {kind} {page} 77"
    for kind in range(3)
    for verb, page in (("set", 5), ("set", 40), ("drop", 6), ("unmap", 8), ("map", 10))
]


@pytest.mark.parametrize("happens", HAPPENINGS)
def test_all_dirty_is_right(spawn: Spawn, happens: str) -> None:
    report = Scene(spawn, happens).judge()
    report.check(iterations=3)
    assert report.compared > 3 * 128
    assert report.extra > 3 * 15


@pytest.mark.parametrize(
    ("happens", "hides", "page", "kind"),
    [
        ("set 0 5 77", "dirty", 5, ANON),
        ("set 1 5 77", "dirty", 5, FILE),
        ("set 2 5 77", "dirty", 5, SHARED),
        ("set 0 40 77", "dirty", 40, ANON),
        ("set 1 40 77", "dirty", 40, FILE),
        ("set 2 40 77", "dirty", 40, SHARED),
        ("drop 0 6", "discarded", 6, ANON),
        ("drop 1 6", "both", 6, FILE),
        ("drop 2 6", "discarded", 6, SHARED),
        ("unmap 0 8", "discarded", 8, ANON),
        ("map 0 10", "discarded", 10, ANON),
        ("map 1 10", "both", 10, FILE),
    ],
)
def test_a_hidden_page_is_found(
    spawn: Spawn, happens: str, hides: str, page: int, kind: int
) -> None:
    scene = Scene(spawn, happens)
    number = scene.page(kind, page)

    def lie(iteration: int, dirty: set[int], discarded: set[int]) -> None:
        if iteration == 2:
            sets = {"dirty": [dirty], "discarded": [discarded], "both": [dirty, discarded]}
            assert any(number in pages for pages in sets[hides])
            for pages in sets[hides]:
                pages.discard(number)

    report = scene.judge(lie)
    assert report.missed_pages == 1
    pid, difference, past = report.missed[0]
    assert (pid, difference.address) == (scene.victim.pid, number * PAGE)
    # Pages 3..19 were written before the session began: iterations 0 and 1 listed them.
    assert past == ("0:d 1:d" if page < 20 else "never in 3 iterations")
    with pytest.raises(AssertionError, match=f"page {number * PAGE:x} in"):
        report.check()


def test_one_wrong_byte_is_named(spawn: Spawn) -> None:
    scene = Scene(spawn)
    oracle = Oracle(FakeSession(scene.victim.pid))
    oracle.step()
    number = scene.page(ANON, 5)

    def lie(_: int, dirty: set[int], discarded: set[int]) -> None:
        dirty.discard(number)

    data, _ = oracle.shadows[scene.victim.pid].content(number * PAGE, number * PAGE + PAGE)
    assert isinstance(data, memoryview)
    data[1234] = 0x99
    oracle.session.lie = lie  # type: ignore[attr-defined]
    ((_, difference, _),) = oracle.final().missed
    assert (difference.offset, difference.truth, difference.shadow) == (1234, 6, 0x99)
    assert "at byte 1234: target 0x06, shadow 0x99 (held)" in str(difference)


def test_faults_are_found(spawn: Spawn) -> None:
    def overlap(iteration: int, dirty: set[int], discarded: set[int]) -> None:
        discarded |= set(sorted(dirty)[:1])

    scene = Scene(spawn)
    report = scene.judge(overlap)
    assert "both dirty and discarded" in report.faults[0]
    with pytest.raises(AssertionError, match="both dirty"):
        report.check()


def test_a_running_target_is_not_frozen(spawn: Spawn) -> None:
    report = Scene(spawn).judge(freeze=False)
    assert any("while frozen" in fault for fault in report.faults)


def test_a_skipped_heap_is_found(spawn: Spawn) -> None:
    class Skipper(FakeSession):
        def _region(self, vma, tracking):  # type: ignore[no-untyped-def]
            return super()._region(vma, "skip" if vma.label == "[heap]" else tracking)

    scene = Scene(spawn)
    report = Oracle(Skipper(scene.victim.pid)).final()
    assert [fault for fault in report.faults if "[heap] has content, but is skip" in fault]


def test_missing_region_is_found(spawn: Spawn) -> None:
    class Forgetter(FakeSession):
        def iterate(self):  # type: ignore[no-untyped-def]
            iteration = super().iterate()
            iteration.processes[self.pid].regions.pop(0)
            return iteration

    report = Oracle(Forgetter(Scene(spawn).victim.pid)).final()
    assert any("is not a region" in fault for fault in report.faults)
