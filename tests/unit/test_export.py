"""Each export format, read back by something that this project did not write.

The iteration has what makes formats hard: two processes, a run over three regions and a hole,
pages of no region, a label with a comma, a quote and a byte that is not UTF-8, a reservation of
terabytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from pyroaring import BitMap64

from uffdtrackd.model.errors import UsageError
from uffdtrackd.model.iteration import Iteration, ProcessPages
from uffdtrackd.model.pageset import PageSet
from uffdtrackd.model.region import Kind, Region, Tracking
from uffdtrackd.store.export import FORMATS, export
from uffdtrackd.store.spans import spans

PAGE = 4096
HARD = '/tmp/a, "b" \udcff\u00e9'
FAR = 0x6000_0000_0000


def region(start: int, end: int, label: str, kind: Kind = Kind.ANON) -> Region:
    return Region(start * PAGE, end * PAGE, "rw-p", 0, (8, 1), 42, label, kind, Tracking.ASYNC)


def pages(*ranges: tuple[int, int]) -> PageSet:
    return PageSet.from_ranges((start * PAGE, end * PAGE) for start, end in ranges)


FIRST, LAST = FAR // PAGE, FAR // PAGE + (1 << 30)
REGIONS = [
    region(10, 20, "[heap]", Kind.HEAP),
    region(20, 30, HARD, Kind.FILE),
    region(40, 50, ""),
    region(FIRST, LAST, "[reserved]"),
]
DIRTY = pages((5, 6), (12, 45), (48, 49), (60, 61), (FIRST, FIRST + 1), (LAST - 1, LAST))
DISCARDED = pages((46, 47))


@pytest.fixture
def iteration() -> Iteration:
    first = ProcessPages(DIRTY, DISCARDED, pages((12, 13)), lambda: REGIONS)
    second = ProcessPages(pages((1, 2)), PageSet(), PageSet())
    return Iteration(7, True, 10**18, 5, 3, PAGE, {100: first, 200: second}, {"scans": 2})


def written(iteration: Iteration, name: str, pid: int | None = None) -> bytes:
    file = io.BytesIO()
    export(iteration, name, file, pid=pid)
    return file.getvalue()


def addresses(s: PageSet) -> set[int]:
    return {at for start, end in s for at in range(start, end, PAGE)}


def expected() -> set[tuple[int, str, int]]:
    """(pid, set, address) of every page."""
    return (
        {(100, "dirty", at) for at in addresses(DIRTY)}
        | {(100, "discarded", at) for at in addresses(DISCARDED)}
        | {(200, "dirty", PAGE)}
    )


def label_of(address: int) -> str | None:
    return next((r.label for r in REGIONS if r.start <= address < r.end), None)


def test_spans_are_cut_at_region_borders() -> None:
    found = [
        (s.region and s.region.label, s.start // PAGE, s.end // PAGE) for s in spans(DIRTY, REGIONS)
    ]
    assert found[:7] == [
        (None, 5, 6),
        ("[heap]", 12, 20),
        (HARD, 20, 30),
        (None, 30, 40),
        ("", 40, 45),
        ("", 48, 49),
        (None, 60, 61),
    ]
    assert list(spans(DIRTY, [])) == [(None, start, end) for start, end in DIRTY]


def test_ranges(iteration: Iteration) -> None:
    text = written(iteration, "ranges")
    assert text.startswith(b"# uffdtrackd ranges 1\n# iteration 7 frozen 1 time_ns 1" + b"0" * 18)
    assert b"# pid 100 dirty: 38 pages, 155648 bytes\n" in text
    assert b'14000-1e000 rw-p async /tmp/a, "b" \xff\xc3\xa9\n14000-1e000 dirty 100\n' in text
    found = set()
    for line in text.splitlines():
        if not line.startswith(b"#"):
            match = re.fullmatch(rb"([0-9a-f]+)-([0-9a-f]+) (dirty|discarded) (\d+)", line)
            assert match, line
            start, end = int(match[1], 16), int(match[2], 16)
            found |= {(int(match[4]), match[3].decode(), at) for at in range(start, end, PAGE)}
    assert found == expected()


def test_csv_is_read_by_csv(iteration: Iteration) -> None:
    text = written(iteration, "csv").decode("utf-8", "surrogateescape")
    found = set()
    for row in csv.DictReader(io.StringIO(text, newline="")):
        start, end = int(row["start"]), int(row["end"])
        assert (end - start) // PAGE == int(row["pages"])
        for at in range(start, end, PAGE):
            found.add((int(row["pid"]), row["set"], at))
            if row["pid"] == "100":
                assert row["label"] == (label_of(at) or "")
                assert bool(row["kind"]) == (label_of(at) is not None)
    assert found == expected()


def test_json_is_the_line_with_regions(iteration: Iteration) -> None:
    text = written(iteration, "json")
    assert text.count(b"\n") == 1
    document = json.loads(text)
    regions = [process.pop("regions") for process in document["processes"]]
    assert document == iteration.to_map()
    assert regions[1] == []
    assert regions[0][1] == {
        "start": 20 * PAGE,
        "end": 30 * PAGE,
        "perms": "rw-p",
        "offset": 0,
        "device": [8, 1],
        "inode": 42,
        "label": HARD,
        "kind": "file",
        "tracking": "async",
        "reason": "",
        "page_size": PAGE,
    }


def test_bitmap_is_read_by_the_documented_reader(iteration: Iteration) -> None:
    """The reader is the sample in docs/formats.md, so it is also true that the sample works."""
    document = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    sample = re.search(r"```python\n(import struct.*?)```", document, re.S)
    assert sample
    names: dict[str, object] = {}
    exec(sample[1], names)
    data = written(iteration, "bitmap")
    found = list(names["read_bitmap"](data))  # type: ignore[operator]
    assert {(pid, which, at) for pid, which, _, at in found} == expected()
    assert len(found) == len(expected())
    assert all(label == (label_of(at) or "") for pid, _, label, at in found if pid == 100)
    assert len(data) < 4096, "a reservation of terabytes must not become zeroes"


def test_roaring_is_read_by_pyroaring(iteration: Iteration) -> None:
    found = BitMap64.deserialize(written(iteration, "roaring", pid=100))
    assert {n * PAGE for n in found} == addresses(DIRTY)
    with pytest.raises(UsageError, match="one process"):
        written(iteration, "roaring")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_an_empty_process_and_leaves_the_file_open(name: str) -> None:
    empty = Iteration(0, False, 0, 0, 0, PAGE, {1: ProcessPages(PageSet(), PageSet(), PageSet())})
    file = io.BytesIO()
    export(empty, name, file)
    assert not file.closed
    assert file.getvalue()
    assert FORMATS[name].help


def test_usage_errors(iteration: Iteration) -> None:
    with pytest.raises(UsageError, match="unknown format 'xml'") as caught:
        written(iteration, "xml")
    assert caught.value.hint == "formats: ranges, json, csv, bitmap, roaring"
    with pytest.raises(UsageError, match="no process 5") as caught:
        written(iteration, "json", pid=5)
    assert caught.value.hint == "it has: 100, 200"
