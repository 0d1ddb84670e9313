"""Bounds on what a request may bring, in bytes and in time; both hold whatever its headers say."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request

# The rest of the body is still under way, so the connection can't be used for another request.
_CLOSE = {"Connection": "close"}


async def read_body(request: Request, *, at_most: int, within: float) -> bytes:
    """Return a request's body of at most so many bytes that arrives within so many seconds.

    Raises HTTPException with 413 as soon as it is known to be larger, or with 408.
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
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {within:g} seconds", _CLOSE) from None
    return bytes(body)


def _too_large(at_most: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {at_most} bytes; nothing of it was taken", _CLOSE)
