"""The web: webhooks and orders in, health and metrics out. What comes in is verified, stored, and only then answered.

`POST /webhooks/<connector>` takes what a provider sends; one that signs nothing sends it to
`/webhooks/<connector>/<token>`, the token being a secret of that connector's. `POST /orders` takes one order or a list
of them from a shop, signed as web.signature does it. `/1c/<connector>` is where 1C exchanges orders, as web.commerceml
does it. `GET /health` is for the operator's own network, `GET /metrics` for this machine, or with a token.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic_core import from_json
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.environment import secret_setting
from connectors.observed import span
from connectors.roles import AnswersWebhooks, BadSignature, Origin, WebhookReader
from domain.order_document import OrderDocument, OrderError, parse_order
from store import outages
from store.journal import Actor
from store.outages import Down
from tasks.installation import Installation
from tasks.intake import take_webhook
from tasks.order_intake import take_order
from web import signature
from web.commerceml import PATH as EXCHANGE_PATH
from web.commerceml import Exchange
from web.limits import BodyRefused, LastAnswer, Room
from web.metrics import FRESH_S, Page
from web.sender import sender_of, trusted_proxies

WEBHOOK_BYTES_MAX = 1024 * 1024
ORDERS_BYTES_MAX = 8 * 1024 * 1024
ORDERS_MAX = 1_000
"""Orders in one request at most."""
BODY_SECONDS = 15.0
"""How long a request's body may take to arrive."""
ROOM_BYTES = 64 * 1024 * 1024
"""How much of the bodies of all requests is kept in memory at once."""

_ANSWER_SECONDS = 5.0
_RETRY_AFTER = {"Retry-After": "30"}
_NUMBER_SHOWN = 80
_ROOMS = frozenset({"connectors", "deployments", "domain", "store", "tasks", "web"})
_ACTOR = Actor(name="web")

_log = logging.getLogger("kvit.web")

Taken = Literal["stored", "known", "refused"]


class Metrics:
    """What is counted and timed, for Prometheus. Every label has few values: connectors that exist, routes, results."""

    def __init__(self, readers: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        self.webhooks = Counter("kvit_webhooks", "Webhooks received", ["connector", "result"], registry=self.registry)
        self.orders = Counter("kvit_orders_received", "Orders received", ["result"], registry=self.registry)
        self.seconds = Histogram(
            "kvit_http_request_seconds", "Durations of requests", ["route", "status"], registry=self.registry
        )
        # What never happened yet is shown as zero, so that the first time is seen as a rise.
        for result in ("stored", "known", "refused"):
            self.orders.labels(result)
            for reader in readers:
                self.webhooks.labels(reader, result)


class _Observed:
    """Around the whole app: times each request, and turns a failure nobody foresaw into a short answer.

    The failure is logged by its type and place alone, because its text may quote personal data.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Only 1C's exchange takes a query. One that comes all the same may hold a secret, and servers log it.
        if scope["path"].startswith(EXCHANGE_PATH):
            scope["state"] = {**scope.get("state", {}), "exchange_query": scope["query_string"]}
        scope["query_string"] = b""
        status: int | None = None

        async def observed(message: Message) -> None:
            nonlocal status
            status = status or message.get("status")
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            _log.error("%s failed: %s at %s", _route(scope), type(error).__name__, _places(error))
            if status is not None:
                raise
            answer = JSONResponse({"error": "something went wrong here; it was logged"}, 500)
            await answer(scope, receive, observed)
        finally:
            self._metrics.seconds.labels(_route(scope), str(status)).observe(time.perf_counter() - began)


def _route(scope: Scope) -> str:
    """Return the pattern of the route that was taken, never the path itself, which anybody may make up."""
    return getattr(scope.get("route"), "path", "other")


def _places(error: Exception) -> str:
    """Return the places of our own code that an error came through, and nothing of what it says."""
    places = [(str(at.f_globals.get("__name__")), line) for at, line in traceback.walk_tb(error.__traceback__)]
    return " > ".join(f"{name}:{line}" for name, line in places if name.partition(".")[0] in _ROOMS)


async def _refuse(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _refuse_body(_: Request, error: BodyRefused) -> Response:
    return LastAnswer({"error": error.detail}, error.status_code)


async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody hears it


@asynccontextmanager
async def _database() -> AsyncGenerator[None]:
    """Answer 503 when the database fails, so that the sender repeats what it sent."""
    try:
        yield
    except (HTTPException, OrderError):
        raise
    except Exception as error:  # noqa: BLE001 - while connecting, drivers raise more than SQLAlchemy translates
        _log.warning("the database is not available: %s at %s", type(error).__name__, _places(error))
        raise HTTPException(503, "the database is not available; try again later", _RETRY_AFTER) from None


def _orders_in(body: bytes) -> list[Any]:
    try:
        sent: Any = from_json(body, allow_inf_nan=False)  # bounds depth and digits, which the standard module doesn't
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    orders = cast("list[Any]", sent) if isinstance(sent, list) else [sent]
    if not orders or not isinstance(sent, list | dict):
        raise HTTPException(400, "the body must be one order, or a list of orders with at least one in it")
    if len(orders) > ORDERS_MAX:
        raise HTTPException(413, f"there are {len(orders)} orders; send at most {ORDERS_MAX} in one request")
    return orders


def _document(sent: Any, *, where: str) -> OrderDocument:
    if not isinstance(sent, dict):
        raise OrderError(f"{where}: it is not a JSON object")
    return parse_order(cast("dict[str, Any]", sent), where=where)


class _Web:
    """The pages."""

    def __init__(
        self,
        opened: Installation,
        metrics: Metrics,
        *,
        wake: Callable[[], None],
        waiting: Callable[[], Awaitable[int]],
        body_seconds: float,
    ) -> None:
        self._opened = opened
        self._readers = opened.playing(WebhookReader)
        self._secret = secret_setting(opened.settings, "orders_secret")
        self._proxies = trusted_proxies(opened.settings)
        self._metrics = metrics
        self._wake = wake
        self._waiting = waiting
        self._body_seconds = body_seconds
        self._room = Room(ROOM_BYTES)

    async def webhook(self, connector: str, request: Request) -> Response:
        """Store a provider's webhook, once; only what is verified as the provider's is stored."""
        return await self.webhook_with_token(connector, "", request)

    async def webhook_with_token(self, connector: str, token: str, request: Request) -> Response:
        """Do that for a provider that signs nothing and was given an address with a secret in it."""
        # Read before anything is refused: a sender that is still sending may not see an answer.
        async with self._room.body(request, at_most=WEBHOOK_BYTES_MAX, within=self._body_seconds) as body:
            return await self._webhook(connector, token, request, body)

    async def _webhook(self, connector: str, token: str, request: Request, body: bytes) -> Response:
        reader = self._readers.get(connector)
        if reader is None:
            raise HTTPException(404, "no connector of this name takes webhooks; kvit.yaml says what they are called")
        headers = {name.lower(): value for name, value in request.headers.items()}
        origin = Origin(address=sender_of(request, self._proxies), token=token)
        try:
            event = reader.verify(headers, body, now=self._opened.clock(), origin=origin)
        except BadSignature as error:
            self._metrics.webhooks.labels(connector, "refused").inc()
            _log.warning("a webhook for %s was refused: %s", connector, error)
            raise HTTPException(401, str(error)) from None
        result: Taken = "known"
        if event.kept:
            async with _database():
                with span("webhook", {"kvit.connector": connector}):
                    new = await take_webhook(self._opened, connector, event, body)
            result = "stored" if new else "known"
            self._wake()
        self._metrics.webhooks.labels(connector, result).inc()
        if event.kept and isinstance(reader, AnswersWebhooks):
            content_type, answer = reader.answer(body, now=self._opened.clock())
            return Response(answer, media_type=content_type)
        return JSONResponse({"status": result})

    async def orders(self, request: Request) -> Response:
        """Store a shop's orders, each by itself, and say of each what became of it."""
        async with self._room.body(request, at_most=ORDERS_BYTES_MAX, within=self._body_seconds) as body:
            return await self._orders(request, body)

    async def _orders(self, request: Request, body: bytes) -> Response:
        if self._secret is None:
            raise HTTPException(
                403,
                "orders are not taken here yet: set orders_secret in kvit.yaml to what they are signed with, "
                "or to $NAME to read it from the environment variable NAME",
            )
        try:
            signature.verify(self._secret, request.headers.get(signature.HEADER), body, self._opened.clock())
        except BadSignature as error:
            _log.warning("orders were refused: %s", error)
            raise HTTPException(401, str(error)) from None
        results = [await self._order(order, place) for place, order in enumerate(_orders_in(body), start=1)]
        self._wake()
        taken = any(result["status"] != "refused" for result in results)
        return JSONResponse({"results": results}, 200 if taken else 422)

    async def _order(self, sent: Any, place: int) -> dict[str, Any]:
        await asyncio.sleep(0)  # a thousand orders that are refused wait for nothing else, and webhooks are waiting
        try:
            result = {"status": await self._store(_document(sent, where=f"order {place} of the request"))}
        except OrderError as error:
            result = {"status": "refused", "reason": str(error)}
        self._metrics.orders.labels(result["status"]).inc()
        number: Any = cast("dict[str, Any]", sent).get("number") if isinstance(sent, dict) else None
        return {"number": number[:_NUMBER_SHOWN] if isinstance(number, str) else None, **result}

    async def _store(self, order: OrderDocument) -> Taken:
        async with _database():
            try:
                return await self._store_once(order)
            except IntegrityError:
                # Another request stored the same order at the same moment, so now it can be seen.
                return await self._store_once(order)

    async def _store_once(self, order: OrderDocument) -> Taken:
        async with self._opened.store.write() as connection:
            new = await take_order(connection, self._opened, order, actor=_ACTOR)
        return "known" if new is None else "stored"

    async def _due(self) -> int:
        async with _database(), asyncio.timeout(_ANSWER_SECONDS):
            return await self._waiting()

    async def _down(self) -> list[Down]:
        async with _database(), asyncio.timeout(_ANSWER_SECONDS), self._opened.store.read() as connection:
            return await outages.listing(connection)

    async def health(self) -> Response:
        """Say that the database answers, how much is due, and which outside systems are down."""
        down = [
            {
                "system": one.system,
                "since": one.since.isoformat(),
                "waiting": one.waiting,
                "tried_again_at": one.probe_at.isoformat(),
            }
            for one in await self._down()
        ]
        return JSONResponse({"status": "ok", "due": await self._due(), "down": down})


def create_app(
    opened: Installation,
    *,
    wake: Callable[[], None],
    waiting: Callable[[], Awaitable[int]],
    body_seconds: float = BODY_SECONDS,
    fresh_s: float = FRESH_S,
) -> FastAPI:
    """Return the web app of an installation.

    wake is called after something was stored; waiting asks the database how many rows are due now; fresh_s says for
    how many seconds the metrics of the database are not counted anew. Raises Misconfigured for an orders_secret,
    a metrics_token or trusted_proxies in kvit.yaml that can't be used.
    """
    metrics = Metrics(opened.playing(WebhookReader))
    web = _Web(opened, metrics, wake=wake, waiting=waiting, body_seconds=body_seconds)
    exchange = Exchange(
        opened,
        database=_database,
        wake=wake,
        count=lambda connector, result: metrics.webhooks.labels(connector, result).inc(),
        body_seconds=body_seconds,
    )
    app = FastAPI(
        title="Kvit",
        openapi_url=None,  # and with it no pages of documentation
        redirect_slashes=False,
        exception_handlers={HTTPException: _refuse, BodyRefused: _refuse_body, ClientDisconnect: _gone},
    )
    app.add_api_route("/webhooks/{connector}", web.webhook, methods=["POST"])
    app.add_api_route("/webhooks/{connector}/{token}", web.webhook_with_token, methods=["POST"])
    app.add_api_route(EXCHANGE_PATH + "{connector}", exchange.page, methods=["GET", "POST"])
    app.add_api_route("/orders", web.orders, methods=["POST"])
    app.add_api_route("/health", web.health, methods=["GET"])
    app.add_api_route("/metrics", Page(opened, metrics.registry, fresh_s=fresh_s).show, methods=["GET"])
    app.add_middleware(_Observed, metrics=metrics)
    return app
