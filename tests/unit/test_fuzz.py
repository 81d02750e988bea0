"""A few seconds of what `make fuzz` does for long; and that it would notice."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.fuzz import run, targets

SECONDS = 1.5


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda one: one.name)
def test_damaged_input(target: targets.Target) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    count, path = run.fuzz(target, seed, SECONDS)
    assert path is None
    assert count > 20


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda one: one.name)
def test_the_corpus_itself(target: targets.Target) -> None:
    for data in target.corpus():
        target.run(data)


def test_maps_under_sanitizers() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    count, said = run.fuzz_maps(seed, SECONDS)
    assert not said, said
    assert count > 100


def test_a_crash_and_an_exception_are_found(capfd: pytest.CaptureFixture[str]) -> None:
    import os
    import signal

    def die(data: bytes) -> None:
        if len(data) % 7 == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    def fail(data: bytes) -> None:
        assert len(data) % 7 != 3

    for broken, word in ((die, "signal 9"), (fail, "an exception")):
        _, path = run.fuzz(replace(targets.TARGETS[0], run=broken), 1, 30.0)
        assert path is not None and len(path.read_bytes()) % 7 == 3
        path.unlink()
        assert word in capfd.readouterr().out
