"""What was found out is kept for the next process of this boot, and believed only if it is ours."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from uffdtrackd.native.error import NativeError
from uffdtrackd.native.probe import DIED, Probe
from uffdtrackd.tracking import probe, remembered


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    probe._working.cache_clear()
    return tmp_path / "run"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    """The probes that were really made."""
    made: list[Probe] = []

    def pretend(which: Probe) -> NativeError | None:
        made.append(which)
        return NativeError("try it", 1, 0) if which is Probe.MAP_FILES else None

    monkeypatch.setattr(probe, "probe", pretend)
    return made


def file_of(place: Path) -> Path:
    return place / f"probe-{os.geteuid()}.json"


def test_the_second_process_tries_nothing(place: Path, tried: list[Probe]) -> None:
    first = probe.report(afresh=False)
    assert len(tried) == len(set(tried)) == len(Probe)
    second = probe.report(afresh=False)
    assert len(tried) == len(Probe)
    assert (first.remembered, second.remembered) == (False, True)
    assert first.capabilities == second.capabilities
    assert [one.name for one in second.capabilities if not one.works] == ["map_files"]


def test_who_asks_afresh_is_answered_afresh(place: Path, tried: list[Probe]) -> None:
    probe.report(afresh=False)
    assert not probe.report().remembered
    assert len(tried) == 2 * len(Probe)


def test_nobody_else_can_write_it(place: Path, tried: list[Probe]) -> None:
    probe.report(afresh=False)
    assert file_of(place).stat().st_mode & 0o777 == 0o600
    assert not place.stat().st_mode & 0o022


def writable(place: Path) -> None:
    file_of(place).chmod(0o666)


def folder_writable(place: Path) -> None:
    place.chmod(0o777)


def linked(place: Path) -> None:
    file_of(place).rename(place / "elsewhere")
    file_of(place).symlink_to(place / "elsewhere")


def folder_linked(place: Path) -> None:
    place.rename(place.with_name("elsewhere"))
    place.symlink_to(place.with_name("elsewhere"))


def foreign(place: Path) -> None:
    os.chown(file_of(place), 65534, 65534)


def folder_foreign(place: Path) -> None:
    os.chown(place, 65534, 65534)


def cut(place: Path) -> None:
    file_of(place).write_bytes(file_of(place).read_bytes()[:100])


def nested(place: Path) -> None:
    file_of(place).write_text("[" * 60000)


def long(place: Path) -> None:
    file_of(place).write_text(file_of(place).read_text() + " " * (1 << 20))


def a_fifo(place: Path) -> None:
    file_of(place).unlink()
    os.mkfifo(file_of(place), 0o600)


def other_fields(place: Path) -> None:
    kept = json.loads(file_of(place).read_text())
    for one in kept["found"]:
        one["surprise"] = 1
    file_of(place).write_text(json.dumps(kept))


def of_another_version(place: Path) -> None:
    kept = json.loads(file_of(place).read_text())
    kept["found"] = kept["found"][1:]
    file_of(place).write_text(json.dumps(kept))


def of_another_boot(place: Path) -> None:
    kept = json.loads(file_of(place).read_text())
    kept["key"][0] = "00000000-0000-0000-0000-000000000000"
    file_of(place).write_text(json.dumps(kept))


def no_key(place: Path) -> None:
    file_of(place).write_text('{"found": []}')


SPOILERS = [
    writable,
    folder_writable,
    linked,
    folder_linked,
    foreign,
    folder_foreign,
    cut,
    nested,
    long,
    a_fifo,
    other_fields,
    of_another_version,
    of_another_boot,
    no_key,
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_what_is_not_ours_is_not_believed(
    place: Path, tried: list[Probe], spoil: Callable[[Path], None]
) -> None:
    if "foreign" in spoil.__name__ and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    probe.report(afresh=False)
    spoil(place)
    assert not probe.report(afresh=False).remembered
    assert len(tried) == 2 * len(Probe)


def test_other_rights_are_asked_for_again(
    place: Path, tried: list[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not probe.works("map_files")
    monkeypatch.setattr(remembered, "rights", lambda: ("CapEff:\t0",))
    probe.works("map_files")
    assert len(tried) == 2 * len(Probe)


def test_works_asks_once(place: Path, tried: list[Probe]) -> None:
    assert probe.works("ptrace")
    assert not probe.works("map_files")
    assert len(tried) == len(Probe)


@pytest.mark.parametrize("passing", [NativeError("fork", 11, 0), NativeError(DIED, 0, 0)])
def test_what_may_pass_is_not_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, passing: NativeError
) -> None:
    monkeypatch.setattr(probe, "probe", lambda which: passing)
    probe.report(afresh=False)
    assert not file_of(place).exists()


def test_nowhere_to_write_is_no_error(tried: list[Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/proc/no/such/place")
    assert not probe.report(afresh=False).remembered
    assert not probe.report(afresh=False).remembered
    assert len(tried) == 2 * len(Probe)
