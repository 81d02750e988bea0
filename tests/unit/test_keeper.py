"""What is kept of sessions, and what becomes of it; the store and the sessions are stand-ins."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest

from tests.unit.fake_session import PAGE, iteration
from uffdtrackd.service.consumers import Consumers
from uffdtrackd.service.facts import Facts
from uffdtrackd.service.held import Held
from uffdtrackd.service.keeper import Keeper, Kept, put_back
from uffdtrackd.tracking import statefile


class Store:
    """The store of a service manager: name --> inode, as there is no more to a descriptor here."""

    def __init__(self) -> None:
        self.has: dict[str, int] = {}
        self.barriers = 0
        self.works = True

    def store(self, name: str, fds: list[int]) -> bool:
        if self.works:
            (fd,) = fds
            assert name not in self.has
            self.has[name] = os.fstat(fd).st_ino
        return self.works

    def drop(self, name: str) -> None:
        self.has.pop(name, None)

    def barrier(self) -> bool:
        self.barriers += 1
        return True


class Tracked:
    """A session that keeps its state for real and has descriptors that the test gives it."""

    page_size = PAGE

    def __init__(self, backend: str = "async") -> None:
        self.backend = backend
        self.fds: dict[str, int] = {}
        self.number = 0
        self.said: list[str] = []
        self._file: statefile.StateFile | None = None

    def keep_in(self, fd: int) -> None:
        self._file = statefile.StateFile(fd)

    def keep(self, also: dict[str, Any]) -> None:
        assert self._file is not None
        parts = {f"also.{name}": part for name, part in also.items()}
        self._file.write(self.number, {"pid": 7, "members": []}, parts)

    def descriptors(self) -> dict[str, int]:
        return self.fds

    def leave(self) -> None:
        self.said.append("leave")

    def close(self) -> None:
        self.said.append("close")


def held(tracked: Tracked, name: str = "s1") -> Held:
    found = SimpleNamespace(
        id=name,
        owner=1000,
        made_ns=5,
        log_path="",
        session=tracked,
        facts=Facts(iterations=3),
        consumers=Consumers(4),
        in_doubt=False,
    )
    return cast(Held, found)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def open_some(*names: str) -> dict[str, int]:
    return {name: os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for name in names}


def kept(keeper: Keeper, tracked: Tracked) -> Kept:
    found = keeper.keep(held(tracked))
    assert found is not None
    return found


def test_from_attach_to_detach(store: Store, folder: Path) -> None:
    tracked = Tracked()
    tracked.fds = open_some("uffd.7", "pidfd.7")
    one = kept(Keeper(folder, store, {}), tracked)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "s1").stat().st_mode & 0o777 == 0o600
    assert set(store.has) == {"s1.uffd.7", "s1.pidfd.7"}
    tracked.fds |= open_some("uffd.8")
    os.close(tracked.fds.pop("pidfd.7"))
    one.save()
    assert set(store.has) == {"s1.uffd.7", "s1.uffd.8"}
    one.end()
    assert store.has == {} and store.barriers == 1
    assert list(folder.iterdir()) == []


def test_the_next_daemon_finds_it(store: Store, folder: Path) -> None:
    tracked = Tracked()
    tracked.fds = open_some("uffd.7")
    before = held(tracked)
    before.consumers.get_or_add("reader").reset(iteration(0))
    first = Keeper(folder, store, {}).keep(before)
    assert first is not None
    first.leave()
    assert tracked.said == ["leave"]
    inherited = {name: [os.open("/dev/null", os.O_RDONLY)] for name in store.has}
    keeper = Keeper(folder, store, inherited)
    (left,) = keeper.left()
    assert (left.name, left.owner, left.pid) == ("s1", 1000, 7)
    assert left.descriptors == {"uffd.7": inherited["s1.uffd.7"][0]}
    assert left.saved["facts"]["iterations"] == 3
    assert [one["name"] for one in left.saved["consumers"]] == ["reader"]
    # What it did not need again is dropped, what it has now is not stored twice.
    again = Tracked()
    again.fds = open_some("uffd.9")
    kept(keeper, again)
    assert set(store.has) == {"s1.uffd.9"}
    keeper.clean()
    assert set(store.has) == {"s1.uffd.9"}
    os.close(left.state)


def test_a_consumer_that_ends_with_its_connection(store: Store, folder: Path) -> None:
    """Nobody would ever fetch what it has pending."""
    before = held(Tracked())
    before.consumers.get_or_add("reader").reset(iteration(0))
    before.consumers.get_or_add("watch 1", passing=True).reset(iteration(0))
    first = Keeper(folder, store, {}).keep(before)
    assert first is not None
    first.leave()
    (left,) = Keeper(folder, store, {}).left()
    os.close(left.state)
    assert [one["name"] for one in left.saved["consumers"]] == ["reader"]


def test_what_belongs_to_no_session_is_dropped(store: Store, folder: Path) -> None:
    store.has = {"s9.uffd.1": 1, "s9.pidfd.1": 2}
    fds = {name: list(open_some(name).values()) for name in store.has}
    keeper = Keeper(folder, store, fds)
    assert list(keeper.left()) == []
    keeper.clean()
    assert store.has == {} and store.barriers == 1
    for (fd,) in fds.values():
        with pytest.raises(OSError):
            os.fstat(fd)


def test_a_synchronous_session_is_never_stored(store: Store, folder: Path) -> None:
    """Its target would wait for nobody."""
    tracked = Tracked("sync")
    tracked.fds = open_some("uffd.7")
    one = kept(Keeper(folder, store, {}), tracked)
    assert store.has == {}
    one.leave()
    assert tracked.said == ["close"]
    assert (folder / "s1").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, None])
def test_a_state_that_is_none(store: Store, folder: Path, content: bytes | None) -> None:
    kept(Keeper(folder, store, {}), Tracked()).leave()
    if content is None:
        # One of another version: understood by nobody but its own.
        with open(folder / "s1", "r+b") as file:
            new = statefile.StateFile(file.fileno())
            new.write(0, json.loads('{"pid": 7}'), {"also.service": msgpack.packb({"version": 0})})
    else:
        (folder / "s1").write_bytes(content)
    (folder / "s2.new").write_bytes(b"")
    keeper = Keeper(folder, store, {"s1.uffd.7": list(open_some("uffd.7").values())})
    store.has = {"s1.uffd.7": 1}
    assert list(keeper.left()) == []
    assert list(folder.iterdir()) == [] and store.has == {}


def test_where_nothing_can_be_written(
    store: Store, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("not a folder")
    assert Keeper(folder, store, {}).keep(held(Tracked())) is None
    assert "will end with the daemon" in caplog.text


def test_a_full_disk_is_told_once(
    store: Store, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = Tracked()
    one = kept(Keeper(folder, store, {}), tracked)

    def full(also: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracked, "keep", full)
    one.save()
    one.save()
    assert caplog.text.count("No space left") == 1
    monkeypatch.undo()
    one.save()
    monkeypatch.setattr(tracked, "keep", full)
    one.save()
    assert caplog.text.count("No space left") == 2


@pytest.mark.parametrize("writes", [True, False])
def test_what_was_told_and_could_not_be_written(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    """The next daemon does not know what its readers hold: all that is not there is discarded."""

    def full(also: object) -> None:
        raise OSError(28, "No space left on device")

    tracked = Tracked()
    before = held(tracked)
    reader = before.consumers.get_or_add("reader")
    reader.reset(iteration(0))
    reader.deliver()
    one = Keeper(folder, store, {}).keep(before)
    assert one is not None and tracked._file is not None
    tracked._file.begin()  # as iterate() does
    reader.add(iteration(1))
    reader.deliver()
    if not writes:
        monkeypatch.setattr(tracked, "keep", full)
    one.save()
    (left,) = Keeper(folder, store, {}).left()
    also = {
        name.removeprefix("also."): part for name, part in statefile.read(left.state).parts.items()
    }
    os.close(left.state)
    after = cast(Held, SimpleNamespace(consumers=Consumers(4), facts=Facts(), in_doubt=False))
    put_back(after, left, also)
    found = after.consumers.find("reader")
    assert found.needs_full is after.in_doubt is not writes
    assert found.delivered == int(writes)
    assert (found.peek() is None) is not writes


def test_the_doubt_outlives_a_second_restart(store: Store, folder: Path) -> None:
    """A reader of whom no state ever told may come later than that."""
    before = held(Tracked())
    before.in_doubt = True
    assert Keeper(folder, store, {}).keep(before) is not None
    (left,) = Keeper(folder, store, {}).left()
    os.close(left.state)
    assert not left.collecting
    after = cast(Held, SimpleNamespace(consumers=Consumers(4), facts=Facts(), in_doubt=False))
    put_back(after, left, {})
    assert after.in_doubt


def test_a_store_that_takes_nothing(store: Store, folder: Path) -> None:
    """It is asked again: a manager may be busy restarting itself."""
    store.works = False
    tracked = Tracked()
    tracked.fds = open_some("uffd.7")
    one = kept(Keeper(folder, store, {}), tracked)
    assert store.has == {}
    store.works = True
    one.save()
    assert set(store.has) == {"s1.uffd.7"}
    one.end()
