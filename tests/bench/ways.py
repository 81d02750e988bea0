"""The ways to learn what was written, each with a target of its own: what the target pays is
measured with the same writer for all of them.

    untracked       nothing
    bare async      the kernel's asynchronous write protection, scanned by ref_scan.c
    async           a session of ours, backend "async"
    bare sync       faults answered by ref_fault.c, a handler that sleeps until there is one
    sync            a session of ours, backend "sync"
    mprotect        the target protects itself, a SIGSEGV handler lets each page go
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import uffdtrackd
from tests.bench.programs import Writer
from uffdtrackd.errors import TrackError

WAYS = ("untracked", "bare async", "async", "bare sync", "sync", "mprotect")

#: Which way a way of ours is judged against.
PEERS = {"async": "bare async", "sync": "bare sync"}


@dataclass(frozen=True, slots=True)
class Way:
    """name: of WAYS. collect: one iteration, the target's pages protected again afterwards.

    beside: the same done bare on this very target, if that is possible.
    """

    name: str
    writer: Writer
    collect: Callable[[], object]
    beside: Callable[[], object] | None = None


def _nothing() -> None:
    pass


def enter(stack: ExitStack, names: Sequence[str], mib: int) -> tuple[list[Way], dict[str, str]]:
    """The ways of these names that work here, all in `stack`; the others, and why they do not."""
    ways, missing = [], {}
    for name in names:
        try:
            ways.append(stack.enter_context(a_way(name, mib)))
        except TrackError as error:
            missing[name] = f"not measured: {error}"
    return ways, missing


@contextmanager
def a_way(name: str, mib: int) -> Iterator[Way]:
    """A writer of `mib` MiB under one way of tracking. Raises what attaching raises."""
    with ExitStack() as stack:
        writer = stack.enter_context(Writer(mib))
        collect: Callable[[], object] = _nothing
        beside = None
        if name == "bare async":
            writer.ask("track")
            collect = _scan(stack, writer)
        elif name in ("async", "sync"):
            session = stack.enter_context(uffdtrackd.attach(writer.pid, backend=name))
            collect = session.iterate
            beside = _scan(stack, writer) if name == "async" else None
        elif name == "bare sync":
            handler = stack.enter_context(writer.handler("poll"))
            collect = lambda: handler.ask("protect")  # noqa: E731
        elif name == "mprotect":
            collect = lambda: writer.ask("protect")  # noqa: E731
        yield Way(name, writer, collect, beside)


def _scan(stack: ExitStack, writer: Writer) -> Callable[[], object]:
    scanner = stack.enter_context(writer.scanner())
    return lambda: scanner.ask("clear")
