"""`uffdtrackd`: from the command line to a daemon that runs until it is told to stop.

    words --> configuration --> log --> socket (systemd's, or its own) --> Daemon --> READY=1
                                                       SIGHUP: configuration again
                                                       SIGTERM, SIGINT: stop

Whatever cannot start says so in one line and exits with the code of its error.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ..model.errors import ConfigError, TrackError, UsageError
from . import config, journal, listener, messages
from .daemon import Daemon
from .heartbeat import Heartbeat
from .http import Exporter
from .keeper import Keeper, runtime_folder
from .notify import Manager, is_listener

log = logging.getLogger(__name__)

# How long the interpreter lets one thread run while another waits: a session's worker must not
# keep the loop, and with it every other client, for the 5 ms that are the default.
_SWITCH_SECONDS = 0.0005
# Seconds after which a worker that says nothing is taken for stuck.
_PATIENCE = 60.0
_STATUS_SECONDS = 5.0
# FileDescriptorName= of uffdtrackd.socket.
_CONTROL = "control"
# Systemd's patience while the sessions of an earlier daemon are attached to, each in its turn.
_TAKE_OVER_SECONDS = 300.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="see `uffdtrackd --help`")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; also what man pages and completions are made from."""
    parser = _Parser(
        prog="uffdtrackd",
        description="Tracks which pages of running processes were written, for clients on a"
        " socket: see `uffdtrack --help` for one.",
        epilog="exit status: 0 ok, 1 failed, 2 usage, 5 not permitted, 6 not supported here,"
        " 78 bad configuration",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="read this configuration and no other (default: /etc/uffdtrackd/uffdtrackd.toml and"
        " its drop-ins)",
    )
    parser.add_argument("--socket", metavar="PATH", help="listen there")
    parser.add_argument("--state", metavar="DIR", help="keep there what outlives a restart")
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the configuration, with where each value comes from, and exit",
    )
    parser.add_argument("--version", action="version", version=f"uffdtrackd {_version()}")
    return parser


def _version() -> str:
    from .daemon import version_text

    return version_text()


@dataclass
class Startup:
    """What the command line said, and what came of it."""

    file: Path | None
    overrides: dict[str, object]
    loaded: config.Loaded = field(init=False)

    def load(self) -> config.Loaded:
        return config.load(self.file, self.overrides)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon and returns its exit code; --help and --version raise SystemExit."""
    try:
        args = build_parser().parse_args(argv)
        overrides: dict[str, object] = {}
        if args.socket is not None:
            overrides["socket"] = os.path.abspath(args.socket)
        if args.state is not None:
            overrides["state_dir"] = os.path.abspath(args.state)
        startup = Startup(args.config, overrides)
        startup.loaded = startup.load()
        if args.print_config:
            sys.stdout.write(config.render(startup.loaded))
            return 0
        journal.setup(startup.loaded.config.log_level)
        sys.setswitchinterval(_SWITCH_SECONDS)
        faulthandler.enable()
        _raise_limit()
        asyncio.run(_serve(startup))
        return 0
    except TrackError as error:
        sys.stderr.write(f"uffdtrackd: error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _raise_limit() -> None:
    """A session takes several descriptors, a connection one: as many as may be had."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(startup: Startup) -> None:
    manager = Manager()
    inherited = manager.inherited()
    settings = startup.loaded.config
    # A worker is as stuck as the daemon would be: the same time counts for both.
    heart = Heartbeat(2 * manager.watchdog if manager.watchdog else _PATIENCE)
    folder = runtime_folder() if manager.present else None
    stored = {name: fds for name, fds in inherited.items() if name != _CONTROL}
    keeper = Keeper(folder, manager, stored) if folder else None
    daemon = Daemon(settings, heart=heart, keeper=keeper)
    manager.extend(_TAKE_OVER_SECONDS)
    await daemon.take_over()
    control = [fd for fd in inherited.get(_CONTROL, []) if is_listener(fd)]
    if control:
        import socket

        door = listener.Listener(socket.socket(fileno=control[0]), daemon.admit)
        path = "the socket of systemd"
    else:
        path = settings.socket
        door = listener.Listener(listener.make(path), daemon.admit, path)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, startup, daemon, manager)
    exporter = Exporter(daemon)
    if settings.metrics.port:
        try:
            await exporter.start(settings.metrics.address, settings.metrics.port)
        except ConfigError:
            door.close()
            raise
    daemon.start()
    journal.log(messages.STARTED, f"uffdtrackd {daemon.version} listens on {path}")
    manager.ready(daemon.status_line())
    reporter = loop.create_task(_report(daemon, manager, heart))
    try:
        await stop.wait()
        journal.log(messages.STOPPING, "stopping")
        manager.stopping("letting go of the targets")
    finally:
        reporter.cancel()
        door.close()
        exporter.close()
        await daemon.close()


def _reload(startup: Startup, daemon: Daemon, manager: Manager) -> None:
    manager.reloading()
    try:
        loaded = startup.load()
    except ConfigError as error:
        journal.log(messages.RELOAD_FAILED, error.message)
    else:
        late = config.need_restart(startup.loaded.config, loaded.config)
        startup.loaded = loaded
        journal.set_level(loaded.config.log_level)
        daemon.reconfigure(loaded.config)
        text = "the configuration was read again"
        if late:
            text += f"; only a restart makes effective: {', '.join(late)}"
        journal.log(messages.RELOADED, text)
    manager.ready(daemon.status_line())


async def _report(daemon: Daemon, manager: Manager, heart: Heartbeat) -> None:
    """Status line and signs of life, while the workers give some."""
    interval = min(_STATUS_SECONDS, manager.watchdog or _STATUS_SECONDS)
    said = ""
    stuck = False
    while True:
        late = heart.late()
        if late is None:
            manager.alive()
            stuck = False
        elif not stuck:
            stuck = True
            journal.log(messages.WORKER_STUCK, f"a worker is stuck at {late}")
        if (text := daemon.status_line()) != said:
            manager.status(text)
            said = text
        await asyncio.sleep(interval)


if __name__ == "__main__":
    sys.exit(main())
