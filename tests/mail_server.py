"""A mail server of a test's own, over a real socket: what it does with a letter is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

from aiosmtpd.smtp import SMTP, Envelope, Session

Take = Callable[[SMTP, Session, Envelope], Awaitable[str]]


@asynccontextmanager
async def mail_server(take: Take) -> AsyncGenerator[int]:
    """Serve on a port, which it gives; take answers each letter."""
    loop = asyncio.get_running_loop()
    handler = SimpleNamespace(handle_DATA=take)
    listening = await loop.create_server(lambda: SMTP(handler, loop=loop, hostname="mail.example"), "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
