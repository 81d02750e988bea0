"""The iteration log: what goes in comes out, by our reader and by the sqlite3 command."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
from functools import partial
from pathlib import Path

import pytest
from pyroaring import BitMap64

from tests.unit.iterations import BASE, PAGE, history, numbers, pages, populated, region
from uffdtrackd.model.errors import LogError, TargetGone, UsageError
from uffdtrackd.model.iteration import Iteration, ProcessPages
from uffdtrackd.store.log import LogMeta, LogReader, LogWriter

META = LogMeta(pid=10, page_size=PAGE, command=("a b", "-c"), created_ns=5)


def write(path: Path, iterations: list[Iteration], max_bytes: int | None = None) -> None:
    with LogWriter(path, META, max_bytes) as log:
        assert all(log.append(iteration) for iteration in iterations)


def same(a: Iteration, b: Iteration) -> bool:
    return a.to_map() == b.to_map() and all(
        a.processes[pid].regions == b.processes[pid].regions for pid in a.processes
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a log?.uft"


def test_what_goes_in_comes_out(path: Path) -> None:
    iterations = history(3, 9)
    write(path, iterations)
    with LogReader(path) as log:
        assert log.meta == META
        assert log.numbers == list(range(9))
        assert log.gaps == []
        for iteration, record in zip(iterations, log.records, strict=True):
            assert same(log.iteration(iteration.number), iteration)
            assert (record.number, record.first) == (iteration.number, iteration.number)
            assert record.complete == (iteration.number == 0)
            assert record.frozen == iteration.frozen
            assert record.pids == len(iteration.processes)
            assert record.dirty_pages == sum(len(p.dirty) for p in iteration.processes.values())
        assert {p: numbers(s) for p, s in log.union().items()} == populated(iterations)
        assert {p: numbers(s) for p, s in log.union(2, 4).items()} == populated(iterations[2:5])
        assert log.fold(3, 3).to_map() == iterations[3].to_map()
    assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_sqlite3_reads_it_as_it_is(path: Path) -> None:
    iterations = history(4, 5)
    write(path, iterations)

    def query(sql: str) -> str:
        return subprocess.run(
            ["sqlite3", "-readonly", str(path), sql], check=True, capture_output=True, text=True
        ).stdout

    assert query("PRAGMA integrity_check") == "ok\n"
    assert query("PRAGMA journal_mode") == "delete\n"
    assert query("SELECT value FROM meta WHERE key = 'command'") == '["a b", "-c"]\n'
    dirty = [
        (i.number, pid, len(p.dirty)) for i in iterations for pid, p in sorted(i.processes.items())
    ]
    found = query("SELECT iteration, pid, dirty_pages FROM summary ORDER BY iteration, pid")
    assert found == "".join(f"{a}|{b}|{c}\n" for a, b, c in dirty)
    blob = query(
        "SELECT hex(roaring) FROM page_sets JOIN processes ON id = dirty"
        " WHERE iteration = 3 AND pid = 10"
    )
    bitmap = BitMap64.deserialize(bytes.fromhex(blob))
    assert {n - BASE // PAGE for n in bitmap} == numbers(iterations[3].processes[10].dirty)


def test_a_region_is_stored_once_in_its_life(path: Path) -> None:
    a, b, c = (region(BASE + n * PAGE, BASE + (n + 1) * PAGE, f"r{n}") for n in range(3))
    grown = region(BASE + PAGE, BASE + 2 * PAGE, "renamed")
    # None: the process is not there, and comes back as another.
    lives = [[a, b], [a, b], [a, grown, c], [a, c], None, [a, c], []]
    one, none = pages({1}), pages(set())
    iterations = []
    for number, regions in enumerate(lives):
        processes = {11: ProcessPages(one, none, one)}
        if regions is not None:
            processes[10] = ProcessPages(one, none, one, partial(list, regions))
        iterations.append(Iteration(number, False, 0, 0, 0, PAGE, dict(sorted(processes.items()))))
    write(path, iterations)
    with LogReader(path) as log:
        for iteration in iterations:
            assert same(log.iteration(iteration.number), iteration)
    database = sqlite3.connect(path)
    rows = database.execute(
        "SELECT label, since, until FROM regions WHERE pid = 10 ORDER BY since, label"
    ).fetchall()
    database.close()
    assert rows == [
        ("r0", 0, 4),
        ("r1", 0, 2),
        ("r2", 2, 4),
        ("renamed", 2, 3),
        ("r0", 5, 6),
        ("r2", 5, 6),
    ]


def test_hard_regions_survive(path: Path) -> None:
    regions = [
        region(BASE, BASE + PAGE, "/not utf-8/\udcff"),
        region(2**64 - 10 * PAGE, 2**64 - 9 * PAGE, "[vsyscall]"),
    ]
    process = ProcessPages(pages({1}), pages(set()), pages({1}), lambda: regions)
    write(path, [Iteration(0, False, 1, 2, 3, PAGE, {10: process})])
    with LogReader(path) as log:
        assert log.iteration(0).processes[10].regions == regions


def test_a_log_is_readable_while_it_is_written(path: Path) -> None:
    iterations = history(6, 6)
    with LogWriter(path, META) as log:
        readers = []
        for iteration in iterations:
            log.append(iteration)
            reader = LogReader(path)
            readers.append(reader)
            assert all(one.numbers[-1] == iteration.number for one in readers)
            assert same(reader.iteration(iteration.number), iteration)
        for reader in readers:
            reader.close()
    with LogReader(path) as reader:
        assert len(reader.numbers) == 6


def test_an_existing_file_is_not_overwritten(path: Path) -> None:
    write(path, history(1, 2))
    before = path.read_bytes()
    with pytest.raises(LogError, match="exists") as caught:
        LogWriter(path, META)
    assert caught.value.hint
    assert path.read_bytes() == before
    empty = path.with_name("empty")
    empty.touch()
    write(empty, history(1, 2))
    for place in (path.parent, path / "below", path.parent / "no" / "log", "a\0b"):
        with pytest.raises(LogError):
            LogWriter(place, META)


def test_what_is_no_log_is_refused_in_one_line(path: Path, tmp_path: Path) -> None:
    write(path, history(1, 30))
    whole = path.read_bytes()

    def altered(name: str, data: bytes, sql: str = "") -> Path:
        made = tmp_path / name
        made.write_bytes(data)
        if sql:
            database = sqlite3.connect(made)
            database.executescript(sql)
            database.close()
        return made

    cases = {
        "not an iteration log": [
            altered("empty", b""),
            altered("text", b"hello\n" * 1000),
            altered("other", b"", "CREATE TABLE meta (a); PRAGMA user_version = 1"),
        ],
        "version 2": [altered("newer", whole, "PRAGMA user_version = 2")],
        "cannot read": [
            altered("cut", whole[:5000]),
            altered("bare", b"", "PRAGMA application_id=0x5546544c; PRAGMA user_version=1"),
            tmp_path / "missing",
        ],
        "is not a file": [tmp_path],
        "what it is about": [altered("no meta", whole, "DELETE FROM meta")],
    }
    for message, paths in cases.items():
        for one in paths:
            with pytest.raises(LogError, match=message) as caught:
                LogReader(one)
            assert "\n" not in caught.value.message + caught.value.hint


def test_damage_inside_is_found_when_it_is_read(path: Path) -> None:
    write(path, history(1, 4, pids=(10,)))
    database = sqlite3.connect(path)
    database.executescript(
        "UPDATE page_sets SET roaring = x'0102' WHERE id = (SELECT dirty FROM processes"
        " WHERE iteration = 1); UPDATE regions SET kind = 'odd'; UPDATE iterations SET stats = '['"
        " WHERE number = 2; DELETE FROM page_sets WHERE id = (SELECT dirty FROM processes"
        " WHERE iteration = 3);"
    )
    database.close()
    with LogReader(path) as log:
        for number in (1, 2, 3):
            with pytest.raises(LogError, match="damaged"):
                log.iteration(number)
        with pytest.raises(LogError, match="damaged"):
            _ = log.iteration(0).processes[10].regions


def test_questions_that_have_no_answer(path: Path) -> None:
    iterations = history(1, 4)
    with LogWriter(path, META) as log:
        with LogReader(path) as reader, pytest.raises(LogError) as caught:
            reader.fold()
        assert caught.value.hint == "it has none yet"
        log.append(iterations[1])
        with pytest.raises(UsageError):
            log.append(iterations[1])
        with pytest.raises(UsageError):
            log.append(Iteration(2, False, 0, 0, 0, 2 << 20, {}))
    with pytest.raises(UsageError, match="closed"):
        log.append(iterations[2])
    reader = LogReader(path)
    for number in (0, 2, 2**70):
        with pytest.raises(LogError):
            reader.iteration(number)
    with pytest.raises(UsageError):
        reader.fold(3, 2)
    reader.close()
    with pytest.raises(LogError, match="closed"):
        _ = reader.records
    with pytest.raises(UsageError):
        LogWriter(path.with_name("other"), META, max_bytes=0)


def test_meta_of_a_process() -> None:
    meta = LogMeta.of_process(os.getpid(), PAGE)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert meta.start_ticks == int(fields[19])
    assert "".join(meta.command).encode() == Path("/proc/self/cmdline").read_bytes().replace(
        b"\0", b""
    )
    assert meta.kernel.startswith(os.uname().release)
    assert json.loads(str(dict(meta.rows())["command"])) == list(meta.command)
    with pytest.raises(TargetGone):
        LogMeta.of_process(2**22 + 1, PAGE)
