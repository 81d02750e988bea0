"""`uffdtrack verify` as an audit: it finds a tracker that lies, and stays within its memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import uffdtrackd
from tests.procfs import PAGE
from tests.puppet import Puppet
from tests.victim import Victim
from uffdtrackd import PageSet
from uffdtrackd.cli import main, verify
from uffdtrackd.model.iteration import Iteration, ProcessPages

pytestmark = pytest.mark.live

MIB = 1 << 20


class Lying:
    """A session that keeps one written page to itself, in the last iteration."""

    def __init__(self, puppet: Puppet, at: int) -> None:
        self._session = uffdtrackd.attach(puppet.pid)
        self._puppet = puppet
        self._at = at

    def iterate(self) -> Iteration:
        iteration = self._session.iterate()
        if not iteration.frozen:
            return iteration
        told = iteration.processes[self._puppet.pid]
        secret = PageSet.from_ranges([(self._at, self._at + PAGE)])
        assert len(told.dirty & secret) == 1
        less = ProcessPages(
            told.dirty - secret, told.discarded, told.always, told.load_regions, told.windows
        )
        return dataclasses.replace(iteration, processes={self._puppet.pid: less})

    @contextmanager
    def frozen(self, **options: Any) -> Iterator[Any]:
        # After the last copy: the page was held, and is out of date.
        (before,) = self._puppet.load(self._at + 321, 1)
        self._puppet.store(self._at + 321, bytes([before ^ 0x5A]))
        with self._session.frozen(**options):
            yield self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.mark.parametrize("how", ["contents", "digests"])
def test_a_page_kept_secret_is_found(
    puppet: Puppet,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at = puppet.alone(512)
    puppet.fill(at, 512)
    page = at + 77 * PAGE

    @contextmanager
    def attached(*_: object) -> Iterator[Lying]:
        session = Lying(puppet, page)
        try:
            yield session
        finally:
            session.close()

    monkeypatch.setattr(verify, "attached", attached)
    words = ["verify", str(puppet.pid), "-n", "3", "-i", "0.01"]
    if how == "digests":
        words += ["--memory", "1"]
    assert main.main([*words, "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    (process,) = found["processes"]
    assert not found["equal"] and process["exact"] == (how == "contents")
    assert process["missed"] == [[page, page + PAGE]]
    (place,) = process["missed_places"]
    assert (place["start"], place["kind"], place["tracking"]) == (page, "anon", "async")
    assert place["first_byte"] == (page + 321 if how == "contents" else None)
    assert "must never happen" in err
    # The same for people.
    assert main.main(words) == 1
    out, _ = capsys.readouterr()
    assert "DIFFERENT" in out and f"missed: {page:#x}-{page + PAGE:#x}" in out
    assert (f"first at {page + 321:#x}" in out) == (how == "contents")


def held_by(pid: int) -> int:
    """Bytes in the memory files that a process has open, as the kernel counts them."""
    total = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith("/memfd:"):
                    total += os.stat(f"/proc/{pid}/fd/{name}").st_blocks * 512
    return total


@pytest.mark.parametrize(("limit", "exact"), [(200, True), (2, False)])
def test_memory_is_bounded(spawn: Callable[..., Victim], limit: int, exact: bool) -> None:
    victim = spawn("bigwriter", 96)
    victim.ask("run")
    words = ["verify", str(victim.pid), "-n", "4", "-i", "0.1", "--json", "--memory", str(limit)]
    command = [sys.executable, "-m", "uffdtrackd.cli.main", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    most = 0
    while child.poll() is None:
        most = max(most, held_by(child.pid))
    out, _ = child.communicate()
    assert child.returncode == 0, out
    found = json.loads(out)
    (process,) = found["processes"]
    assert found["equal"] and process["exact"] == exact
    assert process["compared_pages"] > 96 * MIB // PAGE
    assert 0 < most <= limit * MIB
    cost = found["cost"]
    assert most <= cost["memory_bytes"] <= cost["memory_limit_bytes"] == limit * MIB
    # All of it was read once to copy it, and once to compare it.
    assert cost["bytes_read"] > 2 * 96 * MIB
    assert 0 < cost["attach_stopped_ns"] < cost["frozen_ns"]
    assert cost["scan_ns"] > 0


def test_why_pages_were_listed_in_vain(puppet: Puppet, capsys: pytest.CaptureFixture[str]) -> None:
    """A memfd that is open may be written by anybody: it is listed each time, and says so."""
    fd = puppet.memfd(16)
    at = puppet.mmap(16, flags=1, fd=fd)
    puppet.fill(at, 16)
    assert main.main(["verify", str(puppet.pid), "-n", "3", "-i", "0.01", "--json"]) == 0
    (process,) = json.loads(capsys.readouterr().out)["processes"]
    always = {why: pages for why, pages in process["over_reported"].items() if "always" in why}
    assert sum(always.values()) >= 16, process["over_reported"]
    assert sum(process["over_reported"].values()) == process["over_reported_pages"]
