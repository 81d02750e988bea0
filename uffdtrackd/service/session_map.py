"""A session as `attach`, `list` and `status` show it: what is known without a look at a target."""

from __future__ import annotations

from typing import Any

from .held import Held


def session_map(held: Held) -> dict[str, Any]:
    """See protocol._SESSION_MAP for the keys."""
    tracked, facts = held.session, held.facts
    return {
        "session": held.id,
        "pid": tracked.pid,
        "start_time": tracked.start_time,
        "owner": held.owner,
        "backend": tracked.backend,
        "follow": tracked.follow,
        "page_size": tracked.page_size,
        "pids": list(facts.pids),
        "iterations": facts.iterations,
        "frozen": facts.frozen,
        "ended": facts.ended,
        "keep": held.keep,
        "status": list(facts.status),
        "dirty_bytes": facts.dirty_bytes,
        "rate": facts.rate,
        "consumers": [one._asdict() for one in facts.consumers],
        "last": facts.last,
        "log": held.log_path,
        "error": facts.error,
    }
