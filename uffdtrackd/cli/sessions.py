"""`uffdtrack attach`, `detach`, `list`, `status`: the sessions that a daemon holds.

attach PID --> name of a session --> iterate, ack, watch, freeze, ... --> detach
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from . import arguments, remote, units
from .log import aligned
from .terminal import Terminal


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


class Attach:
    name = "attach"
    help = "let the daemon track a process, and print the name of the session"
    example = """\
  S=$(uffdtrack attach 1234)
  uffdtrack iterate $S
  uffdtrack detach $S

The session goes on until it is detached or the process ends.
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("pid", type=arguments.pid, metavar="PID", help="the process to track")
        arguments.add_tracking_options(parser)
        parser.add_argument(
            "--log",
            action=argparse.BooleanOptionalAction,
            default=None,
            help="keep an iteration log in the daemon's state folder (default: as configured)",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object")
        remote.add_socket(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with remote.daemon(args) as client:
            session = client.attach(
                args.pid,
                backend=args.backend,
                follow=args.follow,
                most_processes=args.most_processes,
                log=args.log,
            )
            found = client.call("status", session=session.name)["sessions"][0]
        terminal.print(_json(found) if args.json else session.name)
        return 0


class Detach:
    name = "detach"
    help = "end sessions of the daemon; their targets run on"
    example = """\
  uffdtrack detach s1a2b3c4d
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "sessions", metavar="SESSION", nargs="+", help="as `list` names it, or its pid"
        )
        remote.add_socket(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with remote.daemon(args) as client:
            for word in args.sessions:
                client.call("detach", session=remote.session_name(client, word))
        return 0


class List:
    name = "list"
    help = "list the sessions of the daemon"
    example = """\
  uffdtrack list
  uffdtrack list --json | jq -r .session
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object a session")
        remote.add_socket(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with remote.daemon(args) as client:
            found = client.sessions()
        if args.json:
            for one in found:
                terminal.print(_json(one))
        elif found:
            head = ("pid", "processes", "iterations", "last dirty", "rate", "", "session")
            for line in aligned([head, *map(_row, found)]):
                terminal.print(line)
        return 0


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    rate = "-" if one["rate"] is None else f"{units.size(one['rate'])}/s"
    state = "ended" if one["ended"] else "frozen" if one["frozen"] else ""
    return (
        str(one["pid"]),
        str(len(one["pids"])),
        units.count(one["iterations"]),
        units.size(one["dirty_bytes"]),
        rate,
        state,
        one["session"],
    )


class Status:
    name = "status"
    help = "show the daemon and its sessions: rates, consumers, last errors"
    example = """\
  uffdtrack status
  uffdtrack status s1a2b3c4d --json
"""

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "session", metavar="SESSION", nargs="?", help="only this one (a name or a pid)"
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--json", action="store_true", help="one JSON object")
        how.add_argument("--metrics", action="store_true", help="all sessions, as OpenMetrics text")
        remote.add_socket(parser)

    def run(self, args: argparse.Namespace, terminal: Terminal) -> int:
        with remote.daemon(args) as client:
            if args.metrics:
                terminal.out.write(client.metrics())
                return 0
            word = args.session
            name = None if word is None else remote.session_name(client, word)
            found = client.call("status", session=name)
        if args.json:
            terminal.print(_json(found))
            return 0
        if args.session is None:
            since = units.moment(found["started_ns"])
            terminal.print(
                f"uffdtrackd {found['version']}, pid {found['pid']}, since {since}:"
                f" {units.plural(len(found['sessions']), 'session')},"
                f" {units.plural(found['connections'], 'connection')},"
                f" {units.plural(found['requests'], 'request')},"
                f" {units.count(found['refused'])} refused"
            )
        for one in found["sessions"]:
            for line in _about(one):
                terminal.print(line)
        return 0


def _about(one: dict[str, Any]) -> list[str]:
    state = ", ended" if one["ended"] else ", FROZEN" if one["frozen"] else ""
    follow = "" if one["follow"] == "none" else f", follow {one['follow']}"
    lines = [f"session {one['session']}: process {one['pid']} ({one['backend']}{follow}){state}"]
    if len(one["pids"]) > 1:
        lines.append(f"  processes: {' '.join(map(str, one['pids']))}")
    last = one["last"]
    if last is None:
        lines.append("  no iteration yet")
    else:
        ago = units.duration(time.time_ns() - last["time_ns"])
        rate = "" if one["rate"] is None else f", {units.size(one['rate'])}/s"
        lines.append(
            f"  iteration {last['iteration']}, {ago} ago: {units.size(one['dirty_bytes'])} dirty"
            f"{rate}, took {units.duration(last['duration_ns'])}"
        )
    for each in one["consumers"]:
        acknowledged = each["acknowledged"] if each["acknowledged"] >= 0 else "none"
        lines.append(
            f"  consumer {each['name']}: {units.size(each['pending_bytes'])} pending,"
            f" delivered {each['delivered']}, acknowledged {acknowledged}"
        )
    if one["log"]:
        lines.append(f"  log: {one['log']}")
    lines += [f"  not seen: {line}" for line in one["status"]]
    if one["error"] is not None:
        when = units.moment(one["error"]["time_ns"])
        lines.append(f"  last error, {when}: {one['error']['message']}")
    return lines
