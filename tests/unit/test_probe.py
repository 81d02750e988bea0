"""What the machine is said to be able to do, against what can be known of it otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from uffdtrackd.native.probe import Probe, probe
from uffdtrackd.tracking.probe import report

# Loaded before the rights are dropped: the interpreter's own files may be root's.
AS_NOBODY = """
import json, os, dataclasses, encodings.idna, platform
from uffdtrackd.tracking.probe import report
platform.uname()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(json.dumps(dataclasses.asdict(report())))
"""


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("which", list(Probe))
def test_every_probe_answers_and_leaves_nobody_behind(which: Probe) -> None:
    before = children()
    fds = len(os.listdir("/proc/self/fd"))
    failure = probe(which)
    assert failure is None or failure.step
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) == fds


def test_report_agrees_with_the_machine() -> None:
    found = report()
    assert found.kernel == os.uname().release
    assert found.page_size == os.sysconf("SC_PAGE_SIZE")
    by_name = {one.name: one for one in found.capabilities}
    assert len(by_name) == len(found.capabilities)
    device = os.access("/dev/userfaultfd", os.R_OK | os.W_OK)
    assert by_name["dev_userfaultfd"].works == device
    assert (found.backend == "async") == all(one.works for one in found.capabilities if one.needed)
    for one in found.capabilities:
        assert one.works or one.detail, f"{one.name}: no reason"
        assert one.without


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_is_told_what_it_lacks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], capture_output=True, text=True, timeout=60, check=True
    )
    found = {one["name"]: one for one in json.loads(done.stdout)["capabilities"]}
    assert not found["suspend_seccomp"]["works"]
    assert found["suspend_seccomp"]["detail"] == ("PTRACE_SEIZE: EPERM, Operation not permitted")
    assert not found["map_files"]["works"]
    # What a rootless tracker of its own processes stands on.
    assert found["ptrace"]["works"] and found["userfaultfd_user_mode"]["works"]


def test_check_prints_and_exits_by_what_was_found() -> None:
    command = [sys.executable, "-m", "uffdtrackd.cli.main", "check"]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60)
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60)
    found = json.loads(as_json.stdout)
    assert plain.stderr == as_json.stderr == ""
    expected = 0 if found["backend"] else 6
    assert plain.returncode == as_json.returncode == expected
    for one in found["capabilities"]:
        line = next(line for line in plain.stdout.splitlines() if one["title"] in line)
        assert line.split()[0].lower() == ("yes" if one["works"] else "no")
