"""The WayForPay connector, over real HTTP against a stand-in as strict as WayForPay."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from connectors import load
from connectors.errors import Misconfigured, Rejected, Transient
from connectors.roles import (
    AnswersWebhooks,
    BadSignature,
    Checked,
    Gateway,
    PaymentSource,
    TakesHints,
    TransactionSource,
    WebhookReader,
)
from connectors.wayforpay import WayForPay, WayForPayConfig
from deployments.sandbox.standin import Misbehavior, Plan, Seen, StandIn
from deployments.sandbox.wayforpay import ACCOUNT, KEY, Json, Number, Quirk, WayForPayStandIn, written
from domain.holds import Hold, HoldState
from domain.money import Money
from domain.payments import IncomingPayment, Kind, Method

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)
LONG = ("merchantAccount orderReference amount currency authCode cardPan transactionStatus reasonCode").split()


def config(home: Path, gateway: WayForPayStandIn | None = None, /, **changed: Any) -> WayForPayConfig:
    fields: dict[str, Any] = {
        "name": "cards",
        "home": home,
        "merchant_account": ACCOUNT,
        "secret_key": KEY,
        "base_url": gateway.url if gateway else "http://127.0.0.1:9",
        "resend_after": 0,
    }
    return WayForPayConfig.model_validate(fields | changed)


@asynccontextmanager
async def connected(home: Path, gateway: WayForPayStandIn, /, **changed: Any) -> AsyncGenerator[WayForPay]:
    made = WayForPay(config(home, gateway, **changed), clock=lambda: NOW)
    try:
        yield made
    finally:
        await made.aclose()


@asynccontextmanager
async def standing_in(**settings: Any) -> AsyncGenerator[WayForPayStandIn]:
    async with WayForPayStandIn(**settings) as running:
        running.time = NOW
        yield running


@pytest.fixture
async def gateway() -> AsyncIterator[WayForPayStandIn]:
    async with standing_in() as running:
        yield running


@pytest.fixture
async def shop(tmp_path: Path, gateway: WayForPayStandIn) -> AsyncIterator[WayForPay]:
    async with connected(tmp_path, gateway) as made:
        yield made


@pytest.fixture
def reader(tmp_path: Path) -> WayForPay:
    return WayForPay(config(tmp_path))


def uah(text: str) -> Money:
    return Money.parse(text, "UAH")


async def paid(shop: WayForPay, reference: str = "CZ1042") -> list[tuple[str, str]]:
    told = await shop.truth(shop.question(reference))
    return [(one.external_id, str(one.amount)) for one in told if isinstance(one, IncomingPayment)]


async def held(shop: WayForPay, reference: str = "CZ1042") -> list[Hold]:
    return [one for one in await shop.truth(shop.question(reference)) if isinstance(one, Hold)]


async def payment_of(shop: WayForPay, reference: str = "CZ1042") -> IncomingPayment:
    return (await shop.hold(reference))[1][0]


def requests(gateway: WayForPayStandIn, kind: str) -> list[Json]:
    sent = [json.loads(seen.body, parse_int=str, parse_float=str) for seen in gateway.requests]
    return [one for one in sent if one["transactionType"] == kind]


# Settings and roles


def test_it_plays_its_roles_and_is_found_by_its_type(tmp_path: Path) -> None:
    stanza = {"type": "wayforpay", "name": "cards", "merchant_account": "shop_com_ua", "secret_key": "k"}
    made = load(stanza, home=tmp_path, where="kvit.yaml")
    assert isinstance(made, WayForPay)
    for role in (WebhookReader, AnswersWebhooks, PaymentSource, Gateway, TransactionSource, TakesHints, Checked):
        assert isinstance(made, role)


@pytest.mark.parametrize(
    "changed",
    [
        {"secret_key": ""},
        {"secret_key": "key "},
        {"secret_key": "key\n"},
        {"merchant_account": ""},
        {"merchant_account": "a b"},
        {"order_pattern": "("},
        {"order_pattern": "[0-9]+"},
        {"order_pattern": "(a)(b)"},
        {"window_days": 32},
        {"window_days": 5, "overlap_hours": 120},
        {"settle_signature": "none"},
    ],
)
def test_a_setting_that_can_not_be_right_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(tmp_path, **changed)


def test_the_key_does_not_show(tmp_path: Path) -> None:
    assert "hidden" not in repr(config(tmp_path, secret_key="hidden"))


# Signatures: the vectors were computed by hand with the public key

CALLBACK = {
    "merchantAccount": ACCOUNT,
    "orderReference": "DH783023",
    "merchantSignature": "ee460de4b316672fa974295ed4dba738",
    "amount": Number("1547.36"),
    "currency": "UAH",
    "authCode": "541963",
    "cardPan": "41****8217",
    "transactionStatus": "Approved",
    "reasonCode": Number("1100"),
    "createdDate": Number("1415379863"),
}


def test_the_known_callback_is_accepted(reader: WayForPay) -> None:
    event = reader.verify({}, written(CALLBACK), now=NOW)
    assert (event.external_id, event.kind, event.kept) == ("DH783023:Approved:1100:1547.36", "Approved", True)


def test_the_known_accept_is_answered(reader: WayForPay) -> None:
    content_type, answer = reader.answer(written(CALLBACK), now=datetime.fromtimestamp(1415379863, UTC))
    assert content_type == "application/json"
    assert json.loads(answer) == {
        "orderReference": "DH783023",
        "status": "accept",
        "time": 1415379863,
        "signature": "bd8d3443f99fb2c7a8b610ac600c80b0",
    }


async def test_requests_are_signed_as_the_known_ones_are(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.hold("DH783023", "450", now=NOW)
    hold, _ = await shop.hold("DH783023")
    assert requests(gateway, "CHECK_STATUS")[0]["merchantSignature"] == "b1877c0b08a7d49a579f18ed68855ec6"
    await shop.capture(hold, uah("450.00"), "k1", receipt=None)
    (settle,) = requests(gateway, "SETTLE")
    assert (settle["amount"], settle["merchantSignature"]) == ("450", "2730e1f17864df981dbd0cf823fce6c7")
    until = datetime.fromtimestamp(1415466263, UTC)
    await shop.fetch("1415466263:1415466263", now=until)
    (listed,) = requests(gateway, "TRANSACTION_LIST")
    assert (listed["dateBegin"], listed["dateEnd"]) == ("1415379863", "1415466263")
    assert listed["merchantSignature"] == "2530e2d46aaef249454c452c740d8c04"
    for sent in (settle, listed):
        assert (sent["merchantAccount"], sent["apiVersion"]) == (ACCOUNT, "1")


async def test_the_known_settle_with_zeros_is_another_signature(gateway: WayForPayStandIn) -> None:
    gateway.hold("DH783023", "450.00", now=NOW)
    sent = {"transactionType": "SETTLE", "merchantAccount": ACCOUNT, "orderReference": "DH783023"}
    sent |= {"amount": Number("450.00"), "currency": "UAH", "apiVersion": Number("1")}
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        for signature, code in (("2730e1f17864df981dbd0cf823fce6c7", 1113), ("72dc9ce45d69d54b1f0abce26f03d9e7", 1100)):
            answer = await client.post("/api", content=written(sent | {"merchantSignature": signature}))
            assert answer.json()["reasonCode"] == code


async def test_the_known_purchase_is_taken_once(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    form = {
        "merchantAccount": ACCOUNT,
        "merchantDomainName": "www.market.ua",
        "orderReference": "DH783023",
        "orderDate": "1415379863",
        "amount": "1547.36",
        "currency": "UAH",
        "productName[]": ["Процесор Intel Core i5-4670 3.4GHz", "Пам'ять Kingston DDR3-1600 4096MB PC3-12800"],
        "productCount[]": ["1", "1"],
        "productPrice[]": ["1000", "547.36"],
        "merchantSignature": "ee828f71ed93441c07eb3eef67762a5c",
    }
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.post("/pay", data=form)).text == "Pay for DH783023"
        assert (await client.post("/pay", data=form)).json()["reasonCode"] == 1112
        assert (await client.post("/pay", data=form | {"amount": "1"})).json()["reasonCode"] == 1113
    gateway.approve("DH783023")
    assert await paid(shop, "DH783023") == [("DH783023", "1547.36 UAH")]


@pytest.mark.parametrize("text", ["450", "450.0", "450.00", "0.10", "1547.36", "1547.360"])
def test_an_amount_is_signed_in_the_form_in_which_it_was_sent(reader: WayForPay, text: str) -> None:
    gateway = WayForPayStandIn()
    callback = gateway.pay("CZ1042", text, now=NOW)
    assert reader.verify({}, gateway.body(callback), now=NOW).kind == "Approved"
    other = written(callback | {"amount": Number(text + ("0" if "." in text else ".0"))})
    with pytest.raises(BadSignature, match="doesn't match"):
        reader.verify({}, other, now=NOW)


def test_fields_that_are_empty_or_missing_are_signed_as_nothing(reader: WayForPay) -> None:
    gateway = WayForPayStandIn()
    callback = gateway.pay("CZ1042", "450", by_card=False, now=NOW)
    without = {name: value for name, value in callback.items() if name not in ("authCode", "cardPan")}
    for one in (callback, callback | {"authCode": None, "cardPan": None}, without):
        assert reader.verify({}, written(one), now=NOW).kind == "Approved"


def test_numbers_may_be_sent_as_texts(reader: WayForPay) -> None:
    sent = json.dumps({name: str(value) for name, value in CALLBACK.items()}).encode()
    assert reader.verify({}, sent, now=NOW).external_id == "DH783023:Approved:1100:1547.36"


def test_a_callback_for_another_merchant_is_refused_though_our_key_signed_it(tmp_path: Path) -> None:
    other = WayForPay(config(tmp_path, merchant_account="other_shop"))
    with pytest.raises(BadSignature, match="another merchant account"):
        other.verify({}, written(CALLBACK), now=NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": Number("1e3")},
        {"amount": Number("-5")},
        {"amount": True},
        {"currency": "uah"},
        {"orderReference": ""},
        {"orderReference": "CZ\x001042"},
        {"orderReference": "CZ\ud8001042"},
        {"orderReference": "9" * 201},
        {"transactionStatus": "Approved:1100"},
        {"reasonCode": None},
        {"cardPan": ["41****8217"]},
    ],
)
def test_a_signed_callback_with_a_field_of_another_form_is_refused(reader: WayForPay, changed: Json) -> None:
    fields = {**CALLBACK, **changed}
    values = ";".join(str(fields[name] or "") for name in LONG).encode("utf-8", "surrogatepass").decode("latin-1")
    fields["merchantSignature"] = WayForPayStandIn().sign(values)
    with pytest.raises(BadSignature):
        reader.verify({}, json.dumps(fields).encode(), now=NOW)


# Callbacks as they really come


@pytest.mark.parametrize("quirk", Quirk)
async def test_a_delivered_callback_is_what_verify_takes(
    gateway: WayForPayStandIn, shop: WayForPay, quirk: Quirk
) -> None:
    callback = gateway.pay("CZ=10&42+", "1042.50", now=NOW)
    async with StandIn(Response(status_code=200)) as page:
        await gateway.deliver(callback, f"{page.url}/webhooks/cards", quirk=quirk, tries=1)
        (seen,) = page.requests
    assert shop.verify(seen.headers, seen.body, now=NOW).external_id == "CZ=10&42+:Approved:1100:1042.5"
    assert gateway.is_accept(shop.answer(seen.body, now=NOW)[1], "CZ=10&42+")
    (payment,) = await shop.truth(seen.body)
    assert isinstance(payment, IncomingPayment)
    assert payment.order_reference == "CZ=10&42+"


async def test_a_callback_is_repeated_until_it_is_accepted(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    answers = iter(["down", "unsigned", "late key", "accept", "never asked for"])
    ids: list[str] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        ids.append(shop.verify({}, body, now=NOW).external_id)
        accept = json.loads(shop.answer(body, now=NOW)[1])
        answer = next(answers)
        if answer == "down":
            response = PlainTextResponse("try later", status_code=503)
        else:
            wrong = {"unsigned": {"signature": ""}, "late key": {"time": accept["time"] + 1}}.get(answer, {})
            response = Response(json.dumps(accept | wrong), media_type="application/json")
        await response(scope, receive, send)

    async with StandIn(page) as kvit:
        answered = await gateway.deliver(gateway.pay("CZ1042", "450", now=NOW), kvit.url, tries=9)
    assert answered == [503, 200, 200, 200]
    assert ids == ["CZ1042:Approved:1100:450"] * 4


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_is_sent_unsigned_is_refused(body: bytes) -> None:
    with pytest.raises(BadSignature):
        WayForPay(config(Path())).verify({}, body, now=NOW)


words = st.text(st.characters(exclude_categories=["Cs", "C", "Z"]), min_size=1, max_size=20)


@given(
    reference=words, card=st.text(max_size=20), whole=st.integers(0, 10**9), cents=st.sampled_from(["", ".5", ".50"])
)
def test_whatever_is_signed_is_taken_in_each_form(reference: str, card: str, whole: int, cents: str) -> None:
    fields = CALLBACK | {"orderReference": reference, "cardPan": card, "amount": Number(f"{whole}{cents}")}
    gateway = WayForPayStandIn()
    callback = gateway.signed(fields)
    for quirk in Quirk:
        event = WayForPay(config(Path())).verify({}, gateway.body(callback, quirk), now=NOW)
        assert event.external_id.startswith(f"{reference}:Approved:1100:{whole}")


def test_each_change_of_a_payment_is_another_event_and_a_repeat_is_the_same(reader: WayForPay) -> None:
    gateway = WayForPayStandIn()
    gateway.time = NOW
    callbacks = [
        gateway.hold("CZ1042", "450", now=NOW),
        gateway.settle("CZ1042", "400", now=NOW),
        gateway.refund("CZ1042", "100", now=NOW + timedelta(days=1)),
        gateway.refund("CZ1042", "100", now=NOW + timedelta(days=2)),
    ]
    seen = [reader.verify({}, written(callback), now=NOW).external_id for callback in callbacks]
    assert len(set(seen)) == 4
    assert seen == [reader.verify({}, written(callback), now=NOW).external_id for callback in callbacks]


def test_a_payer_can_not_make_news_of_what_is_known(reader: WayForPay) -> None:
    again = written(CALLBACK | {"processingDate": Number("1999999999"), "email": "new@example.com"})
    event = reader.verify({}, written(CALLBACK), now=NOW)
    assert reader.verify({}, again, now=NOW) == event


# What a payment has come to


async def test_an_approved_payment_is_money_that_came(tmp_path: Path, gateway: WayForPayStandIn) -> None:
    callback = gateway.pay("CZ1042", "1042.50", "UAH", now=NOW)
    async with connected(tmp_path, gateway, name="ua", account="WayForPay UA") as shop:
        assert await shop.truth(gateway.body(callback)) == [
            IncomingPayment(
                source="wayforpay:ua",
                external_id="CZ1042",
                method=Method.CARD,
                amount=Money(104250, "UAH"),
                booked_on=date(2026, 3, 31),
                account="WayForPay UA",
                provider_reference="CZ1042",
                order_reference="CZ1042",
            )
        ]


async def test_held_money_is_a_hold_with_its_deadline_and_no_payment(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    callback = gateway.hold("CZ1042_2", "1042.50", now=NOW)
    assert await shop.truth(gateway.body(callback)) == [
        Hold(
            source="wayforpay:cards",
            reference="CZ1042_2",
            amount=uah("1042.50"),
            captured=uah("0"),
            state=HoldState.HELD,
            order_reference="CZ1042",
            expires_at=NOW + timedelta(days=21),
        )
    ]


async def test_a_deadline_that_is_told_counts_and_else_the_setting(tmp_path: Path, gateway: WayForPayStandIn) -> None:
    gateway.hold("A", "1", now=NOW)
    gateway.hold("B", "1", hold_timeout=3600, now=NOW)
    async with connected(tmp_path, gateway, hold_days=14) as shop:
        (one,), (other,) = await held(shop, "A"), await held(shop, "B")
    assert (one.expires_at, other.expires_at) == (NOW + timedelta(days=14), NOW + timedelta(hours=1))


@pytest.mark.parametrize("holds", [False, True])
async def test_the_capture_of_a_hold_in_the_cabinet_is_told_where_there_are_holds(
    tmp_path: Path, gateway: WayForPayStandIn, holds: bool
) -> None:
    gateway.hold("CZ1042", "450", now=NOW)
    gateway.settle("CZ1042", now=NOW)
    async with connected(tmp_path, gateway, holds=holds) as shop:
        assert await paid(shop) == [("CZ1042", "450.00 UAH")]
        assert [(one.state, str(one.captured)) for one in await held(shop)] == (
            [(HoldState.CAPTURED, "450.00 UAH")] if holds else []
        )


async def test_a_hold_that_was_released_or_ran_out_is_told_and_an_attempt_that_came_to_nothing_is_not(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.hold("voided", "450", now=NOW)
    gateway.refund("voided", now=NOW)
    gateway.hold("expired", "450", now=NOW - timedelta(days=22))
    gateway.fail("declined", "450", now=NOW)
    gateway.begin("left", "450", now=NOW)
    gateway.expire("left", now=NOW)
    told = {name: await shop.truth(shop.question(name)) for name in ("voided", "expired", "declined", "left")}
    assert [(name, one.state) for name, some in told.items() for one in some if isinstance(one, Hold)] == [
        ("voided", HoldState.RELEASED),
        ("expired", HoldState.EXPIRED),
    ]
    assert sum(map(len, told.values())) == 2


async def test_what_is_not_decided_yet_is_nothing_yet(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.begin("CZ1042", "450", now=NOW)
    assert await shop.truth(shop.question("CZ1042")) == []
    with pytest.raises(Transient, match="InProcessing yet") as raised:
        await shop.hold("CZ1042")
    assert raised.value.busy


async def test_the_api_counts_and_not_what_the_callback_says(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    callback = gateway.pay("CZ1042", "450", now=NOW)
    gateway.fail("CZ1043", "450", now=NOW)
    assert await shop.truth(gateway.body(callback | {"orderReference": "CZ1043"})) == []


async def test_an_order_that_is_not_known_is_for_a_person(shop: WayForPay) -> None:
    with pytest.raises(Rejected, match=r"knows no such order \(reason 1127\)"):
        await shop.truth(shop.question("CZ1042"))
    with pytest.raises(Rejected):
        await shop.hold("CZ1042")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"orderReference":["7"]}', b'{"orderReference":"a\\u0000"}', b"\xff"])
async def test_an_event_without_an_order_reference_is_for_a_person_and_asks_nothing(
    gateway: WayForPayStandIn, shop: WayForPay, body: bytes
) -> None:
    with pytest.raises(Rejected, match="names no order reference"):
        await shop.truth(body)
    assert not gateway.requests


@pytest.mark.parametrize(
    ("reference", "order"),
    [
        ("CZ1042", "CZ1042"),
        ("CZ1042_2", "CZ1042"),
        ("CZ1042-1700000000", "CZ1042"),
        ("CZ1042_1700000000", "CZ1042"),
        ("CZ1042#1700000000", "CZ1042"),
        ("CZ1042-1700000000123", "CZ1042"),
        ("5889_woo_w4p_1731157495", "5889"),
        ("2026-15", "2026-15"),
        ("1700000000", "1700000000"),
        ("CZ1042-2", "CZ1042-2"),
        ("CZ1042_2024", "CZ1042_2024"),
        ("_2", "_2"),
    ],
)
async def test_the_order_is_read_from_the_reference_of_a_repeated_attempt(
    gateway: WayForPayStandIn, shop: WayForPay, reference: str, order: str
) -> None:
    gateway.pay(reference, "450", now=NOW)
    payment = await payment_of(shop, reference)
    assert (payment.order_reference, payment.provider_reference, payment.external_id) == (order, reference, reference)


async def test_how_the_order_is_read_can_be_set(tmp_path: Path, gateway: WayForPayStandIn) -> None:
    for reference in ("SHOP-1042-2", "other"):
        gateway.pay(reference, "450", now=NOW)
    async with connected(tmp_path, gateway, order_pattern="SHOP-([0-9]+)-[0-9]+") as shop:
        assert [(await payment_of(shop, one)).order_reference for one in ("SHOP-1042-2", "other")] == ["1042", "other"]


# Refunds


@pytest.mark.parametrize("part_refunded", ["Approved", "Refunded"])
async def test_two_partial_refunds_are_two_movements_each_once(tmp_path: Path, part_refunded: str) -> None:
    async with standing_in(part_refunded=part_refunded) as gateway, connected(tmp_path, gateway) as shop:
        gateway.pay("CZ1042", "450", now=NOW)
        first = gateway.refund("CZ1042", "100", now=NOW + timedelta(days=1))
        one = await shop.truth(gateway.body(first))
        second = gateway.refund("CZ1042", "50.50", now=NOW + timedelta(days=2))
        two = await shop.truth(gateway.body(second))
        assert await shop.truth(gateway.body(first)) == two
        assert two[: len(one)] == one
        assert [
            (p.external_id, str(p.amount), p.kind, p.booked_on.day, p.provider_reference)
            for p in two
            if isinstance(p, IncomingPayment)
        ] == [
            ("CZ1042", "450.00 UAH", Kind.PAYMENT, 31, "CZ1042"),
            ("CZ1042:refunded:100.00", "-100.00 UAH", Kind.REFUND, 1, "CZ1042"),
            ("CZ1042:refunded:150.50", "-50.50 UAH", Kind.REFUND, 2, "CZ1042"),
        ]
    async with standing_in(part_refunded=part_refunded) as later, connected(tmp_path, later) as shop:
        later.payments.update(gateway.payments)
        later.refund("CZ1042", now=NOW + timedelta(days=3))
        assert await paid(shop) == [
            ("CZ1042", "450.00 UAH"),
            ("CZ1042:refunded:100.00", "-100.00 UAH"),
            ("CZ1042:refunded:150.50", "-50.50 UAH"),
            ("CZ1042:refunded:450.00", "-299.50 UAH"),
        ]


async def test_refunds_between_which_nobody_looked_are_one_movement(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    for amount in ("100", "50"):
        gateway.refund("CZ1042", amount, now=NOW)
    assert await paid(shop) == [("CZ1042", "450.00 UAH"), ("CZ1042:refunded:150.00", "-150.00 UAH")]


async def test_many_who_look_at_once_write_a_refund_down_once(tmp_path: Path, gateway: WayForPayStandIn) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.refund("CZ1042", "100", now=NOW)
    async with connected(tmp_path, gateway) as one, connected(tmp_path, gateway) as other:
        seen = await asyncio.gather(*(paid(shop) for shop in (one, other) * 4))
        assert all(told == seen[0] for told in seen)
        gateway.refund("CZ1042", "20", now=NOW)
        assert len((await asyncio.gather(paid(one), paid(other)))[0]) == 3
    assert len(list((tmp_path / "wayforpay" / "cards").rglob("*.json"))) == 2


async def test_a_payment_that_is_refunded_without_a_sum_went_back_whole(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.refund("CZ1042", now=NOW)
    gateway.alter = lambda _, answer: {name: value for name, value in answer.items() if name != "refundAmount"}
    assert await paid(shop) == [("CZ1042", "450.00 UAH"), ("CZ1042:refunded:450.00", "-450.00 UAH")]


async def test_a_refund_in_processing_is_none_yet_and_takes_back_none_before_it(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.refund("CZ1042", "100", now=NOW)
    before = await paid(shop)
    gateway.slow_refunds = True
    gateway.refund("CZ1042", "50", now=NOW)
    assert await paid(shop) == before
    gateway.finish_refund("CZ1042", now=NOW)
    assert await paid(shop) == [*before, ("CZ1042:refunded:150.00", "-50.00 UAH")]


async def test_more_back_than_was_paid_is_for_a_person(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.alter = lambda _, answer: answer | {"refundAmount": Number("451")}
    with pytest.raises(Rejected, match=r"451\.00 UAH was given back of 450\.00 UAH"):
        await paid(shop)


async def test_less_back_than_before_changes_nothing(
    gateway: WayForPayStandIn, shop: WayForPay, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.refund("CZ1042", "100", now=NOW)
    before = await paid(shop)
    gateway.alter = lambda _, answer: answer | {"refundAmount": Number("40")}
    assert await paid(shop) == before
    assert "less is given back" in caplog.text


async def test_notes_that_can_not_be_written_are_misconfigured(tmp_path: Path, gateway: WayForPayStandIn) -> None:
    (tmp_path / "wayforpay").write_text("in the way")
    gateway.pay("CZ1042", "450", now=NOW)
    async with connected(tmp_path, gateway) as shop:
        assert await paid(shop) == [("CZ1042", "450.00 UAH")]
        gateway.refund("CZ1042", "100", now=NOW)
        with pytest.raises(Misconfigured, match="the folder wayforpay in KVIT_HOME"):
            await paid(shop)


# Answers that can't be trusted


@pytest.mark.parametrize(
    ("changed", "signed_anew", "error", "said"),
    [
        ({"amount": Number("1")}, False, Transient, "not signed"),
        ({"merchantSignature": "0" * 32}, False, Transient, "not signed"),
        ({"merchantSignature": None}, False, Transient, "not what was asked for"),
        ({"merchantAccount": "other"}, True, Transient, "not about what was asked"),
        ({"orderReference": "CZ1043"}, True, Transient, "not about what was asked"),
        ({"currency": "XXX"}, True, Rejected, "not an ISO 4217"),
        ({"currency": "гривня"}, True, Rejected, "can't be read: currency"),
        ({"amount": Number("10.505")}, True, Rejected, "finer than the smallest unit"),
        ({"amount": Number("1e3")}, True, Rejected, "can't be read: amount"),
        ({"amount": Number("-450")}, True, Rejected, "can't be read: amount"),
        ({"transactionStatus": "Dreaming"}, True, Rejected, "Dreaming, which is not known here"),
        ({"createdDate": "yesterday"}, True, Rejected, "can't be read: createdDate"),
        ({"createdDate": None}, True, Rejected, "can't be read: createdDate"),
    ],
)
async def test_an_answer_that_is_not_right_is_never_taken(
    gateway: WayForPayStandIn, shop: WayForPay, changed: Json, signed_anew: bool, error: type[Exception], said: str
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)

    def alter(_: str, answer: Json) -> Json:
        return gateway.signed(answer | changed) if signed_anew else answer | changed

    gateway.alter = alter
    with pytest.raises(error, match=said):
        await paid(shop)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1113", Misconfigured),
        ("1117", Misconfigured),
        ("1121", Misconfigured),
        ("1131", Transient),
        ("1134", Transient),
        ("1109", Rejected),
        ("1127", Rejected),
        ("9999", Rejected),
        ("1100", Transient),
        ("Боже", Transient),
    ],
)
async def test_a_refusal_is_told_apart_by_its_code_and_its_text_is_left_out(
    gateway: WayForPayStandIn, shop: WayForPay, code: str, error: type[Exception]
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.alter = lambda _, __: {"reason": "bozena@example.com", "reasonCode": code}
    with pytest.raises(error) as raised:
        await paid(shop)
    assert "bozena" not in str(raised.value)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Transient), (404, Misconfigured), (429, Transient), (302, Misconfigured), (500, Transient)],
)
async def test_a_status_of_http_is_no_answer(
    gateway: WayForPayStandIn, shop: WayForPay, status: int, error: type[Exception]
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.misbehave(Misbehavior.STATUS_BEFORE, status=status)
    with pytest.raises(error):
        await paid(shop)


@pytest.mark.parametrize(
    "kind", [Misbehavior.GARBAGE, Misbehavior.CUT_AFTER, Misbehavior.CUT_MIDWAY, Misbehavior.FAILURE]
)
async def test_looking_is_never_in_doubt(gateway: WayForPayStandIn, shop: WayForPay, kind: Misbehavior) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.misbehave(kind)
    with pytest.raises(Transient) as raised:
        await paid(shop)
    assert not raised.value.in_doubt
    assert await paid(shop) == [("CZ1042", "450.00 UAH")]


async def test_a_check_says_that_the_key_is_accepted_or_that_it_is_not(
    tmp_path: Path, gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    assert await shop.check() == "cards: WayForPay answers and accepts the key"
    async with connected(tmp_path, gateway, secret_key="other") as other:
        with pytest.raises(Misconfigured, match="is the secret key right"):
            await other.check()
    async with connected(tmp_path, gateway, merchant_account="other") as other:
        with pytest.raises(Misconfigured, match="doesn't know the merchant account"):
            await other.check()


class Mixed(WayForPayStandIn):
    """WayForPay behind something that mixes answers up: said is the answer that comes instead of the right one."""

    said: Json

    def error(self, status: int) -> Response:  # noqa: ARG002 - an answer that is mixed up has a status of its own
        return Response(written(self.said))

    def failure(self) -> Response:
        return self.error(200)


@pytest.mark.parametrize(
    ("what", "skip", "doubt"),
    [
        ("ask", 1, False),
        ("ask after one that isn't there", 1, False),
        ("list", 1, False),
        ("capture", 3, False),
        ("capture", 4, True),
        ("capture", 5, None),
        ("release", 2, False),
        ("release", 3, True),
        ("refund", 2, False),
        ("refund", 3, True),
    ],
)
async def test_an_answer_to_an_earlier_question_is_not_believed(
    gateway: WayForPayStandIn, shop: WayForPay, what: str, skip: int, doubt: bool | None
) -> None:
    """A system that answers twice answers the next question on its connection with what it was asked before."""
    begin = {"A": NOW - timedelta(days=100), "B": NOW} if what == "list" else {"A": NOW, "B": NOW}
    for reference, at in begin.items():
        if what != "ask after one that isn't there" or reference == "B":
            gateway.pay(reference, "450", hold=what in ("capture", "release"), now=at)
    known = {reference: await shop.hold(reference) for reference in gateway.payments}

    async def act(reference: str) -> Any:
        match what:
            case "list":
                return [id_ for id_, _ in (await shop.fetch(None, now=begin[reference] + timedelta(hours=1))).events]
            case "capture":
                return await shop.capture(known[reference][0], uah("400"), "key", receipt=None)
            case "release":
                return await shop.release(known[reference][0], "key")
            case "refund":
                return await shop.refund(known[reference][1][0], uah("100"), reference, because="", receipt=None)
            case _:
                return await paid(shop, reference)

    gateway.misbehave(Misbehavior.EARLIER, skip=skip)
    with suppress(Rejected):
        await act("A")
    if doubt is not None:
        with pytest.raises(Transient) as raised:
            await act("B")
        assert raised.value.in_doubt is doubt
    right = {"list": ["B:Approved:1100:450"], "capture": None, "release": None, "refund": "B:refunded:100.00"}
    assert await act("B") == right.get(what, [("B", "450.00 UAH")])
    acts = {"capture": "settle", "release": "void", "refund": "refund"}
    done = [reference for one, reference, _ in gateway.done if one == acts.get(what)]
    assert done == (["A", "B"] if what in acts else [])


@pytest.mark.parametrize("kind", [Misbehavior.STATUS_AFTER, Misbehavior.FAILURE])
async def test_an_answer_about_another_payment_leaves_it_open_whether_money_was_given_back(
    tmp_path: Path, kind: Misbehavior
) -> None:
    about: Json = {"merchantAccount": ACCOUNT, "orderReference": "A", "reasonCode": Number("1100")}
    async with Mixed() as gateway, connected(tmp_path, gateway) as shop:
        answers = [
            gateway.signed(about | {"transactionStatus": status}, ("transactionStatus", "reasonCode"))
            for status in ("Refunded", "Voided")
        ]
        for place, said in enumerate([*answers, {"orderReference": "A", "reasonCode": Number("1128")}]):
            gateway.said = said
            gateway.pay(f"B{place}", "450")
            payment = await payment_of(shop, f"B{place}")
            gateway.misbehave(kind, path="/REFUND")
            with pytest.raises(Transient) as raised:
                await shop.refund(payment, uah("100"), "key", because="", receipt=None)
            assert raised.value.in_doubt
            made = await shop.refund(payment, uah("100"), "key", because="", receipt=None)
            assert (made, refunded(gateway)) == (f"B{place}:refunded:100.00", ["100"] * (place + 1))


async def test_a_refusal_is_believed_only_where_nothing_was_given_back(tmp_path: Path) -> None:
    async with Mixed() as gateway, connected(tmp_path, gateway) as shop:
        gateway.said = {"reasonCode": Number("1128")}
        gateway.pay("B", "450")
        payment = await payment_of(shop, "B")
        gateway.misbehave(Misbehavior.FAILURE, path="/REFUND")
        with pytest.raises(Rejected, match="1128"):
            await shop.refund(payment, uah("100"), "key", because="", receipt=None)
        for lost in (None, "/CHECK_STATUS"):
            gateway.misbehave(Misbehavior.STATUS_AFTER, path="/REFUND")
            if lost:
                gateway.misbehave(Misbehavior.CUT_BEFORE, path=lost, skip=1)
            with pytest.raises(Transient) as raised:
                await shop.refund(payment, uah("100"), f"key{lost}".replace("/", ""), because="", receipt=None)
            assert raised.value.in_doubt
        assert refunded(gateway) == ["100", "100"]


async def test_an_order_is_not_there_only_where_that_is_said_of_it_or_said_twice(tmp_path: Path) -> None:
    async with Mixed() as gateway, connected(tmp_path, gateway) as shop:
        gateway.pay("B", "450")
        gateway.said = {"orderReference": "A", "reasonCode": Number("1127")}
        gateway.misbehave(Misbehavior.FAILURE)
        with pytest.raises(Transient, match="not about what was asked"):
            await paid(shop, "B")
        gateway.said = {"reasonCode": Number("1127")}
        gateway.misbehave(Misbehavior.FAILURE)
        assert await paid(shop, "B") == [("B", "450.00 UAH")]
        gateway.misbehave(Misbehavior.FAILURE, times=2)
        with pytest.raises(Rejected, match="no such order"):
            await paid(shop, "B")


# Polling


async def test_a_poll_tells_of_what_the_callbacks_would_have_told_under_the_same_ids(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    callbacks = [
        gateway.pay("A", "450.00", now=EARLIER),
        gateway.hold("B", "45.5", now=EARLIER),
        gateway.fail("C", "1", now=EARLIER),
        gateway.pay("D", "100", now=EARLIER) and gateway.refund("D", "40", now=EARLIER),
    ]
    gateway.begin("E", "1", now=EARLIER)
    page = await shop.fetch(None, now=NOW)
    assert [id_ for id_, _ in page.events] == [
        shop.verify({}, gateway.body(callback), now=NOW).external_id for callback in callbacks
    ]
    assert not page.more
    told = [await shop.truth(body) for _, body in page.events]
    assert [len(some) for some in told] == [1, 1, 0, 2]
    assert all(b"example.com" not in body for _, body in page.events)


async def test_a_poll_goes_over_the_last_hours_again_and_no_further(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    cursor = (await shop.fetch(None, now=NOW)).cursor
    gateway.pay("late", "1", now=NOW - timedelta(hours=24))
    gateway.pay("old", "1", now=NOW - timedelta(hours=24, seconds=1))
    page = await shop.fetch(cursor, now=NOW + timedelta(minutes=5))
    assert [id_ for id_, _ in page.events] == ["late:Approved:1100:1"]
    assert not page.more


@pytest.mark.parametrize("window_days", [31, 7])
async def test_once_a_day_a_poll_goes_back_by_weeks_and_finds_what_changed_long_after(
    tmp_path: Path, gateway: WayForPayStandIn, window_days: int
) -> None:
    for days in (29, 20, 5):
        gateway.hold(f"CZ{days}", "450", hold_timeout=10**7, now=NOW - timedelta(days=days))
    async with connected(tmp_path, gateway, window_days=window_days) as shop:
        cursor = (await shop.fetch(None, now=NOW)).cursor
        found: list[tuple[int, str]] = []
        for hours in (1, 12, 23, 24, 25, 36, 47, 48):
            more = True
            while more:
                page = await shop.fetch(cursor, now=NOW + timedelta(hours=hours))
                cursor, more = page.cursor, page.more
                found += [(hours, id_.partition(":")[0]) for id_, _ in page.events]
    # Windows overlap, too: what is listed twice has the same id.
    assert list(dict.fromkeys(found)) == [(24, "CZ29"), (24, "CZ20"), (24, "CZ5"), (48, "CZ20"), (48, "CZ5")]


async def test_after_a_long_pause_the_poll_goes_on_window_by_window(tmp_path: Path, gateway: WayForPayStandIn) -> None:
    for day in range(0, 100, 5):
        gateway.pay(f"CZ{day}", "1", now=NOW + timedelta(days=day, hours=6))
    async with connected(tmp_path, gateway, window_days=10, look_back_days=1) as shop:
        cursor: str | None = (await shop.fetch(None, now=NOW)).cursor
        seen: list[str] = []
        more = True
        while more:
            page = await shop.fetch(cursor, now=NOW + timedelta(days=100))
            seen += [id_ for id_, _ in page.events if id_ not in seen]
            more, cursor = page.more, page.cursor
    assert seen == [f"CZ{day}:Approved:1100:1" for day in range(0, 100, 5)]
    spans = [int(one["dateEnd"]) - int(one["dateBegin"]) for one in requests(gateway, "TRANSACTION_LIST")]
    assert max(spans) == 10 * 86_400


async def test_a_poll_that_fails_is_made_again_from_where_it_stood(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    cursor = (await shop.fetch(None, now=EARLIER)).cursor
    gateway.pay("CZ1042", "1", now=EARLIER + timedelta(minutes=1))
    gateway.misbehave(Misbehavior.CUT_MIDWAY)
    with pytest.raises(Transient):
        await shop.fetch(cursor, now=NOW)
    assert len((await shop.fetch(cursor, now=NOW)).events) == 1


async def test_a_clock_set_back_does_not_stop_the_poll(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    cursor = (await shop.fetch(None, now=NOW)).cursor
    gateway.pay("CZ1042", "1", now=NOW - timedelta(days=2, hours=1))
    page = await shop.fetch(cursor, now=NOW - timedelta(days=2))
    assert (len(page.events), page.more) == (1, False)


async def test_a_transaction_that_can_not_be_read_stops_no_other(
    gateway: WayForPayStandIn, shop: WayForPay, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.pay("A", "1", now=EARLIER)
    gateway.pay("B", "1", now=EARLIER)

    def alter(_: str, answer: Json) -> Json:
        first, second = answer["transactionList"]
        return answer | {"transactionList": [first | {"amount": "much"}, second]}

    gateway.alter = alter
    assert [id_ for id_, _ in (await shop.fetch(None, now=NOW)).events] == ["B:Approved:1100:1"]
    assert "can't be read and is passed over" in caplog.text


@pytest.mark.parametrize("cursor", ["", "1", "1:", ":1", "a:1", "1:2:3", "1:2\n", "1" * 12 + ":1"])
async def test_a_cursor_of_another_shape_is_misconfigured(shop: WayForPay, cursor: str) -> None:
    with pytest.raises(Misconfigured, match="is not a cursor"):
        await shop.fetch(cursor, now=NOW)


async def test_a_list_that_is_refused_is_not_taken_for_an_empty_one(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    for answer in ({"reasonCode": Number("1109")}, {"reasonCode": Number("1100"), "transactionList": "none"}):
        gateway.alter = lambda _, __, answer=answer: answer
        with pytest.raises((Rejected, Transient)):
            await shop.fetch(None, now=NOW)
        with pytest.raises((Rejected, Transient)):
            [page async for page in shop.transactions(EARLIER)]


# Reconciliation


async def test_a_refund_of_a_payment_long_before_is_listed_and_the_payment_is_not(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.pay("CZ1042", "450", now=NOW - timedelta(days=100))
    gateway.refund("CZ1042", "40", now=EARLIER)
    gateway.pay("CZ1043", "1", now=NOW - timedelta(days=100))
    gateway.refund("CZ1043", now=NOW - timedelta(days=99))
    found = [one async for page in shop.transactions(NOW - timedelta(days=30)) for one in page]
    assert [(one.external_id, str(one.amount), one.at) for one in found] == [
        ("CZ1042:refunded:40.00", "-40.00 UAH", EARLIER)
    ]


async def test_only_what_may_have_been_given_back_is_asked_about(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.pay("kept", "450", now=EARLIER)
    gateway.fail("failed", "450", now=EARLIER)
    gateway.pay("part", "450", now=EARLIER)
    gateway.refund("part", "40", now=EARLIER)
    gateway.pay("whole", "450", now=EARLIER)
    gateway.refund("whole", now=EARLIER)
    asked: list[list[str]] = []
    for _ in range(2):
        gateway.requests.clear()
        assert sum([len(page) async for page in shop.transactions(NOW - timedelta(days=3))]) == 6
        asked.append([one["orderReference"] for one in requests(gateway, "CHECK_STATUS")])
    assert asked == [["part", "whole"], ["part"]]


async def test_a_payment_that_is_listed_in_several_lines_is_asked_about_and_told_once(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.pay("CZ1042", "450", now=EARLIER)

    def alter(kind: str, answer: Json) -> Json:
        if kind != "TRANSACTION_LIST":
            return answer
        return answer | {"transactionList": [row | {"amount": Number("1")} for row in answer["transactionList"]] * 2}

    gateway.alter = alter
    found = [one async for page in shop.transactions(NOW - timedelta(days=3)) for one in page]
    assert [(one.external_id, str(one.amount)) for one in found] == [("CZ1042", "450.00 UAH")]


# Captures

LOST = [
    Misbehavior.CUT_AFTER,
    Misbehavior.CUT_MIDWAY,
    Misbehavior.STATUS_AFTER,
    Misbehavior.GARBAGE,
]


def settled(gateway: WayForPayStandIn) -> list[tuple[str, str]]:
    return [(reference, amount) for what, reference, amount in gateway.done if what == "settle"]


@pytest.mark.parametrize(("amount", "token"), [("450", "450"), ("449.90", "449.9"), ("0.05", "0.05")])
async def test_a_hold_is_captured_whole_or_in_part(
    gateway: WayForPayStandIn, shop: WayForPay, amount: str, token: str
) -> None:
    gateway.hold("CZ1042", "450.00", now=NOW)
    hold, nothing = await shop.hold("CZ1042")
    assert nothing == []
    for _ in range(2):
        await shop.capture(hold, uah(amount), "k1", receipt=None)
    assert settled(gateway) == [("CZ1042", token)]
    captured, (payment,) = await shop.hold("CZ1042")
    assert (captured.state, captured.captured, payment.amount) == (HoldState.CAPTURED, uah(amount), uah(amount))


async def test_what_was_taken_of_a_hold_may_be_told_in_another_field(tmp_path: Path) -> None:
    async with standing_in(captured_in="settlementAmount") as gateway:
        gateway.hold("CZ1042", "450", now=NOW)
        async with connected(tmp_path, gateway, captured_by="settlementAmount") as shop:
            hold, _ = await shop.hold("CZ1042")
            await shop.capture(hold, uah("400"), "k1", receipt=None)
            captured, (payment,) = await shop.hold("CZ1042")
        assert (captured.amount, captured.captured, payment.amount) == (uah("450"), uah("400"), uah("400"))


async def test_a_part_that_is_not_told_as_such_is_for_a_person(tmp_path: Path) -> None:
    async with standing_in(captured_in="settlementAmount") as gateway, connected(tmp_path, gateway) as shop:
        gateway.hold("CZ1042", "450", now=NOW)
        hold, _ = await shop.hold("CZ1042")
        with pytest.raises(Rejected, match=r"450\.00 UAH was taken of the hold, and not 400\.00 UAH"):
            await shop.capture(hold, uah("400"), "k1", receipt=None)


@pytest.mark.parametrize("kind", LOST)
async def test_a_capture_whose_answer_is_lost_is_in_doubt_and_not_made_again(
    gateway: WayForPayStandIn, shop: WayForPay, kind: Misbehavior
) -> None:
    gateway.hold("CZ1042", "450", now=NOW)
    hold, _ = await shop.hold("CZ1042")
    gateway.misbehave(kind, path="/SETTLE")
    with pytest.raises(Transient) as raised:
        await shop.capture(hold, uah("400"), "k1", receipt=None)
    assert raised.value.in_doubt
    await shop.capture(hold, uah("400"), "k1", receipt=None)
    assert settled(gateway) == [("CZ1042", "400")]
    assert len(requests(gateway, "SETTLE")) == 1


@pytest.mark.parametrize("kind", [Misbehavior.CUT_BEFORE, Misbehavior.STATUS_BEFORE, Misbehavior.FAILURE])
async def test_a_capture_that_never_arrived_is_made_the_next_time(
    gateway: WayForPayStandIn, shop: WayForPay, kind: Misbehavior
) -> None:
    gateway.hold("CZ1042", "450", now=NOW)
    hold, _ = await shop.hold("CZ1042")
    gateway.misbehave(kind, path="/SETTLE")
    with pytest.raises(Transient) as raised:
        await shop.capture(hold, uah("450"), "k1", receipt=None)
    assert raised.value.in_doubt
    await shop.capture(hold, uah("450"), "k1", receipt=None)
    assert settled(gateway) == [("CZ1042", "450")]


async def test_a_capture_that_can_not_be_looked_at_afterwards_is_in_doubt(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.hold("CZ1042", "450", now=NOW)
    hold, _ = await shop.hold("CZ1042")
    gateway.misbehave(Misbehavior.STATUS_BEFORE, path="/CHECK_STATUS", skip=1, status=429)
    with pytest.raises(Transient) as raised:
        await shop.capture(hold, uah("450"), "k1", receipt=None)
    assert raised.value.in_doubt


async def test_before_a_capture_nothing_is_in_doubt(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.hold("CZ1042", "450", now=NOW)
    hold, _ = await shop.hold("CZ1042")
    gateway.misbehave(Misbehavior.CUT_AFTER)
    with pytest.raises(Transient) as raised:
        await shop.capture(hold, uah("450"), "k1", receipt=None)
    assert not raised.value.in_doubt
    assert not requests(gateway, "SETTLE")


@pytest.mark.parametrize("sent", ["long", "short"])
@pytest.mark.parametrize("setting", ["either", "long", "short"])
async def test_the_answer_to_a_capture_may_be_signed_either_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sent: str, setting: str
) -> None:
    caplog.set_level(logging.INFO, logger="connectors.wayforpay")
    async with (
        standing_in(settle_signature=sent) as gateway,
        connected(tmp_path, gateway, settle_signature=setting) as shop,
    ):
        gateway.hold("CZ1042", "450", now=NOW)
        hold, _ = await shop.hold("CZ1042")
        if setting in ("either", sent):
            await shop.capture(hold, uah("450"), "k1", receipt=None)
            assert f"the answer to SETTLE has the {sent} signature" in caplog.text
        else:
            with pytest.raises(Transient, match="not signed") as raised:
                await shop.capture(hold, uah("450"), "k1", receipt=None)
            assert raised.value.in_doubt


@pytest.mark.parametrize(
    "changed",
    [{"merchantSignature": "0" * 32}, {"merchantAccount": "other"}, {"orderReference": "CZ1"}, {"reasonCode": "1101"}],
)
async def test_a_capture_whose_answer_is_not_right_is_in_doubt(
    gateway: WayForPayStandIn, shop: WayForPay, changed: Json
) -> None:
    gateway.hold("CZ1042", "450", now=NOW)
    hold, _ = await shop.hold("CZ1042")
    gateway.alter = lambda kind, answer: answer | changed if kind == "SETTLE" else answer
    with pytest.raises(Transient) as raised:
        await shop.capture(hold, uah("450"), "k1", receipt=None)
    assert raised.value.in_doubt


async def test_a_capture_without_a_signature_is_in_doubt(tmp_path: Path) -> None:
    async with standing_in(settle_signature="none") as gateway, connected(tmp_path, gateway) as shop:
        gateway.hold("CZ1042", "450", now=NOW)
        hold, _ = await shop.hold("CZ1042")
        with pytest.raises(Transient, match="not signed") as raised:
            await shop.capture(hold, uah("450"), "k1", receipt=None)
        assert raised.value.in_doubt


async def test_what_is_not_held_can_not_be_captured(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.hold("CZ1042", "450", now=NOW)
    hold, _ = await shop.hold("CZ1042")
    for amount in (uah("450.01"), uah("0"), Money(45_000, "EUR")):
        with pytest.raises(Rejected, match="can't be taken"):
            await shop.capture(hold, amount, "k1", receipt=None)
    gateway.time = NOW + timedelta(days=21, seconds=1)
    with pytest.raises(Rejected, match="not held any more: the payment is Expired"):
        await shop.capture(hold, uah("450"), "k1", receipt=None)
    assert not requests(gateway, "SETTLE")


async def test_a_capture_that_somebody_else_made_meanwhile_is_seen(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    for reference, amount in (("same", "400"), ("other", "300")):
        gateway.hold(reference, "450", now=NOW)
        hold, _ = await shop.hold(reference)
        checks = 0

        def alter(kind: str, answer: Json, *, reference: str = reference, amount: str = amount) -> Json:
            nonlocal checks
            checks += kind == "CHECK_STATUS"
            if checks == 1 and kind == "CHECK_STATUS":
                gateway.settle(reference, amount, now=NOW)
            return answer

        gateway.alter = alter
        if reference == "same":
            await shop.capture(hold, uah("400"), "k1", receipt=None)
        else:
            with pytest.raises(Rejected, match=r"300\.00 UAH was taken"):
                await shop.capture(hold, uah("400"), "k1", receipt=None)
        gateway.alter = lambda _, answer: answer
    assert settled(gateway) == [("same", "400"), ("other", "300")]


# Releases


def voided(gateway: WayForPayStandIn) -> list[str]:
    return [reference for what, reference, _ in gateway.done if what == "void"]


@pytest.mark.parametrize("kind", [None, *LOST])
async def test_a_hold_is_released_once(gateway: WayForPayStandIn, shop: WayForPay, kind: Misbehavior | None) -> None:
    gateway.hold("CZ1042", "450.50", now=NOW)
    hold, _ = await shop.hold("CZ1042")
    if kind is not None:
        gateway.misbehave(kind, path="/REFUND")
        with pytest.raises(Transient) as raised:
            await shop.release(hold, "k1")
        assert raised.value.in_doubt
    for _ in range(2):
        await shop.release(hold, "k1")
    assert (await shop.hold("CZ1042"))[0].state is HoldState.RELEASED
    assert voided(gateway) == ["CZ1042"]
    (sent,) = requests(gateway, "REFUND")
    assert (sent["amount"], sent["comment"]) == ("450.5", "The hold is released [k1]")


async def test_what_ran_out_is_released_and_what_was_captured_is_not(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.hold("expired", "450", now=NOW)
    gateway.hold("captured", "450", now=NOW)
    expired, captured = [(await shop.hold(one))[0] for one in ("expired", "captured")]
    gateway.settle("captured", now=NOW)
    with pytest.raises(Rejected, match="captured meanwhile"):
        await shop.release(captured, "k1")
    gateway.time = NOW + timedelta(days=22)
    await shop.release(expired, "k2")
    assert not requests(gateway, "REFUND")


# Giving back


def refunded(gateway: WayForPayStandIn) -> list[str]:
    return [amount for what, _, amount in gateway.done if what == "refund"]


async def test_money_is_given_back_once_per_key(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    first = [await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None) for _ in range(2)]
    second = await shop.refund(payment, uah("100"), "k2", because="returned too", receipt=None)
    first += [await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)]
    assert refunded(gateway) == ["100", "100"]
    assert (set(first), second) == ({"CZ1042:refunded:100.00"}, "CZ1042:refunded:200.00")
    assert [sent["comment"] for sent in requests(gateway, "REFUND")] == ["returned [k1]", "returned too [k2]"]
    assert [id_ for id_, _ in await paid(shop)] == ["CZ1042", first[0], second]


async def test_a_refund_needs_no_reason_to_have_a_comment(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    await shop.refund(payment, uah("1"), "k1", because=" ", receipt=None)
    await shop.refund(payment, uah("1"), "k2", because="ї" * 1000, receipt=None)
    assert [sent["comment"] for sent in requests(gateway, "REFUND")] == ["Refund [k1]", "ї" * 200 + " [k2]"]


@pytest.mark.parametrize("before", [None, "100"])
@pytest.mark.parametrize("kind", LOST)
async def test_a_refund_whose_answer_is_lost_is_in_doubt_and_not_made_again(
    tmp_path: Path, gateway: WayForPayStandIn, shop: WayForPay, kind: Misbehavior, before: str | None
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    if before:
        gateway.refund("CZ1042", before, now=NOW)
    payment = await payment_of(shop)
    gateway.misbehave(kind, path="/REFUND")
    with pytest.raises(Transient) as raised:
        await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    assert raised.value.in_doubt
    async with connected(tmp_path, gateway) as another_process:
        made = await another_process.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    assert made == ("CZ1042:refunded:200.00" if before else "CZ1042:refunded:100.00")
    assert len(requests(gateway, "REFUND")) == 1
    assert (await paid(shop))[-1] == (made, "-100.00 UAH")


@pytest.mark.parametrize("kind", [Misbehavior.CUT_BEFORE, Misbehavior.STATUS_BEFORE, Misbehavior.FAILURE])
async def test_a_refund_that_left_no_trace_is_made_after_a_while_and_not_sooner(
    tmp_path: Path, gateway: WayForPayStandIn, shop: WayForPay, kind: Misbehavior
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    gateway.misbehave(kind, path="/REFUND")
    with pytest.raises(Transient) as raised:
        await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    assert raised.value.in_doubt
    async with connected(tmp_path, gateway, resend_after=3600) as patient:
        with pytest.raises(Transient, match="doesn't show yet") as raised:
            await patient.refund(payment, uah("100"), "k1", because="returned", receipt=None)
        assert raised.value.in_doubt
        assert raised.value.retry_after is not None
        with pytest.raises(Transient, match="another refund") as raised:
            await patient.refund(payment, uah("50"), "k2", because="returned", receipt=None)
        assert not raised.value.in_doubt
    assert refunded(gateway) == []
    assert await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None) == "CZ1042:refunded:100.00"
    assert refunded(gateway) == ["100"]


async def test_a_refund_that_could_not_even_be_sent_is_sent_the_next_time_at_once(
    tmp_path: Path, gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    gateway.misbehave(Misbehavior.STATUS_BEFORE, path="/REFUND", status=429)
    async with connected(tmp_path, gateway, resend_after=3600) as patient:
        with pytest.raises(Transient) as raised:
            await patient.refund(payment, uah("100"), "k1", because="returned", receipt=None)
        assert not raised.value.in_doubt
        await patient.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    assert refunded(gateway) == ["100"]


async def test_refunds_that_are_asked_for_at_once_are_made_one_by_one(
    tmp_path: Path, gateway: WayForPayStandIn
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    async with (
        connected(tmp_path, gateway, resend_after=3600) as one,
        connected(tmp_path, gateway, resend_after=3600) as other,
    ):
        payment = await payment_of(one)
        waiting = {f"k{n}" for n in range(4)}
        while waiting:
            keys = sorted(waiting)
            came = await asyncio.gather(
                *(
                    (one, other)[n % 2].refund(payment, uah("100"), key, because="returned", receipt=None)
                    for n, key in enumerate(keys)
                ),
                return_exceptions=True,
            )
            done = {key for key, what in zip(keys, came, strict=True) if isinstance(what, str)}
            assert done
            waiting -= done
        assert refunded(gateway) == ["100"] * 4
        assert [amount for _, amount in await paid(one)] == ["450.00 UAH", *["-100.00 UAH"] * 4]


async def test_a_refund_in_doubt_is_not_made_again_because_another_was_answered_late(tmp_path: Path) -> None:
    made, allowed = asyncio.Event(), asyncio.Event()

    def alter(kind: str, answer: Json) -> Json:
        if kind == "REFUND":
            made.set()
        return answer

    class Slow(WayForPayStandIn):
        def next_plan(self, seen: Seen) -> Plan | None:
            sent = json.loads(seen.body)
            if sent["transactionType"] == "REFUND" and "[first]" in sent["comment"]:
                return Plan(kind=Misbehavior.LATE, allowed=allowed)
            return super().next_plan(seen)

    async with Slow() as gateway, connected(tmp_path, gateway) as one, connected(tmp_path, gateway) as other:
        gateway.alter = alter
        gateway.pay("CZ1042", "450")
        payment = await payment_of(one)
        first = asyncio.create_task(one.refund(payment, uah("100"), "first", because="returned", receipt=None))
        await made.wait()
        gateway.misbehave(Misbehavior.CUT_AFTER, path="/REFUND")
        with pytest.raises(Transient):
            await other.refund(payment, uah("50"), "second", because="returned", receipt=None)
        allowed.set()
        assert await first == "CZ1042:refunded:100.00"
        assert await other.refund(payment, uah("50"), "second", because="", receipt=None) == "CZ1042:refunded:150.00"
        assert refunded(gateway) == ["100", "50"]
        assert [amount for _, amount in await paid(one)] == ["450.00 UAH", "-100.00 UAH", "-50.00 UAH"]


async def test_a_refund_in_doubt_beside_which_another_was_made_by_hand_is_for_a_person(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    gateway.misbehave(Misbehavior.CUT_BEFORE, path="/REFUND")
    with pytest.raises(Transient):
        await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    gateway.refund("CZ1042", "30", now=NOW)
    for _ in range(2):
        with pytest.raises(Rejected, match="look in WayForPay's cabinet whether the refund with k1"):
            await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)
        assert await paid(shop)
    assert len(requests(gateway, "REFUND")) == 1


async def test_a_refund_that_takes_its_time_is_made_once_and_told_when_it_is_through(
    gateway: WayForPayStandIn, shop: WayForPay
) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    gateway.slow_refunds = True
    gateway.misbehave(Misbehavior.CUT_AFTER, path="/REFUND")
    with pytest.raises(Transient):
        await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    for _ in range(2):
        assert (
            await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None) == "CZ1042:refunded:100.00"
        )
    with pytest.raises(Transient, match="another refund"):
        await shop.refund(payment, uah("50"), "k2", because="returned", receipt=None)
    assert len(await paid(shop)) == 1
    gateway.finish_refund("CZ1042", now=NOW)
    gateway.slow_refunds = False
    assert await shop.refund(payment, uah("50"), "k2", because="too", receipt=None) == "CZ1042:refunded:150.00"
    assert refunded(gateway) == ["100", "50"]


async def test_while_a_refund_does_not_show_yet_no_other_is_made(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    before = gateway.payments["CZ1042"]
    await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    after, gateway.payments["CZ1042"] = gateway.payments["CZ1042"], before
    assert await shop.refund(payment, uah("100"), "k1", because="again", receipt=None) == "CZ1042:refunded:100.00"
    with pytest.raises(Transient, match="another refund") as raised:
        await shop.refund(payment, uah("50"), "k2", because="returned", receipt=None)
    assert (raised.value.busy, raised.value.in_doubt) == (True, False)
    gateway.payments["CZ1042"] = after
    await shop.refund(payment, uah("50"), "k2", because="returned", receipt=None)
    assert refunded(gateway) == ["100", "50"]


async def test_a_refund_that_is_refused_may_be_asked_for_again(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    gateway.declines_refunds = True
    for _ in range(2):
        with pytest.raises(Rejected, match=r"can't be given back \(reason 1123\)"):
            await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    gateway.declines_refunds = False
    await shop.refund(payment, uah("100"), "k1", because="returned", receipt=None)
    assert refunded(gateway) == ["100"]


async def test_what_is_not_there_can_not_be_given_back(gateway: WayForPayStandIn, shop: WayForPay) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    payment = await payment_of(shop)
    gateway.refund("CZ1042", "400", now=NOW)
    for amount in (uah("50.01"), uah("0"), Money(100, "EUR")):
        with pytest.raises(Rejected, match=r"can't be given back of 50\.00 UAH"):
            await shop.refund(payment, amount, "k1", because="returned", receipt=None)
    gateway.hold("CZ1043", "450", now=NOW)
    with pytest.raises(Rejected, match="the payment is WaitingAuthComplete"):
        await shop.refund(
            IncomingPayment(
                source=payment.source,
                external_id="CZ1043",
                method=Method.CARD,
                amount=uah("450"),
                booked_on=payment.booked_on,
            ),
            uah("450"),
            "k2",
            because="returned",
            receipt=None,
        )
    assert not requests(gateway, "REFUND")


# The stand-in is as strict as WayForPay


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"merchantSignature": "0" * 32}, 1113),
        ({"merchantSignature": None}, 1115),
        ({"apiVersion": None}, 1115),
        ({"comment": None}, 1115),
        ({"merchantAccount": "other"}, 1121),
        ({"transactionType": "GUESS"}, 1109),
        ({"amount": "450"}, 1109),
        ({"orderReference": "none"}, 1127),
        ({"currency": "EUR"}, 1110),
        ({"amount": Number("0")}, 1130),
        ({"amount": Number("451")}, 1128),
        ({"orderReference": "held", "amount": Number("1")}, 1141),
        ({"orderReference": "failed"}, 1126),
        ({"transactionType": "SETTLE"}, 1126),
        ({"transactionType": "SETTLE", "orderReference": "held", "amount": Number("451")}, 1137),
        ({"transactionType": "SETTLE", "orderReference": "late"}, 1126),
        ({}, 1100),
    ],
)
async def test_the_stand_in_refuses_what_wayforpay_refuses(gateway: WayForPayStandIn, changed: Json, code: int) -> None:
    gateway.pay("CZ1042", "450", now=NOW)
    gateway.hold("held", "450", now=NOW)
    gateway.hold("late", "450", now=NOW - timedelta(days=22))
    gateway.fail("failed", "450", now=NOW)
    sent: Json = {"transactionType": "REFUND", "merchantAccount": ACCOUNT, "orderReference": "CZ1042"}
    sent |= {"amount": Number("450"), "currency": "UAH", "comment": "returned", "apiVersion": Number("1")} | changed
    names = ("merchantAccount", "orderReference", "amount", "currency")
    signed = {"merchantSignature": gateway.sign(*(str(sent[name]) for name in names))} | sent
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        answer = await client.post("/api", content=written(signed))
        assert (answer.status_code, answer.json()["reasonCode"]) == (200, code)
        assert (await client.post("/api", content=b"[]")).json()["reasonCode"] == 1109


async def test_the_stand_in_lists_at_most_a_month(gateway: WayForPayStandIn) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        for days, code in ((31, 1100), (32, 1109), (-1, 1109)):
            begin, end = "1000000000", str(1_000_000_000 + days * 86_400)
            sent: Json = {"transactionType": "TRANSACTION_LIST", "merchantAccount": ACCOUNT, "apiVersion": Number("1")}
            sent |= {"dateBegin": Number(begin), "dateEnd": Number(end)}
            sent["merchantSignature"] = gateway.sign(ACCOUNT, begin, end)
            assert (await client.post("/api", content=written(sent))).json()["reasonCode"] == code


def test_the_stand_in_takes_an_order_reference_once() -> None:
    gateway = WayForPayStandIn()
    gateway.fail("CZ1042", "450", now=NOW)
    with pytest.raises(ValueError, match="Duplicate Order ID"):
        gateway.pay("CZ1042", "450", now=NOW)
