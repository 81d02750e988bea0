"""Answers to iterate: the same pages inline, as runs and as bitmaps in a memfd."""

from __future__ import annotations

import os
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.iterations import BASE, history
from uffdtrackd.model.errors import ConnectionLost, LimitReached
from uffdtrackd.model.fold import fold
from uffdtrackd.model.iteration import Iteration
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.model.region import Window
from uffdtrackd.parcel import decode
from uffdtrackd.service.delivery import deliver, pack_runs

SETS = ("dirty", "discarded", "always")


def sets(iteration: Iteration) -> dict[int, tuple[PageSet, ...]]:
    return {
        pid: tuple(getattr(pages, name) for name in SETS)
        for pid, pages in iteration.processes.items()
    }


@given(
    st.lists(st.tuples(st.integers(0, (1 << 52) - 2), st.integers(1, 1 << 30)), max_size=40),
)
def test_runs_as_messagepack(pairs: list[tuple[int, int]]) -> None:
    pages = PageSet.from_ranges(
        (start << 12, min((start + length) << 12, (1 << 64) - 4096)) for start, length in pairs
    )
    assert msgpack.unpackb(pack_runs(pages.runs)) == [list(run) for run in pages]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65535, 65536])
def test_any_number_of_runs(count: int) -> None:
    pages = PageSet.from_ranges((n << 13, (n << 13) + 4096) for n in range(count))
    assert msgpack.unpackb(pack_runs(pages.runs)) == [list(run) for run in pages]


def test_inline_is_a_json_line() -> None:
    for iteration in history(1, 4):
        made = deliver(iteration, "inline", "runs", 1 << 20)
        found = msgpack.unpackb(made.result)
        assert found == iteration.to_map() and not made.fds
        again = {pid: tuple(rest[:3]) for pid, *rest in decode(found, []).processes}
        assert again == sets(iteration)


def test_in_a_memfd() -> None:
    for iteration in history(2, 4):
        made = deliver(iteration, "memfd", "runs", 0, {"watch": 3})
        found = msgpack.unpackb(made.result)
        assert found["watch"] == 3
        fd = os.dup(made.fds[0])
        with pytest.raises(PermissionError):
            os.write(made.fds[0], b"x")
        made.close()
        assert not made.fds
        parcel = decode(found, [fd])
        assert {pid: tuple(rest[:3]) for pid, *rest in parcel.processes} == sets(iteration)


@pytest.mark.parametrize("how", ["inline", "memfd"])
def test_windows_on_shared_objects(how: str) -> None:
    iteration = history(6, 1, pids=(10,))[0]
    windows = (
        Window(BASE, BASE + 8192, "memfd 7", 4096),
        Window(BASE + 16384, BASE + 20480, "x", 0),
    )
    iteration.processes[10].windows = windows
    made = deliver(iteration, how, "runs", 1 << 20)
    ((_, *_, found),) = decode(msgpack.unpackb(made.result), made.fds[:]).processes
    made.fds.clear()
    assert found == windows
    assert fold(iteration, iteration).processes[10].windows == windows


def test_as_bitmaps() -> None:
    for iteration in history(3, 4, span=20000):
        made = deliver(iteration, "memfd", "bitmap", 0)
        found: dict[str, Any] = msgpack.unpackb(made.result)
        data = os.pread(made.fds[0], found["memfd"]["size"] + 1, 0)
        made.close()
        assert len(data) == found["memfd"]["size"]
        for one in found["processes"]:
            for name in SETS:
                pages = PageSet()
                for start, end, offset in one[name]:
                    size = ((end - start) // 4096 + 63) // 64 * 8
                    pages |= PageSet.from_bitmap(data[offset : offset + size], start)
                assert pages == getattr(iteration.processes[one["pid"]], name)


def test_too_much_for_inline() -> None:
    iteration = history(4, 1, span=3000, pids=(10,))[0]
    with pytest.raises(LimitReached, match="more than 1000") as caught:
        deliver(iteration, "inline", "runs", 1000)
    assert "memfd" in caught.value.hint
    deliver(iteration, "memfd", "runs", 1000).close()


@pytest.mark.parametrize(
    "spoil",
    [
        {"processes": 7},
        {"processes": [{"pid": 1}]},
        {"memfd": {"fd": 0, "size": 1 << 40, "format": "runs"}},
        {"memfd": {"fd": 3, "size": 16, "format": "runs"}},
        {"memfd": {"fd": 0, "size": 16, "format": "songs"}},
        {"memfd": None},
    ],
)
def test_a_daemon_that_makes_no_sense(spoil: dict[str, Any]) -> None:
    made = deliver(history(5, 1)[0], "memfd", "runs", 0)
    found = msgpack.unpackb(made.result) | spoil
    with pytest.raises(ConnectionLost):
        decode(found, made.fds[:])
    made.fds.clear()


@pytest.mark.parametrize("place", [(-16, 1), (0, 1 << 40), (1 << 40, 1), (4, 1), (0, -1)])
def test_places_outside_of_the_memfd(place: tuple[int, int]) -> None:
    made = deliver(history(5, 1)[0], "memfd", "runs", 0)
    found = msgpack.unpackb(made.result)
    found["processes"][0]["dirty"] = {"offset": place[0], "count": place[1]}
    with pytest.raises(ConnectionLost):
        decode(found, made.fds[:])
    made.fds.clear()
