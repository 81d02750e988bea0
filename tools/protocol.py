"""The reference part of docs/protocol.md, from the daemon's own table of methods.

protocol.describe() --> Markdown --> between <!-- protocol --> and <!-- end -->

python -m tools.protocol     writes it anew; a test holds that it is
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uffdtrackd.service.protocol import COMMON_ERRORS, describe

PAGE = Path(__file__).resolve().parent.parent / "docs/protocol.md"
BEGIN, END = "<!-- protocol -->\n", "<!-- end -->"


def reference() -> str:
    found = describe()
    return "\n".join([*_methods(found), *_notifications(found), *_errors(found)]) + "\n"


def _methods(found: dict[str, Any]) -> Iterator[str]:
    yield "## Methods\n"
    yield "Beside its own, every method may answer " + _names(COMMON_ERRORS) + ".\n"
    for one in found["methods"]:
        yield f"### {one['name']}\n\n{one['help']}\n"
        if one["params"]:
            yield "| parameter | type | |\n|---|---|---|"
            yield from (f"| `{p['name']}` | {p['type']} | {_param(p)} |" for p in one["params"])
            yield ""
        if one["results"]:
            yield "| result | type | |\n|---|---|---|"
            yield from (_result(result) for result in one["results"])
            yield ""
        own = one["errors"][: -len(COMMON_ERRORS)]
        if own:
            yield f"Errors: {', '.join(f'`{name}`' for name in own)}.\n"


def _notifications(found: dict[str, Any]) -> Iterator[str]:
    yield "## Notifications\n"
    for one in found["notifications"]:
        yield f"### notification `{one['name']}`\n\n{one['help']}\n"
        yield "| key | type | |\n|---|---|---|"
        yield from (_result(param) for param in one["params"])
        yield ""


def _errors(found: dict[str, Any]) -> Iterator[str]:
    yield "## Names of errors\n"
    yield "| name | code | is a | |\n|---|---|---|---|"
    for one in found["errors"]:
        parent = f"`{one['parent']}`" if one["parent"] else ""
        yield f"| `{one['name']}` | {one['code']} | {parent} | {one['help']} |"


def _param(one: dict[str, Any]) -> str:
    said = str(one["help"])
    if one.get("choices"):
        said += f": {', '.join(f'`{word}`' for word in one['choices'])}"
    if "range" in one:
        low, high = one["range"]
        said += f", at least {low:g}" if high > 1 << 60 else f", from {low:g} to {high:g}"
    if one["required"]:
        return f"**required**; {said}"
    if one["default"] is None:
        return said
    return f"{said} (default: `{json.dumps(one['default'])}`)"


def _result(one: dict[str, Any]) -> str:
    optional = "(not always) " if one["optional"] else ""
    return f"| `{one['name']}` | {one['type']} | {optional}{one['help']} |"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`uffdtrack.{name}`" for name in names)


def renewed(text: str) -> str:
    """The page with its reference as it should be."""
    before, begin, rest = text.partition(BEGIN)
    assert begin and END in rest, "the marks are missing"
    return before + begin + reference() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
    sys.exit(0)
