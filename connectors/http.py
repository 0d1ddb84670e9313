"""The one HTTP client that every connector uses: timeouts always, a concurrency and a rate limit, no secrets logged."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
from httpx_aiohttp import HttpxAiohttpClient
from pydantic import BaseModel, ConfigDict, Field

from connectors.errors import Transient, translated

# httpx logs each URL at INFO; URLs can carry tokens (Fio's do).
logging.getLogger("httpx").setLevel(logging.WARNING)

MAX_ANSWER_BYTES = 32 * 1024 * 1024


class Limits(BaseModel):
    """How gently an outside system is treated."""

    model_config = ConfigDict(extra="forbid")

    concurrent: int = Field(default=16, ge=1, le=1000, description="Requests under way at once")
    per_second: float | None = Field(default=None, gt=0, description="Requests started per second at most")
    timeout: float = Field(default=20.0, gt=0, le=40, description="Seconds to wait for an answer")


class Client:
    """An HTTP client for one outside system, whose every failure is one of our three errors."""

    def __init__(self, system: str, base_url: str, limits: Limits, **options: Any) -> None:
        self.system = system
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrent)
        self._next_start = 0.0
        # httpx's own pool slows down under hundreds of waiting requests; aiohttp's doesn't.
        self._http = HttpxAiohttpClient(base_url=base_url, timeout=limits.timeout, follow_redirects=False, **options)

    async def _pace(self) -> None:
        if self._limits.per_second is None:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 1 / self._limits.per_second
        if start > now:
            await asyncio.sleep(start - now)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request and return the answer, whatever its status.

        Raises Transient (in doubt when the request may have arrived) or Misconfigured.
        """
        async with self._slots:
            await self._pace()
            with translated(self.system):
                async with self._http.stream(method, path, **options) as response:
                    size = 0
                    body: list[bytes] = []
                    async for chunk in response.aiter_bytes():
                        size += len(chunk)
                        if size > MAX_ANSWER_BYTES:
                            raise Transient(f"{self.system}: its answer is larger than 32 MiB", in_doubt=True)
                        body.append(chunk)
                    headers = {k: v for k, v in response.headers.items() if k.lower() != "content-encoding"}
                    return httpx.Response(
                        response.status_code, headers=headers, content=b"".join(body), request=response.request
                    )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
