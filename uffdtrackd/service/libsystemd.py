"""The only importer of systemd-python, which may be missing: the daemon works without it.

    from .libsystemd import daemon, journal      modules, or None

A folder named `systemd` on the path (the sources of this project have one) makes `import systemd`
succeed without the package, as a namespace; only an import of its modules tells.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


daemon = _module("systemd.daemon")
journal = _module("systemd.journal")
