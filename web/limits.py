"""Bounds on what a request may bring, in bytes and in time; they hold whatever its headers say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

_LINGER_SECONDS = 2.0
_LINGER_BYTES = 4 * 1024 * 1024


class BodyRefused(HTTPException):
    """A request that is answered while its body is still under way, with 408, 413 or 503."""


class Room:
    """The memory for the bodies of all requests that are under way together, which anybody can send."""

    def __init__(self, size: int) -> None:
        self._free = size

    @asynccontextmanager
    async def body(self, request: Request, *, at_most: int, within: float) -> AsyncGenerator[bytes]:
        """Give a request's body, as read_body reads it, and its room free again when the block ends.

        Raises BodyRefused with 503, for the sender to repeat it later, while there is no room.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if size > self._free:
                raise BodyRefused(503, "too much is being sent at once; nothing was taken, send it again later")
            self._free -= size
            taken += size

        try:
            yield await read_body(request, at_most=at_most, within=within, take=take)
        finally:
            self._free += taken


async def read_body(request: Request, *, at_most: int, within: float, take: Callable[[int], None]) -> bytes:
    """Return a request's body of at most so many bytes that arrives within so many seconds.

    take is told of each piece before it is kept. Raises BodyRefused as soon as it is known to be larger or late.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > at_most:
        raise _too_large(at_most)
    body = bytearray()
    try:
        async with asyncio.timeout(within):
            async for chunk in request.stream():
                if len(body) + len(chunk) > at_most:
                    raise _too_large(at_most)
                take(len(chunk))
                body += chunk
    except TimeoutError:
        raise BodyRefused(408, f"the body did not arrive within {within:g} seconds; nothing was taken") from None
    return bytes(body)


def _too_large(at_most: int) -> BodyRefused:
    return BodyRefused(413, f"the body is larger than {at_most} bytes; nothing was taken")


class LastAnswer(JSONResponse):
    """An answer to a sender that is still sending; the connection is closed after it.

    Closing at once would reset the connection, and many senders would never see the answer. So a little more is let
    arrive and thrown away, for a short while.
    """

    def __init__(self, content: object, status: int) -> None:
        super().__init__(content, status, {"Connection": "close"} | ({"Retry-After": "30"} if status == 503 else {}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, and end it when the sender has ended or had its while."""

        async def unended(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await super().__call__(scope, receive, unended)
        left = _LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while left > 0 and (message := await receive()).get("more_body", False):
                    left -= len(message["body"])
        await send({"type": "http.response.body", "body": b"", "more_body": False})
