"""The tables inside of docs/operations.md, from those in the code.

<!-- messages --> ... <!-- end -->     messages.MESSAGES
<!-- fields -->   ... <!-- end -->     messages.FIELDS
<!-- metrics -->  ... <!-- end -->     metrics.DAEMON, metrics.SESSION

python -m tools.tables     writes them anew; a test holds that they are
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from uffdtrackd.service import metrics
from uffdtrackd.service.messages import FIELDS, MESSAGES

OPERATIONS = Path(__file__).resolve().parent.parent / "docs/operations.md"


def messages() -> str:
    lines = ["| name, level | id | what it means |", "|---|---|---|"]
    for one in MESSAGES:
        level = logging.getLevelName(one.level).lower()
        # What `journalctl -x` fills in from the entry itself.
        text = re.sub(r"@(\w+)@", r"`\1`", f"{one.subject}. {one.text}")
        lines.append(f"| {one.name}, {level} | `{one.id}` | {text} |")
    return "\n".join(lines)


def fields() -> str:
    return ", ".join(f"`{name}`" for name in (*FIELDS.values(), "OBJECT_PID"))


def metric_table() -> str:
    lines = ["| metric | kind | of | what it is |", "|---|---|---|---|"]
    of: Sequence[tuple[str, Sequence[tuple[str, str, str]]]]
    of = (("daemon", metrics.DAEMON), ("session", metrics.SESSION))
    for whose, rows in of:
        for name, kind, text in rows:
            shown = f"{name}_total" if kind == "counter" else name
            lines.append(f"| `{shown}` | {kind} | {whose} | {text} |")
    return "\n".join(lines)


def renewed(text: str) -> str:
    """The text with every table between its marks as it should be."""
    for mark, table in (
        ("messages", messages()),
        ("fields", fields()),
        ("metrics", metric_table()),
    ):
        begin, end = f"<!-- {mark} -->\n", "\n<!-- end -->"
        assert text.count(begin) == 1, mark
        before, _, rest = text.partition(begin)
        text = before + begin + table + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    OPERATIONS.write_text(renewed(OPERATIONS.read_text()))
    sys.exit(0)
