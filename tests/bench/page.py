"""docs/benchmarks.md: the prose is written by hand, what was measured stands between markers.

    <!-- attach -->        the table of the rows "attach", and their pictures
    <!-- /attach -->
    <!-- machine -->       where it was measured

A section whose group was not measured keeps what it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.bench import figures, table
from tests.bench.sample import Row

FOLDER = "benchmarks"


def section(rows: Sequence[Row]) -> str:
    """The table of a group, and its pictures."""
    shown = [f"![{name.removesuffix('.svg')}]({FOLDER}/{name})" for name in figures.pictures(rows)]
    return "\n\n".join([table.markdown(rows), *shown])


def fill(page: str, where: Mapping[str, object], groups: Mapping[str, Sequence[Row]]) -> str:
    """The page with its sections made anew."""
    sections = {name: section(rows) for name, rows in groups.items()}
    if where:
        sections["machine"] = table.machine(where)
    for name, text in sections.items():
        marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = marked.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
    return page
