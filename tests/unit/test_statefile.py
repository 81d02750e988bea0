"""The state file: whatever moment its writer ends at, the old state is there or the new one.

Each write to the file is made the last one in turn; a reader must then find one of the two states,
whole, and a state that was begun and not finished must say so.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from uffdtrackd.errors import TrackError
from uffdtrackd.tracking import statefile
from uffdtrackd.tracking.statefile import StateFile


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("state")
    yield made
    os.close(made)


class Killed(BaseException):
    """The writer ends here."""


def limit_writes(patch: pytest.MonkeyPatch, most: int) -> list[int]:
    """After `most` calls of pwrite the writer is killed. Returns how many bytes each wrote."""
    done: list[int] = []
    real = os.pwrite

    def pwrite(fd: int, data: Any, at: int) -> int:
        if len(done) == most:
            raise Killed
        done.append(real(fd, data, at))
        return done[-1]

    patch.setattr(os, "pwrite", pwrite)
    return done


def test_what_was_written_is_read(fd: int) -> None:
    parts = {"a": b"x" * 10_000, "b": b"", "c": bytes(range(256))}
    StateFile(fd).write(7, {"pid": 5}, parts)
    state = statefile.read(fd)
    assert (state.number, state.collecting, state.meta) == (7, False, {"pid": 5})
    assert state.parts == parts


def test_begun_and_not_finished(fd: int) -> None:
    file = StateFile(fd)
    file.write(1, {}, {"a": b"1"})
    file.begin()
    file.begin()
    assert statefile.read(fd).collecting and statefile.read(fd).parts == {"a": b"1"}
    file.write(2, {}, {"a": b"2"})
    assert not statefile.read(fd).collecting


def test_nothing_new_costs_the_header_alone(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file, part = StateFile(fd), b"x" * 1_000_000
    file.write(1, {"pid": 5}, {"a": part})
    done = limit_writes(monkeypatch, 100)
    file.begin()
    file.write(2, {"pid": 5}, {"a": part})
    assert len(done) == 2 and max(done) < 100
    assert statefile.read(fd).number == 2 and statefile.read(fd).parts == {"a": part}


def test_ends_at_any_write() -> None:
    seed = random.randrange(1 << 30)
    print(f"SEED={seed}")
    draw = random.Random(seed)
    for most in range(60):
        fd = os.memfd_create("state")
        file = StateFile(fd)
        states: list[tuple[int, dict[str, Any], dict[str, bytes]]] = [(0, {"n": 0}, {})]
        file.write(*states[0])
        with pytest.MonkeyPatch.context() as patch:
            limit_writes(patch, most)
            began = False
            try:
                while True:
                    began = False
                    file.begin()
                    began = True
                    number, _, old = states[-1]
                    parts = {name: data for name, data in old.items() if draw.randrange(8)}
                    for _ in range(draw.randrange(3)):
                        size = draw.choice((0, 1, 100, 5000, 300_000))
                        parts[f"p{draw.randrange(6)}"] = draw.randbytes(size)
                    states.append((number + 1, {"n": draw.randrange(3)}, parts))
                    file.write(*states[-1])
            except Killed:
                pass
        found = statefile.read(fd)
        os.close(fd)
        wanted = states[-2:] if began else states[-1:]
        assert (found.number, found.meta, found.parts) in wanted
        # The new state is there as soon as it says that nothing is owed.
        assert found.collecting == began


def test_it_does_not_grow_for_ever(fd: int) -> None:
    file = StateFile(fd)
    for number in range(100):
        file.write(number, {}, {"a": os.urandom(500_000), "b": os.urandom(10)})
    assert os.fstat(fd).st_size < 3_000_000
    file.write(100, {}, {"a": b""})
    assert os.fstat(fd).st_size < 3_000_000
    assert statefile.read(fd).parts == {"a": b""}


def test_damaged(fd: int) -> None:
    """Any byte changed: a state, or one clear error, and nothing else."""
    seed = random.randrange(1 << 30)
    print(f"SEED={seed}")
    draw = random.Random(seed)
    StateFile(fd).write(3, {"pid": 5}, {"a": b"x" * 100})
    whole = os.pread(fd, 1 << 20, 0)
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            at = draw.choice((draw.randrange(40), draw.randrange(4096, len(whole))))
            damaged[at] = draw.randrange(256)
        damaged = damaged[: draw.choice((len(damaged), draw.randrange(len(damaged))))]
        os.ftruncate(fd, 0)
        os.pwrite(fd, damaged, 0)
        try:
            statefile.read(fd)
        except TrackError as error:
            assert "not the state of a kept session" in str(error)
