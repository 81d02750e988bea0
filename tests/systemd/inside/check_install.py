"""What `make install` leaves on a machine that runs systemd."""

from __future__ import annotations

import grp
import stat
from pathlib import Path

import pytest

from .conftest import run

SOCKET = Path("/run/uffdtrackd/control.sock")

pytestmark = pytest.mark.usefixtures("installed")


def test_the_group_is_there() -> None:
    assert grp.getgrnam("uffdtrackd").gr_mem == []


def test_systemd_understands_the_units() -> None:
    said = run("systemd-analyze", "verify", "uffdtrackd.service", "uffdtrackd.socket")
    # The one key that is newer than the oldest systemd: see 10-preserve.conf.
    lines = [line for line in said.splitlines() if "FileDescriptorStorePreserve" not in line]
    assert not [line for line in lines if "uffdtrackd" in line]


def test_the_catalog_knows_our_messages() -> None:
    assert "uffdtrackd is ready" in run("journalctl", "--list-catalog")


def test_the_socket_is_for_the_group() -> None:
    run("systemctl", "start", "uffdtrackd.socket")
    status = SOCKET.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert (status.st_uid, status.st_gid) == (0, grp.getgrnam("uffdtrackd").gr_gid)
