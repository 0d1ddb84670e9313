"""Prefect's server behind a guard: pages of other sites, open in the operator's browser, get no answer from it.

CORS keeps such a page from reading answers, not from sending: browsers send a POST without a content type unasked, and
Prefect takes it for JSON. Nor does CORS hold for websockets, or for a site whose name is made to point at this machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from deployments import collector

LOCAL_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})


def _is_local(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in LOCAL_NAMES
    except ValueError:
        return False


class Guard:
    """Around Prefect's whole app: refuses what a browser sends from another origin, or to another name."""

    def __init__(self, app: ASGIApp, *, origins: Iterable[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    def _refusal(self, scope: Scope) -> str | None:
        said: dict[bytes, list[str]] = {b"host": [], b"origin": []}
        for name, value in scope["headers"]:
            if name in said:
                said[name].append(value.decode("latin-1"))
        if len(said[b"host"]) != 1 or not _is_local(said[b"host"][0]):
            return "this server answers to 127.0.0.1 and localhost alone"
        if not self._origins.issuperset(said[b"origin"]):
            return "pages of other sites may not use this server"
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008, refusal)(scope, receive, send)
        else:
            await PlainTextResponse(refusal + "\n", 403)(scope, receive, send)


def main() -> None:
    """Run the server as `prefect server start` does, by Prefect's settings in the environment, behind the guard."""
    collector.loading()
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    from deployments.prefect_sqlite import use_one_writer

    use_one_writer()
    settings = get_current_settings().server
    app = create_app(final=True)
    collector.loaded()
    uvicorn.run(
        Guard(app, origins=settings.api.cors_allowed_origins.split(",")),
        host=settings.api.host,
        port=settings.api.port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    main()
