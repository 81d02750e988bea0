"""What becomes of a benchmark that fails, has no time or no memory; and what it writes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import figures, page, plot, run
from tests.bench.case import Case, Result, carry_out, guarded
from tests.bench.check import Judge, ratio
from tests.bench.document import Document
from tests.bench.groups import GROUPS, cases
from tests.bench.pace import NotMeasured, Pace, free_memory, need_memory
from tests.bench.rows_iterate import WrongCount, check
from tests.bench.sample import Row, compare, peer, single
from tests.bench.ticker import Ticker
from uffdtrackd.errors import TargetGone

PACE = Pace(rounds=5, seconds=1.0, quick=True)
WHERE = {"cpu": "x", "cpus": 2, "memory_bytes": 1 << 30, "kernel": "6", "version": "0"}


def quiet(text: str) -> None:
    pass


def test_a_case_that_fails_keeps_the_rows_it_gave() -> None:
    def rows(pace: Pace) -> Iterator[Row]:
        yield single("first", "ms", [1.0])
        raise ZeroDivisionError("in the middle")

    result = carry_out(Case("a: b", rows), PACE, quiet)
    assert result.failed
    assert [row.name for row in result.rows] == ["first", "a: b"]
    assert "ZeroDivisionError: in the middle" in result.rows[1].note


def test_what_cannot_be_measured_is_no_failure() -> None:
    def rows(pace: Pace) -> Iterator[Row]:
        raise NotMeasured("no redis")
        yield

    result = carry_out(Case("a: b", rows), PACE, quiet)
    assert not result.failed and result.rows[0].note == "not measured: no redis"


def test_a_guarded_row_does_not_end_its_case() -> None:
    def rows() -> Iterator[Row]:
        yield single("first", "ms", [1.0])
        raise TargetGone("gone", pid=1)

    assert [row.note for row in guarded("part", rows())] == ["", "not measured: gone"]


@pytest.mark.parametrize(
    ("found", "good"), [(999, False), (1000, True), (1001, True), (1002, False)]
)
def test_a_scan_that_leaves_a_page_out_is_not_timed(found: int, good: bool) -> None:
    if good:
        check("a scan", found, 1000)
        return
    with pytest.raises(WrongCount, match="1000 were written"):
        check("a scan", found, 1000)


def test_time_ends_the_rounds_but_not_before_there_are_enough() -> None:
    pace = Pace(rounds=1000, seconds=0.0, quick=False)
    (series,) = pace.cold(lambda: 1.0, least=3)
    assert len(series) == 3
    (series,) = pace.few(2).cold(lambda: 1.0, least=1)
    assert len(series) == 1


def test_memory_that_is_not_there_is_asked_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.pace.PATIENCE", 0.0)
    need_memory(0)
    with pytest.raises(NotMeasured, match="GiB are free"):
        need_memory(free_memory() + (8 << 30))


def test_a_document_comes_back_as_it_was(tmp_path: Path) -> None:
    made = Document(WHERE, quick=False)
    row = compare("x", "ms", [1e6, 2e6], [3e6, 3e6], factor=1.25).at("figure", "line", 2.0)
    made.results["a: b"] = Result([row, single("y", "%", [0.5])], 1.5, False)
    made.save(tmp_path / "deep" / "results.json")
    read = Document.load(tmp_path / "deep" / "results.json")
    assert read.results == made.results and read.continues(made)
    assert not read.continues(Document({**WHERE, "kernel": "7"}, quick=False))


def test_the_time_is_shared_among_what_is_left() -> None:
    one, two = (Case(f"a: {name}", lambda pace: iter(()), 30.0) for name in "xy")
    clock = run.Clock(0.5, {one.name: 30.0, two.name: 30.0})
    assert clock.share(one) == pytest.approx(0.5, abs=0.05)
    # Nothing was used up: there is more for the next.
    assert clock.share(two) == pytest.approx(1.0, abs=0.05)
    assert run.Clock(-1.0, {}).share(one) <= 0


def test_cases_have_names_of_their_own_and_of_their_group() -> None:
    for quick in (False, True):
        names = [case.name for case in cases(list(GROUPS), quick)]
        assert len(set(names)) == len(names)
        assert {name.partition(":")[0] for name in names} == set(GROUPS)


def test_a_peer_is_a_reference_with_a_ratio() -> None:
    row = peer("bare", "ns", [1.0, 1.0], [2.0, 2.0])
    assert row.ours is None and row.bare is not None and row.ratio is not None
    assert (row.bare.median, row.ratio.median) == (2.0, 2.0)


def test_the_page_keeps_its_prose_and_what_was_not_measured() -> None:
    text = "a\n<!-- attach -->\nold\n<!-- /attach -->\nb\n<!-- tree -->\nkept\n<!-- /tree -->\n"
    row = compare("attach: x | y", "us", [1.0], [2.0]).at("attach-stopped", "1 thread", 16)
    filled = page.fill(text, {}, {"attach": [row]})
    assert "old" not in filled and "kept" in filled
    assert filled.startswith("a\n<!-- attach -->\n| what") and "attach: x" in filled
    assert "(benchmarks/attach-stopped.svg)" in filled
    assert page.fill(filled, {}, {"attach": [row]}) == filled


def test_the_page_has_a_place_for_every_group() -> None:
    text = run.PAGE.read_text()
    for name in [*GROUPS, "machine"]:
        assert text.count(f"<!-- {name} -->\n") == text.count(f"<!-- /{name} -->") == 1


@pytest.mark.parametrize("log", [False, True])
def test_a_picture_is_xml_with_a_mark_for_every_point(log: bool) -> None:
    lines = {
        "a < b": [plot.Point(1, 5, 4, 6), plot.Point(100, 50, 40, 60)],
        "zero": [plot.Point(0, 0, 0, 0)],
    }
    root = ET.fromstring(plot.chart("<title>", "x", "y", lines, log_x=log, log_y=log))
    kinds = [child.tag.rpartition("}")[2] for child in root]
    assert kinds.count("polyline") == 2
    assert kinds.count("circle") == 2 + 1 and kinds.count("rect") == 1 + 1
    for child in root:
        for key in ("x", "cx", "x1", "x2"):
            assert 0 <= float(child.get(key, 0)) <= plot.WIDTH


def test_pictures_are_made_of_the_rows_that_ask_for_one() -> None:
    rows = [
        compare("n", "ms", [1e6], [2e6]).at("iterate: 1 GiB 4K, random", "in process", 10),
        single("n", "ms", [1e6]),
        single("n", "ms", [1e6]).at("of no kind", "x", 1),
    ]
    made = figures.pictures(rows)
    assert list(made) == ["iterate-1-gib-4k-random.svg"]
    assert "bare scan" in made["iterate-1-gib-4k-random.svg"]


def test_a_ticker_begins_at_once_and_hands_on_what_failed() -> None:
    with Ticker(lambda: None, 0.001) as ticker:
        while not ticker.count:
            pass
    with Ticker(lambda: None, 0) as never:
        pass
    assert never.count == 0

    def fail() -> None:
        raise TargetGone("gone", pid=1)

    with pytest.raises(TargetGone), Ticker(fail, 1.0):
        pass


def test_the_quick_quarter_decides_the_ratio() -> None:
    assert ratio([1, 1, 9, 9, 9], [2, 2, 90, 90, 90]) == 2


@pytest.mark.parametrize(("ours", "slower"), [(1.4, []), (1.6, ["row"])])
def test_a_row_is_slower_only_when_it_stays_so(ours: float, slower: list[str]) -> None:
    judge = Judge({"row": 1.0}, rounds=3)
    judge("row", lambda: 1.0, lambda: ours)
    assert judge.slower == slower


def test_a_row_that_there_is_no_time_to_repeat_fails_nothing() -> None:
    judge = Judge({"row": 1.0}, rounds=3, until=0.0)
    judge("row", lambda: 1.0, lambda: 9.0)
    assert judge.slower == [] and judge.found == {"row": 9.0}


def test_the_largest_of_the_attempts_is_committed() -> None:
    judge = Judge(None, rounds=1)
    times = iter([1.0, 3.0])
    judge("row", lambda: 1.0, lambda: next(times, 2.5))
    assert judge.found == {"row": 3.0} and judge.slower == []


def test_a_row_that_was_disturbed_once_is_not_slower() -> None:
    judge = Judge({"row": 1.0}, rounds=3)
    times = iter([1.0, 9.0, 9.0, 9.0])
    judge("row", lambda: 1.0, lambda: next(times, 1.0))
    assert judge.slower == [] and judge.found == {"row": 1.0}
