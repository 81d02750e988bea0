"""Metrics by HTTP, for scrapers that know nothing else; one path, one method, loopback only.

GET /metrics --> 200 OpenMetrics, connection closed
anything else, too long, too slow --> 4xx or nothing, closed
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from ..model.errors import ConfigError
from . import metrics

if TYPE_CHECKING:
    from .daemon import Daemon

log = logging.getLogger(__name__)

_LONGEST = 8192
_SECONDS = 10.0
_MOST = 16


class Exporter:
    """Listens until close(). Everybody on this machine may read: it is of all sessions."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, address: str, port: int) -> None:
        """Raises ConfigError."""
        try:
            self._server = await asyncio.start_server(
                self._serve, address, port, limit=_LONGEST, backlog=_MOST
            )
        except OSError as error:
            raise ConfigError(
                f"metrics.port: cannot listen on {address} port {port}: {error.strerror}",
                hint="is the port taken, or has the unit no network? see 50-metrics-port.conf",
            ) from error

    @property
    def port(self) -> int:
        """Where it listens: for tests that ask for any."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _MOST:
                async with asyncio.timeout(_SECONDS):
                    await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return await _send(writer, "431 Request Header Fields Too Large", "")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return await _send(writer, "400 Bad Request", "")
        if words[0] not in (b"GET", b"HEAD"):
            return await _send(writer, "405 Method Not Allowed", "")
        if words[1].split(b"?")[0] != b"/metrics":
            return await _send(writer, "404 Not Found", "")
        text = await metrics.text(self._daemon, self._daemon.registry)
        await _send(writer, "200 OK", text, head_only=words[0] == b"HEAD")


async def _send(
    writer: asyncio.StreamWriter, status: str, text: str, head_only: bool = False
) -> None:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {metrics.CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + (b"" if head_only else body))
    with suppress(OSError):
        await writer.drain()
