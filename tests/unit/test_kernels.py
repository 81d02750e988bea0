"""The matrix of kernels calls nothing right that is not; and where its kernels are from."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.kernels import archive, machine, table
from tests.kernels.machine import Result, Run

URIS = """\
'https://mirror.example/linux/debian-security/dists/x-security/InRelease' a_x-security_InRelease 0
'https://mirror.example/other/dists/stable/InRelease.gpg' b 0
'https://mirror.example/linux/debian/dists/bookworm/InRelease' c_bookworm_InRelease 0
'https://mirror.example/linux/debian/dists/bookworm/main/binary-amd64/Packages.xz' d 0
"""


def result(test: str, outcome: str = "passed", **more: object) -> Result:
    fields = {"seconds": 1.0, "reason": "", "text": "", "tracking": {}, **more}
    return Result(test, outcome, **fields)  # type: ignore[arg-type]


def complete(column: str = "stable") -> Run:
    """A run in which every row passed."""
    paths = {
        "census": "tests/live/test_census.py::test_x",
        "churn": "test_shadow_memory.py::test_x",
    }
    run = Run(column, kernel=f"kernel-{column}", backend="async")
    for row in table.all_rows():
        run.results.append(result(paths.get(row, f"tests/live/x.py::test_row_{row:0>2}_it")))
    return run


def test_the_mirror_is_the_one_that_apt_has() -> None:
    assert archive.mirror_of(URIS) == "https://mirror.example/linux/debian"
    assert archive.mirror_of("") is None


def test_versions_are_ordered_as_dpkg_has_it() -> None:
    assert archive._older("7.3~rc7-1~exp1", "7.3.4-1~bpo13+1") < 0
    assert archive._older("6.12.117-1", "6.12.95-1~bpo12+1") > 0


@pytest.mark.parametrize(
    ("test", "rows"),
    [
        ("tests/live/test_rows_zaps.py::test_row_11a_dontneed[alone]", ["11a"]),
        ("tests/live/test_rows_layout.py::test_row_07_08_24_no_events", ["7", "8", "24"]),
        ("tests/live/test_census.py::test_census[SysV]", ["census"]),
        ("tests/live/test_shadow_memory.py::test_x", ["churn"]),
        ("tests/unit/test_x.py::test_x", []),
    ],
)
def test_rows_are_named_by_tests(test: str, rows: list[str]) -> None:
    assert table.rows_of(test) == rows


def test_all_is_well_when_every_row_passed() -> None:
    assert table.problems([complete(), complete("newest")]) == []


def test_a_row_without_an_answer_is_a_problem() -> None:
    run = complete()
    run.results.pop(3)
    assert len(table.problems([run])) == 1
    assert "MISSING" in table.text([run])


def test_a_failure_is_a_problem_however_many_passed() -> None:
    run = complete()
    run.results.append(result("tests/live/x.py::test_row_11_it", "failed", text="the evidence"))
    (problem,) = table.problems([run])
    assert "the evidence" in problem
    assert "FAIL 1, pass 1" in table.text([run])


def test_a_kernel_that_did_not_boot_is_a_problem() -> None:
    runs = [complete(), Run("newest", failure="could not be had")]
    assert table.problems(runs) == ["newest : could not be had"]


def test_a_kernel_that_debian_has_no_more_is_left_out_and_said() -> None:
    runs = [complete(), Run("unfixed", absent="the mirror has no such-suite")]
    assert table.problems(runs) == []
    assert "- left out: unfixed: the mirror has no such-suite" in table.text(runs)


def mirror_with(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    """apt-get answers as for a mirror that has some suites."""

    def run(apt: archive.Apt, *_: str) -> str:
        asked = [line.split()[3] for line in (apt.base / "sources.list").open()]
        told = [
            f"E: The repository 'https://mirror.example/debian {suite} Release' "
            "does not have a Release file."
            for suite in asked
            if suite not in there
        ]
        if told:
            raise archive.ArchiveError("apt-get update: " + "\n".join(told))
        return ""

    monkeypatch.setattr(archive, "mirror", lambda: "https://mirror.example/debian")
    monkeypatch.setattr(archive.Apt, "run", run)


def test_a_suite_that_is_gone_takes_no_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror_with(monkeypatch, "one", "three")
    apt = archive.Apt(tmp_path, ["one", "two", "three", "four"])
    assert apt.update() == {"two", "four"}


def test_a_mirror_without_any_suite_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror_with(monkeypatch)
    with pytest.raises(archive.ArchiveError, match="two"):
        archive.Apt(tmp_path, ["one", "two"]).update()


def test_one_kernel_that_cannot_be_had_takes_no_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = archive.Kernel("stable", "6.12", tmp_path, tmp_path)

    def one(_: archive.Apt, name: str, suites: list[str]) -> archive.Kernel:
        if name == "newest":
            raise archive.ArchiveError("broken")
        return kernel

    monkeypatch.setattr(
        archive, "SUITES", (("old", ("a",)), ("stable", ("b",)), ("newest", ("c",)))
    )
    monkeypatch.setattr(archive.Apt, "kernel", one)
    mirror_with(monkeypatch, "b", "c")
    found = archive.fetch(tmp_path, ["old", "stable", "newest"])
    assert found.kernels == [kernel]
    assert found.failed == {"newest": "broken"}
    assert found.absent == {"old": "the mirror has no a"}
    with pytest.raises(archive.ArchiveError, match="old"):
        found.demanded()


def test_tests_that_could_not_be_run_are_a_problem(tmp_path: Path) -> None:
    """A word that pytest does not know, for one: it then says nothing of any test."""
    until = time.monotonic() + 60
    run = machine.here("here", tmp_path, ["--no-such-word"], {}, lambda *_: None, until)
    (problem,) = table.problems([run], complete=False)
    assert "exit code 4" in problem and "--no-such-word" in problem


def test_reasons_are_given_once_with_rows_and_kernels() -> None:
    runs = [complete(), complete("newest")]
    for run in runs:
        run.results[5] = result(
            "tests/live/x.py::test_row_06_it", tracking={"always": [f"pid {len(run.column)}123"]}
        )
    runs[1].results[6] = result(
        "tests/live/x.py::test_row_07_it", "skipped", reason="no such thing"
    )
    told = table.text(runs)
    assert "- always: pid N [rows 6]" in told
    assert "- n/a: no such thing [kernel-newest: 7]" in told
    assert table.problems(runs) == []


@pytest.mark.parametrize("silence", [600.0, 0.5])
def test_a_machine_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silence: float
) -> None:
    """At the end of the time for all, or when it says nothing any more."""
    monkeypatch.setattr(machine, "SILENCE", silence)
    until = time.monotonic() + (60 if silence < 1 else 0.5)
    with (tmp_path / "errors").open("wb") as errors, (tmp_path / "said").open("w") as said:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        run = machine._follow("stable", command, lambda *_: None, errors, said, until)
    assert ("silent for" if silence < 1 else "no time left") in run.failure
    assert len(table.problems([run])) == 1
