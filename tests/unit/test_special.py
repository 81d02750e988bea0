"""Mappings that older kernels let us protect, to the target's ruin: found by their flags."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.procfs import read_maps, vm_flags
from uffdtrackd.tracking.special import special_mappings


@pytest.fixture
def smaps() -> Iterator[int]:
    fd = os.open("/proc/self/smaps", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_the_kernels_own_mappings_are_found(smaps: int) -> None:
    found = {vma.name: vma for vma in special_mappings(smaps)}
    assert "[vdso]" in found
    assert "[vvar]" in found
    assert not any("/" in name or name in ("[heap]", "[stack]", "") for name in found)


def test_each_is_as_maps_has_it_to_the_letter(smaps: int) -> None:
    """What is refused is forgotten when its line in maps is another."""
    lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    for vma in special_mappings(smaps):
        assert vma.line in lines


def test_all_that_have_the_flags_are_found(smaps: int) -> None:
    flags = vm_flags(os.getpid())
    wanted = {
        vma.start
        for vma in read_maps(os.getpid())
        if flags.get(vma.start, frozenset()) & {"io", "de", "pf", "mm"}
        and "ht" not in flags[vma.start]
    }
    assert {vma.start for vma in special_mappings(smaps)} == wanted
