"""Any sequence of memory operations, iterations at any moment: the copy is exact.

`SEED=n` repeats a run, `make soak MINUTES=n` goes on for as long as asked.
"""

from __future__ import annotations

import os
import random

import pytest

from tests import sequences

pytestmark = [pytest.mark.live, pytest.mark.slow]


# Making a failing sequence small takes up to five minutes, which hypothesis allows itself.
@pytest.mark.timeout(420)
def test_sequences() -> None:
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print(f"SEED={seed}")
    sequences.run(seed, examples=15, steps=25)
