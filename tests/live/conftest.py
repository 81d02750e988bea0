"""Fixtures of the row tests: a puppet, a puppet under a session, huge pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.row import Row
from tests.puppet import Puppet
from tests.victim import Victim


@pytest.fixture
def puppet(spawn: Callable[..., Victim]) -> Puppet:
    return Puppet(spawn("obey"))


@pytest.fixture
def row(puppet: Puppet) -> Iterator[Row]:
    """A puppet that is not watched yet; closed at the end."""
    made = Row(puppet)
    yield made
    made.close()


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """At least 12 free huge pages of 2 MiB; the setting is put back."""
    setting = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not setting.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    before = int(setting.read_text())
    try:
        setting.write_text(str(before + 12))
        if int(setting.read_text()) < before + 12:
            pytest.skip("12 huge pages of 2 MiB cannot be had here: memory is too fragmented")
        yield
    finally:
        setting.write_text(str(before))
