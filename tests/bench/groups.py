"""All that can be measured, by name, in the order in which it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.bench import (
    rows_attach,
    rows_daemon,
    rows_growth,
    rows_iterate,
    rows_ooh,
    rows_regions,
    rows_servers,
    rows_still,
    rows_target,
    rows_tree,
    rows_writer,
)
from tests.bench.case import Case

#: name -> cases(quick)
GROUPS: dict[str, Callable[[bool], Iterator[Case]]] = {
    "attach": rows_attach.cases,
    "iterate": rows_iterate.cases,
    "regions": rows_regions.cases,
    "still": rows_still.cases,
    "target": rows_target.cases,
    "writer": rows_writer.cases,
    "ooh": rows_ooh.cases,
    "servers": rows_servers.cases,
    "tree": rows_tree.cases,
    "daemon": rows_daemon.cases,
    "growth": rows_growth.cases,
}

#: What is over in a moment may run before all else of a busy machine; see machine.realtime.
REALTIME = frozenset({"attach", "iterate", "regions", "still", "target"})


def cases(names: list[str], quick: bool) -> list[Case]:
    return [case for name in names for case in GROUPS[name](quick)]
