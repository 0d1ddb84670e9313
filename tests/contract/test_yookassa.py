"""The YooKassa connector, over real HTTP against a stand-in as strict as YooKassa."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from connectors import load
from connectors.errors import Misconfigured, OutsideError, Rejected, Transient
from connectors.roles import (
    BadSignature,
    Checked,
    Gateway,
    Origin,
    Page,
    PaymentSource,
    SecondReceipts,
    TakesHints,
    TransactionSource,
    WebhookReader,
)
from connectors.yookassa import YooKassa, YooKassaConfig
from deployments.sandbox.standin import Misbehavior, Plan, Seen, StandIn
from deployments.sandbox.yookassa import HOLD, KEY, SHOP, Json, YooKassaStandIn
from domain.fiscal import FiscalLine, FiscalReceipt
from domain.holds import Hold, HoldState
from domain.money import Money
from domain.payments import IncomingPayment, Kind, Method

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
HERE = Origin(address="127.0.0.1")
TOKEN = "a-token-of-32-characters-or-more"
SOME_ID = "1da5c87d-0984-50e8-a7f3-8de646dd9ec9"
STORED_KEY = "3f0c8a52e7b14d0f9a6b"


def config(shop: YooKassaStandIn | None = None, /, **changed: Any) -> YooKassaConfig:
    fields: dict[str, Any] = {
        "name": "kassa",
        "home": Path(),
        "shop_id": SHOP,
        "secret_key": KEY,
        "webhook_networks": ["127.0.0.0/8"],
        "base_url": shop.base_url if shop else "http://127.0.0.1:9",
    }
    return YooKassaConfig.model_validate(fields | changed)


@asynccontextmanager
async def connected(shop: YooKassaStandIn, /, **changed: Any) -> AsyncGenerator[YooKassa]:
    made = YooKassa(config(shop, **changed))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def shop() -> AsyncIterator[YooKassaStandIn]:
    async with YooKassaStandIn() as running:
        running.time = NOW
        yield running


@pytest.fixture
async def kassa(shop: YooKassaStandIn) -> AsyncIterator[YooKassa]:
    async with connected(shop) as made:
        yield made


def rub(text: str) -> Money:
    return Money.parse(text, "RUB")


def body(notification: Json) -> bytes:
    return json.dumps(notification).encode()


def about(notification: Json) -> str:
    return str(notification["object"]["id"])


async def told(kassa: YooKassa, notification: Json) -> list[tuple[str, str]]:
    """Return what a notification turns out to mean, in short."""
    return short(await kassa.truth(body(notification)))


def short(found: Sequence[IncomingPayment | Hold]) -> list[tuple[str, str]]:
    return [
        (one.state.value, str(one.captured)) if isinstance(one, Hold) else (one.kind.value, str(one.amount))
        for one in found
    ]


async def held(kassa: YooKassa, id_: str) -> Hold:
    return (await kassa.hold(id_))[0]


async def payment_of(kassa: YooKassa, id_: str) -> IncomingPayment:
    return (await kassa.hold(id_))[1][0]


def posts(shop: YooKassaStandIn) -> list[Seen]:
    return [seen for seen in shop.requests if seen.method == "POST"]


# Settings and roles


def test_it_plays_its_roles_and_is_found_by_its_type(tmp_path: Path) -> None:
    stanza = {"type": "yookassa", "name": "kassa", "shop_id": 100500, "secret_key": "live_x"}
    made = load(stanza, home=tmp_path, where="kvit.yaml")
    assert isinstance(made, YooKassa)
    for role in (WebhookReader, PaymentSource, Gateway, SecondReceipts, TransactionSource, TakesHints, Checked):
        assert isinstance(made, role)


@pytest.mark.parametrize(
    "changed",
    [
        {"shop_id": "my shop"},
        {"secret_key": ""},
        {"secret_key": "live_x\n"},
        {"webhook_token": "short"},
        {"webhook_token": "with a space and sixteen"},
        {"webhook_networks": []},
        {"webhook_networks": ["somewhere"]},
        {"order_pattern": "("},
        {"order_pattern": "[0-9]+"},
        {"vat_codes": {"20": 13}},
        {"vat_codes": {"-1": 1}},
        {"vat_codes": {"NaN": 1}},
        {"payment_mode": "later"},
        {"tax_system_code": 7},
        {"look_back_days": 7},
    ],
)
def test_a_setting_that_can_not_be_right_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changed)


def test_secrets_do_not_show() -> None:
    assert "hidden" not in repr(config(secret_key="live_hidden", webhook_token="hidden-hidden-hidden"))


# Notifications


def taken(kassa: YooKassa, notification: Json, origin: Origin = HERE) -> str:
    return kassa.verify({}, body(notification), now=NOW, origin=origin).external_id


async def test_a_delivered_notification_is_what_verify_takes_and_truth_explains(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    notification = shop.pay("CZ1042", 104250, description="Заказ CZ1042")
    async with StandIn(Response(status_code=200)) as page:
        assert await shop.deliver(notification, f"{page.url}/webhooks/kassa", times=2) == [200, 200]
        ids: set[str] = set()
        for seen in page.requests:
            event = kassa.verify(seen.headers, seen.body, now=NOW, origin=HERE)
            ids.add(event.external_id)
            assert (event.kind, event.kept) == ("payment.succeeded", True)
            assert short(await kassa.truth(seen.body)) == [("payment", "1042.50 RUB")]
    assert ids == {f"payment.succeeded:{about(notification)}:succeeded:1042.50RUB"}


async def test_a_notification_is_repeated_until_it_is_answered(shop: YooKassaStandIn) -> None:
    answers = iter([503, 401, 200])

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        await PlainTextResponse("", status_code=next(answers))(scope, receive, send)

    async with StandIn(page) as kvit:
        assert await shop.deliver(shop.pay("CZ1042", 100), kvit.url, tries=9) == [503, 401, 200]


async def test_each_change_of_a_payment_is_an_event_of_its_own(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    first = shop.hold("CZ1042", 45_000)
    again = shop.hold("CZ1042", 45_000)
    changes = [
        first,
        shop.capture(about(first), 30_000),
        shop.refund(about(first), 100),
        shop.refund(about(first), 100),
    ]
    changes += [again, shop.cancel(about(again))]
    assert len({taken(kassa, change) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    "address",
    [
        "185.71.76.1",
        "185.71.77.31",
        "77.75.153.127",
        "77.75.156.11",
        "77.75.156.35",
        "77.75.154.200",
        "2a02:5180::1",
        "2a02:5180:ffff::1",
        "::ffff:185.71.76.1",
    ],
)
def test_what_comes_from_the_published_networks_is_taken(address: str) -> None:
    kassa = YooKassa(YooKassaConfig(name="kassa", home=Path(), shop_id=SHOP, secret_key=KEY))  # type: ignore[arg-type]
    notification = YooKassaStandIn().pay("CZ1042", 100)
    assert taken(kassa, notification, Origin(address=address))


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1", "185.71.76.32", "77.75.153.128", "77.75.156.12", "77.75.154.127", "2a02:5181::1", "x", "1.2.3"],
)
def test_what_comes_from_elsewhere_is_refused(address: str) -> None:
    kassa = YooKassa(YooKassaConfig(name="kassa", home=Path(), shop_id=SHOP, secret_key=KEY))  # type: ignore[arg-type]
    with pytest.raises(BadSignature, match="outside YooKassa's networks"):
        taken(kassa, YooKassaStandIn().pay("CZ1042", 100), Origin(address=address, token=TOKEN))


@pytest.mark.parametrize("token", ["", TOKEN[:-1], TOKEN.upper(), TOKEN + "x", "ключ", "\ud800"])
def test_where_a_token_is_set_the_address_must_end_with_it(token: str) -> None:
    notification = YooKassaStandIn().pay("CZ1042", 100)
    kassa = YooKassa(config(webhook_token=TOKEN))
    assert taken(kassa, notification, Origin(address="127.0.0.1", token=TOKEN))
    with pytest.raises(BadSignature, match="secret at the end of the address") as raised:
        taken(kassa, notification, Origin(address="127.0.0.1", token=token))
    assert TOKEN not in str(raised.value)


def test_a_token_alone_may_guard_the_address_but_does_not_replace_the_networks() -> None:
    notification = YooKassaStandIn().pay("CZ1042", 100)
    from_afar = Origin(address="203.0.113.7", token=TOKEN)
    assert taken(YooKassa(config(webhook_token=TOKEN, webhook_networks=[])), notification, from_afar)
    with pytest.raises(BadSignature):
        taken(YooKassa(config(webhook_token=TOKEN)), notification, from_afar)


@pytest.mark.parametrize("event", ["payout.succeeded", "deal.closed", "payment_method.active"])
def test_events_that_are_of_no_use_are_answered_and_not_kept(event: str) -> None:
    sent = {"type": "notification", "event": event, "object": {"id": "dl-1"}}
    assert not YooKassa(config()).verify({}, body(sent), now=NOW, origin=HERE).kept


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "event"},
        {"event": "payment"},
        {"event": "Payment.Succeeded"},
        {"event": None},
        {"object": None},
        {"object": {"id": SOME_ID, "status": "succeeded"}},
        {"object": {"id": "../../me", "status": "succeeded", "amount": {"value": "1.00", "currency": "RUB"}}},
        {"object": {"id": SOME_ID, "status": "a:b", "amount": {"value": "1.00", "currency": "RUB"}}},
        {"object": {"id": SOME_ID, "status": "succeeded", "amount": {"value": 1.0, "currency": "RUB"}}},
        {"object": {"id": SOME_ID, "status": "succeeded", "amount": {"value": "1.00", "currency": "rub"}}},
    ],
)
def test_a_notification_of_another_form_is_refused(changed: Json) -> None:
    sent = YooKassaStandIn().pay("CZ1042", 100) | changed
    with pytest.raises(BadSignature, match="no notification of YooKassa's"):
        taken(YooKassa(config()), sent)


@pytest.mark.parametrize("sent", [b"[" * 200_000, b"9" * 10_000, b'{"type":"notification"}' + b" " * 300_000])
def test_what_is_too_deep_or_too_long_is_refused(sent: bytes) -> None:
    with pytest.raises(BadSignature):
        YooKassa(config()).verify({}, sent, now=NOW, origin=HERE)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "event", "object", "id", "status", "amount"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(sent=st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_else_is_sent_is_refused_in_one_way(sent: bytes) -> None:
    with pytest.raises(BadSignature):
        YooKassa(config()).verify({}, sent, now=NOW, origin=HERE)


# What a payment has come to


async def test_a_payment_that_succeeded_is_money(shop: YooKassaStandIn) -> None:
    notification = shop.pay("CZ1042", 104250, description="Order CZ1042, thank you", now=NOW)
    async with connected(shop, account="YooKassa RU") as kassa:
        assert await kassa.truth(body(notification)) == [
            IncomingPayment(
                source="yookassa:kassa",
                external_id=about(notification),
                method=Method.CARD,
                amount=rub("1042.50"),
                booked_on=date(2026, 3, 31),
                account="YooKassa RU",
                provider_reference=about(notification),
                order_reference="CZ1042",
                text="Order CZ1042, thank you",
            )
        ]


async def test_authorized_money_is_a_hold_until_the_time_that_yookassa_says(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    notification = shop.hold("CZ1042", 45_000)
    expected = Hold(
        source="yookassa:kassa",
        reference=about(notification),
        amount=rub("450.00"),
        captured=rub("0"),
        state=HoldState.HELD,
        order_reference="CZ1042",
        expires_at=NOW + HOLD,
    )
    assert await kassa.truth(body(notification)) == [expected]
    assert await kassa.hold(about(notification)) == (expected, [])


async def test_of_a_captured_part_the_payment_is_that_part_on_its_day(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    notification = shop.hold("CZ1042", 45_000, now=NOW - timedelta(days=2))
    shop.capture(about(notification), 30_000, now=NOW)
    hold, (payment,) = await kassa.hold(about(notification))
    assert (hold.state, hold.captured) == (HoldState.CAPTURED, rub("300.00"))
    assert (payment.amount, payment.booked_on) == (rub("300.00"), NOW.date())


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        (False, [("payment", "450.00 RUB")]),
        (True, [("payment", "450.00 RUB"), ("captured", "450.00 RUB")]),
    ],
)
async def test_a_shop_that_holds_is_told_of_each_capture_as_one(
    shop: YooKassaStandIn, holds: bool, expected: list[tuple[str, str]]
) -> None:
    captured = shop.capture(about(shop.hold("CZ1042", 45_000)))
    async with connected(shop, holds=holds) as kassa:
        assert await told(kassa, captured) == expected


async def test_a_late_notification_of_a_hold_never_goes_back_behind_its_capture(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    late = shop.hold("CZ1042", 45_000)
    shop.capture(about(late))
    assert await told(kassa, late) == [("payment", "450.00 RUB"), ("captured", "450.00 RUB")]


@pytest.mark.parametrize(
    ("party", "reason", "state"),
    [
        ("merchant", "canceled_by_merchant", "released"),
        ("yoo_money", "expired_on_capture", "expired"),
        ("yoo_money", "fraud_suspected", "released"),
    ],
)
async def test_a_canceled_hold_is_released_or_expired_and_no_payment(
    shop: YooKassaStandIn, kassa: YooKassa, party: str, reason: str, state: str
) -> None:
    notification = shop.hold("CZ1042", 45_000)
    ended = shop.cancel(about(notification), party=party, reason=reason)
    assert await told(kassa, ended) == [(state, "0.00 RUB")]
    assert await told(kassa, notification) == [(state, "0.00 RUB")]


@pytest.mark.parametrize("reason", ["insufficient_funds", "expired_on_confirmation", "3d_secure_failed"])
async def test_an_attempt_that_was_never_authorized_says_nothing(
    shop: YooKassaStandIn, kassa: YooKassa, reason: str
) -> None:
    assert await told(kassa, shop.fail("CZ1042", 45_000, reason=reason)) == []


async def test_a_time_until_which_it_could_be_captured_shows_that_it_was_held(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    wallet = shop.fail("CZ1042", 45_000, reason="internal_timeout")
    shop.payments[about(wallet)]["expires_at"] = "2026-04-07T12:00:00.000Z"
    assert await told(kassa, wallet) == [("released", "0.00 RUB")]


async def test_a_payment_that_waits_for_the_payer_says_nothing_yet(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    id_ = shop.create("CZ1042", 45_000)["id"]
    assert await kassa.truth(kassa.question(id_)) == []
    with pytest.raises(Transient) as raised:
        await kassa.hold(id_)
    assert raised.value.busy


async def test_a_notification_ahead_of_the_api_is_asked_about_again(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    id_ = shop.create("CZ1042", 45_000, capture=False)["id"]
    for status in ("waiting_for_capture", "succeeded"):
        early = {"event": f"payment.{status}", "object": {"id": id_, "status": status}}
        with pytest.raises(Transient, match="YooKassa says pending yet") as raised:
            await told(kassa, early)
        assert raised.value.busy
    shop.confirm(id_)
    with pytest.raises(Transient):
        await told(kassa, {"event": "payment.succeeded", "object": {"id": id_, "status": "succeeded"}})
    shop.capture(id_)
    assert ("payment", "450.00 RUB") in await told(
        kassa, {"event": "payment.succeeded", "object": {"id": id_, "status": "succeeded"}}
    )


async def test_each_refund_is_a_negative_payment_with_its_own_id(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    payment = shop.pay("CZ1042", 45_000, now=NOW - timedelta(days=3))
    first, second = (shop.refund(about(payment), minor, now=NOW) for minor in (10_000, 5_000))
    for asked in (first, second, payment):
        found = {one.external_id: one for one in await kassa.truth(body(asked)) if isinstance(one, IncomingPayment)}
        assert set(found) == {about(payment), about(first), about(second)}
        for notification, amount in ((first, "-100.00"), (second, "-50.00")):
            refund = found[about(notification)]
            assert (refund.kind, refund.amount, refund.booked_on) == (Kind.REFUND, rub(amount), NOW.date())
            assert (refund.provider_reference, refund.order_reference) == (about(payment), "CZ1042")


async def test_a_refund_counts_once_it_has_succeeded(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    payment = shop.pay("CZ1042", 45_000)
    pending = shop.refund(about(payment), 10_000, status="pending")
    assert await told(kassa, pending) == []
    assert await told(kassa, payment) == [("payment", "450.00 RUB")]
    early = {"event": "refund.succeeded", "object": {"id": about(pending), "status": "succeeded"}}
    with pytest.raises(Transient, match="pending yet"):
        await told(kassa, early)
    assert await told(kassa, shop.finish_refund(about(pending), "canceled")) == []
    again = shop.refund(about(payment), 10_000)
    assert await told(kassa, again) == [("payment", "450.00 RUB"), ("refund", "-100.00 RUB")]


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("Оплата заказа № 72 для user@yoomoney.ru", "72"),
        ("Заказ №72", "72"),
        ("Заказ CZ1042", "CZ1042"),
        ("Order #2026/0042, thank you", "2026/0042"),
        ("ЗАКАЗ АБ-17", "АБ-17"),
        ("№ 5", "5"),
        ("Подписка на 12 месяцев", None),
        ("Добровольное пожертвование", None),
        (None, None),
    ],
)
async def test_without_metadata_the_order_is_read_out_of_the_description(
    shop: YooKassaStandIn, kassa: YooKassa, description: str | None, expected: str | None
) -> None:
    payment = await payment_of(kassa, about(shop.pay(None, 100, description=description)))
    assert (payment.order_reference, payment.text) == (expected, description)


@pytest.mark.parametrize(("order", "expected"), [(" CZ1042 ", "CZ1042"), ("  ", "7"), ("", "7"), ("CZ\x001042", "7")])
async def test_the_order_is_read_from_the_metadata_first(shop: YooKassaStandIn, order: str, expected: str) -> None:
    id_ = about(shop.pay(order, 100, key="cart", description="Заказ 7"))
    async with connected(shop, order_key="cart") as kassa:
        assert (await payment_of(kassa, id_)).order_reference == expected


async def test_the_patterns_of_a_shop_can_be_its_own(shop: YooKassaStandIn) -> None:
    id_ = about(shop.pay(None, 100, description="Счёт ABC/17 от 31.03"))
    async with connected(shop, order_pattern="Счёт ([A-Z]+/[0-9]+)") as kassa:
        assert (await payment_of(kassa, id_)).order_reference == "ABC/17"


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "paid"},
        {"amount": {"value": 450.0, "currency": "RUB"}},
        {"amount": {"value": "4.5e2", "currency": "RUB"}},
        {"amount": {"value": "-450.00", "currency": "RUB"}},
        {"amount": {"value": "450.001", "currency": "RUB"}},
        {"amount": {"value": "450.00", "currency": "XXX"}},
        {"created_at": 1_700_000_000},
        {"created_at": "yesterday"},
        {"created_at": "2026-03-31T12:00:00"},
    ],
)
async def test_a_payment_that_can_not_be_read_is_for_a_person(
    shop: YooKassaStandIn, kassa: YooKassa, changed: Json
) -> None:
    notification = shop.pay("CZ1042", 45_000)
    shop.payments[about(notification)] |= changed
    with pytest.raises(Rejected):
        await told(kassa, notification)


@pytest.mark.parametrize("reference", ["", "../me", "x" * 36 + "/", "1042", "1da5c87d 0984-50e8-a7f3-8de646dd9ec9"])
async def test_what_is_no_id_is_never_asked_about(shop: YooKassaStandIn, kassa: YooKassa, reference: str) -> None:
    for asked in (kassa.truth(kassa.question(reference)), kassa.hold(reference)):
        with pytest.raises(Rejected):
            await asked
    assert not shop.requests


async def test_a_payment_that_yookassa_does_not_know_is_for_a_person(kassa: YooKassa) -> None:
    with pytest.raises(Rejected, match="not_found"):
        await kassa.truth(kassa.question(SOME_ID))


@pytest.mark.parametrize("sent", [b"", b"{}", b'{"event":"payment.succeeded"}', b"\xff"])
async def test_a_stored_event_that_names_nothing_is_for_a_person(kassa: YooKassa, sent: bytes) -> None:
    with pytest.raises(Rejected):
        await kassa.truth(sent)


async def test_an_event_about_something_else_says_nothing(kassa: YooKassa) -> None:
    assert await kassa.truth(body({"event": "payout.succeeded", "object": {"id": SOME_ID}})) == []


# Polling


async def poll(kassa: YooKassa, cursor: str | None, now: datetime) -> tuple[dict[str, bytes], str]:
    """Return the events of a whole poll, and where the next begins."""
    found: dict[str, bytes] = {}
    while True:
        page: Page = await kassa.fetch(cursor, now=now)
        found |= dict(page.events)
        cursor = page.cursor
        if not page.more:
            return found, cursor


async def test_what_is_polled_has_the_ids_of_the_notifications_and_means_the_same(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    before = NOW - timedelta(minutes=5)
    payment, hold = shop.pay("CZ1", 45_000, now=before), shop.hold("CZ2", 100, now=before)
    released = shop.cancel(about(shop.hold("CZ3", 100, now=before)))
    refund = shop.refund(about(payment), 5_000, now=before)
    shop.fail("CZ4", 100, now=before)
    shop.create("CZ5", 100, now=before)
    shop.refund(about(payment), 5_000, status="pending", now=before)
    events, _ = await poll(kassa, None, NOW)
    assert set(events) == {taken(kassa, one) for one in (payment, hold, released, refund)}
    for notification in (payment, hold, released, refund):
        polled = await kassa.truth(events[taken(kassa, notification)])
        assert polled == await kassa.truth(body(notification)) != []


async def test_a_shop_in_which_nothing_happened_has_nothing_to_poll(kassa: YooKassa) -> None:
    events, cursor = await poll(kassa, None, NOW)
    assert not events
    assert await poll(kassa, cursor, NOW + timedelta(minutes=5)) == ({}, cursor_at(NOW + timedelta(minutes=5)))


def cursor_at(now: datetime) -> str:
    ms = int(now.timestamp() * 1000)
    return f"{ms}:{ms}"


async def test_the_first_poll_looks_back_by_days_and_day_by_day(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    seen = {about(shop.pay(f"CZ{n}", 100, now=NOW - timedelta(days=n, minutes=1))) for n in range(12)}
    events, _ = await poll(kassa, None, NOW)
    polled = {json.loads(event)["object"]["id"] for event in events.values()}
    assert len(polled) == 8
    assert polled < seen
    assert (await kassa.fetch(None, now=NOW)).more


async def test_more_than_a_page_is_polled_to_its_end(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    made = {taken(kassa, shop.pay(f"CZ{n}", 100 + n, now=NOW - timedelta(minutes=n + 1))) for n in range(230)}
    assert set((await poll(kassa, None, NOW))[0]) == made


@pytest.mark.parametrize("what", ["capture", "cancel", "expire", "confirm", "refund"])
async def test_what_is_decided_on_days_after_its_payment_began_is_seen(
    shop: YooKassaStandIn, kassa: YooKassa, what: str
) -> None:
    began = NOW - timedelta(days=7 if what == "expire" else 3)
    id_ = ""
    if what == "refund":
        paid = shop.pay("CZ1042", 45_000, now=began - timedelta(days=1))
        id_ = about(shop.refund(about(paid), 100, status="pending", now=began))
    elif what == "confirm":
        id_ = shop.create("CZ1042", 45_000, capture=False, now=began)["id"]
    else:
        id_ = about(shop.hold("CZ1042", 45_000, now=began))
    cursor: str | None = None
    now = began + timedelta(minutes=1)
    while now < NOW:
        shop.time = now
        _, cursor = await poll(kassa, cursor, now)
        now += timedelta(hours=10)
    shop.time = NOW
    change = {
        "capture": lambda: shop.capture(id_, now=NOW),
        "cancel": lambda: shop.cancel(id_),
        "expire": lambda: shop.expire(NOW)[0],
        "confirm": lambda: shop.confirm(id_, now=NOW),
        "refund": lambda: shop.finish_refund(id_),
    }[what]()
    events, cursor = await poll(kassa, cursor, NOW + timedelta(minutes=1))
    assert taken(kassa, change) in events
    if what != "confirm":
        assert cursor == cursor_at(NOW + timedelta(minutes=1))


async def test_a_capture_is_seen_even_of_a_hold_older_than_polls_look_back(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    id_ = about(shop.hold("CZ1042", 45_000, now=NOW - timedelta(days=40)))
    captured = shop.capture(id_, now=NOW - timedelta(minutes=1))
    events, _ = await poll(kassa, cursor_at(NOW - timedelta(minutes=10)), NOW)
    assert set(events) == {taken(kassa, captured)}


async def test_a_stop_of_weeks_hides_no_payment(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    stopped = NOW - timedelta(days=20)
    paid = [shop.pay(f"CZ{n}", 100, now=stopped + timedelta(days=n, hours=1)) for n in range(20)]
    events, _ = await poll(kassa, cursor_at(stopped), NOW)
    assert set(events) == {taken(kassa, one) for one in paid}


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_between_polls_no_end_of_a_payment_or_refund_is_missed(
    shop: YooKassaStandIn, kassa: YooKassa, seed: int
) -> None:
    chance = random.Random(seed)
    now = NOW - timedelta(days=12)
    cursor: str | None = None
    polled: set[str] = set()
    for _ in range(60):
        now += timedelta(minutes=chance.choice([1, 20, 90, 600]))
        shop.time = now
        shop.expire(now)
        by_status: dict[str, list[str]] = {}
        for id_, payment in shop.payments.items():
            by_status.setdefault(payment["status"], []).append(id_)
        action = chance.choice(
            ["create", "create", "confirm", "confirm", "capture", "cancel", "refund", "settle", "poll"]
        )
        pending = [id_ for id_, refund in shop.refunds.items() if refund["status"] == "pending"]
        if action == "create":
            shop.create("CZ1042", 45_000, capture=chance.random() < 0.3, now=now)
        elif action == "confirm" and by_status.get("pending"):
            shop.confirm(chance.choice(by_status["pending"]), now=now)
        elif action == "capture" and by_status.get("waiting_for_capture"):
            shop.capture(chance.choice(by_status["waiting_for_capture"]), chance.choice([None, 100]), now=now)
        elif action == "cancel" and by_status.get("waiting_for_capture"):
            shop.cancel(chance.choice(by_status["waiting_for_capture"]))
        elif action == "refund" and by_status.get("succeeded"):
            id_ = chance.choice(by_status["succeeded"])
            shop.refund(id_, 1, status=chance.choice(["pending", "succeeded"]), now=now)
        elif action == "settle" and pending:
            shop.finish_refund(chance.choice(pending))
        elif action == "poll":
            events, cursor = await poll(kassa, cursor, now + timedelta(milliseconds=1))
            polled |= set(events)
    events, cursor = await poll(kassa, cursor, now + timedelta(minutes=1))
    polled |= set(events)
    last = {about(one): taken(kassa, one) for one in shop.notifications}
    assert len(last) > 10
    assert set(last.values()) <= polled


async def test_a_payment_in_a_list_that_can_not_be_read_becomes_known_and_hides_no_other(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    before = NOW - timedelta(minutes=5)
    good, bad, nameless = (shop.pay(f"CZ{n}", 100, now=before) for n in range(3))
    shop.payments[about(bad)]["amount"] = {"value": "free", "currency": "RUB"}
    shop.payments[about(nameless)]["id"] = "?"
    events, _ = await poll(kassa, None, NOW)
    assert set(events) == {taken(kassa, good), f"payment:{about(bad)}:unreadable"}
    with pytest.raises(Rejected, match=r"amount\.value"):
        await kassa.truth(events[f"payment:{about(bad)}:unreadable"])


@pytest.mark.parametrize("cursor", ["x", "1", "1:2:3:4", "-1:5", "1:2:", "9" * 15 + ":1"])
async def test_what_is_no_cursor_is_said_to_be_none(kassa: YooKassa, cursor: str) -> None:
    with pytest.raises(Misconfigured, match="is not a cursor"):
        await kassa.fetch(cursor, now=NOW)


async def test_a_poll_that_breaks_off_takes_nothing(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    for n in range(150):
        shop.pay(f"CZ{n}", 100, now=NOW - timedelta(minutes=5))
    cursor = cursor_at(NOW - timedelta(minutes=10))
    shop.misbehave(Misbehavior.STATUS_BEFORE, status=500, skip=1, path="/v3/payments")
    with pytest.raises(Transient):
        await kassa.fetch(cursor, now=NOW)
    assert len((await kassa.fetch(cursor, now=NOW)).events) == 150


async def test_a_list_that_goes_in_circles_is_an_error_and_no_endless_walk() -> None:
    answer: Json = {"type": "list", "items": [], "next_cursor": "again"}
    async with StandIn(JSONResponse(answer)) as broken:
        kassa = YooKassa(config(base_url=broken.url))
        with pytest.raises(Transient, match="the same page again"):
            await kassa.fetch(None, now=NOW)
        await kassa.aclose()
    assert len(broken.requests) == 2


async def test_reconciliation_lists_a_capture_by_the_day_on_which_it_was_made(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    since = NOW - timedelta(days=2)
    early = about(shop.hold("CZ1", 45_000, now=since - timedelta(days=3)))
    shop.capture(early, 30_000, now=NOW - timedelta(days=1))
    shop.capture(about(shop.hold("CZ2", 100, now=since - timedelta(days=3))), now=since - timedelta(days=1))
    listed = [one async for page in kassa.transactions(since) for one in page]
    assert [(one.external_id, str(one.amount), one.at, one.settled) for one in listed] == [
        (early, "300.00 RUB", NOW - timedelta(days=1), True)
    ]


# Capturing and releasing


@pytest.mark.parametrize("amount", ["450.00", "300.00", "0.01"])
async def test_a_hold_is_captured_whole_or_in_part_once(shop: YooKassaStandIn, kassa: YooKassa, amount: str) -> None:
    id_ = about(shop.hold("CZ1042", 45_000))
    hold = await held(kassa, id_)
    for _ in range(2):
        await kassa.capture(hold, rub(amount), STORED_KEY, receipt=None)
    assert shop.effects == [("capture", id_, amount)]
    (seen,) = posts(shop)
    assert seen.headers["idempotence-key"] == STORED_KEY
    assert seen.path == f"/v3/payments/{id_}/capture"
    assert json.loads(seen.body) == {"amount": {"value": amount, "currency": "RUB"}}
    assert short((await kassa.hold(id_))[1]) == [("payment", f"{amount} RUB")]


@pytest.mark.parametrize("amount", ["450.01", "0", "-1"])
async def test_more_than_is_held_or_nothing_is_not_asked_for(
    shop: YooKassaStandIn, kassa: YooKassa, amount: str
) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    for wrong in (rub(amount), Money.parse("450.00", "EUR")):
        with pytest.raises(Rejected, match=r"can't be taken of 450\.00 RUB held"):
            await kassa.capture(hold, wrong, STORED_KEY, receipt=None)
    assert not posts(shop)


async def test_what_was_captured_otherwise_or_given_back_is_for_a_person(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    other, gone, late = (about(shop.hold("CZ1042", 45_000)) for _ in range(3))
    holds = {id_: await held(kassa, id_) for id_ in (other, gone, late)}
    shop.capture(other, 100)
    shop.cancel(gone)
    shop.time = NOW + HOLD
    for id_, said in ((other, "1.00 RUB was taken"), (gone, "canceled_by_merchant"), (late, "expired_on_capture")):
        with pytest.raises(Rejected, match=said):
            await kassa.capture(holds[id_], rub("450"), STORED_KEY, receipt=None)
    assert not shop.effects


async def test_what_the_payer_has_not_confirmed_is_neither_captured_nor_released_yet(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    shop.payments[hold.reference]["status"] = "pending"
    for asked in (kassa.capture(hold, rub("450"), "a", receipt=None), kassa.release(hold, "b")):
        with pytest.raises(Transient) as raised:
            await asked
        assert (raised.value.busy, raised.value.in_doubt) == (True, False)


class Quicker(YooKassaStandIn):
    """A shop in which somebody does by hand what is asked for, right before the request is carried out."""

    def next_plan(self, seen: Seen) -> Plan | None:
        what, id_ = seen.path.rpartition("/")[2], seen.path.split("/")[3:4]
        if what == "capture":
            self.capture(id_[0], 30_000)
        elif what == "cancel":
            self.cancel(id_[0])
        return super().next_plan(seen)


async def test_what_somebody_did_meanwhile_by_hand_is_done() -> None:
    async with Quicker() as shop, connected(shop) as kassa:
        captured, released, other = [await held(kassa, about(shop.hold("CZ1042", 45_000))) for _ in range(3)]
        await kassa.capture(captured, rub("300"), "key-1", receipt=None)
        await kassa.release(released, "key-2")
        with pytest.raises(Rejected, match=r"300\.00 RUB was taken of the hold, and not 200\.00 RUB"):
            await kassa.capture(other, rub("200"), "key-3", receipt=None)
        assert not shop.effects


async def test_a_hold_is_released_once_and_what_is_released_or_expired_stays_so(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    hold, late = [await held(kassa, about(shop.hold("CZ1042", 45_000))) for _ in range(2)]
    for key in ("key-1", "key-1", "key-2"):
        await kassa.release(hold, key)
    assert shop.effects == [("cancel", hold.reference, "450.00")]
    (seen,) = posts(shop)
    assert (seen.headers["idempotence-key"], seen.body) == ("key-1", b"")
    shop.time = NOW + HOLD
    await kassa.release(late, "key-3")
    assert [(await held(kassa, one.reference)).state for one in (hold, late)] == [HoldState.RELEASED, HoldState.EXPIRED]
    assert len(shop.effects) == 1


async def test_what_is_captured_can_not_be_released(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    shop.capture(hold.reference)
    with pytest.raises(Rejected, match="only be refunded"):
        await kassa.release(hold, STORED_KEY)


LOST = [Misbehavior.STATUS_AFTER, Misbehavior.CUT_AFTER, Misbehavior.CUT_MIDWAY, Misbehavior.GARBAGE]
NOT_DONE = [Misbehavior.STATUS_BEFORE, Misbehavior.CUT_BEFORE, Misbehavior.FAILURE]


@pytest.mark.parametrize("kind", LOST + NOT_DONE)
@pytest.mark.parametrize("what", ["capture", "cancel", "refund"])
async def test_an_answer_that_got_lost_leaves_it_in_doubt_and_asking_again_does_it_once(
    shop: YooKassaStandIn, kassa: YooKassa, what: str, kind: Misbehavior
) -> None:
    id_ = about(shop.pay("CZ1042", 45_000) if what == "refund" else shop.hold("CZ1042", 45_000))
    hold, paid = await kassa.hold(id_)

    async def ask() -> None:
        if what == "capture":
            await kassa.capture(hold, rub("300"), STORED_KEY, receipt=None)
        elif what == "cancel":
            await kassa.release(hold, STORED_KEY)
        else:
            await kassa.refund(paid[0], rub("300"), STORED_KEY, because="Returned", receipt=None)

    shop.misbehave(kind, path="/v3/refunds" if what == "refund" else f"/v3/payments/{id_}/", skip=what == "refund")
    with pytest.raises(Transient) as raised:
        await ask()
    assert raised.value.in_doubt
    assert len(shop.effects) == (kind in LOST)
    await ask()
    await ask()
    assert [effect[0] for effect in shop.effects] == [what]


async def test_no_answer_in_time_leaves_it_in_doubt(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    shop.misbehave(Misbehavior.HANG_AFTER, path=f"/v3/payments/{hold.reference}/")
    async with connected(shop, limits={"timeout": 2}) as hasty:
        with pytest.raises(Transient) as raised:
            await hasty.capture(hold, rub("450"), STORED_KEY, receipt=None)
    assert raised.value.in_doubt
    await kassa.capture(hold, rub("450"), STORED_KEY, receipt=None)
    assert len(shop.effects) == 1


async def test_while_yookassa_is_at_work_it_is_asked_again_as_late_as_it_says(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    shop.misbehave(Misbehavior.STATUS_BEFORE, path=f"/v3/payments/{hold.reference}/", status=202)
    with pytest.raises(Transient) as raised:
        await kassa.capture(hold, rub("450"), STORED_KEY, receipt=None)
    assert (raised.value.busy, raised.value.in_doubt, raised.value.retry_after) == (True, True, 1.8)
    shop.misbehave(Misbehavior.STATUS_BEFORE, status=202)
    with pytest.raises(Transient) as raised:
        await kassa.hold(hold.reference)
    assert (raised.value.busy, raised.value.in_doubt, raised.value.retry_after) == (True, False, 1.8)


# Refunds


async def test_a_refund_is_made_once_per_key(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    first, again, other = [
        await kassa.refund(payment, rub("100"), key, because=" Returned ", receipt=None)
        for key in ("key-1", "key-1", "key-2")
    ]
    assert first == again != other
    assert shop.effects == [("refund", first, "100.00"), ("refund", other, "100.00")]
    seen = posts(shop)[0]
    assert seen.headers["idempotence-key"] == "key-1"
    assert json.loads(seen.body) == {
        "payment_id": payment.external_id,
        "amount": {"value": "100.00", "currency": "RUB"},
        "metadata": {"kvit_key": "key-1"},
        "description": "Returned",
    }
    found = [one for one in await kassa.truth(kassa.question(payment.external_id)) if isinstance(one, IncomingPayment)]
    assert {one.external_id for one in found[1:]} == {first, other}


async def test_asked_again_after_yookassa_has_forgotten_the_key_it_gives_nothing_more(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    hold = await held(kassa, about(shop.hold("CZ1043", 45_000)))
    done: list[str] = []
    for days in (0, 2):
        shop.time = NOW + timedelta(days=days)
        done.append(await kassa.refund(payment, rub("100"), "key-1", because="Returned", receipt=None))
        await kassa.capture(hold, rub("450"), "key-2", receipt=None)
    assert done[0] == done[1]
    assert [effect[0] for effect in shop.effects] == ["refund", "capture"]


async def test_two_that_ask_at_once_with_one_key_give_back_once(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    ids = await asyncio.gather(
        *(kassa.refund(payment, rub("100"), STORED_KEY, because="Returned", receipt=None) for _ in range(5))
    )
    assert len(set(ids)) == len(shop.effects) == 1


@pytest.mark.parametrize("amount", ["350.01", "0", "-5"])
async def test_no_more_is_given_back_than_is_left(shop: YooKassaStandIn, kassa: YooKassa, amount: str) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    shop.refund(payment.external_id, 6_000)
    shop.refund(payment.external_id, 4_000, status="pending")
    with pytest.raises(Rejected, match=r"can't be given back of 350\.00 RUB"):
        await kassa.refund(payment, rub(amount), STORED_KEY, because="Returned", receipt=None)
    with pytest.raises(Rejected, match="was in RUB"):
        await kassa.refund(payment, Money.parse("1", "EUR"), STORED_KEY, because="Returned", receipt=None)
    assert not posts(shop)
    assert await kassa.refund(payment, rub("350"), STORED_KEY, because="", receipt=None)


async def test_what_was_not_taken_is_not_refunded(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    for status, error in (("waiting_for_capture", Rejected), ("canceled", Rejected), ("pending", Transient)):
        shop.payments[payment.external_id] |= {"status": status, "expires_at": "2027-01-01T00:00:00.000Z"}
        with pytest.raises(error):
            await kassa.refund(payment, rub("1"), STORED_KEY, because="Returned", receipt=None)
    assert not posts(shop)


async def test_a_refund_is_in_doubt_until_it_is_decided_and_never_sent_twice(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    shop.refunds_end = "pending"
    for _ in range(2):
        with pytest.raises(Transient, match="not decided yet") as raised:
            await kassa.refund(payment, rub("100"), STORED_KEY, because="Returned", receipt=None)
        assert (raised.value.in_doubt, raised.value.busy) == (True, True)
    (id_,) = shop.refunds
    shop.finish_refund(id_)
    assert await kassa.refund(payment, rub("100"), STORED_KEY, because="Returned", receipt=None) == id_
    assert len(posts(shop)) == 1


async def test_a_refund_that_was_canceled_is_refused_and_another_key_makes_another(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    shop.refunds_end = "canceled"
    for _ in range(2):
        with pytest.raises(Rejected, match=r"canceled \(yoo_money, insufficient_funds\)"):
            await kassa.refund(payment, rub("450"), "key-1", because="Returned", receipt=None)
    shop.refunds_end = "succeeded"
    assert await kassa.refund(payment, rub("450"), "key-2", because="Returned", receipt=None)
    assert [refund["status"] for refund in shop.refunds.values()] == ["canceled", "succeeded"]


async def test_a_long_reason_is_cut(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    await kassa.refund(payment, rub("1"), STORED_KEY, because="дa" * 400, receipt=None)
    (refund,) = shop.refunds.values()
    assert len(refund["description"]) == 250


# Fiscal receipts


def line(amount: str, quantity: int = 1, rate: str = "20", title: str = "Чай «Юн Ву»") -> FiscalLine:
    return FiscalLine(title=title, quantity=quantity, amount=rub(amount), vat_rate=Decimal(rate))


def receipt(*lines: FiscalLine, email: str | None = "anna@example.ru", phone: str | None = None) -> FiscalReceipt:
    return FiscalReceipt(lines=lines, email=email, phone=phone)


async def test_a_receipt_goes_with_the_capture_and_with_the_refund(shop: YooKassaStandIn) -> None:
    told = receipt(line("100.00", 3, "20.00"), line("150.00", rate="0"), phone="+7 (900) 000-00-00")
    changed = {"payment_subject": "service", "payment_mode": "full_prepayment", "tax_system_code": 2}
    async with connected(shop, **changed) as kassa:
        hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
        await kassa.capture(hold, rub("450"), "key-1", receipt=told)
        payment = await payment_of(kassa, hold.reference)
        await kassa.refund(payment, rub("450"), "key-2", because="Returned", receipt=told)
    same = {"payment_subject": "service", "payment_mode": "full_prepayment", "measure": "piece"}
    for seen in posts(shop):
        assert json.loads(seen.body)["receipt"] == {
            "customer": {"email": "anna@example.ru", "phone": "79000000000"},
            "items": [
                {
                    "description": "Чай «Юн Ву»",
                    "quantity": 3,
                    "amount": {"value": "100.00", "currency": "RUB"},
                    "vat_code": 4,
                    **same,
                },
                {
                    "description": "Чай «Юн Ву»",
                    "quantity": 1,
                    "amount": {"value": "150.00", "currency": "RUB"},
                    "vat_code": 1,
                    **same,
                },
            ],
            "tax_system_code": 2,
        }
    assert len(shop.effects) == len(posts(shop)) == 2


@pytest.mark.parametrize(
    ("rate", "expected"), [("0", 1), ("5", 7), ("7", 8), ("10", 3), ("20", 4), ("22", 11), ("22.0", 11)]
)
async def test_each_rate_has_its_code(shop: YooKassaStandIn, kassa: YooKassa, rate: str, expected: int) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    await kassa.capture(hold, rub("450"), STORED_KEY, receipt=receipt(line("450", rate=rate)))
    (seen,) = posts(shop)
    assert json.loads(seen.body)["receipt"]["items"][0]["vat_code"] == expected


async def test_a_shop_may_have_codes_of_its_own_and_name_no_measure(shop: YooKassaStandIn) -> None:
    async with connected(shop, vat_codes={0: 2, "20": 6}, measure=None) as kassa:
        hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
        await kassa.capture(hold, rub("450"), STORED_KEY, receipt=receipt(line("400", rate="0"), line("50")))
    (seen,) = posts(shop)
    items = json.loads(seen.body)["receipt"]["items"]
    assert [item["vat_code"] for item in items] == [2, 6]
    assert "measure" not in items[0]


async def test_a_long_title_is_cut_and_its_spaces_are_one(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    told = receipt(line("450", title="  Чай \n зелёный " + "о" * 300), email=None, phone="79000000000")
    await kassa.capture(hold, rub("450"), STORED_KEY, receipt=told)
    (seen,) = posts(shop)
    sent = json.loads(seen.body)["receipt"]
    assert sent["items"][0]["description"].startswith("Чай зелёный оо")
    assert len(sent["items"][0]["description"]) == 128
    assert sent["customer"] == {"phone": "79000000000"}


async def test_of_an_address_that_is_none_the_receipt_goes_by_the_phone(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    told = receipt(line("450"), email="anna, by phone", phone="+7 900 000-00-00")
    await kassa.capture(hold, rub("450"), STORED_KEY, receipt=told)
    (seen,) = posts(shop)
    assert json.loads(seen.body)["receipt"]["customer"] == {"phone": "79000000000"}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (receipt(line("449.99")), "don't come to 450.00 RUB"),
        (receipt(line("450"), line("0.01")), "don't come to"),
        (receipt(line("450", rate="18")), "no code for 18 per cent"),
        (receipt(line("450"), email=None), "an e-mail address or a phone number"),
        (receipt(line("450"), email=None, phone="none"), "an e-mail address or a phone number"),
        (receipt(line("450"), email="anna, by phone"), "an e-mail address or a phone number"),
        (receipt(line("500"), line("-50")), "line 2 can't stand on a receipt"),
        (receipt(line("450", title=" ")), "line 1 can't stand on a receipt"),
        (receipt(line("450", 0), line("450")), "line 1 can't stand on a receipt"),
        (receipt(), "1 to 100 lines"),
        (receipt(*[line("4.50")] * 101), "1 to 100 lines"),
    ],
)
async def test_a_receipt_that_can_not_be_right_is_not_sent(
    shop: YooKassaStandIn, kassa: YooKassa, told: FiscalReceipt, said: str
) -> None:
    hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
    payment = await payment_of(kassa, about(shop.pay("CZ1043", 45_000)))
    for asked in (
        kassa.capture(hold, rub("450"), "key-1", receipt=told),
        kassa.refund(payment, rub("450"), "key-2", because="Returned", receipt=told),
    ):
        with pytest.raises(Rejected, match=said) as raised:
            await asked
        assert "anna" not in str(raised.value)
    assert not posts(shop)


# The second receipt


@pytest.fixture
async def prepaid(shop: YooKassaStandIn) -> AsyncIterator[YooKassa]:
    """A shop whose first receipts say that the goods are paid before they are handed over."""
    async with connected(shop, payment_mode="full_prepayment", tax_system_code=2) as made:
        yield made


async def bought(shop: YooKassaStandIn, kassa: YooKassa) -> IncomingPayment:
    """Let a customer buy two packets and their delivery, and take the money with the first receipt."""
    hold = await held(kassa, about(shop.hold("CZ1042", 70_000)))
    await kassa.capture(hold, rub("450"), "capture", receipt=receipt(line("150", 2), line("150", title="Доставка")))
    return await payment_of(kassa, hold.reference)


async def hand_over(kassa: YooKassa, reference: str, key: str = STORED_KEY) -> tuple[str, str] | None:
    made = await kassa.hand_over(reference, key, email="anna@example.ru", phone=None)
    return made and (made.reference, str(made.amount))


def second(shop: YooKassaStandIn) -> list[Json]:
    """Return what was sent to be registered separately."""
    return [json.loads(seen.body) for seen in posts(shop) if seen.path == "/v3/receipts"]


async def test_the_second_receipt_has_the_lines_of_the_first_and_is_registered_once(
    shop: YooKassaStandIn, prepaid: YooKassa
) -> None:
    id_ = (await bought(shop, prepaid)).external_id
    assert await prepaid.handed_over(id_) is None
    made = await hand_over(prepaid, id_)
    shop.time = NOW + timedelta(days=2)  # the key is forgotten meanwhile
    assert made == await hand_over(prepaid, id_) == await hand_over(prepaid, id_, "another")
    assert made is not None
    found = await prepaid.handed_over(id_)
    assert found
    assert (found.reference, str(found.amount)) == made == ([*shop.receipts][-1], "450.00 RUB")
    same = {"vat_code": 4, "payment_subject": "commodity", "measure": "piece", "payment_mode": "full_payment"}
    each = {"amount": {"value": "150.00", "currency": "RUB"}} | same
    assert second(shop) == [
        {
            "type": "payment",
            "payment_id": id_,
            "send": True,
            "customer": {"email": "anna@example.ru"},
            "items": [
                {"description": "Чай «Юн Ву»", "quantity": 2} | each,
                {"description": "Доставка", "quantity": 1} | each,
            ],
            "settlements": [{"type": "prepayment", "amount": {"value": "450.00", "currency": "RUB"}}],
            "tax_system_code": 2,
        }
    ]


@pytest.mark.parametrize("kind", LOST + NOT_DONE)
async def test_a_second_receipt_whose_answer_got_lost_is_registered_once(
    shop: YooKassaStandIn, prepaid: YooKassa, kind: Misbehavior
) -> None:
    id_ = (await bought(shop, prepaid)).external_id
    shop.misbehave(kind, path="/v3/receipts", skip=1)
    with pytest.raises(Transient) as raised:
        await hand_over(prepaid, id_)
    assert raised.value.in_doubt
    assert (await prepaid.handed_over(id_) is not None) == (kind in LOST)
    shop.time = NOW + timedelta(days=2)
    assert await hand_over(prepaid, id_) == await hand_over(prepaid, id_)
    assert [effect[0] for effect in shop.effects] == ["capture", "receipt"]


async def test_what_was_refunded_is_not_on_the_second_receipt(shop: YooKassaStandIn, prepaid: YooKassa) -> None:
    payment = await bought(shop, prepaid)
    await prepaid.refund(payment, rub("150"), "refund", because="Broken", receipt=receipt(line("150")))
    made = await hand_over(prepaid, payment.external_id)
    assert made
    assert made[1] == "300.00 RUB"
    (sent,) = second(shop)
    assert [(item["description"], item["quantity"]) for item in sent["items"]] == [("Чай «Юн Ву»", 1), ("Доставка", 1)]
    assert sent["settlements"] == [{"type": "prepayment", "amount": {"value": "300.00", "currency": "RUB"}}]


async def test_of_what_was_refunded_in_whole_there_is_no_second_receipt(
    shop: YooKassaStandIn, prepaid: YooKassa
) -> None:
    id_ = (await bought(shop, prepaid)).external_id
    for minor in (15_000, 30_000):
        shop.refund(id_, minor)
    assert await hand_over(prepaid, id_) is None
    assert not second(shop)


async def test_a_refund_without_a_receipt_or_undecided_leaves_it_to_a_person_or_for_later(
    shop: YooKassaStandIn, prepaid: YooKassa
) -> None:
    id_ = (await bought(shop, prepaid)).external_id
    refund = about(shop.refund(id_, 5_000, status="pending"))
    with pytest.raises(Transient, match="not decided") as raised:
        await hand_over(prepaid, id_)
    assert (raised.value.busy, raised.value.in_doubt) == (True, False)
    shop.finish_refund(refund)
    with pytest.raises(Rejected, match=r"don't come to the 400\.00 RUB that are left"):
        await hand_over(prepaid, id_)
    assert not second(shop)


async def test_a_second_receipt_follows_whoever_sent_the_first_but_only_a_prepayment(
    shop: YooKassaStandIn, prepaid: YooKassa
) -> None:
    async with connected(shop) as kassa:
        full = (await bought(shop, kassa)).external_id
    one = {"description": "Tea", "quantity": 1, "amount": {"value": "450.00", "currency": "RUB"}, "vat_code": 1}
    sent = {"customer": {"email": "anna@example.ru"}, "items": [one | {"payment_mode": "full_prepayment"}]}
    plugin = about(shop.pay("CZ1043", 45_000, receipt=sent))
    none = about(shop.pay("CZ1044", 45_000))
    with pytest.raises(Rejected, match=r"says full_payment.*holds\.second_receipt of the channel to never"):
        await hand_over(prepaid, full)
    with pytest.raises(Rejected, match="has no receipt"):
        await hand_over(prepaid, none)
    with pytest.raises(Rejected, match="a payment that is waiting_for_capture"):
        await hand_over(prepaid, about(shop.hold("CZ1045", 45_000)))
    with pytest.raises(Rejected, match="an e-mail address or a phone number"):
        await prepaid.hand_over(plugin, STORED_KEY, email=None, phone="none")
    assert not second(shop)
    assert await hand_over(prepaid, plugin)
    assert second(shop)[0]["items"] == [one | {"payment_mode": "full_payment"}]


async def test_it_is_not_said_to_be_registered_before_it_is_and_one_that_failed_is_sent_anew(
    shop: YooKassaStandIn, prepaid: YooKassa
) -> None:
    id_ = (await bought(shop, prepaid)).external_id
    shop.receipts_end = "pending"
    for ask in (hand_over, hand_over, YooKassa.handed_over):
        with pytest.raises(Transient, match="not registered yet"):
            await ask(prepaid, id_)
    shop.finish_receipt([*shop.receipts][-1], "canceled")
    assert await prepaid.handed_over(id_) is None
    shop.receipts_end = "canceled"
    with pytest.raises(Rejected, match="cash register did not take"):
        await hand_over(prepaid, id_)
    shop.receipts_end = "succeeded"
    assert await hand_over(prepaid, id_)
    keys = [seen.headers["idempotence-key"] for seen in posts(shop) if seen.path == "/v3/receipts"]
    assert keys == [STORED_KEY, f"{STORED_KEY}-1", f"{STORED_KEY}-2"]


async def test_what_comes_back_after_it_was_handed_over_was_paid_in_full(
    shop: YooKassaStandIn, prepaid: YooKassa
) -> None:
    payment = await bought(shop, prepaid)
    modes: list[str] = []
    for key in ("before", "after"):
        await prepaid.refund(payment, rub("150"), key, because="Returned", receipt=receipt(line("150")))
        modes.append(json.loads(posts(shop)[-1].body)["receipt"]["items"][0]["payment_mode"])
        await hand_over(prepaid, payment.external_id)
    assert modes == ["full_prepayment", "full_payment"]


# Errors


@pytest.mark.parametrize(
    ("status", "error", "busy", "retry_after"),
    [
        (400, Rejected, None, None),
        (401, Misconfigured, None, None),
        (403, Misconfigured, None, None),
        (405, Misconfigured, None, None),
        (415, Rejected, None, None),
        (404, Rejected, None, None),
        (410, Rejected, None, None),
        (429, Transient, True, 1.8),
        (500, Transient, False, 1.8),
        (503, Transient, False, None),
    ],
)
async def test_each_status_is_one_of_the_three_errors_and_asking_is_never_in_doubt(
    shop: YooKassaStandIn,
    kassa: YooKassa,
    status: int,
    error: type[OutsideError],
    busy: bool | None,
    retry_after: float | None,
) -> None:
    id_ = about(shop.pay("CZ1042", 100))
    shop.misbehave(Misbehavior.STATUS_BEFORE, status=status, times=2)
    with pytest.raises(error) as raised:
        await kassa.hold(id_)
    assert KEY not in str(raised.value)
    assert "As told to" not in str(raised.value)
    if isinstance(raised.value, Transient):
        assert (raised.value.busy, raised.value.retry_after, raised.value.in_doubt) == (busy, retry_after, False)


@pytest.mark.parametrize("kind", [*NOT_DONE, Misbehavior.GARBAGE, Misbehavior.CUT_MIDWAY])
async def test_a_question_that_gets_no_answer_is_asked_again(
    shop: YooKassaStandIn, kassa: YooKassa, kind: Misbehavior
) -> None:
    id_ = about(shop.pay("CZ1042", 100))
    shop.misbehave(kind)
    with pytest.raises(Transient) as raised:
        await kassa.hold(id_)
    assert not raised.value.in_doubt
    assert short((await kassa.hold(id_))[1]) == [("payment", "1.00 RUB")]


async def test_an_address_at_which_yookassa_is_not_is_no_missing_payment() -> None:
    async with StandIn(PlainTextResponse("Not Found", status_code=404)) as other:
        kassa = YooKassa(config(base_url=other.url))
        with pytest.raises(Misconfigured):
            await kassa.hold(SOME_ID)
        await kassa.aclose()


async def test_an_answer_about_another_payment_is_not_taken(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    first, second = (about(shop.pay("CZ1042", minor)) for minor in (100, 200))
    shop.payments[first] = shop.payments[second]
    with pytest.raises(Transient, match="not about what was asked"):
        await kassa.hold(first)


@pytest.mark.parametrize(
    ("what", "path", "skip", "doubt"),
    [
        ("ask", "/v3/payments", 1, False),
        ("ask", "/v3/refunds", 1, False),
        ("ask after one that isn't there", "/v3/payments", 2, None),
        ("ask of a refund", "/v3/refunds", 2, False),
        ("ask of a refund", "/v3/refunds", 3, False),
        ("poll", "/v3/payments", 2, False),
        ("poll", "/v3/refunds", 1, False),
        ("poll", "/v3", 5, False),
        ("list", "/v3/payments", 3, False),
        ("capture", "/v3/payments", 2, False),
        ("capture", "/v3/payments", 3, True),
        ("release", "/v3/payments", 2, False),
        ("release", "/v3/payments", 3, True),
        ("refund", "/v3/refunds", 2, False),
        ("refund", "/v3/refunds", 3, True),
        ("refund again", "/v3/refunds", 1, False),
    ],
)
async def test_an_answer_to_an_earlier_question_is_not_believed(
    shop: YooKassaStandIn, what: str, path: str, skip: int, doubt: bool | None
) -> None:
    """A system that answers twice answers the next question on its connection with what it was asked before."""
    begun = {"CZ1042": NOW - timedelta(days=9), "CZ1043": NOW} if what in ("poll", "list") else {}
    ids: dict[str, str] = {}
    refunds: dict[str, Json] = {}
    before = ""
    for order in ("CZ1042", "CZ1043"):
        made = (shop.hold if what in ("capture", "release") else shop.pay)(order, 45_000, now=begun.get(order, NOW))
        ids[order] = about(made)
        if what.startswith("ask") or what == "poll":
            refunds[order] = shop.refund(ids[order], 5_000, now=begun.get(order, NOW))
    async with connected(shop) as kassa:
        payments = {order: (await kassa.hold(id_)) for order, id_ in ids.items()}
        if what == "refund again":
            before = await kassa.refund(payments["CZ1043"][1][0], rub("100"), "key", because="", receipt=None)
            shop.time = NOW + timedelta(days=2)
        if what == "ask after one that isn't there":
            ids["CZ1042"] = SOME_ID

        async def act(order: str) -> Any:
            match what:
                case "poll":
                    now = begun[order] + timedelta(hours=1)
                    since = int((now - timedelta(hours=2)).timestamp() * 1000)
                    return [id_.split(":")[:2] for id_, _ in (await kassa.fetch(f"{since}:{since}", now=now)).events]
                case "list":
                    pages = kassa.transactions(begun[order] - timedelta(hours=1))
                    return [one.external_id async for page in pages for one in page]
                case "capture":
                    return await kassa.capture(payments[order][0], rub("400"), order, receipt=None)
                case "release":
                    return await kassa.release(payments[order][0], order)
                case "refund":
                    return await kassa.refund(payments[order][1][0], rub("100"), order, because="", receipt=None)
                case "refund again":
                    amount = rub("100" if order == "CZ1043" else "451")
                    return await kassa.refund(payments[order][1][0], amount, "key", because="", receipt=None)
                case "ask of a refund":
                    return await told(kassa, refunds[order])
                case _:
                    return short(await kassa.truth(kassa.question(ids[order])))

        shop.misbehave(Misbehavior.EARLIER, path=path, skip=skip)
        with suppress(Rejected):
            await act("CZ1042")
        if doubt is not None:
            with pytest.raises(Transient) as raised:
                await act("CZ1043")
            assert raised.value.in_doubt is doubt
        found = await act("CZ1043")
    match what:
        case "poll":
            assert found == [["payment.succeeded", ids["CZ1043"]], ["refund.succeeded", about(refunds["CZ1043"])]]
        case "list":
            assert found == [ids["CZ1043"]]
        case "capture" | "release":
            done = [(effect, id_) for effect, id_, _ in shop.effects]
            assert done == [("capture" if what == "capture" else "cancel", id_) for id_ in ids.values()]
        case "refund":
            assert [(effect, id_) for effect, id_, _ in shop.effects][1:] == [("refund", found)]
            assert shop.refunds[found]["payment_id"] == ids["CZ1043"]
        case "refund again":
            assert (found, len(shop.refunds)) == (before, 1)
        case _:
            assert found == [("payment", "450.00 RUB"), ("refund", "-50.00 RUB")]


async def test_the_answer_to_another_refund_of_the_same_payment_is_not_believed(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    first = await kassa.refund(payment, rub("100"), "key-1", because="", receipt=None)
    shop.failure = lambda: JSONResponse(shop.refunds[first])
    shop.misbehave(Misbehavior.FAILURE, path="/v3/refunds", skip=1)
    with pytest.raises(Transient) as raised:
        await kassa.refund(payment, rub("100"), "key-2", because="", receipt=None)
    assert raised.value.in_doubt
    assert await kassa.refund(payment, rub("100"), "key-2", because="", receipt=None) != first


async def test_a_refusal_of_a_refund_that_was_made_is_not_believed(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    payment = await payment_of(kassa, about(shop.pay("CZ1042", 45_000)))
    for key, lost in (("key-1", False), ("key-2", True)):
        shop.misbehave(Misbehavior.STATUS_AFTER, path="/v3/refunds", skip=1, status=400)
        if lost:
            shop.misbehave(Misbehavior.CUT_BEFORE, path="/v3/refunds")
            with pytest.raises(Transient) as raised:
                await kassa.refund(payment, rub("100"), key, because="", receipt=None)
            assert raised.value.in_doubt
        assert await kassa.refund(payment, rub("100"), key, because="", receipt=None) == [*shop.refunds][-1]
    assert len(shop.refunds) == 2


async def test_a_refusal_says_the_code_and_the_parameter_and_nothing_personal(shop: YooKassaStandIn) -> None:
    async with connected(shop, payment_subject="tea_of_anna") as kassa:
        hold = await held(kassa, about(shop.hold("CZ1042", 45_000)))
        with pytest.raises(Rejected) as raised:
            await kassa.capture(hold, rub("450"), STORED_KEY, receipt=receipt(line("450")))
    assert str(raised.value) == "kassa: answered 400 (invalid_request, receipt.items.payment_subject)"


# The check


async def test_the_check_says_what_was_reached(kassa: YooKassa) -> None:
    assert await kassa.check() == "kassa: YooKassa answers, accepts the key and knows the test shop"


async def test_a_shop_that_may_not_ask_about_itself_is_checked_by_its_payments(
    shop: YooKassaStandIn, kassa: YooKassa
) -> None:
    shop.me_allowed = False
    assert await kassa.check() == "kassa: YooKassa answers and accepts the key"


@pytest.mark.parametrize("changed", [{"secret_key": "other"}, {"shop_id": "1"}])
async def test_a_wrong_key_or_shop_is_found_by_the_check(shop: YooKassaStandIn, changed: dict[str, Any]) -> None:
    async with connected(shop, **changed) as kassa:
        with pytest.raises(Misconfigured, match="401"):
            await kassa.check()


async def test_a_shop_that_is_closed_is_found_by_the_check(shop: YooKassaStandIn, kassa: YooKassa) -> None:
    shop.enabled = False
    with pytest.raises(Misconfigured, match="not enabled"):
        await kassa.check()


async def test_an_answer_about_another_shop_is_found_by_the_check() -> None:
    answer = {"account_id": "7", "status": "enabled", "test": False}
    async with StandIn(JSONResponse(answer)) as other:
        kassa = YooKassa(config(base_url=other.url))
        with pytest.raises(Misconfigured, match="another shop"):
            await kassa.check()
        await kassa.aclose()


# The stand-in is as strict as YooKassa


@pytest.fixture
async def api(shop: YooKassaStandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shop.base_url, auth=(SHOP, KEY), timeout=30) as client:
        yield client


AMOUNT = {"value": "100.00", "currency": "RUB"}


async def post(api: httpx.AsyncClient, path: str, sent: Any, key: str | None = STORED_KEY) -> httpx.Response:
    return await api.post(path, json=sent, headers={} if key is None else {"Idempotence-Key": key})


@pytest.mark.parametrize("key", [None, "", "a" * 65, "with a space", "ключ".encode(), "a:b"])
async def test_the_stand_in_wants_a_key_of_the_right_form(
    shop: YooKassaStandIn, api: httpx.AsyncClient, key: str | bytes | None
) -> None:
    headers: dict[str, Any] = {} if key is None else {"Idempotence-Key": key}
    response = await api.post("/payments", json={"amount": AMOUNT}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert not shop.payments


async def test_the_stand_in_answers_one_key_in_one_way_for_a_day(shop: YooKassaStandIn, api: httpx.AsyncClient) -> None:
    first = await post(api, "/payments", {"amount": AMOUNT, "description": "a"})
    assert (await post(api, "/payments", {"description": "a", "amount": AMOUNT})).json() == first.json()
    refused = await post(api, "/payments", {"amount": AMOUNT, "description": "b"})
    assert (refused.status_code, refused.json()["parameter"]) == (400, "Idempotence-Key")
    shop.time = NOW + timedelta(hours=24)
    assert (await post(api, "/payments", {"amount": AMOUNT, "description": "a"})).json()["id"] != first.json()["id"]
    assert len(shop.payments) == 2
    wrong = await post(api, "/refunds", {"payment_id": first.json()["id"], "amount": AMOUNT}, "key-2")
    shop.confirm(first.json()["id"])
    shop.capture(first.json()["id"])
    assert (await post(api, "/refunds", {"payment_id": first.json()["id"], "amount": AMOUNT}, "key-2")).content == (
        wrong.content
    )
    assert (await post(api, "/refunds", {"payment_id": first.json()["id"], "amount": AMOUNT}, "key-3")).is_success


@pytest.mark.parametrize(
    ("changed", "parameter"),
    [
        ({"amount": None}, "amount"),
        ({"amount": {"value": 100.0, "currency": "RUB"}}, "amount.value"),
        ({"amount": {"value": "100", "currency": "RUB"}}, "amount.value"),
        ({"amount": {"value": "0.00", "currency": "RUB"}}, "amount.value"),
        ({"amount": {"value": "100.00", "currency": "CZK"}}, "amount.currency"),
        ({"capture": "true"}, "capture"),
        ({"description": "x" * 129}, "description"),
        ({"metadata": {"order": 1}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"confirmation": {"type": "redirect"}}, "confirmation"),
        ({"amout": AMOUNT}, "amout"),
    ],
)
async def test_the_stand_in_refuses_what_the_specification_does_not_allow(
    api: httpx.AsyncClient, changed: Json, parameter: str
) -> None:
    response = await post(api, "/payments", {"amount": AMOUNT} | changed)
    assert (response.status_code, response.json()["type"]) == (400, "error")
    assert response.json()["parameter"] == parameter


ONE_LINE = {"description": "Tea", "quantity": 1, "amount": AMOUNT, "vat_code": 1, "payment_mode": "full_payment"}


@pytest.mark.parametrize(
    ("changed", "parameter"),
    [
        ({}, ""),
        ({"send": False}, "send"),
        ({"settlements": None}, "settlements"),
        ({"settlements": []}, "settlements"),
        ({"settlements": [{"type": "card", "amount": AMOUNT}]}, "settlements.type"),
        ({"settlements": [{"type": "prepayment", "amount": AMOUNT | {"value": "99.99"}}]}, "settlements"),
        ({"type": "capture"}, "type"),
        ({"payment_id": SOME_ID}, "payment_id"),
        ({"type": "refund"}, "refund_id"),
        ({"customer": {}}, "customer"),
        ({"items": [ONE_LINE | {"payment_mode": "later"}]}, "items.payment_mode"),
        ({"items": [ONE_LINE | {"price": "1"}]}, "price"),
        ({"metadata": {}}, "metadata"),
    ],
)
async def test_the_stand_in_refuses_a_receipt_that_the_specification_does_not_allow(
    shop: YooKassaStandIn, api: httpx.AsyncClient, changed: Json, parameter: str
) -> None:
    sent = {"type": "payment", "payment_id": about(shop.pay("CZ1042", 10_000)), "send": True, "items": [ONE_LINE]}
    sent |= {"customer": {"email": "a@example.ru"}, "settlements": [{"type": "prepayment", "amount": AMOUNT}]}
    response = await post(api, "/receipts", {name: at for name, at in (sent | changed).items() if at is not None})
    assert response.json().get("parameter", "") == parameter
    assert response.status_code == (400 if changed else 200)
    assert bool(shop.receipts) == (not changed)


async def test_the_stand_in_keeps_to_the_states_of_a_payment(shop: YooKassaStandIn, api: httpx.AsyncClient) -> None:
    pending, taken_, gone = (shop.create("CZ1", 45_000)["id"], about(shop.pay("CZ2", 45_000)), shop.hold("CZ3", 45_000))
    shop.cancel(about(gone))
    for id_ in (pending, taken_, about(gone)):
        for what in ("capture", "cancel"):
            assert (await post(api, f"/payments/{id_}/{what}", {}, f"{what}-{id_}")).status_code == 400
    for id_ in (pending, about(gone), SOME_ID):
        sent = {"payment_id": id_, "amount": AMOUNT}
        assert (await post(api, "/refunds", sent, f"refund-{id_}")).status_code == 400
    assert not shop.effects


async def test_the_stand_in_takes_no_more_than_is_held_and_not_after_its_time(
    shop: YooKassaStandIn, api: httpx.AsyncClient
) -> None:
    first, second = (about(shop.hold("CZ1", 45_000)) for _ in range(2))
    for n, value in enumerate(("450.01", "1000.00")):
        sent = {"amount": {"value": value, "currency": "RUB"}}
        assert (await post(api, f"/payments/{first}/capture", sent, f"a{n}")).status_code == 400
    assert (await post(api, f"/payments/{first}/capture", {"amount": {"value": "1.00", "currency": "EUR"}})).is_error
    shop.time = NOW + HOLD - timedelta(seconds=1)
    assert (await post(api, f"/payments/{first}/capture", {}, "b")).json()["amount"]["value"] == "450.00"
    shop.time = NOW + HOLD
    assert (await post(api, f"/payments/{second}/capture", {}, "c")).status_code == 400
    assert shop.payments[second]["cancellation_details"]["reason"] == "expired_on_capture"
    assert shop.notifications[-1]["event"] == "payment.canceled"


async def test_the_stand_in_lists_page_by_page_newest_first(shop: YooKassaStandIn, api: httpx.AsyncClient) -> None:
    made = [about(shop.pay("CZ1042", 100, now=NOW - timedelta(minutes=n // 2))) for n in range(25)]
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await api.get("/payments", params=cursor)).json()
        assert len(page["items"]) <= 10
        found += [one["id"] for one in page["items"]]
        shop.pay("CZ1043", 100, now=NOW + timedelta(minutes=1))
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(found) == sorted(made)
    assert [shop.payments[id_]["created_at"] for id_ in found] == sorted(
        (shop.payments[id_]["created_at"] for id_ in made), reverse=True
    )


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "101"},
        {"limit": "0"},
        {"cursor": "x"},
        {"status": "paid"},
        {"created_at.gte": "yesterday"},
        {"created_at.gte": "2026-03-31T12:00:00"},
        {"created_at[gte]": "2026-03-31T12:00:00Z"},
    ],
)
async def test_the_stand_in_refuses_a_list_that_can_not_be(api: httpx.AsyncClient, params: dict[str, str]) -> None:
    assert (await api.get("/payments", params=params)).status_code == 400


async def test_the_stand_in_lets_in_only_who_has_the_key(api: httpx.AsyncClient) -> None:
    response = await api.get("/me", auth=(SHOP, "other"))
    assert (response.status_code, response.json()["code"]) == (401, "invalid_credentials")
    assert (await api.get(f"/payments/{SOME_ID}")).json()["code"] == "not_found"
    assert (await api.get("/payments/1/capture")).status_code == 405
    wrong = await api.post("/payments", data={"a": "b"}, headers={"Idempotence-Key": "a"})
    assert wrong.status_code == 415
