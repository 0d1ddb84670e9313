"""A line between two processes of a test, which can be cut and mended, and on which answers can get stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from deployments.processes import free_port


class Line:
    """A line to host and port, on an address of its own.

    stuck is how the requests begin whose answers wait until loose is set; met says that there was one.
    """

    def __init__(self, host: str, port: int, *, stuck: bytes | None = None) -> None:
        self._to = (host, port)
        self._stuck = stuck
        self.port = free_port()
        self.met = asyncio.Event()
        self.loose = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        """Let everything through from now on."""
        self._listener = await asyncio.start_server(self._join, "127.0.0.1", self.port)

    def cut(self) -> None:
        """Let nothing through any more, and end what is on the line."""
        if self._listener is not None:
            self._listener.close()
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        asked = asyncio.Event()

        async def ask(data: bytes) -> None:
            if self._stuck is not None and data.startswith(self._stuck):
                asked.set()
                self.met.set()

        async def answer(_data: bytes) -> None:
            if asked.is_set():
                await self.loose.wait()

        ends = {writer, there}
        self._open |= ends
        with suppress(OSError):
            await asyncio.gather(_pass_on(reader, there, ask), _pass_on(there_reader, writer, answer))
        self._open -= ends


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: Callable[[bytes], Awaitable[None]]
) -> None:
    while data := await reader.read(65_536):
        await first(data)
        writer.write(data)
        await writer.drain()
    writer.close()
