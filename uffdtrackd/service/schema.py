"""What a method of the protocol is made of, and whether parameters fit it.

    Method(params=(Param, ...), results=..., errors=...)     the table of them is in protocol.py
    check(method, {...}) --> {...} typed, with defaults       or BadRequest that names the field

Unknown parameters are ignored: a newer client may know more than this daemon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..model.errors import BadRequest

_REQUIRED = object()
MOST_INT = (1 << 64) - 1


@dataclass(frozen=True)
class Param:
    """kind: int, number, bool, str or list (of int). low, high: of a number, both inclusive."""

    name: str
    kind: str
    help: str
    default: Any = _REQUIRED
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = MOST_INT

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED


@dataclass(frozen=True)
class Result:
    """One key of a result. optional: there only when it says something."""

    name: str
    kind: str
    help: str
    optional: bool = False


@dataclass(frozen=True)
class Method:
    """errors: names without `uffdtrack.`, beside those that every method may give."""

    name: str
    help: str
    params: tuple[Param, ...] = ()
    results: tuple[Result, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notification:
    name: str
    help: str
    params: tuple[Result, ...] = field(default=())


def check(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with their defaults. Raises BadRequest."""
    found = {}
    for one in method.params:
        value = given.get(one.name)
        # nil says the same as leaving it out, as languages without optional arguments need it.
        if value is None:
            if one.default is _REQUIRED:
                raise BadRequest(f"{method.name}: {one.name} is missing: {one.help}")
            found[one.name] = one.default
        else:
            found[one.name] = _typed(method.name, one, value)
    return found


def _typed(method: str, one: Param, value: Any) -> Any:
    kind = one.kind
    if kind == "str":
        if not isinstance(value, str) or len(value) > 256:
            raise BadRequest(f"{method}: {one.name} must be a text")
        if one.choices and value not in one.choices:
            among = ", ".join(one.choices)
            raise BadRequest(f"{method}: {one.name} must be one of {among}, not {value!r}")
        return value
    where = f"{method}: {one.name}"
    if one.kind == "bool":
        if not isinstance(value, bool):
            raise BadRequest(f"{where} must be true or false")
        return value
    if one.kind == "list":
        if not isinstance(value, list) or not all(_is_int(inner) for inner in value):
            raise BadRequest(f"{where} must be an array of numbers")
        return value
    whole = one.kind == "int"
    if not (_is_int(value) or (not whole and isinstance(value, float) and math.isfinite(value))):
        raise BadRequest(f"{where} must be a {'whole ' if whole else ''}number")
    if not one.low <= value <= one.high:
        raise BadRequest(f"{where} must be from {one.low:g} to {one.high:g}, not {value}")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
