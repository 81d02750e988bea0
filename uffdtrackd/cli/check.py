"""`uffdtrack check`: what this machine can do, and why not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ..model.errors import NotSupported
from .terminal import Terminal


class Check:
    name = "check"
    help = "show what can be tracked on this machine, and why not"
    example = """\
  uffdtrack check
  uffdtrack check --json | jq -r .backend
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        from ..tracking.probe import report

        found = report(afresh=True)
        if args.json:
            terminal.print(json.dumps(asdict(found), separators=(",", ":")))
        else:
            user = "root" if found.user == 0 else f"user {found.user}"
            terminal.print(
                f"Linux {found.kernel} {found.machine}, pages of {found.page_size} bytes, as {user}"
            )
            for one in found.capabilities:
                mark = "yes" if one.works else "NO " if one.needed else "no "
                terminal.print(f"  {mark}  {one.title}")
                detail = f" ({one.detail})" if one.detail else ""
                terminal.print(f"       {'found' if one.works else 'tried'}: {one.how}{detail}")
                if not one.works:
                    terminal.print(f"       without: {one.without}")
            terminal.print(f"backend: {_backend(found.backend)}")
        if found.backend is None:
            return NotSupported.exit_code
        return 0


def _backend(name: str | None) -> str:
    words = {
        None: "none: what is marked NO is needed",
        "async": "async (the kernel notes writes by itself; a first write costs about 1 us)",
        "sync": "sync (a thread of ours answers each first write; it costs some 20 us and more)",
    }
    return words[name]
