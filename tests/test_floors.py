"""An import points down: the floors of the house, held by reading every import there is.

cli                    words and tables for people
service                the daemon: many clients, one socket, kept by systemd
(package)              uffdtrackd/__init__, errors: the public names
store    tracking      what was found, kept | how it is found; neither knows the other
model                  what everything talks about
native                 the compiled half, and the only importer of _native
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "uffdtrackd"
# Higher numbers may import lower ones and their own floor; store and tracking share a height.
HEIGHT = {"native": 0, "model": 1, "store": 2, "tracking": 2, "": 3, "service": 4, "cli": 5}


def modules() -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / PACKAGE).rglob("*.py")
        if "." not in path.stem
    )


def floor(name: str) -> str:
    """Floor of a dotted module name below the package: '' for the package's own modules."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / PACKAGE / parts[1]).is_dir() else ""


def dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(source: str, path: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything in the package that `source` imports, anywhere in it."""
    here = dotted(path).split(".")
    package = here if path.endswith("__init__.py") else here[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            # `from uffdtrackd import tracking` names a floor only together with its last word.
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def faults(source: str, path: str) -> list[str]:
    mine = floor(dotted(path))
    found = []
    for line, name in imports(source, path):
        if name.split(".")[0] != PACKAGE:
            continue
        theirs = floor(name)
        if name.split(".")[-1] == "_version":
            continue
        sideways = mine != theirs and HEIGHT[mine] == HEIGHT[theirs]
        if HEIGHT[theirs] > HEIGHT[mine] or sideways:
            found.append(f"{path}:{line}: {mine or PACKAGE} imports {name}")
        if "_native" in name.split(".") and mine != "native":
            found.append(f"{path}:{line}: only {PACKAGE}/native may import _native")
    return found


def test_every_folder_is_a_known_floor() -> None:
    folders = {p.name for p in (ROOT / PACKAGE).iterdir() if (p / "__init__.py").exists()}
    assert folders <= HEIGHT.keys()


@pytest.mark.parametrize("path", modules())
def test_imports_point_down(path: str) -> None:
    assert not faults((ROOT / path).read_text(), path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("uffdtrackd/model/region.py", "from uffdtrackd.tracking import session"),
        ("uffdtrackd/model/region.py", "import uffdtrackd.cli.main"),
        ("uffdtrackd/model/region.py", "from uffdtrackd import attach"),
        ("uffdtrackd/model/region.py", "from .. import cli"),
        ("uffdtrackd/model/region.py", "def f():\n    from ..store.log import Log"),
        ("uffdtrackd/native/scan.py", "from uffdtrackd.model.pageset import PageSet"),
        ("uffdtrackd/store/log.py", "from uffdtrackd.tracking.session import Session"),
        ("uffdtrackd/tracking/__init__.py", "from ..store import log"),
        ("uffdtrackd/tracking/tracker.py", "from uffdtrackd.native._native import lib"),
        ("uffdtrackd/cli/check.py", "from ..native import _native"),
    ],
)
def test_a_wrong_import_is_noticed(path: str, source: str) -> None:
    assert faults(source, path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("uffdtrackd/native/scan.py", "from ._native import ffi, lib"),
        ("uffdtrackd/model/pageset.py", "from ..native import runs"),
        ("uffdtrackd/cli/track.py", "from uffdtrackd import attach\nimport json"),
        ("uffdtrackd/__init__.py", "from .tracking.session import attach"),
    ],
)
def test_a_right_import_passes(path: str, source: str) -> None:
    assert not faults(source, path)
