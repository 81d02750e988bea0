"""uffdtrackd: which pages of a running process were written since the last time you asked.

    import uffdtrackd
    with uffdtrackd.attach(pid) as session:
        everything = session.iterate()
        written = session.iterate()          # since the line above
        with session.frozen():
            last = session.iterate()         # the target stands still until the block ends

See `attach` and `Session` for what each call gives and raises.
"""

from typing import TYPE_CHECKING, Any

from . import errors
from .model.iteration import Iteration, ProcessPages
from .model.pageset import PageSet
from .model.region import Kind, Region, Tracking

if TYPE_CHECKING:
    from .client import Client, ClientSession, connect
    from .tracking.restore import Restored, restore
    from .tracking.session import Session, attach

__all__ = [
    "Client",
    "ClientSession",
    "Iteration",
    "Kind",
    "PageSet",
    "ProcessPages",
    "Region",
    "Restored",
    "Session",
    "Tracking",
    "attach",
    "connect",
    "errors",
    "restore",
]


def __getattr__(name: str) -> Any:
    """Loads the tracker when first asked for: page sets and errors need no compiled code."""
    if name in ("Session", "attach"):
        from .tracking import session

        return getattr(session, name)
    if name in ("Restored", "restore"):
        from .tracking import restore

        return getattr(restore, name)
    if name in ("Client", "ClientSession", "connect"):
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
