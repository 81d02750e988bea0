"""Rows 28, 29 of docs/soundness.md: what the kernel does to pages by itself, or is told to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.row import Row
from tests.live.test_rows_zaps import PER_HUGE, huge_page, pagemap
from tests.procfs import PAGE, present
from tests.puppet import (
    HUGE,
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    PROT_READ,
    RW,
)
from tests.victim import ROOT

pytestmark = [pytest.mark.live, pytest.mark.both_backends]


@contextmanager
def setting(path: str, value: str) -> Iterator[None]:
    """A system setting for a while; skips where it cannot be had."""
    file = Path(path)
    try:
        before = file.read_text()
        file.write_text(value)
    except OSError as error:
        pytest.skip(f"{path} cannot be set here: {error}")
    try:
        yield
    finally:
        file.write_text(before)


def test_row_28_merged_by_ksm(row: Row) -> None:
    """Equal pages become one: content stays, and the next write is seen in each of them."""
    ksm = Path("/sys/kernel/mm/ksm")
    at = row.puppet.alone(32)
    row.puppet.store(at, b"\7" * PAGE)
    for i in range(1, 32):
        row.puppet.store(at + i * PAGE, b"\7" * PAGE)
    row.puppet.madvise(at, 32, MADV_MERGEABLE)
    row.watch()
    with setting(f"{ksm}/sleep_millisecs", "0"), setting(f"{ksm}/pages_to_scan", "10000"):
        scans = int((ksm / "full_scans").read_text())
        with setting(f"{ksm}/run", "1"):
            while int((ksm / "full_scans").read_text()) < scans + 3:
                row.step()
        if not int(Path(f"/proc/{row.puppet.pid}/ksm_merging_pages").read_text()):
            pytest.skip("ksmd has merged nothing")
        row.oracle.final().check()
        row.writes_are_seen(at + 3 * PAGE, 5)
        row.writes_are_seen(at, 32)


@pytest.mark.parametrize("advice", [MADV_POPULATE_READ, MADV_POPULATE_WRITE])
def test_row_28_populated(row: Row, advice: int) -> None:
    at = row.puppet.alone(32)
    row.puppet.fill(at, 16)
    row.watch()
    row.puppet.madvise(at, 32, advice)
    row.oracle.final().check()
    row.writes_are_seen(at, 32)


def test_row_28_collapsed(row: Row) -> None:
    at = huge_page(row.puppet)
    row.puppet.madvise(at, PER_HUGE, MADV_NOHUGEPAGE)
    row.puppet.madvise(at, PER_HUGE, MADV_DONTNEED)
    row.puppet.fill(at, PER_HUGE)
    row.watch()
    row.puppet.fill(at, PER_HUGE)
    # EINVAL as long as anything in it is protected; here all of it was written again.
    done = row.puppet.try_call("madvise", at, HUGE, MADV_COLLAPSE)
    row.judge((at, PER_HUGE))
    row.writes_are_seen(at + 100 * PAGE, 2)
    assert done in (0, -11, -12, -22), done


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """64 MiB of swap, whatever the machine has; taken away again."""
    if not (shutil.which("mkswap") and shutil.which("swapon")):
        pytest.skip("no mkswap(8) and swapon(8) here")
    # Not below /tmp, which may be in memory.
    path = ROOT / "build" / f"swap-{os.getpid()}"
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        path.chmod(0o600)
        os.posix_fallocate(file.fileno(), 0, 64 << 20)
    try:
        subprocess.run(["mkswap", path], check=True, capture_output=True)
        on = subprocess.run(["swapon", path], capture_output=True, text=True)
        if on.returncode:
            pytest.skip(f"no swap can be had here: {on.stderr.strip()}")
        try:
            yield
        finally:
            subprocess.run(["swapoff", path], check=True)
    finally:
        path.unlink()


@pytest.mark.parametrize("kind", ["anon", "private file", "shared"])
def test_row_29_swapped_out_and_in(
    row: Row, swap: None, kind: str, tmp_path: Path, backend: str
) -> None:
    puppet = row.puppet
    if kind == "anon":
        at = puppet.alone(64)
    elif kind == "shared":
        at = puppet.mmap(64, RW, MAP_SHARED | MAP_ANONYMOUS)
    else:
        path = tmp_path / "file"
        path.write_bytes(os.urandom(64 * PAGE))
        at = puppet.mmap(64, RW, MAP_PRIVATE, puppet.open(path))
    puppet.fill(at, 64)
    row.watch()
    for _ in range(2):
        puppet.madvise(at, 64, MADV_PAGEOUT)
        if pagemap(puppet, present, at, 64) == b"\1" * 64:
            pytest.skip("MADV_PAGEOUT swapped nothing out")
        iteration = row.step()
        always = kind == "shared" or (kind == "private file" and backend == "sync")
        assert always or row.listed(iteration, at, 64) == 0, "unchanged"
        puppet.fill(at + 5 * PAGE, 3)
        row.judge((at + 5 * PAGE, 3))
    puppet.madvise(at, 64, MADV_PAGEOUT)
    row.step()
    # Gone while in swap.
    puppet.madvise(at, 8, MADV_DONTNEED)
    row.judge(*([] if kind == "shared" else [(at, 8)]))
    row.writes_are_seen(at, 64)


def test_row_29_written_between_swap_out_and_scan(row: Row, swap: None) -> None:
    at = row.puppet.alone(64)
    row.puppet.fill(at, 64)
    row.watch()
    row.puppet.fill(at, 8)
    row.puppet.madvise(at, 64, MADV_PAGEOUT)
    row.judge((at, 8))
    row.puppet.madvise(at, 64, MADV_PAGEOUT)
    row.puppet.fill(at, 8)
    row.puppet.madvise(at, 64, MADV_PAGEOUT)
    row.judge((at, 8))


def test_row_29_compaction(row: Row) -> None:
    at = row.puppet.alone(1024)
    row.puppet.fill(at, 1024)
    for i in range(0, 1024, 2):
        row.puppet.madvise(at + i * PAGE, 1, MADV_DONTNEED)
    row.watch()
    try:
        Path("/proc/sys/vm/compact_memory").write_text("1")
    except OSError as error:
        pytest.skip(f"memory cannot be compacted here: {error}")
    row.oracle.final().check()
    row.writes_are_seen(at + 101 * PAGE, 7)


@pytest.mark.parametrize("prot", [PROT_NONE, PROT_READ])
def test_row_29_protected_and_back(row: Row, prot: int) -> None:
    """A write before, a scan while it is protected, a write after."""
    at = row.puppet.alone(16)
    row.puppet.fill(at, 16)
    row.watch()
    row.puppet.fill(at, 4)
    row.puppet.call("mprotect", at, 8 * PAGE, prot)
    row.judge((at, 4))
    row.puppet.call("mprotect", at, 8 * PAGE, RW)
    assert row.listed(row.step(), at, 16) == 0
    row.writes_are_seen(at, 16)


def test_row_29_locked(row: Row) -> None:
    at = row.puppet.alone(16)
    row.puppet.fill(at, 8)
    row.watch()
    row.puppet.call("mlock", at, 16 * PAGE)
    row.oracle.final().check()
    row.writes_are_seen(at, 16)
    row.puppet.call("munlock", at, 16 * PAGE)
    row.writes_are_seen(at, 16)


@pytest.mark.parametrize("when", ["before", "after"])
def test_row_29_sealed(row: Row, when: str) -> None:
    at = row.puppet.alone(16)
    row.puppet.fill(at, 16)
    if when == "after":
        row.watch()
    sealed = row.puppet.try_call("mseal", at, 16 * PAGE, 0)
    if sealed < 0:
        pytest.skip(f"no mseal(2) here: {os.strerror(-sealed)}")
    if when == "before":
        row.watch()
    row.writes_are_seen(at, 16)
    assert pagemap(row.puppet, present, at, 16) == b"\1" * 16
