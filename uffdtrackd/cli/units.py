"""Numbers as people read them. JSON never passes through here: it carries plain integers."""

from __future__ import annotations

from datetime import UTC, datetime

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a number of at least one: `5.3 MiB`, `0 B`."""
    unit = 0
    # Just under 1024 would round up to "1024.0": the next unit says it better.
    while abs(count) >= 1023.95 and unit < len(_BINARY) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_BINARY[unit]}" if unit == 0 else f"{count:.1f} {_BINARY[unit]}"


def duration(ns: float) -> str:
    """Nanoseconds with three digits that count: `0 s`, `850 us`, `1.93 ms`, `2.00 s`."""
    if ns <= 0:
        return "0 s"
    for limit, unit, name in ((1e3, 1.0, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if ns < limit * 0.9995:
            return _three(ns / unit, name)
    return _three(ns / 1e9, "s")


def _three(value: float, name: str) -> str:
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {name}"


def count(number: int) -> str:
    """A count with its thousands apart: `131 072`."""
    return f"{number:,}".replace(",", " ")


def plural(number: int, word: str) -> str:
    """`1 page`, `2 pages`."""
    return f"{count(number)} {word}{'' if number == 1 else 's'}"


def moment(ns: int) -> str:
    """Nanoseconds of CLOCK_REALTIME as ISO 8601, UTC, to the millisecond."""
    when = datetime.fromtimestamp(ns / 1e9, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
