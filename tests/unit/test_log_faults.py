"""What happens to a log: the disk is full, the writer is killed, the size is limited.

The oracle is tests.unit.iterations.populated(): the pages that a consumer of every iteration holds.
Whatever happens, the log must lead a reader to the same pages.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.iterations import PAGE, history, numbers, populated
from uffdtrackd.model.errors import LogError
from uffdtrackd.store.log import Gap, LogMeta, LogReader, LogWriter

META = LogMeta(pid=10, page_size=PAGE)
ROOT = Path(__file__).parents[2]


def held(log: LogReader, first: int | None = None, last: int | None = None) -> dict[int, set[int]]:
    return {pid: numbers(s) for pid, s in log.union(first, last).items()}


def limit(log: LogWriter, pages: int | None) -> None:
    """SQLite's own disk-full: SQLITE_FULL once the file would have more pages; None: no limit."""
    assert log._database is not None
    log._database.execute(f"PRAGMA max_page_count = {pages or 1 << 30}")


def test_a_full_disk_makes_a_gap_and_then_a_complete_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    iterations = history(7, 40, span=3000)
    with LogWriter(path, META) as log:
        for iteration in iterations[:8]:
            assert log.append(iteration)
        limit(log, 1)
        assert not log.needs_full
        with pytest.raises(LogError, match=r"iteration 8 is not in .* full") as caught:
            log.append(iterations[8])
        assert "next record is a full one" in caught.value.hint
        assert log.needs_full
        for iteration in iterations[9:15]:
            assert log.append(iteration) is False
        with LogReader(path) as reader:
            assert reader.numbers == list(range(8))
        limit(log, None)
        for iteration in iterations[15:]:
            assert log.append(iteration)
            assert not log.needs_full
    with LogReader(path) as reader:
        assert reader.numbers == [*range(8), *range(15, 40)]
        (gap,) = reader.gaps
        assert (gap.first, gap.last, "full" in gap.reason) == (8, 14, True)
        record = reader.records[8]
        assert (record.number, record.first, record.complete) == (15, 8, True)
        # Complete: a reader that begins here has everything, as one that saw all.
        full = reader.iteration(15)
        assert {p: numbers(s.dirty) for p, s in full.processes.items()} == populated(
            iterations[:16]
        )
        assert held(reader) == held(reader, first=15) == populated(iterations)
        with pytest.raises(LogError) as caught:
            reader.iteration(10)
        assert caught.value.hint == "record 15 covers iterations 8 to 15"


def test_a_gap_at_the_end_is_closed_by_close(tmp_path: Path) -> None:
    iterations = history(8, 6, span=30000)
    log = LogWriter(tmp_path / "log", META)
    log.append(iterations[0])
    limit(log, 1)
    with pytest.raises(LogError):
        log.append(iterations[1])
    for iteration in iterations[2:]:
        assert not log.append(iteration)
    limit(log, None)
    log.close()
    with LogReader(tmp_path / "log") as reader:
        assert reader.numbers == [0, 5]
        assert held(reader) == populated(iterations)


def test_a_gap_that_stays_is_reported_by_close(tmp_path: Path) -> None:
    iterations = history(8, 4, span=30000)
    log = LogWriter(tmp_path / "log", META)
    log.append(iterations[0])
    limit(log, 1)
    with pytest.raises(LogError):
        log.append(iterations[1])
    assert not log.append(iterations[2])
    with pytest.raises(LogError, match="iterations 1 to 2 are not in"):
        log.close()
    with LogReader(tmp_path / "log") as reader:
        assert reader.numbers == [0]


FULL_SCRIPT = """
import resource, sys
from tests.unit.iterations import history, PAGE
from uffdtrackd.model.errors import LogError
from uffdtrackd.store.log import LogMeta, LogWriter
path = sys.argv[1]
log = LogWriter(path, LogMeta(pid=10, page_size=PAGE))
raised = 0
for iteration in history(9, 60, span=30000):
    if iteration.number == 10:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200000, resource.RLIM_INFINITY))
    if iteration.number == 40:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    try:
        log.append(iteration)
    except LogError as error:
        raised += 1
log.close()
print(raised)
"""


def python(script: str, *argv: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, argv)]


def test_a_write_that_the_kernel_refuses(tmp_path: Path) -> None:
    """Not SQLite's limit but write(2) failing with EFBIG in the middle of a transaction."""
    path = tmp_path / "log"
    out = subprocess.run(
        python(FULL_SCRIPT, path), cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert int(out) >= 1
    with LogReader(path) as reader:
        assert reader.gaps
        assert len(reader.numbers) < 60
        assert held(reader) == populated(history(9, 60, span=30000))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_and_has_room_again(small_disk: Path) -> None:
    path, ballast = small_disk / "log", small_disk / "ballast"
    iterations = history(10, 60, span=30000)
    raised = []
    with LogWriter(path, META) as log:
        for iteration in iterations:
            if iteration.number == 10:
                with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
                    while True:
                        file.write(bytes(4096))
            if iteration.number == 30:
                ballast.unlink()
            try:
                log.append(iteration)
            except LogError as error:
                raised.append(error.message)
            with LogReader(path) as reader:
                assert reader.numbers[-1] <= iteration.number
    assert len(raised) >= 1
    with LogReader(path) as reader:
        assert reader.gaps[0].first >= 10
        assert held(reader) == populated(iterations)


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(LogError, match="cannot create"):
        LogWriter(small_disk / "log", META)
    assert os.listdir(small_disk) == ["ballast"]


def test_a_limited_log_forgets_when_but_not_what(tmp_path: Path) -> None:
    path = tmp_path / "log"
    iterations = history(11, 200, span=6000)
    most = 200_000
    with LogWriter(path, META, most) as log:
        for iteration in iterations:
            assert log.append(iteration)
    assert path.stat().st_size <= most + 16 * 4096
    with LogReader(path) as reader:
        records = reader.records
        assert 3 < len(records) < 200
        assert (records[0].first, records[0].complete) == (0, True)
        assert records[0].duration_ns == 7 * (records[0].number + 1)
        assert [one.first for one in records[1:]] == [one.number for one in records[1:]]
        assert held(reader) == populated(iterations)
        for record in records[1:]:
            assert reader.iteration(record.number).to_map() == iterations[record.number].to_map()
        middle = records[len(records) // 2].number
        assert held(reader, last=middle) == populated(iterations[: middle + 1])
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (dead,) = database.execute(
            "SELECT count(*) FROM regions WHERE until <= ?", (records[0].number,)
        ).fetchone()
        assert dead == 0
        (orphans,) = database.execute(
            "SELECT count(*) FROM page_sets WHERE id NOT IN (SELECT dirty FROM processes UNION"
            " SELECT discarded FROM processes UNION SELECT always FROM processes)"
        ).fetchone()
        assert orphans == 0
    database.close()


def test_a_limit_too_small_for_two_records_keeps_the_truth(tmp_path: Path) -> None:
    iterations = history(12, 20, span=6000)
    with LogWriter(tmp_path / "log", META, 1) as log:
        for iteration in iterations:
            log.append(iteration)
    with LogReader(tmp_path / "log") as reader:
        assert reader.numbers == [18, 19]
        assert held(reader) == populated(iterations)


WRITER_SCRIPT = """
import sys
from tests.unit.iterations import history, PAGE
from uffdtrackd.store.log import LogMeta, LogWriter
path, seed, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
iterations = history(seed, 120, span=2000)
print("ready", flush=True)
log = LogWriter(path, LogMeta(pid=10, page_size=PAGE), most or None)
for iteration in iterations:
    log.append(iteration)
    sys.stdout.write(f"{iteration.number}\\n")
    sys.stdout.flush()
log.close()
print("done", flush=True)
"""


@pytest.mark.parametrize("most", [0, 100_000], ids=["unlimited", "pruned"])
def test_kill_9_at_any_moment_loses_nothing_that_was_stored(tmp_path: Path, most: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    iterations = history(seed, 120, span=2000)
    for attempt in range(8):
        path = tmp_path / f"log{attempt}"
        writer = subprocess.Popen(
            python(WRITER_SCRIPT, path, seed, most), cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout
        try:
            assert writer.stdout.readline() == "ready\n"
            # The moment is that of a line: then spin a random while, to be inside the next one.
            wanted, told = rng.randrange(100), -1
            while told < wanted:
                told = int(writer.stdout.readline())
            for _ in range(rng.randrange(20_000)):
                pass
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
            writer.wait()
            writer.stdout.close()
        assert writer.returncode == -signal.SIGKILL or rest[-1] == "done"
        told = max([told, *(int(word) for word in rest if word.isdigit())])
        with LogReader(path) as reader:
            newest = reader.numbers[-1]
            assert newest >= told, "an iteration that append() had returned for is not in the log"
            assert held(reader) == populated(iterations[: newest + 1])
            for record in reader.records:
                if record.first == record.number:
                    stored = reader.iteration(record.number).to_map()
                    assert stored == iterations[record.number].to_map()
        assert not path.with_name(f"{path.name}-wal").exists(), "one file once somebody read it"
        database = sqlite3.connect(path)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()


def test_a_reader_never_takes_a_log_from_a_live_writer(tmp_path: Path) -> None:
    """finish() of a reader, also in the process of the writer, finds the writer's lock."""
    path = tmp_path / "log"
    iterations = history(13, 30, span=500)
    with LogWriter(path, META) as log:
        for iteration in iterations:
            assert log.append(iteration)
            LogReader(path).close()
            assert path.with_name("log-wal").exists()
            if iteration.number % 10 == 0:
                subprocess.run(
                    python(
                        "import sys; from uffdtrackd.store.log import LogReader;"
                        "print(LogReader(sys.argv[1]).numbers)",
                        path,
                    ),
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                )
                assert path.with_name("log-wal").exists()
    with LogReader(path) as reader:
        assert reader.gaps == list[Gap]()
        assert held(reader) == populated(iterations)


def test_flipped_bytes_are_an_error_or_harmless(tmp_path: Path) -> None:
    """Whatever a file holds, a reader gets an answer or a LogError of one line."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = tmp_path / "log"
    with LogWriter(path, META) as log:
        for iteration in history(14, 20):
            log.append(iteration)
    whole, outcomes = path.read_bytes(), set()
    for _ in range(250):
        broken = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3, 20])):
            broken[rng.randrange(len(broken))] = rng.choice([0, 255, rng.randrange(256)])
        path.write_bytes(broken[: rng.choice([len(broken), len(broken), rng.randrange(100_000)])])
        try:
            with LogReader(path) as reader:
                assert len(reader.records) == len(reader.numbers)
                assert isinstance(reader.gaps, list)
                for number in reader.numbers:
                    for process in reader.iteration(number).processes.values():
                        assert isinstance(process.regions, list)
                reader.union()
            outcomes.add("read")
        except LogError as error:
            assert "\n" not in error.message + error.hint
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
