"""WooCommerce: orders add up to the last haléř, no change is missed, and nothing is done twice."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from connectors.errors import Misconfigured, Rejected, Transient
from connectors.roles import BadSignature, Checked, OrderSource, PaymentSource, Shop, WebhookEvent, WebhookReader
from connectors.woocommerce import WooCommerce, WooCommerceConfig, oauth_signature
from deployments.sandbox.standin import Misbehavior, Plan, Seen, StandIn
from deployments.sandbox.woocommerce import Item, WooCommerceStandIn
from domain.changes import StatusChange
from domain.money import Money
from domain.order_document import OrderDocument
from domain.orders import Customer, Order, OrderLine, Status
from domain.payments import Method
from domain.reconciliation import ListedOrder

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "s3cr"
LOST = [Misbehavior.CUT_AFTER, Misbehavior.CUT_MIDWAY, Misbehavior.STATUS_AFTER, Misbehavior.GARBAGE]


def config(base_url: str = "https://shop.example/wp-json/wc/v3", **changed: Any) -> WooCommerceConfig:
    values: dict[str, Any] = {
        "name": "woo",
        "home": Path(),
        "base_url": base_url,
        "consumer_key": "ck_sandbox",
        "consumer_secret": "cs_sandbox",
        "webhook_secret": SECRET,
        "channel": "eshop",
        "methods": {"yookassa": "card", "paypal": None},
        "limits": {},
    }
    return WooCommerceConfig.model_validate(values | changed)


@asynccontextmanager
async def connected(shop: WooCommerceStandIn, **changed: Any) -> AsyncGenerator[WooCommerce]:
    woo = WooCommerce(config(changed.pop("base_url", shop.base_url), **changed))
    try:
        yield woo
    finally:
        await woo.aclose()


@pytest.fixture
async def shop() -> AsyncIterator[WooCommerceStandIn]:
    async with WooCommerceStandIn() as made:
        made.time = NOW
        yield made


@pytest.fixture
async def woo(shop: WooCommerceStandIn) -> AsyncIterator[WooCommerce]:
    async with connected(shop) as made:
        yield made


def order(external_id: int | str | None = None, number: str = "1042", total: str = "550.00") -> Order:
    money = Money.parse(total, "CZK")
    return Order(
        id=1,
        channel="eshop",
        number=number,
        status="paid",
        standard_status=Status.PAID,
        method=Method.BANK_TRANSFER,
        total=money,
        settled=money,
        placed_at=NOW,
        customer=Customer(id=1, number="C1", name="Jana Nováková"),
        lines=(OrderLine(id=1, sku="K1", title="Konvice", quantity=1, unit_price=money, vat_rate=Decimal(21)),),
        external_id=None if external_id is None else str(external_id),
    )


async def document(woo: WooCommerce, shop: WooCommerceStandIn, id_: int) -> OrderDocument:
    (found,) = [one for one in await woo.truth(shop.body(id_)) if isinstance(one, OrderDocument)]
    return found


def as_told(lines: OrderDocument) -> list[tuple[str, int, str, Decimal]]:
    return [(line.title, line.quantity, line.unit_price, line.vat_rate) for line in lines.lines]


# Roles and authentication


async def test_it_plays_its_roles_and_says_that_it_works(woo: WooCommerce) -> None:
    for role in (WebhookReader, PaymentSource, Shop, OrderSource, Checked):
        assert isinstance(woo, role)
    assert await woo.check() == "woo: WooCommerce answers and accepts the key"


def test_a_signature_is_that_of_rfc_5849() -> None:
    """Made with `openssl dgst -sha256 -hmac 'cs_1&'` over the base string, written by hand after section 3.4.1."""
    params = [
        ("search", "Nováková & syn"),
        ("modified_after", "2026-03-01T12:00:00"),
        ("oauth_consumer_key", "ck_1"),
        ("oauth_nonce", "abc"),
        ("oauth_signature_method", "HMAC-SHA256"),
        ("oauth_timestamp", "1772366400"),
    ]
    signature = oauth_signature("get", "https://shop.example/wp-json/wc/v3/orders", params, "cs_1")
    assert signature == "lvdjOq+iFjYvLcM3EQ8ULYxGIWmYBoP8SO6BGD1khmg="


def encoded(text: str) -> str:
    """Percent-encode as RFC 5849, section 3.6, says; without the library that the connector uses."""
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in text.encode())


@given(
    params=st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))),
    secret=st.from_regex("[!-9;-~]{1,40}", fullmatch=True),
)
def test_any_parameters_are_signed_as_rfc_5849_says(params: list[tuple[str, str]], secret: str) -> None:
    pairs = sorted((encoded(name), encoded(value)) for name, value in params)
    joined = "&".join("=".join(pair) for pair in pairs)
    text = f"PUT&{encoded('http://shop.example/wc/v3/orders/1')}&{encoded(joined)}"
    expected = base64.b64encode(hmac.digest(f"{encoded(secret)}&".encode(), text.encode(), "sha256")).decode()
    assert oauth_signature("PUT", "http://shop.example/wc/v3/orders/1", params, secret) == expected


@pytest.mark.parametrize(
    ("url", "authentication", "basic"),
    [
        ("https://shop.example/wp-json/wc/v3", "auto", True),
        ("http://shop.example/wp-json/wc/v3", "auto", False),
        ("http://shop.example/wp-json/wc/v3", "basic", True),
        ("https://shop.example/wp-json/wc/v3", "oauth", False),
    ],
)
def test_over_https_it_is_basic_and_over_http_oauth_unless_that_is_settled(
    url: str, authentication: str, basic: bool
) -> None:
    assert config(url, authentication=authentication).basic is basic


async def test_over_plain_http_every_request_is_signed_anew_and_no_secret_is_sent(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    id_ = shop.place(number="A & B/č 1+1")
    await woo.set_status(order(number="A & B/č 1+1"), "completed", "key")
    assert shop.orders[id_]["status"] == "completed"
    assert len({re.search("oauth_nonce=([0-9a-f]+)", seen.query)[1] for seen in shop.requests}) == len(shop.requests)  # type: ignore[index]
    for seen in shop.requests:
        assert "cs_sandbox" not in f"{seen.query}{dict(seen.headers)}{seen.body}"
        assert "authorization" not in seen.headers


async def test_basic_is_what_a_shop_behind_https_takes() -> None:
    async with WooCommerceStandIn(behind_tls=True) as shop, connected(shop, authentication="basic") as woo:
        assert "accepts the key" in await woo.check()
        assert all("oauth" not in seen.query for seen in shop.requests)


async def test_basic_over_plain_http_is_ignored_by_the_shop_which_is_said(shop: WooCommerceStandIn) -> None:
    async with connected(shop, authentication="basic") as woo:
        with pytest.raises(Misconfigured, match=r"woo: answered 401 \(woocommerce_rest_cannot_view\)"):
            await woo.check()


@pytest.mark.parametrize("changed", [{"consumer_key": "ck_other"}, {"consumer_secret": "cs_other"}])
async def test_a_wrong_key_or_secret_is_said_without_it(shop: WooCommerceStandIn, changed: dict[str, str]) -> None:
    for behind_tls, authentication in ((False, "oauth"), (True, "basic")):
        shop.behind_tls = behind_tls
        async with connected(shop, authentication=authentication, **changed) as woo:
            with pytest.raises(Misconfigured) as raised:
                await woo.check()
            assert "_other" not in str(raised.value)


async def test_a_key_that_may_not_write_can_read_and_says_so_when_it_is_to_write() -> None:
    async with WooCommerceStandIn(permissions="read") as shop, connected(shop) as woo:
        id_ = shop.place()
        assert await document(woo, shop, id_)
        with pytest.raises(Misconfigured, match="authentication_error"):
            await woo.set_status(order(id_), "completed", "key")
        assert shop.orders[id_]["status"] == "on-hold"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "https://shop.example"),
        ("base_url", "https://shop.example/?rest_route=/wc/v3"),
        ("base_url", "shop.example/wp-json/wc/v3"),
        ("consumer_key", ""),
        ("consumer_secret", "cs_1\n"),
        ("webhook_secret", " "),
        ("webhook_secret", "a\nb"),
        ("methods", {"bacs": "barter"}),
        ("vat_rate", "121"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        config(**{field: value})


# Webhooks


def test_the_signature_is_checked_over_the_body_as_it_came() -> None:
    """The vector was computed apart: base64 of HMAC-SHA256 of the body, by the secret s3cr."""
    headers = {
        "x-wc-webhook-signature": "7XvBe8p9FkMWfc+zd6QNC1sZV8qyhPpO0VdpTQz/Y/E=",
        "x-wc-webhook-topic": "order.deleted",
    }
    woo = WooCommerce(config())
    event = woo.verify(headers, b'{"id":1}', now=NOW)
    assert event == WebhookEvent(external_id="1:deleted:2026-03-01", kind="order.deleted")


async def test_an_event_is_known_by_order_time_status_and_total(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place()
    body = shop.body(id_)
    event = woo.verify(shop.sign(body, SECRET), body, now=NOW)
    assert event == WebhookEvent(external_id=f"{id_}:2026-03-01T12:00:00:on-hold:550.00", kind="order.updated")


async def test_each_change_of_an_order_is_an_event_of_its_own_even_within_one_second(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    id_ = shop.place()
    seen: list[str] = []
    changes = [
        lambda: None,
        lambda: shop.set_status(id_, "processing"),
        lambda: shop.edit_line(id_, quantity=2),
        lambda: setattr(shop, "time", NOW + timedelta(seconds=1)) or shop.edit_line(id_, quantity=2),
    ]
    for change in changes:
        change()
        body = shop.body(id_)
        seen.append(woo.verify(shop.sign(body, SECRET), body, now=NOW).external_id)
    assert len(set(seen)) == len(changes)


def test_the_ping_of_a_new_webhook_is_answered_and_says_nothing() -> None:
    woo = WooCommerce(config())
    assert not woo.verify({}, b"webhook_id=1", now=NOW).kept
    for body in (b"webhook_id=", b"webhook_id=1&id=2", b"webhook_id=1\n", b"webhook_id=x", b'{"id":1}', b""):
        with pytest.raises(BadSignature):
            woo.verify({}, body, now=NOW)


async def test_what_is_no_order_of_the_shop_is_not_kept(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    draft = shop.place(status="checkout-draft")
    gone = shop.body(4711)
    for body, topic in (
        (shop.body(draft), "order.updated"),
        (b'{"id":9,"status":"publish"}', "product.updated"),
        (b'{"action":"woocommerce_add_to_cart","arg":"x"}', "action.woocommerce_add_to_cart"),
        (gone, "order.updated"),
    ):
        assert not woo.verify(shop.sign(body, SECRET, topic), body, now=NOW).kept


def test_the_secret_before_is_taken_while_it_is_replaced() -> None:
    body = b'{"id":1}'
    headers = WooCommerceStandIn().sign(body, "old, s3cr &", "order.deleted")
    assert WooCommerce(config(old_webhook_secret="old, s3cr &")).verify(headers, body, now=NOW).kept
    with pytest.raises(BadSignature):
        WooCommerce(config()).verify(headers, body, now=NOW)


@given(data=st.data())
def test_a_changed_body_is_refused(data: st.DataObject) -> None:
    body = b'{"id":1,"status":"processing","date_modified_gmt":"2026-03-01T12:00:00","total":"450.00"}'
    place = data.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([body[place] ^ data.draw(st.integers(1, 255))]) + body[place + 1 :]
    woo = WooCommerce(config())
    with pytest.raises(BadSignature):
        woo.verify(WooCommerceStandIn().sign(body, SECRET), changed, now=NOW)


@given(signature=st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()), topic=st.text())
def test_no_header_whatever_it_says_gets_through_or_breaks_the_reader(signature: str, topic: str) -> None:
    woo = WooCommerce(config())
    with pytest.raises(BadSignature):
        woo.verify({"x-wc-webhook-signature": signature, "x-wc-webhook-topic": topic}, b'{"id":1}', now=NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"{}",
        b"null",
        b'{"id":null}',
        b'{"id":7}',
        b'{"id":"7","status":"processing","date_modified_gmt":"2026-03-01T12:00:00","total":"1.00"}',
        b'{"id":7,"status":"","date_modified_gmt":"2026-03-01T12:00:00","total":"1.00"}',
        b'{"id":7,"status":"processing","date_modified_gmt":"2026-03-01T12:00:00","total":"1.2.3"}',
        b'{"id":0,"status":"processing","date_modified_gmt":"2026-03-01T12:00:00","total":"1.00"}',
        b'{"id":7,"status":"processing","date_modified_gmt":null,"total":"1.00"}',
        b"\xff\xfe",
        b"[" * 200_000,
        b"9" * 10_000,
    ],
)
def test_what_is_signed_but_no_order_is_refused(body: bytes) -> None:
    woo = WooCommerce(config())
    with pytest.raises(BadSignature) as raised:
        woo.verify(WooCommerceStandIn().sign(body, SECRET), body, now=NOW)
    assert SECRET not in str(raised.value)


class Inbox(StandIn):
    """Our side: it verifies what comes, keeps it, and answers; not while it is down."""

    def __init__(self) -> None:
        self.reader: WooCommerce | None = None
        self.kept: list[tuple[str, str, bytes]] = []
        self.pings = 0
        super().__init__(Starlette(routes=[Route("/webhooks/woo", self._take, methods=["POST"])]))

    async def _take(self, request: Request) -> Response:
        assert self.reader is not None
        body = await request.body()
        try:
            event = self.reader.verify(dict(request.headers), body, now=NOW)
        except BadSignature as error:
            return PlainTextResponse(str(error), status_code=401)
        if event.kept:
            self.kept.append((event.external_id, event.kind, body))
        self.pings += event.kind == "ping"
        return PlainTextResponse("")


@pytest.fixture
async def inbox(woo: WooCommerce) -> AsyncIterator[Inbox]:
    async with Inbox() as made:
        made.reader = woo
        yield made


async def subscribed(shop: WooCommerceStandIn, inbox: Inbox) -> dict[str, int]:
    topics = ("order.created", "order.updated", "order.deleted", "order.restored")
    return {topic: await shop.subscribe(topic, f"{inbox.url}/webhooks/woo", SECRET) for topic in topics}


async def test_a_ping_comes_first_and_then_each_order_signed(
    shop: WooCommerceStandIn, woo: WooCommerce, inbox: Inbox
) -> None:
    await subscribed(shop, inbox)
    id_ = shop.place()
    assert await shop.deliver() == [200]
    ((external_id, kind, body),) = inbox.kept
    assert (inbox.pings, kind) == (4, "order.created")
    assert external_id == (await woo.fetch(None, now=NOW)).events[0][0]
    assert (await woo.truth(body))[-1] == StatusChange(status="on-hold", external_id=str(id_), number=str(id_), at=NOW)


async def test_changes_that_were_merged_into_one_webhook_come_to_the_last_of_them(
    shop: WooCommerceStandIn, woo: WooCommerce, inbox: Inbox
) -> None:
    await subscribed(shop, inbox)
    id_ = shop.place()
    await shop.deliver()
    for status in ("processing", "in-production", "completed"):
        shop.set_status(id_, status)
    assert await shop.deliver() == [200]
    shop.set_status(id_, "refunded")
    (*_, change) = await woo.truth(inbox.kept[-1][2])
    assert isinstance(change, StatusChange)
    assert (len(inbox.kept), change.status) == (2, "refunded")


async def test_an_order_in_the_bin_or_gone_is_told_as_trash(
    shop: WooCommerceStandIn, woo: WooCommerce, inbox: Inbox
) -> None:
    await subscribed(shop, inbox)
    id_ = shop.place()
    shop.trash(id_)
    await shop.deliver()
    deleted = next(body for _, kind, body in inbox.kept if kind == "order.deleted")
    told = StatusChange(status="trash", external_id=str(id_))
    assert await woo.truth(deleted) == [replace(told, number=str(id_), at=NOW)]
    shop.restore(id_)
    assert len(await woo.truth(deleted)) == 2
    shop.delete(id_)
    assert await woo.truth(deleted) == [told]


async def test_webhooks_that_were_switched_off_are_switched_on_again_and_nothing_is_lost(
    shop: WooCommerceStandIn, woo: WooCommerce, inbox: Inbox
) -> None:
    webhooks = await subscribed(shop, inbox)
    ours = webhooks["order.created"]
    elsewhere = await shop.subscribe("order.created", "http://127.0.0.1:1/webhooks/other", "x")
    paused = await shop.subscribe("order.created", f"{inbox.url}/webhooks/woo", SECRET)
    shop.webhooks[paused].status = "paused"
    shop.webhooks[elsewhere].status = "disabled"
    inbox.go_down()
    placed: set[int] = set()
    for _ in range(6):
        placed.add(shop.place())
        await shop.deliver()
    assert shop.webhooks[ours].status == "disabled"
    inbox.behave()
    page = await woo.fetch(None, now=NOW)
    assert {json.loads(body)["id"] for _, body in page.events} == placed
    assert [shop.webhooks[one].status for one in (ours, elsewhere, paused)] == ["active", "disabled", "paused"]
    shop.place()
    assert await shop.deliver() == [200]


async def test_the_check_says_what_it_switched_on(shop: WooCommerceStandIn, woo: WooCommerce, inbox: Inbox) -> None:
    webhooks = await subscribed(shop, inbox)
    shop.webhooks[webhooks["order.updated"]].status = "disabled"
    assert (await woo.check()).endswith(f"on again: {webhooks['order.updated']}")
    assert await woo.mend_webhooks() == []


async def test_a_key_that_cannot_switch_webhooks_on_does_not_keep_the_poll_from_what_they_missed(
    shop: WooCommerceStandIn, woo: WooCommerce, inbox: Inbox
) -> None:
    webhooks = await subscribed(shop, inbox)
    shop.webhooks[webhooks["order.updated"]].status = "disabled"
    shop.permissions = "read"
    shop.place()
    assert len((await woo.fetch(None, now=NOW)).events) == 1
    with pytest.raises(Misconfigured):
        await woo.check()


# Orders: all that the total is made of


@pytest.mark.parametrize(
    ("told", "collected"),
    [
        ({"delivery_id": "cdek_pickup"}, "100.00"),
        ({"delivery_id": "courier"}, "100.00"),
        ({"delivery_id": "flat_rate"}, None),
        ({"delivery_id": "cdek_pickup", "delivery": "0"}, None),
        ({"delivery_id": "cdek_pickup", "payment_method": "cod"}, None),
    ],
    ids=["named", "named with its instance", "another", "free", "all is paid on delivery"],
)
async def test_the_price_of_some_shipping_methods_is_paid_when_the_parcel_comes(
    shop: WooCommerceStandIn, told: dict[str, Any], collected: str | None
) -> None:
    id_ = shop.place(Item(price="450.00"), **told)
    async with connected(shop, paid_on_delivery=["cdek_pickup", "courier:1"]) as woo:
        assert (await document(woo, shop, id_)).delivery.paid_on_delivery == collected


async def test_an_order_is_read_with_customer_delivery_and_lines(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place(
        Item(sku="K1", name="Konvice &amp; šálek <b>bílý</b>", quantity=2, price="450.00"),
        payment_method="yookassa",
        transaction_id="2d3f-1",
        customer_id=77,
        billing={"company": "Čaj s.r.o."},
        shipping={"address_1": "Krátká 2", "city": "Brno", "postcode": "602 00"},
    )
    found = await document(woo, shop, id_)
    assert (found.number, found.channel, found.external_id) == (str(id_), "eshop", str(id_))
    assert (found.method, found.status, found.total, found.currency) == (Method.CARD, "new", "1000.00", "CZK")
    assert (found.provider_reference, found.placed_at) == ("2d3f-1", NOW)
    who = found.customer
    assert (who.number, who.name, who.email, who.phone) == (
        "77",
        "Jana Nováková",
        "jana@example.com",
        "+420 601 234 567",
    )
    assert (who.address.name, who.address.street, who.address.city) == (
        "Čaj s.r.o., Jana Nováková",
        "Dlouhá 1",
        "Praha",
    )
    assert (found.delivery.method, found.delivery.address.city) == ("PPL", "Brno")
    assert as_told(found) == [
        ("Konvice & šálek bílý", 2, "450.00", Decimal(21)),
        ("PPL", 1, "100.00", Decimal(21)),
    ]
    assert [line.sku for line in found.lines] == ["K1", None]


async def test_discounts_and_fees_are_lines_of_their_own_with_the_vat_of_what_they_are_for(
    shop: WooCommerceStandIn,
) -> None:
    id_ = shop.place(
        Item(price="1000.00", off="100.00"),
        Item(name="Kniha", price="200.00", rate="12", off="20.00"),
        coupons=("jaro10", "věrnost"),
        fees=[("Balné", "25.00", "21"), ("Sleva za platbu předem", "-10.00", "21")],
        delivery="0",
    )
    async with connected(shop, language="cs") as woo:
        found = await document(woo, shop, id_)
    assert found.total == "1095.00"
    assert as_told(found) == [
        ("Konvice", 1, "1000.00", Decimal(21)),
        ("Kniha", 1, "200.00", Decimal(12)),
        ("Balné", 1, "25.00", Decimal(21)),
        ("Sleva za platbu předem", 1, "-10.00", Decimal(21)),
        ("Sleva (jaro10, věrnost)", 1, "-20.00", Decimal(12)),
        ("Sleva (jaro10, věrnost)", 1, "-100.00", Decimal(21)),
    ]


async def test_discounts_can_be_taken_off_the_prices_where_receipts_have_no_negative_lines(
    shop: WooCommerceStandIn,
) -> None:
    id_ = shop.place(Item(price="100.00", quantity=3, off="0.01"), delivery=None)
    async with connected(shop, discount_lines=False) as woo:
        found = await document(woo, shop, id_)
    assert (found.total, as_told(found)) == (
        "299.99",
        [("Konvice", 3, "99.99", Decimal(21)), ("Rounding", 1, "0.02", Decimal(21))],
    )


async def test_a_total_that_the_shop_rounds_to_whole_crowns_gets_a_line_of_rounding() -> None:
    async with WooCommerceStandIn(decimals=0) as shop, connected(shop) as woo:
        id_ = shop.place(Item(price="99.70"), Item(name="Kniha", price="10.00", rate="12"), delivery=None)
        found = await document(woo, shop, id_)
        assert (found.total, as_told(found)[-1]) == ("110.00", ("Rounding", 1, "0.30", Decimal(0)))


async def test_a_rest_that_is_more_than_rounding_is_a_question_for_a_person(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    id_ = shop.place(less="50.00")
    with pytest.raises(Rejected, match=r"order 1: its lines come to 550.00 CZK, but its total is 500.00 CZK"):
        await woo.truth(shop.body(id_))


async def test_without_taxes_in_the_shop_the_settings_say_what_prices_include(shop: WooCommerceStandIn) -> None:
    id_ = shop.place(Item(), taxes=False, fees=[("Balné", "5.00", None)])
    async with connected(shop, vat_rate="21", delivery_vat_rate="12") as woo:
        assert [line.vat_rate for line in (await document(woo, shop, id_)).lines] == [21, 12, 21]
    async with connected(shop) as woo:
        assert [line.vat_rate for line in (await document(woo, shop, id_)).lines] == [0, 0, 0]


async def test_a_line_on_which_no_tax_is_charged_has_none_where_others_have(shop: WooCommerceStandIn) -> None:
    id_ = shop.place(Item(), Item(name="Poukaz", rate=None), Item(name="Dar", rate="0"), delivery=None)
    lines = shop.orders[id_]["line_items"]
    lines[1]["taxes"] = [{"id": lines[0]["taxes"][0]["id"], "total": "", "subtotal": ""}]
    async with connected(shop, vat_rate="21") as woo:
        assert [line.vat_rate for line in (await document(woo, shop, id_)).lines] == [21, 0, 0]


async def test_a_rate_that_is_not_told_follows_from_the_amounts(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place(Item(price="0.99"), Item(price="123.45", rate="12"), Item(rate="5.5"), delivery=None)
    for rate in shop.orders[id_]["tax_lines"]:
        del rate["rate_percent"]
    assert [line.vat_rate for line in (await document(woo, shop, id_)).lines] == [21, 12, Decimal("5.5")]


async def test_a_gift_is_a_line_of_nothing_and_a_part_of_a_piece_moves_no_stock(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    sample = Item(sku="G", name="Vzorek", price="0", rate="12")
    id_ = shop.place(sample, Item(sku="L", name="Látka", quantity=Decimal("1.5")))
    found = await document(woo, shop, id_)
    assert [(line.sku, line.title, line.quantity, line.unit_price, line.vat_rate) for line in found.lines[:2]] == [
        ("G", "Vzorek", 1, "0.00", 12),
        (None, "1.5 × Látka", 1, "675.00", 21),
    ]


async def test_a_price_is_not_rounded_twice_for_its_net_and_its_tax(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place(Item(price="100.05", rate="20"), delivery=None)
    line = json.loads(shop.body(id_))["line_items"][0]
    assert (line["total"], line["total_tax"]) == ("83.38", "16.68")  # a haléř more than the price
    assert as_told(await document(woo, shop, id_)) == [("Konvice", 1, "100.05", Decimal(20))]


prices = st.integers(0, 500_000).map(lambda minor: f"{minor // 100}.{minor % 100:02}")
rates = st.sampled_from([None, "0", "5.5", "10", "12", "19", "20", "21"])


@st.composite
def items(draw: st.DrawFn) -> Item:
    price, quantity, rate = draw(prices), draw(st.integers(1, 250)), draw(rates)
    off = Decimal(price) * quantity * draw(st.integers(0, 100)) / 100
    return Item(price=price, quantity=quantity, rate=rate, off=str(off.quantize(Decimal("0.01"))))


carts = st.fixed_dictionaries(
    {
        "items": st.lists(items(), min_size=1, max_size=4),
        "delivery": st.none() | prices,
        "fees": st.lists(st.tuples(st.just("Poplatek"), prices, rates), max_size=2),
        "taxes": st.booleans(),
    }
)


@settings(max_examples=15, deadline=None)
@given(some=st.lists(carts, min_size=1, max_size=6), apart=st.booleans())
def test_whatever_is_in_the_cart_the_lines_come_to_the_total(some: list[dict[str, Any]], apart: bool) -> None:
    async def compared() -> None:
        async with WooCommerceStandIn() as shop, connected(shop, discount_lines=apart) as woo:
            for cart in some:
                things = dict(cart)
                id_ = shop.place(*things.pop("items"), **things)
                total = shop.orders[id_]["total"]
                told = await woo.truth(shop.body(id_))
                if not total:
                    assert told == []
                    continue
                assert isinstance(told[0], OrderDocument)
                lines = told[0].lines
                assert sum(Decimal(line.unit_price) * line.quantity for line in lines) == total
                assert Decimal(told[0].total) == total
                assert apart or all(not line.unit_price.startswith("-") for line in lines[:-1])

    asyncio.run(compared())


# Orders: what they are here


@pytest.mark.parametrize(
    ("payment_method", "status", "method", "taken_in_as"),
    [
        ("bacs", "on-hold", Method.BANK_TRANSFER, "new"),
        ("bacs", "pending", Method.BANK_TRANSFER, "new"),
        ("bacs", "processing", Method.BANK_TRANSFER, "paid"),
        ("cod", "processing", Method.CASH_ON_DELIVERY, "new"),
        ("yookassa", "failed", Method.CARD, "new"),
        ("yookassa", "completed", Method.CARD, "completed"),
        ("yookassa", "cancelled", Method.CARD, "cancelled"),
        ("yookassa", "refunded", Method.CARD, "returned"),
    ],
)
async def test_ways_of_paying_and_statuses_are_known_as_woocommerce_uses_them(
    shop: WooCommerceStandIn,
    woo: WooCommerce,
    payment_method: str,
    status: str,
    method: Method,
    taken_in_as: str,
) -> None:
    found = await document(woo, shop, shop.place(payment_method=payment_method, status=status))
    assert (found.method, found.status) == (method, taken_in_as)


@pytest.mark.parametrize(("payment_method", "named"), [("gopay", "“gopay”"), ("", "“”")])
async def test_an_unknown_way_of_paying_is_said_with_the_setting_that_is_missing(
    shop: WooCommerceStandIn, woo: WooCommerce, payment_method: str, named: str
) -> None:
    id_ = shop.place(payment_method=payment_method)
    with pytest.raises(Rejected, match=f"order {id_} has the payment method {named}.*`methods`"):
        await woo.truth(shop.body(id_))


async def test_an_unknown_status_is_said_and_one_that_is_only_followed_is_told_alone(shop: WooCommerceStandIn) -> None:
    id_ = shop.place(status="in-production")
    async with connected(shop) as woo:
        with pytest.raises(Rejected, match=r"order 1 stands at “in-production”.*`statuses`"):
            await woo.truth(shop.body(id_))
    async with connected(shop, statuses={"in-production": "ready", "cancelled": None}) as woo:
        assert (await document(woo, shop, id_)).status == "ready"
        shop.set_status(id_, "cancelled")
        (change,) = await woo.truth(shop.body(id_))
        assert isinstance(change, StatusChange)
        assert change.status == "cancelled"


async def test_a_status_that_a_person_set_is_told_with_the_order_by_its_id_and_number(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    id_ = shop.place(number="2026-77")
    shop.time = NOW + timedelta(hours=5)
    shop.set_status(id_, "completed")
    assert (await woo.truth(shop.body(id_)))[1] == StatusChange(
        status="completed", external_id=str(id_), number="2026-77", at=shop.time
    )


async def test_drafts_orders_of_nothing_and_what_is_left_alone_tell_nothing(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    for id_ in (
        shop.place(status="checkout-draft"),
        shop.place(status="auto-draft"),
        shop.place(Item(price="100.00", off="100.00"), delivery=None),
        shop.place(payment_method="paypal"),
    ):
        assert await woo.truth(b'{"id":%d}' % id_) == []


async def test_number_tax_id_and_language_can_stand_in_fields_of_plugins(shop: WooCommerceStandIn) -> None:
    id_ = shop.place(meta={"_order_number": "#CZ2026/77", "_dic": "CZ12345678", "wpml_language": "uk", "x": {"a": 1}})
    fields = {"number_field": "_order_number", "tax_id_field": "_dic", "language_field": "wpml_language"}
    async with connected(shop, language="cs", **fields) as woo:
        found = await document(woo, shop, id_)
        assert (found.number, found.customer.tax_id, found.customer.language) == ("CZ2026/77", "CZ12345678", "uk")
        without = await document(woo, shop, shop.place())
        assert (without.number, without.customer.tax_id, without.customer.language) == (without.external_id, None, "cs")


async def test_customers_without_an_account_are_each_somebody_else(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    found = [await document(woo, shop, shop.place()) for _ in range(2)]
    assert found[0].customer.email == found[1].customer.email
    assert found[0].customer.number != found[1].customer.number


async def test_what_customers_write_cannot_break_an_order(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place(
        Item(name=" \x00\u202e\n", sku="K\t1"),
        billing={"first_name": "", "last_name": "", "email": "no e-mail", "phone": "1" * 90, "city": "a\r\nb"},
        shipping={"first_name": "", "last_name": ""},
        transaction_id="a\x07b",
    )
    found = await document(woo, shop, id_)
    assert (found.customer.email, found.customer.phone, found.customer.address.city) == (None, "1" * 40, "a b")
    assert (found.customer.name, found.lines[0].title, found.lines[0].sku) == ("no e-mail", "K 1", "K 1")


async def test_times_are_told_by_the_gmt_twin_whatever_the_shops_own_zone_is() -> None:
    async with WooCommerceStandIn(zone="America/New_York") as shop, connected(shop) as woo:
        shop.time = NOW
        id_ = shop.place()
        shop.time = NOW + timedelta(minutes=1)
        shop.set_status(id_, "processing")
        placed, change = await woo.truth(shop.body(id_))
        assert isinstance(placed, OrderDocument)
        assert isinstance(change, StatusChange)
        assert (placed.placed_at, change.at) == (NOW, shop.time)
        assert len((await woo.fetch(f"{int(NOW.timestamp()) + 60}:{int(NOW.timestamp()) + 60}:1", now=NOW)).events) == 1
        assert (await woo.fetch(f"{int(NOW.timestamp()) + 61}:{int(NOW.timestamp()) + 61}:1", now=NOW)).events == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("total", "450.001"),
        ("total", "NaN"),
        ("total", 450.5),
        ("total", "9" * 13),
        ("total", "550.000000001"),
        ("currency", "XXX"),
        ("date_created_gmt", "yesterday"),
        ("date_created_gmt", "0001-01-01T00:00:00+14:00"),
        ("line_items", None),
        ("line_items", {"id": 1}),
        ("number", "<script>"),
        ("customer_id", "7"),
    ],
)
async def test_an_order_that_cannot_be_read_is_left_to_a_person(
    shop: WooCommerceStandIn, field: str, value: Any
) -> None:
    """Another server stands for a plugin that has changed what the API says."""
    id_ = shop.place()
    told = json.loads(shop.body(id_)) | {field: value}

    async def answer(_: Request) -> Response:
        return Response(json.dumps(told), media_type="application/json")

    plugin = StandIn(Starlette(routes=[Route("/wc/v3/orders/1", answer)]))
    async with plugin, connected(shop, base_url=f"{plugin.url}/wc/v3") as woo:
        with pytest.raises(Rejected) as raised:
            await woo.truth(shop.body(id_))
    assert "Nováková" not in str(raised.value)
    assert "jana@" not in str(raised.value)


odd = (
    st.none()
    | st.booleans()
    | st.text(max_size=12)
    | st.integers()
    | st.sampled_from(["", "0", "-1", "NaN", "1e9", "9" * 30, "0.00000001", "0001-01-01T00:00:00+14:00", "\ud800"])
    | st.lists(st.none() | st.text(max_size=3), max_size=2)
    | st.dictionaries(st.sampled_from(["id", "key", "value", "total"]), st.none() | st.text(max_size=3), max_size=2)
)
raw = odd.map(json.dumps) | st.sampled_from(["1e999999", "1E-999999", "-0", "NaN", "1" * 5000, "[" * 2000 + "]" * 2000])


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_field_the_order_is_read_or_left_to_a_person(data: st.DataObject) -> None:
    """Numbers are written as they come, since Python itself could not write those that no shop should send."""
    shop = WooCommerceStandIn()
    id_ = shop.place(Item(off="10.00"), fees=[("Balné", "5.00", "12")], coupons=["x"], meta={"_n": "1"})
    told: Any = json.loads(shop.body(id_))
    parts = [told, told["billing"]]
    parts += [told[name][0] for name in ("line_items", "shipping_lines", "fee_lines", "tax_lines", "meta_data")]
    parts += [told["line_items"][0]["taxes"][0]]

    sent: list[str] = []
    for _ in range(30):
        part = data.draw(st.sampled_from(parts))
        name = data.draw(st.sampled_from(sorted(part)))
        kept, part[name] = part[name], "@@"
        sent.append(json.dumps(told).replace('"@@"', data.draw(raw)))
        part[name] = kept

    async def answer(_: Request) -> Response:
        return Response(sent.pop(), media_type="application/json")

    async def asked() -> None:
        plugin = StandIn(Starlette(routes=[Route("/wc/v3/orders/1", answer)]))
        async with plugin, connected(shop, base_url=f"{plugin.url}/wc/v3", number_field="_n") as woo:
            while sent:
                with suppress(Rejected, Transient):
                    assert len(await woo.truth(b'{"id":1}')) < 3

    asyncio.run(asked())


async def test_the_truth_is_asked_again_when_the_shop_cannot_say_it(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place()
    for kind in (Misbehavior.STATUS_BEFORE, Misbehavior.GARBAGE, Misbehavior.FAILURE, Misbehavior.CUT_MIDWAY):
        shop.misbehave(kind)
        with pytest.raises(Transient):
            await woo.truth(shop.body(id_))
    assert len(await woo.truth(shop.body(id_))) == 2


async def test_a_wrong_address_is_no_order_that_is_gone(shop: WooCommerceStandIn) -> None:
    async with connected(shop, base_url=f"{shop.url}/shop/wp-json/wc/v3") as woo:
        with pytest.raises(Misconfigured, match="rest_no_route"):
            await woo.truth(b'{"id":1}')


# Polling


async def polled(woo: WooCommerce, cursor: str | None = None, now: datetime = NOW) -> tuple[list[str], str]:
    """Poll to the end, as the intake does; return the ids of the events, and the cursor."""
    ids: list[str] = []
    while True:
        page = await woo.fetch(cursor, now=now)
        assert page.cursor != cursor or not page.more
        ids += [id_ for id_, _ in page.events]
        cursor = page.cursor
        if not page.more:
            return ids, cursor


async def test_the_first_poll_looks_back_some_days_and_the_next_ones_overlap(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    for days in (4, 2, 0):
        shop.time = NOW - timedelta(days=days)
        shop.place()
    first, cursor = await polled(woo)
    assert [id_.partition(":")[0] for id_ in first] == [str(id_) for id_ in [*shop.orders][1:]]
    again, cursor = await polled(woo, cursor)
    assert again == first[1:]
    shop.time = NOW - timedelta(seconds=250)  # its clock is set right, or another of its servers is behind
    late = shop.place()
    found, _ = await polled(woo, cursor)
    assert [id_.partition(":")[0] for id_ in found] == [str(late), again[0].partition(":")[0]]


async def test_a_poll_that_finds_nothing_does_not_look_back_further_and_further(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    _, cursor = await polled(woo)
    assert [(await polled(woo, cursor))[1] for _ in range(3)] == [cursor] * 3
    shop.place()
    _, cursor = await polled(woo, cursor)
    assert [(await polled(woo, cursor))[1] for _ in range(3)] == [cursor] * 3


async def test_each_change_is_polled_once_the_oldest_first(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    orders = [shop.place(), shop.place()]
    _, cursor = await polled(woo)
    shop.time = NOW + timedelta(hours=1)
    shop.set_status(orders[0], "processing")
    shop.time = NOW + timedelta(hours=2)
    shop.edit_line(orders[1], quantity=3)
    shop.set_status(shop.place(status="checkout-draft"), "checkout-draft")
    found, cursor = await polled(woo, cursor)
    assert found[-2:] == [
        f"{orders[0]}:2026-03-01T13:00:00:processing:550.00",
        f"{orders[1]}:2026-03-01T14:00:00:on-hold:1450.00",
    ]
    assert len(found) == 2


@pytest.mark.parametrize("seconds", [0, 1], ids=["in one second", "a second apart"])
async def test_hundreds_of_changes_are_all_found(shop: WooCommerceStandIn, woo: WooCommerce, seconds: int) -> None:
    for place in range(250):
        shop.time = NOW + timedelta(seconds=seconds * place)
        shop.place()
    found, _ = await polled(woo)
    assert {id_.partition(":")[0] for id_ in found} == {str(id_) for id_ in shop.orders}
    assert len(shop.requests) <= 8


async def test_what_changes_during_a_poll_takes_nothing_out_of_it(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    for place in range(230):
        shop.time = NOW + timedelta(seconds=place)
        shop.place()
    orders = [*shop.orders]
    page = await woo.fetch(None, now=NOW)
    seen = {json.loads(body)["id"] for _, body in page.events}
    shop.time = NOW + timedelta(hours=1)
    for id_ in orders[:60]:  # these go to the end of the list, and all others move up
        shop.set_status(id_, "processing")
    found, _ = await polled(woo, page.cursor)
    assert seen | {int(id_.partition(":")[0]) for id_ in found} == set(orders)
    assert [id_ for id_ in found if ":processing:" in id_] == [
        f"{id_}:2026-03-01T13:00:00:processing:550.00" for id_ in orders[:60]
    ]


async def test_nothing_is_missed_in_the_hour_that_the_shops_clock_shows_twice(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    began = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # in Prague 02:30, and again an hour later
    for place in range(260):
        shop.time = began + timedelta(seconds=30 * place)
        shop.place()
    found, _ = await polled(woo, now=began)
    assert {id_.partition(":")[0] for id_ in found} == {str(id_) for id_ in shop.orders}


async def test_a_poll_that_breaks_off_goes_on_where_it_was(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    for place in range(150):
        shop.time = NOW + timedelta(seconds=place)
        shop.place()
    page = await woo.fetch(None, now=NOW)
    shop.go_down()
    with pytest.raises(Transient):
        await woo.fetch(page.cursor, now=NOW)
    shop.behave()
    found, _ = await polled(woo, page.cursor)
    assert len(page.events) + len(found) == 151  # the last of a page is the first of the next


@pytest.mark.parametrize("cursor", ["", "x", "1:2", "1:2:x", "-1:2:3", "9" * 30])
async def test_what_is_no_cursor_is_said(woo: WooCommerce, cursor: str) -> None:
    with pytest.raises(Misconfigured, match="not a cursor"):
        await woo.fetch(cursor, now=NOW)


async def test_a_poll_keeps_no_personal_data(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    shop.place()
    ((_, body),) = (await woo.fetch(None, now=NOW)).events
    assert json.loads(body).keys() == {"id", "status", "date_modified_gmt", "total"}


# Reconciliation


async def listed(woo: WooCommerce, since: datetime) -> list[ListedOrder]:
    return [one async for page in woo.orders(since) for one in page]


async def test_orders_are_listed_with_what_their_status_means(shop: WooCommerceStandIn) -> None:
    for status in ("on-hold", "processing", "cancelled", "in-production", "checkout-draft"):
        shop.place(status=status, payment_method="yookassa")
    shop.trash(shop.place())
    shop.place(payment_method="paypal")
    shop.place(payment_method="gopay")
    shop.place(Item(price="0"), delivery=None)
    async with connected(shop, statuses={"in-production": "in_production"}) as woo:
        found = await listed(woo, NOW)
    assert [(one.status, one.standard) for one in found] == [
        ("on-hold", Status.AWAITING_PAYMENT),
        ("processing", Status.PROCESSING),
        ("cancelled", Status.CANCELLED),
        ("in-production", Status.IN_PRODUCTION),
        ("on-hold", Status.AWAITING_PAYMENT),
    ]
    assert {(one.channel, one.total, one.placed_at) for one in found} == {("eshop", Money(55_000, "CZK"), NOW)}


async def test_all_that_was_placed_since_a_time_is_listed_once(shop: WooCommerceStandIn) -> None:
    shop.time = NOW - timedelta(seconds=1)
    shop.place()
    for place in range(240):
        shop.time = NOW + timedelta(seconds=place // 3)
        shop.place(number=f"N{place}", meta={"_number": f"M{place}"})
    async with connected(shop, number_field="_number") as woo:
        assert [one.number for one in await listed(woo, NOW)] == [f"M{place}" for place in range(240)]
        later = await listed(woo, NOW + timedelta(microseconds=1))
        assert [one.number for one in later] == [f"M{place}" for place in range(3, 240)]


# What the shop is told


async def test_an_order_is_brought_to_a_status_once(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    shop.stock("K1", 10)
    id_ = shop.place(Item(sku="K1", quantity=2), status="pending")
    for key in ("a", "a", "b"):
        assert await woo.set_status(order(id_), "processing", key) == str(id_)
    assert (shop.done, shop.level("K1")) == ([("status processing", id_)], 8)
    assert sum(seen.method == "PUT" for seen in shop.requests) == 1


async def test_an_order_without_an_id_is_found_by_its_whole_number(shop: WooCommerceStandIn) -> None:
    shop.place(number="77-1", billing={"address_1": "U mlýna 77"})
    shop.place(number="770")
    right = shop.place(number="77")
    fallback = shop.place()
    async with connected(shop) as woo:
        assert await woo.set_status(order(number="77"), "completed", "key") == str(right)
        assert await woo.set_status(order(number=str(fallback)), "completed", "key") == str(fallback)
        with pytest.raises(Rejected, match=r"the shop has no order 7$"):
            await woo.set_status(order(number="7"), "completed", "key")
        shop.place(number="77")
        with pytest.raises(Rejected, match="more than one order 77"):
            await woo.set_status(order(number="77"), "processing", "key")
    assert shop.done == [("status completed", right), ("status completed", fallback)]


async def test_an_order_or_a_status_that_is_not_there_is_rejected(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place()
    for status, said in (("shipped", "no status “shipped”"), ("wc-completed", "without wc-"), ("a b", "no status")):
        with pytest.raises(Rejected, match=said):
            await woo.set_status(order(id_), status, "key")
    for asked in (
        woo.set_status(order(4711), "completed", "key"),
        woo.add_note(order(4711), "x", "key", to_customer=False),
        woo.find_note(order(4711), "x", "key"),
        woo.refund(order(4711), Money(100, "CZK"), "key"),
        woo.set_status(order("../webhooks"), "completed", "key"),
    ):
        with pytest.raises(Rejected):
            await asked
    assert shop.done == []


async def test_an_order_in_the_bin_stays_there(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place()
    shop.trash(id_)
    with pytest.raises(Rejected, match="bin"):
        await woo.set_status(order(id_), "completed", "key")
    assert shop.orders[id_]["status"] == "trash"


async def test_a_status_that_a_plugin_changes_at_once_is_said(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place()
    shop.moves_on["processing"] = "completed"
    with pytest.raises(Rejected, match=r"was set to “processing”, but stands at “completed”"):
        await woo.set_status(order(id_), "processing", "key")


@pytest.mark.parametrize("kind", LOST)
async def test_a_status_whose_answer_was_lost_is_told_again_and_changes_nothing(
    shop: WooCommerceStandIn, woo: WooCommerce, kind: Misbehavior
) -> None:
    id_ = shop.place()
    shop.misbehave(kind, path=f"/wp-json/wc/v3/orders/{id_}", skip=1)
    with pytest.raises(Transient) as raised:
        await woo.set_status(order(id_), "processing", "key")
    assert raised.value.in_doubt
    assert await woo.set_status(order(id_), "processing", "key") == str(id_)
    assert shop.done == [("status processing", id_)]


async def test_a_failure_with_the_status_of_a_success_is_no_success(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place()
    shop.misbehave(Misbehavior.FAILURE, path=f"/wp-json/wc/v3/orders/{id_}", skip=1)
    with pytest.raises(Transient):
        await woo.set_status(order(id_), "processing", "key")
    assert shop.done == []


@pytest.mark.parametrize("told", ["{}", '{"id":"7"}', "[]", "null", '{"id":0,"status":"completed","note":"x"}'])
async def test_a_write_that_is_answered_with_something_else_is_in_doubt(told: str) -> None:
    async def answer(request: Request) -> Response:
        stands = "[]" if request.url.path.endswith("/notes") else '{"id":7,"status":"on-hold"}'
        return Response(stands if request.method == "GET" else told, media_type="application/json")

    async with StandIn(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "PUT", "POST"])])) as plugin:
        woo = WooCommerce(config(f"{plugin.url}/wc/v3"))
        for asked in (
            woo.set_status(order(7), "completed", "key"),
            woo.add_note(order(7), "Odesláno", "key", to_customer=False),
        ):
            with pytest.raises(Transient) as raised:
                await asked
            assert raised.value.in_doubt
        await woo.aclose()


async def test_a_note_goes_to_the_customer_only_where_it_is_to(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place()
    mine = await woo.add_note(order(id_), "Zaplaceno", "step-1", to_customer=False)
    theirs = await woo.add_note(order(id_), "Číslo zásilky: Z1234", "step-2", to_customer=True)
    assert mine != theirs
    (mailed,) = shop.mailed
    assert re.fullmatch(r"Číslo zásilky: Z1234 \(ref\. [0-9A-Z]{8}\)", mailed)
    assert await woo.find_note(order(id_), "Číslo zásilky: Z1234", "step-2") == theirs


async def test_a_note_is_added_once_per_key_and_found_by_it_alone(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_, other = shop.place(), shop.place()
    shop.note(id_, "Číslo zásilky: Z1234", to_customer=True)  # somebody wrote the same by hand
    assert await woo.find_note(order(id_), "Číslo zásilky: Z1234", "step-1") is None
    asked = [woo.add_note(order(id_), "Číslo zásilky: Z1234", "step-1", to_customer=True) for _ in range(4)]
    added = set(await asyncio.gather(*asked))
    assert len(added) == 1
    await woo.add_note(order(id_), "Číslo zásilky: Z1234", "step-2", to_customer=True)
    assert await woo.find_note(order(other), "Číslo zásilky: Z1234", "step-1") is None
    assert shop.done == [("note", id_)] * 2


@pytest.mark.parametrize("kind", LOST)
async def test_a_note_whose_answer_was_lost_is_found_and_not_sent_twice(
    shop: WooCommerceStandIn, woo: WooCommerce, kind: Misbehavior
) -> None:
    id_ = shop.place()
    shop.misbehave(kind, path=f"/wp-json/wc/v3/orders/{id_}/notes", skip=2)
    with pytest.raises(Transient) as raised:
        await woo.add_note(order(id_), "Odesláno", "step-1", to_customer=True)
    assert raised.value.in_doubt
    found = await woo.find_note(order(id_), "Odesláno", "step-1")
    assert found == await woo.add_note(order(id_), "Odesláno", "step-1", to_customer=True)
    assert len(shop.mailed) == 1


@pytest.mark.parametrize("kind", [Misbehavior.GARBAGE, Misbehavior.FAILURE, Misbehavior.STATUS_BEFORE])
async def test_it_is_never_said_of_a_note_that_it_is_not_there_when_that_is_not_known(
    shop: WooCommerceStandIn, woo: WooCommerce, kind: Misbehavior
) -> None:
    id_ = shop.place()
    await woo.add_note(order(id_), "Odesláno", "step-1", to_customer=True)
    shop.misbehave(kind)
    with pytest.raises(Transient):
        await woo.find_note(order(id_), "Odesláno", "step-1")


@given(keys=st.sets(st.from_regex("[0-9a-zA-Z._-]{1,64}", fullmatch=True), min_size=2, max_size=20))
@settings(max_examples=5, deadline=None)
def test_a_note_is_found_by_no_other_key(keys: set[str]) -> None:
    async def compared() -> None:
        async with WooCommerceStandIn() as shop, connected(shop) as woo:
            id_ = shop.place()
            added = {await woo.add_note(order(id_), "x", key, to_customer=False): key for key in sorted(keys)}
            assert len(added) == len(keys)
            for note, key in added.items():
                assert await woo.find_note(order(id_), "x", key) == note

    asyncio.run(compared())


# Many orders at once


async def test_many_orders_are_brought_to_statuses_in_batches_of_a_hundred(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    wanted = {str(shop.place()): "completed" for _ in range(205)}
    stands = next(iter(wanted))
    shop.set_status(int(stands), "completed")
    assert await woo.set_statuses(wanted) == {}
    assert {one["status"] for one in shop.orders.values()} == {"completed"}
    assert await woo.set_statuses(wanted) == {}
    assert len(shop.done) == 204
    assert sum(seen.path.endswith("/batch") for seen in shop.requests) == 3


async def test_in_a_batch_each_order_fails_for_itself(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    good, binned, moved = shop.place(), shop.place(), shop.place()
    shop.trash(binned)
    shop.moves_on["processing"] = "completed"
    wanted = {"4711": "completed", "x": "completed", str(binned): "completed", str(moved): "processing"}
    problems = await woo.set_statuses({str(good): "in-production", **wanted})
    assert problems.keys() == wanted.keys()
    assert "stands at “completed” instead" in problems[str(moved)]
    assert shop.orders[good]["status"] == "in-production"


class Vanishing(WooCommerceStandIn):
    """A shop in which somebody deletes the first order between a look at it and the batch."""

    def next_plan(self, seen: Seen) -> Plan | None:
        if seen.path.endswith("/batch"):
            self.delete(min(self.orders))
        return super().next_plan(seen)


async def test_an_order_that_vanishes_meanwhile_is_told_as_refused() -> None:
    async with Vanishing() as shop, connected(shop) as woo:
        gone, kept = shop.place(), shop.place()
        problems = await woo.set_statuses({str(gone): "completed", str(kept): "completed"})
        assert problems == {str(gone): "the shop refused it (woocommerce_rest_shop_order_invalid_id)"}
        assert shop.orders[kept]["status"] == "completed"


async def test_a_batch_never_carries_a_status_that_the_shop_does_not_have(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    """A batch isn't validated: an unknown status would make a paid order wait for payment again."""
    id_ = shop.place(status="processing")
    with pytest.raises(Rejected, match="no status “shipped”"):
        await woo.set_statuses({str(id_): "shipped"})
    assert (shop.orders[id_]["status"], shop.done) == ("processing", [])


@pytest.mark.parametrize("kind", LOST)
async def test_a_batch_whose_answer_was_lost_can_be_sent_again(
    shop: WooCommerceStandIn, woo: WooCommerce, kind: Misbehavior
) -> None:
    wanted = {str(shop.place()): "completed" for _ in range(3)}
    shop.misbehave(kind, path="/wp-json/wc/v3/orders/batch")
    with pytest.raises(Transient) as raised:
        await woo.set_statuses(wanted)
    assert raised.value.in_doubt
    assert await woo.set_statuses(wanted) == {}
    assert len(shop.done) == 3


# Stock


async def test_stock_is_set_by_sku_for_products_and_variations(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    shop.stock("K1", 5)
    shop.stock("unmanaged", None)
    parent = shop.stock("T", None, kind="variable")
    shop.stock("T-red", 1, parent=parent)
    shop.stock("T-blue", 1, parent=parent)
    shop.stock("a,b", 1)
    shop.stock("a", 1)
    levels = {"K1": 7, "unmanaged": 3, "T-red": 0, "T-blue": 9, "a,b": 4, "a": 1}
    for _ in range(2):
        assert await woo.set_stock(levels) == {}
    assert {sku: shop.level(sku) for sku in levels} == levels
    assert len(shop.done) == 5  # one was right already
    assert sum(seen.method == "POST" for seen in shop.requests) == 2


async def test_a_product_that_is_not_there_stops_no_other(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    shop.stock("K1", 5)
    shop.stock("k2", 5)
    assert await woo.set_stock({"K1": 7, "K2": 1, "": 3}) == dict.fromkeys(
        ("K2", ""), "the shop has no product with this SKU"
    )
    assert (shop.level("K1"), shop.level("k2")) == (7, 5)


async def test_hundreds_of_levels_go_in_batches_of_a_hundred(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    levels = {f"SKU-{number:04}": number for number in range(230)}
    for sku in levels:
        shop.stock(sku, 1)
    assert await woo.set_stock(levels) == {}
    assert {sku: shop.level(sku) for sku in levels} == levels
    assert sum(seen.path.endswith("/batch") for seen in shop.requests) == 3
    assert max(len(seen.query) for seen in shop.requests) < 2_000


@pytest.mark.parametrize("kind", LOST)
async def test_stock_whose_answer_was_lost_can_be_set_again(
    shop: WooCommerceStandIn, woo: WooCommerce, kind: Misbehavior
) -> None:
    shop.stock("K1", 5)
    shop.misbehave(kind, path="/wp-json/wc/v3/products/batch")
    with pytest.raises(Transient) as raised:
        await woo.set_stock({"K1": 7})
    assert raised.value.in_doubt
    assert await woo.set_stock({"K1": 7}) == {}
    assert shop.level("K1") == 7


# Refunds


async def test_a_refund_is_written_once_per_key_and_moves_no_money_and_no_stock(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    id_ = shop.place(payment_method="yookassa")
    asked = [woo.refund(order(id_), Money(10_000, "CZK"), "step-1", because="Poškozeno") for _ in range(3)]
    (made,) = set(await asyncio.gather(*asked))
    other = await woo.refund(order(id_), Money(10_000, "CZK"), "step-2", because="Poškozeno")
    first, second = shop.refunds[id_]
    assert [str(one["id"]) for one in (first, second)] == [made, other]
    assert re.fullmatch(r"Poškozeno \(ref\. [0-9A-Z]{8}\)", first["reason"])
    assert (first["amount"], first["restocked"], shop.given_back) == ("100.00", False, [])


async def test_only_where_it_is_asked_for_the_shop_gives_the_money_back_itself(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    id_ = shop.place(payment_method="yookassa")
    await woo.refund(order(id_), Money(55_000, "CZK"), "step-1", through_gateway=True, restock=True)
    assert shop.given_back == [(id_, "550.00")]
    assert (shop.refunds[id_][0]["restocked"], shop.orders[id_]["status"]) == (True, "refunded")


async def test_a_refund_that_the_shop_refuses_with_status_500_is_rejected(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    id_ = shop.place()
    with pytest.raises(Rejected, match=r"cannot_create_order_refund.*550.01 CZK of order 1042 was not refunded$"):
        await woo.refund(order(id_), Money(55_001, "CZK"), "step-1")
    with pytest.raises(Rejected, match="look in the gateway"):
        await woo.refund(order(id_), Money(100, "CZK"), "step-1", through_gateway=True)
    with pytest.raises(Rejected):
        await woo.refund(order(id_), Money(0, "CZK"), "step-1")
    assert shop.refunds[id_] == []


async def test_a_key_that_refunded_another_amount_is_a_question_for_a_person(
    shop: WooCommerceStandIn, woo: WooCommerce
) -> None:
    id_ = shop.place()
    await woo.refund(order(id_), Money(100, "CZK"), "step-1")
    with pytest.raises(Rejected, match=r"is over 1.00, not 2.00 CZK"):
        await woo.refund(order(id_), Money(200, "CZK"), "step-1")


async def test_a_refund_is_found_among_hundreds(shop: WooCommerceStandIn, woo: WooCommerce) -> None:
    id_ = shop.place()
    row = {"amount": "0.01", "reason": ""}
    shop.refunds[id_] += [{"id": 10_000 + place, **row} for place in range(150)]
    made = await woo.refund(order(id_), Money(100, "CZK"), "step-1")
    assert await woo.refund(order(id_), Money(100, "CZK"), "step-1") == made


@pytest.mark.parametrize("kind", LOST)
async def test_a_refund_whose_answer_was_lost_is_found_and_not_written_twice(
    shop: WooCommerceStandIn, woo: WooCommerce, kind: Misbehavior
) -> None:
    id_ = shop.place()
    shop.misbehave(kind, path=f"/wp-json/wc/v3/orders/{id_}/refunds", skip=2)
    with pytest.raises(Transient) as raised:
        await woo.refund(order(id_), Money(100, "CZK"), "step-1")
    assert raised.value.in_doubt
    assert await woo.refund(order(id_), Money(100, "CZK"), "step-1") == str(shop.refunds[id_][0]["id"])
    assert len(shop.refunds[id_]) == 1


# Answers to other questions


class Mixed(WooCommerceStandIn):
    """A shop behind something that mixes answers up: said is the answer that comes instead of the right one."""

    said: Any = None
    status = 200

    def error(self, status: int) -> Response:  # noqa: ARG002 - an answer that is mixed up has a status of its own
        return Response(json.dumps(self.said), status_code=self.status, media_type="application/json")

    def failure(self) -> Response:
        return self.error(200)


def at(path: str) -> str:
    return f"/wp-json/wc/v3/{path}"


@pytest.mark.parametrize(
    ("what", "path", "skip", "transient"),
    [
        ("ask", "orders/{}", 0, True),
        ("ask of one that is gone", "orders/{}", 0, False),
        ("poll", "orders", 1, True),
        ("list", "orders", 1, True),
        ("status", "orders/{}", 0, True),
        ("status", "orders/{}", 1, False),
        ("status by number", "orders", 3, True),
        ("note", "orders/{}/notes", 0, True),
        ("find", "orders/{}/notes", 0, False),
        ("refund", "orders/{}/refunds", 0, False),
        ("stock", "products", 2, True),
    ],
)
async def test_an_answer_to_an_earlier_question_is_not_believed(
    shop: WooCommerceStandIn, woo: WooCommerce, what: str, path: str, skip: int, transient: bool
) -> None:
    """A system that answers twice answers the next question on its connection with what it was asked before."""
    ids: list[int] = []
    for days in (5, 0):
        shop.time = NOW - timedelta(days=days)
        ids.append(shop.place())
        shop.stock(f"K{ids[-1]}", 1)
    if what == "find":
        await woo.add_note(order(ids[1]), "Odesláno", "key", to_customer=True)
    if what == "refund":
        await woo.refund(order(ids[1]), Money(100, "CZK"), "key")
    if what == "ask of one that is gone":
        shop.delete(ids[0])

    async def act(id_: int) -> Any:
        since = (shop.time or NOW) if id_ == ids[1] else NOW - timedelta(days=6)
        match what:
            case "poll":
                floor = int(since.timestamp())
                return [one.split(":")[0] for one, _ in (await woo.fetch(f"{floor}:{floor}:1", now=NOW)).events]
            case "list":
                return [one.number for one in await listed(woo, since)]
            case "status":
                return await woo.set_status(order(id_), "completed", "key")
            case "status by number":
                return await woo.set_status(order(None, str(id_)), "completed", "key")
            case "note":
                return await woo.add_note(order(id_), "Odesláno", "key", to_customer=True)
            case "find":
                return await woo.find_note(order(id_), "Odesláno", "key")
            case "refund":
                return await woo.refund(order(id_), Money(100 if id_ == ids[1] else 99_999, "CZK"), "key")
            case "stock":
                return await woo.set_stock({f"K{id_}": 7})
            case _:
                return [one for one in await woo.truth(b'{"id":%d}' % id_) if isinstance(one, StatusChange)]

    asked, answered = (at(path.format(id_)) for id_ in ids)
    if asked != answered:
        shop.misbehave(Misbehavior.EARLIER, path=asked, skip=1_000)
    shop.misbehave(Misbehavior.EARLIER, path=answered, skip=skip)
    with suppress(Rejected):
        await act(ids[0])
    if transient:
        with pytest.raises(Transient):
            await act(ids[1])
    found = await act(ids[1])
    match what:
        case "poll" | "list" | "status by number" | "status":
            assert found in (str(ids[1]), [str(ids[1])])
            stands = "on-hold" if what in ("poll", "list") else "completed"
            assert {one["status"] for one in shop.orders.values()} == {stands}
        case "note" | "find":
            assert [str(one["id"]) for one in shop.notes[ids[1]]] == [found]
        case "refund":
            assert [str(one["id"]) for one in shop.refunds[ids[1]]] == [found]
        case "stock":
            assert (found, shop.level(f"K{ids[0]}"), shop.level(f"K{ids[1]}")) == ({}, 7, 7)
        case _:
            assert [(one.external_id, one.status) for one in found] == [(str(ids[1]), "on-hold")]


@pytest.mark.parametrize("what", ["status", "note", "refund", "webhook"])
async def test_an_answer_about_something_else_leaves_it_open_whether_it_was_done(what: str) -> None:
    async with Mixed() as shop, connected(shop) as woo:
        first, *others = [shop.place() for _ in range(3)]
        webhooks = [await shop.subscribe("order.created", f"{shop.url}/webhooks/woo", "s") for _ in range(3)]

        async def act(id_: int) -> Any:
            match what:
                case "status":
                    return await woo.set_status(order(id_), "completed", "key")
                case "note":
                    return await woo.add_note(order(id_), "Odesláno", str(id_), to_customer=True)
                case "refund":
                    return await woo.refund(order(id_), Money(100, "CZK"), str(id_))
                case _:
                    shop.webhooks[webhooks[[first, *others].index(id_)]].status = "disabled"
                    return await woo.mend_webhooks()

        done = await act(first)
        shop.said = {
            "status": {"id": first, "status": "completed"},
            "note": shop.notes[first] and shop.notes[first][-1],
            "refund": shop.refunds[first] and shop.refunds[first][-1],
            "webhook": shop.webhooks[webhooks[0]].shown(),
        }[what]
        skip = {"status": 1, "webhook": 0}.get(what, 2)
        for place, kind in enumerate((Misbehavior.STATUS_AFTER, Misbehavior.FAILURE)):
            id_ = others[place]
            path = {"status": f"orders/{id_}", "webhook": f"webhooks/{webhooks[place + 1]}"}
            shop.misbehave(kind, path=at(path.get(what, f"orders/{id_}/{what}s")), skip=skip)
            with pytest.raises(Transient) as raised:
                await act(id_)
            assert raised.value.in_doubt
            assert await act(id_) != done
            assert shop.orders[id_]["status"] == ("completed" if what == "status" else "on-hold")
            assert (len(shop.notes[id_]), len(shop.refunds[id_])) == (what == "note", what == "refund")


@pytest.mark.parametrize("what", ["status", "refund"])
async def test_a_refusal_of_what_was_done_is_not_believed(what: str) -> None:
    async with Mixed() as shop, connected(shop) as woo:
        id_ = shop.place()
        shop.said, shop.status = {"code": "rest_invalid_param", "message": "", "data": {"status": 400}}, 400
        path = at(f"orders/{id_}" if what == "status" else f"orders/{id_}/refunds")
        shop.misbehave(Misbehavior.STATUS_AFTER, path=path, skip=1 if what == "status" else 2)
        if what == "status":
            assert await woo.set_status(order(id_), "completed", "key") == str(id_)
        else:
            assert await woo.refund(order(id_), Money(100, "CZK"), "key") == str(shop.refunds[id_][0]["id"])
        assert len(shop.done) == 1


@pytest.mark.parametrize("what", ["number", "statuses", "stock", "status that is there"])
async def test_what_is_not_in_a_list_is_not_there_when_that_is_seen_twice(what: str) -> None:
    async with Mixed() as shop, connected(shop) as woo:
        other, id_ = shop.place(), shop.place()
        shop.stock("K1", 1)
        shop.said = [] if what == "stock" else [{"id": other, "number": str(other), "status": "on-hold"}]
        shop.misbehave(
            Misbehavior.FAILURE, path=at("products" if what == "stock" else "orders"), skip=what == "statuses"
        )
        match what:
            case "number":
                assert await woo.set_status(order(None, str(id_)), "completed", "key") == str(id_)
            case "statuses":
                assert await woo.set_statuses({str(id_): "completed"}) == {}
            case "stock":
                assert await woo.set_stock({"K1": 7}) == {}
            case _:
                with pytest.raises(Transient):
                    await woo.set_statuses({str(id_): "completed"})
                assert shop.done == []


@pytest.mark.parametrize("what", ["note", "refund"])
async def test_a_list_that_says_whose_it_is_is_looked_at_once_and_believed_of_no_other_order(what: str) -> None:
    async with Mixed() as shop, connected(shop) as woo:
        id_ = shop.place()
        path = f"orders/{id_}/{what}s"
        row = {"id": 9, "note": "Zaplaceno", "amount": "1.00", "reason": ""}
        shop.misbehave(Misbehavior.FAILURE, path=at(path), times=None)

        async def act() -> Any:
            if what == "note":
                return await woo.find_note(order(id_), "Odesláno", "key")
            return await woo.refund(order(id_), Money(100, "CZK"), "key")

        shop.said = [row | {"_links": {"up": [{"href": f"{shop.base_url}/orders/{id_ + 1}"}]}}]
        with pytest.raises(Transient):
            await act()
        assert len(shop.requests) == 1
        shop.said = [row | {"_links": {"up": [{"href": f"{shop.base_url}/orders/{id_}"}]}}]
        shop.requests.clear()
        if what == "note":
            assert await act() is None
            assert len(shop.requests) == 1
        else:
            shop.behave()
            shop.misbehave(Misbehavior.FAILURE, path=at(path))
            await act()
            assert [seen.method for seen in shop.requests] == ["GET", "POST"]


@pytest.mark.parametrize(
    ("status", "error", "busy"), [(429, Transient, True), (503, Transient, False), (403, Misconfigured, False)]
)
async def test_errors_are_told_apart(
    shop: WooCommerceStandIn, woo: WooCommerce, status: int, error: type[Exception], busy: bool
) -> None:
    shop.misbehave(Misbehavior.STATUS_BEFORE, status=status, retry_after=7)
    with pytest.raises(error) as raised:
        await woo.check()
    if isinstance(raised.value, Transient):
        assert (raised.value.busy, raised.value.retry_after) == (busy, 7.0)


def test_the_orders_of_the_stand_in_have_the_fields_of_real_ones() -> None:
    fields: Sequence[str] = (
        "id parent_id number order_key created_via version status currency prices_include_tax date_created "
        "date_created_gmt date_modified date_modified_gmt discount_total shipping_total cart_tax total total_tax "
        "customer_id customer_note billing shipping payment_method payment_method_title transaction_id date_paid "
        "date_paid_gmt meta_data line_items tax_lines shipping_lines fee_lines coupon_lines refunds"
    ).split()
    shop = WooCommerceStandIn()
    assert set(fields) <= json.loads(shop.body(shop.place())).keys()
