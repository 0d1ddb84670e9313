"""What the web promises to those who send: stored before it is answered, once, and never more than was signed."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from json import dumps
from logging.handlers import BufferingHandler
from pathlib import Path
from shutil import copy
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from sqlalchemy import select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.errors import Misconfigured
from connectors.roles import BadSignature
from deployments.sandbox.stripe import StripeStandIn
from domain.rules import parse_rules
from store import effects, inbox, orders, outages, rules, work
from store.database import open_store
from store.journal import Actor
from store.tables import InboxRow
from tasks.installation import Installation, close_installation, open_installation
from web import signature
from web.app import BODY_SECONDS, ORDERS_MAX, WEBHOOK_BYTES_MAX, create_app

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
WEBHOOK_SECRET = "whsec_of_the_account"
ORDERS_SECRET = "a-secret-of-the-shop-and-of-kvit"
RULES = Path(__file__).parents[2] / "deployments" / "rules" / "cz.yaml"
THROWN_AWAY = 5 * 1024 * 1024
"""The most that is let arrive of a body that was refused, so that its sender sees the answer."""


@dataclass
class Site:
    """A served installation. `taken` is how much of the requests' bodies the app took from the line."""

    opened: Installation
    client: httpx.AsyncClient
    port: int = 0
    woken: int = 0
    taken: int = 0
    account: StripeStandIn = field(default_factory=lambda: StripeStandIn(webhook_secret=WEBHOOK_SECRET))

    async def waiting(self) -> int:
        async with self.opened.store.read() as connection:
            return await inbox.count_due(connection, NOW) + await work.count_due(connection, NOW)

    def wake(self) -> None:
        self.woken += 1

    def webhook(self, number: str = "CZ1042") -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of a new event of Stripe's."""
        return self.account.signed(self.account.pay(number, 104250, "czk", now=NOW), NOW)

    async def deliver(self, headers: dict[str, str], body: bytes, to: str = "stripe") -> httpx.Response:
        return await self.client.post(f"/webhooks/{to}", headers=headers, content=body)

    async def order(self, *sent: Any, now: datetime = NOW, secret: str = ORDERS_SECRET) -> httpx.Response:
        """Post one order, or several as a list, signed."""
        return await self.send_orders(dumps(sent[0] if len(sent) == 1 else sent).encode(), now=now, secret=secret)

    async def send_orders(self, body: bytes, *, now: datetime = NOW, secret: str = ORDERS_SECRET) -> httpx.Response:
        headers = {"Kvit-Signature": signature.sign(secret, body, now)}
        return await self.client.post("/orders", headers=headers, content=body)

    async def stored(self) -> list[tuple[str, bytes]]:
        """Return the inbox: sources and bodies."""
        async with self.opened.store.read() as connection:
            rows = await connection.execute(select(InboxRow.source, InboxRow.body).order_by(InboxRow.id))
            return [(row.source, row.body) for row in rows.all()]

    async def numbers(self) -> list[str]:
        """Return the numbers of the stored orders."""
        async with self.opened.store.read() as connection:
            return sorted(row["number"] for row in await orders.listing(connection))

    async def metrics(self) -> str:
        return (await self.client.get("/metrics")).text

    @asynccontextmanager
    async def without_database(self) -> AsyncGenerator[None]:
        """Take the database's folder away, and bring it back."""
        await self.opened.store.close()
        away = self.opened.home.with_name("away")
        self.opened.home.rename(away)
        yield
        away.rename(self.opened.home)


def order(number: str = "CZ1042", **fields: Any) -> dict[str, Any]:
    return {
        "number": number,
        "channel": "cz",
        "method": "card",
        "placed_at": "2026-11-20T08:15:00Z",
        "currency": "CZK",
        "total": "1042.50",
        "customer": {"number": "C1", "name": "Alena Dvořáková", "email": "alena@example.com", "language": "cs"},
        "lines": [{"sku": "TEA-1", "title": "Čaj", "quantity": 1, "unit_price": "1042.50", "vat_rate": "12"}],
        **fields,
    }


def counting(app: ASGIApp, site: Site) -> ASGIApp:
    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def taken() -> Message:
            message = await receive()
            site.taken += len(message.get("body", b""))
            return message

        await app(scope, taken, send)

    return counted


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncGenerator[int]:
    """Serve an app in this loop and yield its port."""
    # Named as TCP, so that asyncio switches Nagle's delay off.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, interface="asgi3", http="h11", ws="none", lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    try:
        yield listener.getsockname()[1]
    finally:
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await server.shutdown()
        listener.close()


async def _make_database(url: str) -> None:
    store = await open_store(url)
    document = parse_rules(yaml.safe_load(RULES.read_text(encoding="utf-8")))
    async with store.write() as connection:
        await rules.save(
            connection,
            document.model_dump(mode="json", exclude_unset=True),
            channel="cz",
            author="test",
            reason="test",
            now=NOW,
        )
    await store.close()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a database with the rules of one channel once, to be copied."""
    file = tmp_path_factory.mktemp("template") / "kvit.sqlite"
    asyncio.run(_make_database(f"sqlite:///{file}"))
    return file


Open = Callable[..., Awaitable[Installation]]


@pytest.fixture
async def opening(tmp_path: Path, database: Path) -> AsyncGenerator[Open]:
    """Open installations that have Stripe, the rules of one channel, and settings of the test's own."""
    opened: list[Installation] = []

    async def open_one(**settings: Any) -> Installation:
        home = tmp_path / f"home{len(opened)}"
        home.mkdir()
        copy(database, home)
        stripe = {"name": "stripe", "type": "stripe", "api_key": "sk_test", "webhook_secret": WEBHOOK_SECRET}
        (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [stripe], **settings}), encoding="utf-8")
        one = await open_installation(home, database_url=f"sqlite:///{home / database.name}")
        opened.append(replace(one, clock=lambda: NOW))
        return opened[-1]

    yield open_one
    for one in opened:
        await close_installation(one)


@asynccontextmanager
async def served(
    opened: Installation, *, wake: Callable[[], None] | None = None, body_seconds: float = BODY_SECONDS
) -> AsyncGenerator[Site]:
    async with httpx.AsyncClient(timeout=30) as client:
        site = Site(opened, client)
        waiting = site.waiting
        app = create_app(opened, wake=wake or site.wake, waiting=waiting, body_seconds=body_seconds, fresh_s=0)
        async with serving(counting(app, site)) as port:
            site.port = port
            client.base_url = f"http://127.0.0.1:{port}"
            yield site


@pytest.fixture
async def site(opening: Open) -> AsyncGenerator[Site]:
    async with served(await opening(orders_secret=ORDERS_SECRET)) as one:
        yield one


# Webhooks


async def test_a_signed_webhook_is_stored_raw_and_the_dispatcher_woken(site: Site) -> None:
    headers, body = site.webhook()

    answer = await site.deliver(headers, body)

    assert (answer.status_code, answer.json()) == (200, {"status": "stored"})
    assert await site.stored() == [("stripe", body)]
    assert site.woken == 1


async def test_a_webhook_delivered_again_is_known_and_adds_nothing(site: Site) -> None:
    event = site.account.pay("CZ1042", 104250, "czk", now=NOW)
    await site.deliver(*site.account.signed(event, NOW))

    again = await site.deliver(*site.account.signed(event, NOW + timedelta(seconds=60)))

    assert (again.status_code, again.json()) == (200, {"status": "known"})
    assert len(await site.stored()) == 1


async def test_a_request_that_was_overheard_and_is_sent_again_adds_nothing_and_soon_is_refused(opening: Open) -> None:
    opened = await opening()
    headers, body = StripeStandIn(webhook_secret=WEBHOOK_SECRET).signed({"id": "evt_1", "type": "ping"}, NOW)
    for later, status in ((0, 200), (60, 200), (300, 200), (301, 401), (86_400, 401)):
        at = NOW + timedelta(seconds=later)
        async with served(replace(opened, clock=lambda at=at: at)) as site:
            assert (await site.deliver(headers, body)).status_code == status
            assert len(await site.stored()) == 1


async def test_ten_deliveries_at_once_are_one_webhook(site: Site) -> None:
    headers, body = site.webhook()

    answers = await asyncio.gather(*(site.deliver(headers, body) for _ in range(10)))

    assert sorted(answer.json()["status"] for answer in answers) == ["known"] * 9 + ["stored"]
    assert len(await site.stored()) == 1


Sent = tuple[dict[str, str], bytes]


def tampered(headers: dict[str, str], body: bytes) -> Sent:
    return headers, body + b" "


def unsigned(_: dict[str, str], body: bytes) -> Sent:
    return {}, body


def malformed(_: dict[str, str], body: bytes) -> Sent:
    return {"stripe-signature": "t=1,v1=0"}, body


def signed_by_another(_: dict[str, str], body: bytes) -> Sent:
    return StripeStandIn(webhook_secret="whsec_other").sign(body, NOW), body


def signed_an_hour_ago(_: dict[str, str], body: bytes) -> Sent:
    return StripeStandIn(webhook_secret=WEBHOOK_SECRET).sign(body, NOW - timedelta(hours=1)), body


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (tampered, "doesn't match"),
        (unsigned, "no Stripe-Signature header"),
        (malformed, "malformed"),
        (signed_by_another, "doesn't match"),
        (signed_an_hour_ago, "too old: 3600 seconds"),
    ],
)
async def test_what_the_provider_did_not_sign_is_refused_and_not_stored(
    site: Site, change: Callable[[dict[str, str], bytes], Sent], said: str
) -> None:
    answer = await site.deliver(*change(*site.webhook()))

    assert answer.status_code == 401
    assert said in answer.json()["error"]
    assert await site.stored() == []
    assert site.woken == 0


@pytest.mark.parametrize("name", ["unknown", "documents", "..", "%2e%2e", "a" * 5000])
async def test_only_connectors_that_take_webhooks_are_found(site: Site, name: str) -> None:
    answer = await site.deliver(*site.webhook(), to=name)

    assert answer.status_code == 404
    assert answer.json()["error"]
    assert await site.stored() == []


async def test_a_webhook_is_not_acknowledged_while_the_database_is_gone(site: Site) -> None:
    headers, body = site.webhook()
    async with site.without_database():
        failed = await site.deliver(headers, body)
    repeated = await site.deliver(headers, body)

    assert failed.status_code == 503
    assert int(failed.headers["Retry-After"]) > 0
    assert "database is not available" in failed.json()["error"]
    assert repeated.json() == {"status": "stored"}
    assert site.woken == 1


# Bounds


async def raw(site: Site, *pieces: bytes, then: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None) -> str:
    """Send bytes as they are, and return the head and what there is of the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then is not None:
            await then(writer)
    head = await answer
    writer.transport.abort()
    return head.decode()


MANY = 800
CHUNK = b"x" * 65536


async def test_a_body_that_says_it_is_too_large_is_refused_without_reading_it_all(site: Site) -> None:
    declared = f"Content-Length: {MANY * len(CHUNK)}\r\n\r\n".encode()

    head = await raw(site, b"POST /webhooks/stripe HTTP/1.1\r\nHost: kvit\r\n" + declared, *[CHUNK] * MANY)

    assert head.startswith("HTTP/1.1 413")
    assert site.taken <= THROWN_AWAY


async def test_a_body_of_unknown_length_is_read_up_to_the_bound_only(site: Site) -> None:
    chunked = b"POST /webhooks/stripe HTTP/1.1\r\nHost: kvit\r\nTransfer-Encoding: chunked\r\n\r\n"

    head = await raw(site, chunked, *[b"10000\r\n" + CHUNK + b"\r\n"] * MANY)

    assert head.startswith("HTTP/1.1 413")
    assert "connection: close" in head.lower()
    assert WEBHOOK_BYTES_MAX <= site.taken <= WEBHOOK_BYTES_MAX + THROWN_AWAY


async def test_a_sender_that_waits_for_leave_is_refused_before_it_sends(site: Site) -> None:
    declared = b"Content-Length: 52428800\r\nExpect: 100-continue\r\n\r\n"

    head = await raw(site, b"POST /webhooks/stripe HTTP/1.1\r\nHost: kvit\r\n" + declared)

    assert head.startswith("HTTP/1.1 413")


async def test_a_sender_of_somewhat_too_much_may_end_and_sees_the_answer(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    body = CHUNK * 48

    answer = await site.deliver({}, body)

    assert answer.status_code == 413
    assert answer.json() == {"error": "the body is larger than 1048576 bytes; nothing was taken"}
    async with asyncio.timeout(120):
        while site.taken < len(body):
            await site.metrics()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_bound_is_exact(site: Site) -> None:
    _, body = site.webhook()
    largest = body.ljust(WEBHOOK_BYTES_MAX)

    taken = await site.deliver(site.account.sign(largest, NOW), largest)
    refused = await site.deliver(site.account.sign(largest + b" ", NOW), largest + b" ")

    assert taken.json() == {"status": "stored"}
    assert refused.status_code == 413
    assert "1048576 bytes" in refused.json()["error"]


async def test_a_body_longer_than_its_length_says_is_not_taken(site: Site) -> None:
    headers, body = site.webhook()
    signed = f"stripe-signature: {headers['stripe-signature']}\r\n".encode()

    head = await raw(
        site, b"POST /webhooks/stripe HTTP/1.1\r\nHost: kvit\r\nContent-Length: 10\r\n" + signed, b"\r\n", body
    )

    assert head.startswith("HTTP/1.1 401")
    assert await site.stored() == []


async def test_a_body_that_drips_in_is_given_up(opening: Open) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        for _ in range(50):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with served(await opening(), body_seconds=0.5) as site, asyncio.timeout(120):
        head = await raw(
            site, b"POST /webhooks/stripe HTTP/1.1\r\nHost: kvit\r\nContent-Length: 5000\r\n\r\n", then=drip
        )

        assert head.startswith("HTTP/1.1 408")
        assert 0 < site.taken < 5000


async def test_a_sender_that_goes_away_leaves_no_trace_but_a_count(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"POST /webhooks/stripe HTTP/1.1\r\nHost: kvit\r\nContent-Length: 5000\r\n\r\nhalf")
    await writer.drain()
    writer.transport.abort()

    async with asyncio.timeout(120):
        while 'route="/webhooks/{connector}",status="400"' not in await site.metrics():
            pass
    assert await site.stored() == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


MEBIBYTE = 1024 * 1024


async def test_many_bodies_at_once_have_one_room_and_who_finds_none_is_told_to_come_later(
    opening: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.app.ROOM_BYTES", 3 * MEBIBYTE)
    head = f"POST /orders HTTP/1.1\r\nHost: kvit\r\nContent-Length: {MEBIBYTE + 1}\r\n\r\n".encode()
    async with served(await opening(orders_secret=ORDERS_SECRET)) as site, asyncio.timeout(120):
        held = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(3)]
        for _, writer in held:
            writer.write(head + bytes(MEBIBYTE))  # a byte is missing, so each stays where it is
            await writer.drain()
        while site.taken < 3 * MEBIBYTE:
            await site.metrics()

        refused = await site.order(order())
        webhook = await site.deliver(*site.webhook())
        assert (refused.status_code, webhook.status_code) == (503, 503)
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json() == {"error": "too much is being sent at once; nothing was taken, send it again later"}

        held[0][1].transport.abort()
        while (answer := await site.order(order())).status_code == 503:
            pass
        assert answer.json()["results"][0]["status"] == "stored"
        for _, writer in held:
            writer.transport.abort()


async def test_the_room_of_a_request_that_was_answered_is_free_again(
    opening: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.app.ROOM_BYTES", 2 * MEBIBYTE)
    async with served(await opening(orders_secret=ORDERS_SECRET)) as site:
        for status, body in ((401, bytes(MEBIBYTE)), (413, bytes(9 * MEBIBYTE)), (404, bytes(MEBIBYTE))) * 3:
            to = "/webhooks/nobody" if status == 404 else "/orders"
            try:
                answer = await site.client.post(to, content=body)
            except httpx.TransportError:
                # Of a body this large more is on its way than is let arrive, and the answer can be lost with it.
                assert status == 413
            else:
                assert answer.status_code == status
        assert (await site.order(order())).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_a_packed_body_is_never_unpacked(site: Site, encoding: str) -> None:
    packed = gzip.compress(dumps(order()).encode())
    headers = {"Content-Encoding": encoding, "Kvit-Signature": signature.sign(ORDERS_SECRET, packed, NOW)}
    answer = await site.client.post("/orders", headers=headers, content=packed)
    assert answer.status_code == 400
    assert "the body is not JSON" in answer.json()["error"]

    signed, body = site.webhook()
    answer = await site.deliver(signed | {"Content-Encoding": encoding}, gzip.compress(body))
    assert answer.status_code == 401
    assert await site.stored() == []


# Orders


async def test_an_order_is_stored_and_the_dispatcher_woken_and_the_same_again_is_known(site: Site) -> None:
    first = await site.order(order())
    again = await site.order(order())

    assert (first.status_code, first.json()) == (200, {"results": [{"number": "CZ1042", "status": "stored"}]})
    assert (again.status_code, again.json()) == (200, {"results": [{"number": "CZ1042", "status": "known"}]})
    assert await site.numbers() == ["CZ1042"]
    assert site.woken == 2


async def test_bad_orders_do_not_stop_the_good_ones_and_are_told_why(site: Site) -> None:
    answer = await site.order(
        order("CZ1"),
        order("CZ2", total="1.00"),
        order("CZ3", channel="sk"),
        order("CZ4", currency="EUR"),
        order("CZ5", placed_at="0001-01-01T00:00:00+14:00"),
        {"number": "CZ6"},
        "CZ7",
        order("CZ8"),
        order("CZ8"),
    )

    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [(result["number"], result["status"]) for result in results] == [
        ("CZ1", "stored"),
        ("CZ2", "refused"),
        ("CZ3", "refused"),
        ("CZ4", "refused"),
        ("CZ5", "refused"),
        ("CZ6", "refused"),
        (None, "refused"),
        ("CZ8", "stored"),
        ("CZ8", "known"),
    ]
    reasons = [result.get("reason", "") for result in results]
    assert reasons[1] == "order 2 of the request: total: it is 1.00 CZK, but the lines come to 1042.50 CZK"
    assert "channel “sk” is not known; there is cz" in reasons[2]
    assert "channel cz sells in CZK" in reasons[3]
    assert "placed_at" in reasons[4]
    assert "lines: Field required" in reasons[5]
    assert reasons[6] == "order 7 of the request: it is not a JSON object"
    assert "Dvořáková" not in answer.text
    assert await site.numbers() == ["CZ1", "CZ8"]


async def test_a_request_with_no_good_order_is_an_error(site: Site) -> None:
    answer = await site.order(order(total="1.00"))

    assert answer.status_code == 422
    assert [result["status"] for result in answer.json()["results"]] == ["refused"]


async def test_the_same_order_ten_times_at_once_is_one_order(site: Site) -> None:
    answers = await asyncio.gather(*(site.order(order()) for _ in range(10)))

    assert sorted(answer.json()["results"][0]["status"] for answer in answers) == ["known"] * 9 + ["stored"]
    assert await site.numbers() == ["CZ1042"]


@pytest.mark.parametrize("late", [-300, 300])
async def test_a_clock_may_be_five_minutes_off(site: Site, late: int) -> None:
    assert (await site.order(order(), now=NOW + timedelta(seconds=late))).status_code == 200


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, "no Kvit-Signature header"),
        ("", "no Kvit-Signature header"),
        ("ffff", "Kvit-Signature header is malformed"),
        (signature.sign("another-secret-of-the-shop", dumps(order()).encode(), NOW), "doesn't match"),
        (signature.sign(ORDERS_SECRET, dumps(order("CZ1043")).encode(), NOW), "doesn't match"),
        (signature.sign(ORDERS_SECRET, dumps(order()).encode(), NOW - timedelta(seconds=301)), "too old: 301 seconds"),
        (signature.sign(ORDERS_SECRET, dumps(order()).encode(), NOW + timedelta(seconds=301)), "from the future"),
    ],
)
async def test_orders_that_the_shop_did_not_sign_now_are_refused(site: Site, header: str | None, said: str) -> None:
    headers = {} if header is None else {"Kvit-Signature": header}
    answer = await site.client.post("/orders", headers=headers, content=dumps(order()).encode())

    assert answer.status_code == 401
    assert said in answer.json()["error"]
    assert ORDERS_SECRET not in answer.text
    assert await site.numbers() == []


async def test_an_old_time_can_not_be_made_new(site: Site) -> None:
    body = dumps(order()).encode()
    old = signature.sign(ORDERS_SECRET, body, NOW - timedelta(days=1))
    renewed = f"t={int(NOW.timestamp())},{old.partition(',')[2]}"

    answer = await site.client.post("/orders", headers={"Kvit-Signature": renewed}, content=body)

    assert answer.status_code == 401
    assert await site.numbers() == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"[NaN]", b"[-Infinity]", b"[" + b"9" * 5000 + b"]"],
)
async def test_what_is_no_json_is_refused_with_the_place(site: Site, body: bytes) -> None:
    answer = await site.send_orders(body)

    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]
    assert "line 1" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"CZ1042"', b"true"])
async def test_json_without_an_order_in_it_is_refused(site: Site, body: bytes) -> None:
    answer = await site.send_orders(body)

    assert answer.status_code == 400
    assert "one order, or a list of orders" in answer.json()["error"]


@pytest.mark.parametrize("value", [b"1e999", b"9" * 4000, b"1042.5", b"[" * 150 + b"]" * 150, b'"\\u0000"'])
@pytest.mark.parametrize("name", ["number", "placed_at", "total", "lines", "customer"])
async def test_a_strange_value_in_an_order_refuses_that_order_alone(site: Site, name: str, value: bytes) -> None:
    strange = dumps(order() | {name: "?"}).encode().replace(b'"?"', value)

    answer = await site.send_orders(b"[" + strange + b"," + dumps(order("CZ2")).encode() + b"]")

    assert answer.status_code == 200
    assert [result["status"] for result in answer.json()["results"]] == ["refused", "stored"]


async def test_too_many_orders_at_once_are_refused_as_a_whole(site: Site) -> None:
    answer = await site.order(*[order(f"CZ{number}") for number in range(ORDERS_MAX + 1)])

    assert answer.status_code == 413
    assert "send at most 1000" in answer.json()["error"]
    assert await site.numbers() == []


async def test_orders_are_not_acknowledged_while_the_database_is_gone(site: Site) -> None:
    async with site.without_database():
        failed = await site.order(order())
    repeated = await site.order(order())

    assert failed.status_code == 503
    assert int(failed.headers["Retry-After"]) > 0
    assert repeated.json()["results"][0]["status"] == "stored"


async def test_an_installation_without_a_secret_says_how_to_set_one(opening: Open) -> None:
    async with served(await opening()) as site:
        answer = await site.order(order())

        assert answer.status_code == 403
        assert "set orders_secret in kvit.yaml" in answer.json()["error"]
        assert await site.numbers() == []


async def test_the_secret_may_stand_in_the_environment(opening: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SECRET", ORDERS_SECRET)
    async with served(await opening(orders_secret="$SHOP_SECRET")) as site:
        assert (await site.order(order())).status_code == 200
        assert (await site.order(order(), secret="$SHOP_SECRET")).status_code == 401


@pytest.mark.parametrize(
    ("value", "said"),
    [("$NOT_SET_ANYWHERE", "variable NOT_SET_ANYWHERE is not set"), ("short", "16 characters"), ("", "16"), (1, "16")],
)
async def test_a_secret_that_can_not_be_used_is_told_at_the_start(opening: Open, value: object, said: str) -> None:
    opened = await opening(orders_secret=value)

    with pytest.raises(Misconfigured, match=f"orders_secret.*{said}"):
        async with served(opened):
            pass


# The shop's signature


def test_the_signature_is_hmac_sha256_of_the_time_a_dot_and_the_body() -> None:
    known = "c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925"
    now = datetime.fromtimestamp(1_700_000_000, UTC)

    assert signature.sign("whsec_test", b'{"id":"evt_1"}', now) == f"t=1700000000,v1={known}"


def test_what_was_signed_is_verified_and_all_else_is_not() -> None:
    header = signature.sign("secret", b"body", NOW)

    signature.verify("secret", header, b"body", NOW)
    for secret, value, body in (("other", header, b"body"), ("secret", None, b"body"), ("secret", header, b"bodY")):
        with pytest.raises(BadSignature):
            signature.verify(secret, value, body, NOW)


# Health and metrics


async def test_health_counts_what_is_due(site: Site) -> None:
    before = await site.client.get("/health")
    await site.deliver(*site.webhook())
    await site.order(order())
    after = await site.client.get("/health")

    assert (before.status_code, before.json()) == (200, {"status": "ok", "due": 0, "down": []})
    assert (after.status_code, after.json()) == (200, {"status": "ok", "due": 2, "down": []})


async def test_health_and_metrics_say_which_system_is_down_since_when(site: Site) -> None:
    assert "kvit_system_down_since_seconds{" not in await site.metrics()
    await site.order(order())
    since, now = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
    async with site.opened.store.write() as connection:
        (claim,) = await effects.claim(
            connection,
            "dispatch",
            [effects.Wanted(1, "order:1", None, None, "dove")],
            owner="one",
            lease_until=now,
            actor=Actor(name="one"),
            now=now,
        )
        again = effects.Ending(
            effect_id=claim.effect_id,
            state=effects.EffectState.INTENDED,
            reason="503",
            before={},
            after={},
            due_at=now + timedelta(minutes=5),
        )
        rows = await effects.lock(connection, [claim.effect_id])
        await effects.end(connection, "dispatch", [again], rows, actor=Actor(name="one"), now=now)
        await outages.note(
            connection, "dove", [1], since=since, reason="", enough=1, wait=lambda _: timedelta(minutes=5), now=now
        )
    down = {
        "system": "dove",
        "since": "2026-11-20T07:30:00+00:00",
        "waiting": 1,
        "tried_again_at": "2026-11-20T08:35:00+00:00",
    }
    assert (await site.client.get("/health")).json()["down"] == [down]
    named = 'kvit_system_down_since_seconds{system="dove"} '
    values = [line.removeprefix(named) for line in (await site.metrics()).splitlines() if line.startswith(named)]
    assert [float(value) for value in values] == [since.timestamp()]
    async with site.opened.store.write() as connection:
        await outages.is_up(connection, "dove", now=NOW)
    assert (await site.client.get("/health")).json()["down"] == []
    assert "kvit_system_down_since_seconds{" not in await site.metrics()


async def test_health_is_bad_while_the_database_is_gone(site: Site) -> None:
    async with site.without_database():
        gone = await site.client.get("/health")
    back = await site.client.get("/health")

    assert gone.status_code == 503
    assert "database is not available" in gone.json()["error"]
    assert back.status_code == 200


async def test_metrics_count_what_came_in(site: Site) -> None:
    headers, body = site.webhook()
    for _ in range(3):
        await site.deliver(headers, body)
    await site.deliver({}, body)
    await site.deliver(headers, body, to="made-up-name")
    await site.client.get("/made-up-path")
    await site.order(order("CZ1"), order("CZ1"), order("CZ2", total="0"))

    answer = await site.client.get("/metrics")

    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    shown = answer.text.splitlines()
    for line in (
        'kvit_webhooks_total{connector="stripe",result="stored"} 1.0',
        'kvit_webhooks_total{connector="stripe",result="known"} 2.0',
        'kvit_webhooks_total{connector="stripe",result="refused"} 1.0',
        'kvit_orders_received_total{result="stored"} 1.0',
        'kvit_orders_received_total{result="known"} 1.0',
        'kvit_orders_received_total{result="refused"} 1.0',
        "kvit_due 2.0",
        'kvit_http_request_seconds_count{route="/webhooks/{connector}",status="200"} 3.0',
        'kvit_http_request_seconds_count{route="/webhooks/{connector}",status="401"} 1.0',
        'kvit_http_request_seconds_count{route="/webhooks/{connector}",status="404"} 1.0',
        'kvit_http_request_seconds_count{route="/orders",status="200"} 1.0',
        'kvit_http_request_seconds_count{route="other",status="404"} 1.0',
    ):
        assert line in shown
    assert "made-up" not in answer.text


async def test_metrics_start_at_zero_and_are_each_app_s_own(site: Site, opening: Open) -> None:
    await site.deliver(*site.webhook())
    async with served(await opening()) as other:
        assert 'kvit_webhooks_total{connector="stripe",result="stored"} 0.0' in await other.metrics()


async def test_metrics_are_there_while_the_database_is_gone(site: Site) -> None:
    await site.deliver(*site.webhook())
    async with site.without_database():
        shown = (await site.metrics()).splitlines()

    assert "kvit_due NaN" in shown
    assert 'kvit_webhooks_total{connector="stripe",result="stored"} 1.0' in shown


# Everything else


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/redoc", "/openapi.json", "/webhooks", "/webhooks/", "/orders/", "/a/b"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_there_is_nothing_else_here(site: Site, method: str, path: str) -> None:
    answer = await site.client.request(method, path)

    assert answer.status_code == 404
    assert answer.json()["error"]
    assert len(answer.content) < 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/orders"), ("GET", "/webhooks/stripe"), ("POST", "/health")])
async def test_a_page_has_one_method(site: Site, method: str, path: str) -> None:
    answer = await site.client.request(method, path)

    assert answer.status_code == 405
    assert answer.json() == {"error": "Method Not Allowed"}


async def test_an_unforeseen_failure_shows_nothing_and_is_logged_without_its_text(
    opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("alena@example.com")

    async with served(await opening(), wake=fail) as site:
        answer = await site.deliver(*site.webhook())

    assert answer.status_code == 500
    assert answer.json() == {"error": "something went wrong here; it was logged"}
    assert "/webhooks/{connector} failed: RuntimeError at web.app:" in caplog.text
    assert "alena@example.com" not in caplog.text


async def test_the_access_log_has_paths_without_what_may_be_secret(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    # Listened to at its source: Prefect, once imported, keeps what uvicorn logs from going further up.
    access, heard = logging.getLogger("uvicorn.access"), BufferingHandler(100)
    caplog.set_level(logging.INFO, logger="uvicorn.access")
    access.addHandler(heard)
    headers, body = site.webhook()

    await site.client.post("/webhooks/stripe?token=hidden", headers=headers, content=body)

    access.removeHandler(heard)
    lines = [record.getMessage() for record in heard.buffer]
    assert len(lines) == 1
    assert '"POST /webhooks/stripe HTTP/1.1" 200' in lines[0]
