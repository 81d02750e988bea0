"""The socket starts the daemon; systemd, the journal and a client agree on what it does."""

from __future__ import annotations

import os

import pytest

import uffdtrackd
from uffdtrackd.service import messages

from .conftest import Unit, entries

pytestmark = pytest.mark.usefixtures("installed")


def test_a_connection_starts_it(unit: Unit) -> None:
    assert unit.show("ActiveState") == "inactive"
    with uffdtrackd.connect() as client:
        assert client.hello["product"] == "uffdtrackd"
    assert unit.show("ActiveState") == "active"
    assert unit.show("StatusText").startswith("0 sessions")
    assert os.readlink(f"/proc/{unit.pid()}/exe").startswith("/usr/bin/python3")
    (started,) = entries(messages.STARTED, unit.pid())
    assert started["PRIORITY"] == "5"
    assert started["SYSLOG_IDENTIFIER"] == "uffdtrackd"


def test_a_session_leaves_its_marks_in_the_journal(unit: Unit) -> None:
    with uffdtrackd.connect() as client, client.attach(unit.victim) as one:
        assert one.iterate().number == 0
    for message in (messages.ATTACHED, messages.DETACHED):
        (entry,) = entries(message, unit.pid())
        assert entry["UFFDTRACK_SESSION"] == one.name
        assert entry["UFFDTRACK_TARGET_PID"] == entry["OBJECT_PID"] == str(unit.victim)


def test_reload(unit: Unit) -> None:
    with uffdtrackd.connect():
        pass
    unit.configure('log_level = "debug"\n')
    unit.control("reload")
    unit.wait_for(messages.RELOADED)
    with uffdtrackd.connect() as client, client.attach(unit.victim) as session:
        found = session.iterate()
    (entry,) = unit.wait_for(messages.ITERATED)
    assert entry["UFFDTRACK_ITERATION"] == "0"
    assert entry["UFFDTRACK_DIRTY_PAGES"] == str(len(found.processes[unit.victim].dirty))
    unit.configure("nonsense = 1\n")
    unit.control("reload")
    (entry,) = unit.wait_for(messages.RELOAD_FAILED)
    assert "nonsense: no such setting" in entry["MESSAGE"]
    assert unit.show("ActiveState") == "active"


def test_a_wrong_configuration_is_not_tried_again(unit: Unit) -> None:
    unit.configure("[limits]\nsessions = 0\n")
    unit.control("start", check=False)
    assert unit.show("ActiveState") == "failed"
    assert unit.show("ExecMainStatus") == "78"
    assert unit.show("NRestarts") == "0"


def test_after_a_stop_the_socket_is_still_there(unit: Unit) -> None:
    with uffdtrackd.connect():
        pass
    first = unit.pid()
    unit.control("stop")
    assert unit.show("ActiveState") == "inactive"
    with uffdtrackd.connect() as client:
        assert client.status()["sessions"] == []
    assert unit.pid() != first
