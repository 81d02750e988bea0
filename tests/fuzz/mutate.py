"""Damage to bytes, from a seed: the same seed does the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

# Lengths and borders that parsers get wrong.
_ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(rng: random.Random, corpus: Sequence[bytes], most: int) -> bytes:
    """One of the corpus with a few things done to it; at most `most` bytes."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8, 20))):
        _damage(rng, data, corpus)
    return bytes(data[:most])


def _damage(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    size = rng.choice((1, 1, 2, 4, 8, 16, 64, 512))
    match rng.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.randrange(256)
        case 2:
            data[at:at] = rng.randbytes(size)
        case 3:
            del data[at : at + size]
        case 4:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(_ODD) & (1 << 8 * width) - 1
            data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        case 5:
            data[at:at] = data[at : at + size] * rng.choice((1, 2, 50))
        case 6:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            data[at : at + size] = other[start : start + size]
        case _:
            del data[at:]
