"""Metrics on a page, for Prometheus: of this process, and of what stands in the database.

The page is not public. Without `metrics_token` in kvit.yaml it answers this machine alone, and nothing that came
through a proxy; with it, whoever sends `Authorization: Bearer <token>`.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.environment import secret_setting
from connectors.observed import REGISTRY
from store import gauges, outages
from store.gauges import Standing
from store.outages import Down
from tasks.installation import Installation

FRESH_S = 5.0
"""For how long what was counted in the database is shown again, so that nobody's asking often loads it."""
_ANSWER_S = 5.0
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_NAN = float("nan")


class Watched:
    """What stands in the database, as gauges in a registry; NaN while it can't be reached."""

    def __init__(self, opened: Installation, registry: CollectorRegistry, *, fresh_s: float = FRESH_S) -> None:
        self._opened = opened
        self._fresh_s = fresh_s
        self._counted_at = -float("inf")
        self._counting = asyncio.Lock()
        self._due = Gauge("kvit_due", "Rows due now; NaN while the database can't be reached", registry=registry)
        self._oldest = Gauge(
            "kvit_oldest_due_seconds", "For how long the oldest row has been due; 0 when none is", registry=registry
        )
        self._in_flight = Gauge("kvit_in_flight", "Rows that a worker holds now", registry=registry)
        self._effects = Gauge("kvit_effects_open", "Effects that have not ended", ["state"], registry=registry)
        self._in_doubt = Gauge(
            "kvit_effects_in_doubt",
            "Effects of which nobody knows whether they happened, by outside system",
            ["system"],
            registry=registry,
        )
        self._ahead = Gauge(
            "kvit_clock_ahead_seconds", "By how much this machine's clock is ahead of the database's", registry=registry
        )
        self._down = Gauge(
            "kvit_system_down_since_seconds",
            "Since when an outside system is down that something waits for, as Unix time",
            ["system"],
            registry=registry,
        )

    async def refresh(self) -> None:
        """Count anew, unless that was done a moment ago."""
        async with self._counting:
            if time.monotonic() - self._counted_at < self._fresh_s:
                return
            try:
                async with asyncio.timeout(_ANSWER_S), self._opened.store.read() as connection:
                    now = self._opened.clock()
                    self._ahead.set(await gauges.ahead_s(connection, now))
                    self._show(await gauges.standing(connection, now), await outages.listing(connection), now)
            except Exception:  # noqa: BLE001 - while connecting, drivers raise more than SQLAlchemy translates
                self._forget()
            else:
                self._counted_at = time.monotonic()

    def _show(self, counted: Standing, down: list[Down], now: datetime) -> None:
        self._due.set(sum(counted.due.values()))
        oldest = min((at for at in counted.oldest.values() if at), default=now)
        self._oldest.set((now - oldest).total_seconds())
        self._in_flight.set(sum(counted.in_flight.values()))
        self._clear()
        for state, count in counted.effects.items():
            self._effects.labels(state.value).set(count)
        for system, count in counted.in_doubt.items():
            self._in_doubt.labels(system).set(count)
        for one in down:
            self._down.labels(one.system).set(one.since.timestamp())

    def _clear(self) -> None:
        for gauge in (self._effects, self._in_doubt, self._down):
            gauge.clear()

    def _forget(self) -> None:
        self._clear()
        for gauge in (self._due, self._oldest, self._in_flight, self._ahead):
            gauge.set(_NAN)


class Page:
    """The page itself: who may read it, and what stands on it."""

    def __init__(self, opened: Installation, registry: CollectorRegistry, *, fresh_s: float = FRESH_S) -> None:
        """Raise Misconfigured for a metrics_token in kvit.yaml that can't be used."""
        self._token = token_of(opened.settings)
        self._registry = registry
        self._watched = Watched(opened, registry, fresh_s=fresh_s)

    async def show(self, request: Request) -> Response:
        """Return the metrics in Prometheus's text format, of this page's registry and of the process."""
        check_reader(request, self._token)
        await self._watched.refresh()
        text = generate_latest(self._registry) + generate_latest(REGISTRY)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def token_of(settings: Mapping[str, Any]) -> str | None:
    """Return what reads the metrics from elsewhere, or None. Raises Misconfigured for one that can't be used."""
    return secret_setting(settings, "metrics_token")


def check_reader(request: Request, token: str | None) -> None:
    """Raise HTTPException for whoever may not read the metrics."""
    if token is not None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token}".encode()):
            said = "send the metrics_token of kvit.yaml as a bearer token"
            raise HTTPException(401, said, {"WWW-Authenticate": "Bearer"})
        return
    if not _from_this_machine(request):
        raise HTTPException(403, "metrics are for this machine alone, unless metrics_token in kvit.yaml is set")


def _from_this_machine(request: Request) -> bool:
    """Say whether a request began here: what a proxy of this machine hands on did not."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is called for nothing else
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def metrics_app(opened: Installation) -> Starlette:
    """Return an app that has the page of metrics and nothing else, for a process that answers no webhooks."""
    page = Page(opened, CollectorRegistry())
    routes = [Route("/metrics", page.show, methods=["GET"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refuse})
