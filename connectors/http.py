"""The one HTTP client that every connector uses: timeouts always, a concurrency and a rate limit, no secrets logged."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from functools import cache
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport, HttpxAiohttpClient
from pydantic import BaseModel, ConfigDict, Field

from connectors.errors import Transient, translated
from connectors.observed import Call
from connectors.pacing import in_line, its_turn, turn

# httpx logs each URL at INFO; URLs can carry tokens (Fio's do).
logging.getLogger("httpx").setLevel(logging.WARNING)

MAX_ANSWER_BYTES = 32 * 1024 * 1024

CONNECTION_REST_S = 0.25
"""How long a connection rests after an answer before it is used again."""


class Limits(BaseModel):
    """How gently an outside system is treated."""

    model_config = ConfigDict(extra="forbid")

    concurrent: int = Field(default=16, ge=1, le=1000, description="Requests under way at once")
    per_second: float | None = Field(default=None, gt=0, description="Requests started per second at most")
    timeout: float = Field(default=20.0, gt=0, le=40, description="Seconds to wait for an answer")


@cache
def _tls() -> ssl.SSLContext:
    """Return the process's TLS settings; making them takes 40 ms, so they are made once."""
    return httpx.create_ssl_context()


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request, and never a second time.

    aiohttp by itself resends a GET, PUT or DELETE whose connection was lost before the answer. A capture may be a PUT
    and may have been carried out: whether to send again is decided above, so the loss is given a name it lets pass.
    """
    try:
        return await send(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientPayloadError(type(error).__name__) from None


class _Connector(aiohttp.TCPConnector):
    """A pool that uses no connection again on which something came unasked, or may still come.

    A system that answers twice would have its second answer taken for that of the next request, and something counted
    as done that was never asked for, or as not there that is. aiohttp looks for what came unasked when it puts a
    connection back, but not when it takes one; and what comes a moment later it can't have seen. So a connection rests
    a while after each answer. Requests that follow each other at once go over several connections.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        while True:
            # They lie in the order in which they were put back.
            resting: Any = self._conns.get(key)
            if resting and time.monotonic() - resting[0][1] < CONNECTION_REST_S:
                return None
            connection = await super()._get(key, traces)
            if connection is None or connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class _Transport(AiohttpTransport):
    def get_client(self) -> aiohttp.ClientSession:
        connector = _Connector(
            limit=self.limits.max_connections or 100,
            keepalive_timeout=self.limits.keepalive_expiry,
            ssl=self.ssl_context,
        )
        return aiohttp.ClientSession(
            connector=connector, middlewares=(_send_once,), cookie_jar=aiohttp.DummyCookieJar()
        )


class _NoCookies(httpx.Cookies):
    """Keeps nothing: each request stands alone, and looking for cookies costs a tenth of one."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Leave an answer's cookies where they are."""


class _Http(HttpxAiohttpClient):
    """httpx on aiohttp's connection pool; httpx's own slows down under hundreds of waiting requests."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cookies = _NoCookies()

    def _init_transport(self, *_: Any, **options: Any) -> httpx.AsyncBaseTransport:
        return _Transport(**options)

    def _init_proxy_transport(self, proxy: httpx.Proxy, *_: Any, **options: Any) -> httpx.AsyncBaseTransport:
        return _Transport(proxy=proxy, **options)


class Client:
    """An HTTP client for one outside system, whose every failure is one of our three errors."""

    def __init__(self, system: str, base_url: str, limits: Limits, **options: Any) -> None:
        """Raise Misconfigured if the address is no URL; options are those of httpx, such as headers and auth."""
        self.system = system
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrent)
        self._next_start = 0.0
        # Connecting gets half of the time, so that a connection that never came is told apart from a lost answer.
        timeout = httpx.Timeout(limits.timeout, connect=limits.timeout / 2, pool=limits.timeout / 2)
        with translated(system):
            self._http = _Http(
                base_url=base_url,
                timeout=timeout,
                verify=_tls(),
                limits=httpx.Limits(max_connections=limits.concurrent, keepalive_expiry=5),
                follow_redirects=False,
                **options,
            )

    async def _pace(self) -> None:
        if self._limits.per_second is None:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 1 / self._limits.per_second
        if start > now:
            async with in_line(self.system):
                await asyncio.sleep(start - now)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request and return the answer, whatever its status.

        Raises Transient (in doubt when the request may have arrived) or Misconfigured.
        """
        async with its_turn(self.system, self._slots):
            await self._pace()
            await turn(self.system)
            # The timeouts of httpx bound each wait for some bytes; an answer that drips never meets them.
            with Call(self.system, method) as call, translated(self.system):
                async with asyncio.timeout(self._limits.timeout):
                    return call.answered(await self._exchange(method, path, **options))

    async def _exchange(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with self._http.stream(method, path, **options) as response:
            size = 0
            body: list[bytes] = []
            async for chunk in response.aiter_bytes():
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    raise Transient(f"{self.system}: its answer is larger than 32 MiB", in_doubt=True)
                body.append(chunk)
            headers = [(k, v) for k, v in response.headers.raw if k.lower() != b"content-encoding"]
            return httpx.Response(
                response.status_code, headers=headers, content=b"".join(body), request=response.request
            )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
