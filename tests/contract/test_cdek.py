"""The CDEK connector, over real HTTP against a stand-in as strict as CDEK."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from document_builders import SELLER
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from connectors import load
from connectors.cdek import Cdek, CdekConfig, order_number
from connectors.errors import Misconfigured, OutsideError, Rejected, Transient
from connectors.roles import (
    BadSignature,
    Carrier,
    Checked,
    Consignment,
    Origin,
    Page,
    PaymentSource,
    PayoutReport,
    PayoutSource,
    PaysOut,
    Shipment,
    WebhookReader,
)
from deployments.sandbox.cdek import CdekStandIn, Json, Parcel, as_it_stands
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.changes import StatusChange
from domain.money import Money
from domain.orders import Address
from domain.payments import IncomingPayment, Method
from domain.payouts import LineKind

NOW = datetime(2026, 3, 10, 9, 0, tzinfo=UTC)
TODAY = date(2026, 3, 10)
TOKEN = "a-token-of-20-letters"
BUYER = Address(
    name="Анна Смирнова", street="ул. Ленина, 5, кв. 7", city="Екатеринбург", postcode="620014", country="RU"
)
CONSIGNMENT = Consignment(
    order_number="1042",
    sender=SELLER,
    recipient=BUYER,
    phone="8 (912) 345-67-89",
    collect=Money(104250, "RUB"),
    note="Курьер СДЭК",
)


def earlier() -> datetime:
    """Be the stand-in's clock, so that orders are made before what happens to them."""
    return NOW - timedelta(days=3)


def config(account: CdekStandIn | None = None, home: Path = Path(), /, **changed: Any) -> CdekConfig:
    fields: dict[str, Any] = {
        "name": "cdek",
        "home": home,
        "client_id": account.client_id if account else "account",
        "client_secret": account.client_secret if account else "password",
        "base_url": account.base_url if account else "http://127.0.0.1:9",
        "webhook_token": TOKEN,
        "tariff": 139,
        "poll_every": 0.001,
        "poll_for": 1,
    }
    return CdekConfig.model_validate(fields | changed)


@asynccontextmanager
async def connected(account: CdekStandIn, home: Path, /, **changed: Any) -> AsyncGenerator[Cdek]:
    made = Cdek(config(account, home, **changed))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def account() -> AsyncIterator[CdekStandIn]:
    async with CdekStandIn(clock=earlier) as running:
        yield running


@pytest.fixture
async def cdek(account: CdekStandIn, tmp_path: Path) -> AsyncIterator[Cdek]:
    async with connected(account, tmp_path) as made:
        yield made


def sent(account: CdekStandIn, method: str, path: str) -> list[Json]:
    """Return the bodies of the requests of one kind."""
    return [
        json.loads(seen.body or b"{}")
        for seen in account.requests
        if seen.method == method and re.fullmatch(f"/v2{path}", seen.path)
    ]


class Odd(CdekStandIn):
    """CDEK on a day on which it answers what is in no documentation."""

    said: Any = None

    def error(self, status: int) -> Response:
        return JSONResponse(self.said, status)

    def failure(self) -> Response:
        return JSONResponse(self.said)


def refusal(kind: str, code: str) -> Json:
    return {"requests": [{"type": kind, "state": "INVALID", "errors": [{"code": code, "message": "Анна"}]}]}


def labels_in(home: Path) -> list[Path]:
    return [*home.rglob("*.pdf")]


def ordered(account: CdekStandIn) -> Parcel:
    (parcel,) = account.parcels
    return parcel


def body(event: Json) -> bytes:
    return json.dumps(event).encode()


# Settings and roles


def test_it_plays_its_roles_and_is_found_by_its_type() -> None:
    stanza = {"type": "cdek", "name": "cdek", "client_id": "a", "client_secret": "b", "tariff": 139}
    made = load(stanza, home=Path(), where="kvit.yaml")
    for role in (Carrier, WebhookReader, PaymentSource, PaysOut, PayoutSource, Checked):
        assert isinstance(made, role)


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook_token": "short"},
        {"webhook_token": "with a space and more"},
        {"webhook_networks": ["somewhere"]},
        {"pickup_point": "(unclosed"},
        {"pickup_point": "no group"},
        {"shipment_point": "../x"},
        {"sender_phone": "tel. 1"},
        {"currency": "RUR"},
        {"vat_rate": 21},
        {"declared_value": -1},
    ],
)
def test_what_cannot_be_meant_is_no_setting(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)


def test_secrets_do_not_show() -> None:
    shown = repr(config(client_secret="hidden", webhook_token="hidden-hidden-hidden"))
    assert "hidden" not in shown


# The token


async def test_one_token_serves_all_requests_even_the_first_ones_at_once(account: CdekStandIn, cdek: Cdek) -> None:
    await asyncio.gather(*(cdek.check() for _ in range(5)))
    assert account.tokens_given == 1


async def test_a_token_that_has_expired_is_renewed_and_nothing_is_ordered_twice(
    account: CdekStandIn, cdek: Cdek
) -> None:
    await cdek.check()
    account.misbehave(Misbehavior.STATUS_BEFORE, path="/v2/orders", skip=2, status=401)
    account.expire_tokens()
    made = await cdek.create(CONSIGNMENT, "key")
    assert account.live == [made.tracking_number]
    assert len(sent(account, "POST", "/orders")) == 2
    assert len(account.parcels) == 1
    assert account.tokens_given == 3


async def test_a_wrong_password_is_told_as_a_wrong_setting(account: CdekStandIn, tmp_path: Path) -> None:
    async with connected(account, tmp_path, client_secret="not-the-password") as cdek:
        with pytest.raises(Misconfigured, match="client_id and client_secret") as caught:
            await cdek.create(CONSIGNMENT, "key")
    assert "not-the-password" not in str(caught.value)
    assert account.parcels == []


async def test_a_token_that_is_given_and_not_accepted_is_not_asked_for_forever(
    account: CdekStandIn, cdek: Cdek
) -> None:
    account.misbehave(Misbehavior.STATUS_BEFORE, path="/v2/webhooks", times=None, status=401)
    with pytest.raises(Misconfigured, match="doesn't accept it"):
        await cdek.check()
    assert account.tokens_given == 2


async def test_while_no_token_is_given_nothing_is_in_doubt(account: CdekStandIn, cdek: Cdek) -> None:
    for kind in (Misbehavior.STATUS_AFTER, Misbehavior.GARBAGE, Misbehavior.CUT_AFTER):
        account.misbehave(kind, path="/v2/oauth")
        with pytest.raises(Transient) as caught:
            await cdek.create(CONSIGNMENT, "key")
        assert not caught.value.in_doubt
    assert account.parcels == []


async def test_the_check_says_that_the_account_is_accepted(account: CdekStandIn, cdek: Cdek) -> None:
    assert await cdek.check() == "cdek: CDEK answers and accepts the account"
    account.misbehave(Misbehavior.STATUS_BEFORE, path="/v2/webhooks", status=403)
    with pytest.raises(Misconfigured):
        await cdek.check()


# What is ordered


async def test_an_order_to_an_address_says_all_that_cdek_needs(account: CdekStandIn, cdek: Cdek) -> None:
    made = await cdek.create(CONSIGNMENT, "key")

    number = made.tracking_number
    assert made == Shipment(tracking_number=number, label=f"labels/cdek/{number}.pdf")
    assert sent(account, "POST", "/orders") == [
        {
            "type": 1,
            "number": order_number("1042", "key"),
            "tariff_code": 139,
            "comment": "Курьер СДЭК",
            "recipient": {"name": "Анна Смирнова", "phones": [{"number": "+79123456789"}]},
            "from_location": {
                "country_code": "CZ",
                "postal_code": "301 00",
                "city": "Plzeň",
                "address": "Nábřežní 12",
            },
            "to_location": {
                "country_code": "RU",
                "postal_code": "620014",
                "city": "Екатеринбург",
                "address": "ул. Ленина, 5, кв. 7",
            },
            "packages": [
                {
                    "number": "1",
                    "weight": 1000,
                    "items": [
                        {
                            "name": "Товары по заказу 1042",
                            "ware_key": "1042",
                            "payment": {"value": 1042.50},
                            "cost": 1042.50,
                            "weight": 1000,
                            "amount": 1,
                        }
                    ],
                }
            ],
        }
    ]


@pytest.mark.parametrize(
    ("note", "street"),
    [("СДЭК, ПВЗ MSK5", "ул. Ленина, 5"), ("До пункта", "ПВЗ №MSK5, ул. Мира 1"), ("CDEK: MSK5", "")],
)
async def test_an_office_that_is_named_is_where_the_parcel_goes(
    account: CdekStandIn, tmp_path: Path, note: str, street: str
) -> None:
    wanted = replace(CONSIGNMENT, note=note, recipient=replace(BUYER, street=street))
    settings = {"tariff": 137, "pickup_tariff": 136, "shipment_point": "SPB12", "sender_phone": "+74951234567"}
    async with connected(account, tmp_path, **settings) as cdek:
        await cdek.create(wanted, "key")
    order = ordered(account).body
    assert (order["tariff_code"], order["delivery_point"], order["shipment_point"]) == (136, "MSK5", "SPB12")
    assert "to_location" not in order
    assert "from_location" not in order
    assert order["sender"]["phones"] == [{"number": "+74951234567"}]


async def test_an_office_without_a_tariff_for_offices_is_rejected(cdek: Cdek) -> None:
    with pytest.raises(Rejected, match="pickup_tariff"):
        await cdek.create(replace(CONSIGNMENT, note="ПВЗ MSK5"), "key")


@pytest.mark.parametrize("amount", ["0.01", "0.1", "1042.1", "628.70", "9007199254740993.01", "100"])
@pytest.mark.parametrize("settings", [{}, {"collect_as": "delivery"}, {"vat_rate": 20}, {"declared_value": "700.5"}])
async def test_what_is_collected_is_exactly_what_was_asked_for_whatever_it_is_for(
    account: CdekStandIn, tmp_path: Path, amount: str, settings: dict[str, Any]
) -> None:
    async with connected(account, tmp_path, **settings) as cdek:
        await cdek.create(replace(CONSIGNMENT, collect=Money.parse(amount, "RUB"), parcels=3), "key")
    assert ordered(account).to_collect == Decimal(amount)
    assert len(ordered(account).body["packages"]) == 3


async def test_what_is_collected_for_delivery_stands_as_the_delivery_s_cost(
    account: CdekStandIn, tmp_path: Path
) -> None:
    async with connected(account, tmp_path, collect_as="delivery", vat_rate=20, declared_value="500") as cdek:
        await cdek.create(replace(CONSIGNMENT, collect=Money(35000, "RUB")), "key")
    order = ordered(account).body
    assert order["delivery_recipient_cost"] == {"value": 350, "vat_rate": 20, "vat_sum": Decimal("58.33")}
    (item,) = order["packages"][0]["items"]
    assert item["payment"] == {"value": 0}
    assert item["cost"] == 500


async def test_of_an_order_whose_goods_are_paid_only_the_delivery_is_collected(
    account: CdekStandIn, tmp_path: Path
) -> None:
    only_delivery = replace(CONSIGNMENT, collect=Money(35000, "RUB"), only_delivery=True)
    async with connected(account, tmp_path, collect_as="goods") as cdek:
        made = await cdek.create(only_delivery, "key")
        assert await cdek.find(only_delivery, "key") == made
    order = ordered(account).body
    assert order["delivery_recipient_cost"] == {"value": 350}
    assert order["packages"][0]["items"][0]["payment"] == {"value": 0}


@pytest.mark.parametrize("collect", [None, Money(0, "RUB")])
async def test_of_a_paid_order_nothing_is_collected(account: CdekStandIn, cdek: Cdek, collect: Money | None) -> None:
    await cdek.create(replace(CONSIGNMENT, collect=collect), "key")
    assert ordered(account).to_collect == 0


@pytest.mark.parametrize(
    ("told", "understood"),
    [
        ("+7 912 345-67-89", "+79123456789"),
        ("89123456789", "+79123456789"),
        ("79123456789", "+79123456789"),
        ("9123456789", "+79123456789"),
        ("00420601234567", "+420601234567"),
        ("375291234567", "+375291234567"),
    ],
)
async def test_phone_numbers_get_their_countries_code(
    account: CdekStandIn, cdek: Cdek, told: str, understood: str
) -> None:
    await cdek.create(replace(CONSIGNMENT, phone=told), "key")
    assert ordered(account).body["recipient"]["phones"] == [{"number": understood}]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"phone": None}, "phone number"),
        ({"phone": "Анна 5"}, "phone number"),
        ({"phone": "12345"}, "phone number"),
        ({"collect": Money(100, "CZK")}, "collects RUB"),
        ({"recipient": Address(name="Анна", city="Пермь")}, "the street and the town"),
    ],
)
async def test_what_cdek_could_not_do_is_rejected_before_it_is_asked(
    account: CdekStandIn, cdek: Cdek, changed: dict[str, Any], why: str
) -> None:
    with pytest.raises(Rejected, match=why) as caught:
        await cdek.create(replace(CONSIGNMENT, **changed), "key")
    assert "Анна" not in str(caught.value)
    assert not account.requests


@given(order=st.text(max_size=60), key=st.text(max_size=64), other=st.text(max_size=64))
def test_the_number_at_cdek_fits_its_field_and_is_another_for_each_key(order: str, key: str, other: str) -> None:
    number = order_number(order, key)
    assert number.isascii()
    assert number.isprintable()
    assert 1 <= len(number) <= 40
    assert (number == order_number(order, other)) == (key == other)


# What CDEK refuses


async def test_what_is_found_wrong_later_is_rejected_with_the_code_and_no_person(
    account: CdekStandIn, tmp_path: Path
) -> None:
    wanted = replace(CONSIGNMENT, note="ПВЗ XXX1")
    async with connected(account, tmp_path, tariff=139, pickup_tariff=138) as cdek:
        with pytest.raises(Rejected, match="delivery_location_is_not_recognized") as caught:
            await cdek.create(wanted, "key")
        assert "Анна" not in str(caught.value)
        assert await cdek.find(wanted, "key") is None

        corrected = await cdek.create(replace(wanted, note="ПВЗ MSK5"), "key")
    assert account.live == [corrected.tracking_number]


async def test_what_is_refused_at_once_is_rejected_with_the_code(account: CdekStandIn, tmp_path: Path) -> None:
    async with connected(account, tmp_path, currency="KWD") as cdek:
        with pytest.raises(Rejected, match=r"v2_invalid_value_type"):
            await cdek.create(replace(CONSIGNMENT, collect=Money(1001, "KWD")), "key")
    assert account.parcels == []


async def test_an_order_that_cdek_says_is_there_already_is_looked_up(tmp_path: Path) -> None:
    async with CdekStandIn(refuses_doubles=True) as account, connected(account, tmp_path) as cdek:
        made = await cdek.create(CONSIGNMENT, "key")
        account.blind_looks = 1
        assert await cdek.create(CONSIGNMENT, "key") == made
        assert len(sent(account, "POST", "/orders")) == 2
        account.blind_looks = 2
        with pytest.raises(Rejected, match="v2_similar_order_exists"):
            await cdek.create(CONSIGNMENT, "key")
        assert account.live == [made.tracking_number]


@pytest.mark.parametrize("settings", [{}, {"collect_as": "delivery"}])
async def test_an_order_that_collects_another_sum_than_is_owed_now_is_left_to_a_person(
    account: CdekStandIn, tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with connected(account, tmp_path, **settings) as cdek:
        made = await cdek.create(CONSIGNMENT, "key")
        for collect, instead in ((Money(50000, "RUB"), "500.00"), (None, "0.00")):
            for act in (cdek.create, cdek.find):
                with pytest.raises(Rejected, match=f"{made.tracking_number}, which collects 1042.50 .* {instead}"):
                    await act(replace(CONSIGNMENT, collect=collect), "key")
        assert await cdek.find(CONSIGNMENT, "key") == made
    assert account.live == [made.tracking_number]


# What goes wrong on the way

ACTED = [
    Misbehavior.STATUS_AFTER,
    Misbehavior.CUT_AFTER,
    Misbehavior.CUT_MIDWAY,
    Misbehavior.GARBAGE,
]


@pytest.mark.parametrize("kind", ACTED)
async def test_an_order_whose_answer_is_lost_is_in_doubt_then_found_and_never_made_twice(
    account: CdekStandIn, cdek: Cdek, kind: Misbehavior
) -> None:
    account.misbehave(kind, path="/v2/orders", skip=1)
    with pytest.raises(Transient) as caught:
        await cdek.create(CONSIGNMENT, "key")
    assert caught.value.in_doubt

    found = await cdek.find(CONSIGNMENT, "key")
    assert found is not None
    assert await cdek.create(CONSIGNMENT, "key") == found
    assert [parcel.number for parcel in account.parcels] == [found.tracking_number]


async def test_an_order_whose_answer_does_not_come_is_in_doubt(account: CdekStandIn, tmp_path: Path) -> None:
    async with connected(account, tmp_path, limits={"timeout": 1}) as cdek:
        await cdek.check()
        account.misbehave(Misbehavior.HANG_AFTER, path="/v2/orders", skip=1)
        with pytest.raises(Transient) as caught:
            await cdek.create(CONSIGNMENT, "key")
    assert caught.value.in_doubt
    async with connected(account, tmp_path) as cdek:
        assert await cdek.find(CONSIGNMENT, "key") is not None
    assert len(account.parcels) == 1


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Misbehavior.CUT_BEFORE, 500),
        (Misbehavior.STATUS_BEFORE, 503),
        (Misbehavior.STATUS_BEFORE, 429),
        (Misbehavior.FAILURE, 200),
    ],
)
async def test_an_order_that_was_not_taken_can_be_made_again(
    account: CdekStandIn, cdek: Cdek, kind: Misbehavior, status: int
) -> None:
    account.misbehave(kind, path="/v2/orders", skip=1, status=status)
    with pytest.raises(OutsideError):
        await cdek.create(CONSIGNMENT, "key")
    assert await cdek.find(CONSIGNMENT, "key") is None
    made = await cdek.create(CONSIGNMENT, "key")
    assert [parcel.number for parcel in account.parcels] == [made.tracking_number]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *((kind, 500) for kind in ACTED),
        (Misbehavior.STATUS_BEFORE, 429),
        (Misbehavior.STATUS_BEFORE, 400),
        (Misbehavior.STATUS_BEFORE, 404),
        (Misbehavior.FAILURE, 200),
    ],
)
async def test_nothing_is_ordered_while_it_cannot_be_told_whether_it_is_there(
    account: CdekStandIn, cdek: Cdek, kind: Misbehavior, status: int
) -> None:
    await cdek.check()
    account.misbehave(kind, path="/v2/orders", status=status)
    with pytest.raises(OutsideError) as caught:
        await cdek.create(CONSIGNMENT, "key")
    assert not getattr(caught.value, "in_doubt", False)
    account.misbehave(kind, path="/v2/orders", status=status)
    with pytest.raises(OutsideError):
        await cdek.find(CONSIGNMENT, "key")
    assert account.parcels == []


async def test_an_order_that_cdek_looks_at_for_long_is_left_for_later_and_not_ordered_again(tmp_path: Path) -> None:
    async with CdekStandIn(looks=30) as account:
        async with connected(account, tmp_path, poll_for=0.005) as hasty:
            with pytest.raises(Transient) as caught:
                await hasty.create(CONSIGNMENT, "key")
            assert caught.value.in_doubt
            with pytest.raises(Transient) as caught:
                await hasty.find(CONSIGNMENT, "key")
            assert caught.value.busy
            with pytest.raises(Transient):
                await hasty.create(CONSIGNMENT, "key")
        async with connected(account, tmp_path) as cdek:
            found = await cdek.find(CONSIGNMENT, "key")
        assert found is not None
        assert [parcel.number for parcel in account.parcels] == [found.tracking_number]


async def test_an_order_that_is_not_found_right_after_it_was_taken_is_waited_for(
    account: CdekStandIn, cdek: Cdek
) -> None:
    account.blind_looks = 3
    made = await cdek.create(CONSIGNMENT, "key")
    assert [parcel.number for parcel in account.parcels] == [made.tracking_number]


async def test_an_order_that_cannot_be_asked_about_after_it_was_taken_is_in_doubt(
    account: CdekStandIn, cdek: Cdek
) -> None:
    account.misbehave(Misbehavior.STATUS_BEFORE, path="/v2/orders/")
    with pytest.raises(Transient) as caught:
        await cdek.create(CONSIGNMENT, "key")
    assert caught.value.in_doubt
    assert await cdek.find(CONSIGNMENT, "key") is not None
    assert len(account.parcels) == 1


async def test_an_order_that_gets_a_number_before_it_is_found_wrong_is_no_order(tmp_path: Path) -> None:
    async with CdekStandIn(looks=10) as account:
        async with connected(account, tmp_path, poll_for=0.002) as hasty:
            with pytest.raises(Transient):
                await hasty.create(CONSIGNMENT, "key")
        ordered(account).number, ordered(account).wrong = "1100000001", [("v2_wrong", "")]
        async with connected(account, tmp_path) as cdek:
            made = await cdek.create(CONSIGNMENT, "key")
        assert made.tracking_number != "1100000001"
        assert len(account.parcels) == 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, refusal("GET", "v2_entity_not_found_im_number")),
        (400, refusal("CREATE", "v2_bad_request")),
        (400, refusal("GET", "v2_entity_forbidden")),
        (400, {}),
        (200, {}),
        (200, {"entity": {}}),
        (200, {"entity": None, "requests": []}),
        (200, {"entity": {"uuid": "72753031-6b3c-4f9c-8b7a-8b2b4f5f1c55", "cdek_number": "1", "number": "another"}}),
    ],
)
async def test_only_a_clear_answer_says_that_an_order_is_not_there(tmp_path: Path, status: int, said: Json) -> None:
    async with Odd() as account, connected(account, tmp_path) as cdek:
        account.said = said
        for act in (cdek.create, cdek.find):
            account.misbehave(Misbehavior.STATUS_BEFORE, path="/v2/orders", status=status)
            with pytest.raises(OutsideError) as caught:
                await act(CONSIGNMENT, "key")
            assert "Анна" not in str(caught.value)
        assert account.parcels == []


async def test_an_order_that_cdek_calls_invalid_is_not_there(tmp_path: Path) -> None:
    async with Odd() as account, connected(account, tmp_path) as cdek:
        account.said = refusal("GET", "v2_entity_invalid")
        account.misbehave(Misbehavior.STATUS_BEFORE, path="/v2/orders", status=400)
        assert await cdek.find(CONSIGNMENT, "key") is None


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_an_order_at_which_cdek_fails_by_itself_is_in_doubt(tmp_path: Path, status: int) -> None:
    async with Odd() as account, connected(account, tmp_path) as cdek:
        account.said = refusal("CREATE", "v2_internal_error")
        account.misbehave(Misbehavior.STATUS_AFTER, path="/v2/orders", skip=1, status=status)
        with pytest.raises(Transient) as caught:
            await cdek.create(CONSIGNMENT, "key")
        assert caught.value.in_doubt
        assert await cdek.find(CONSIGNMENT, "key") is not None


class Labelled(Odd):
    """CDEK that says of a label which order it is of, as its documentation has it."""

    async def _barcode(self, request: Request) -> Response:
        answer = json.loads(bytes((await super()._barcode(request)).body))
        printed = self._printed(answer["entity"]["uuid"]).parcel
        answer["entity"]["orders"] = [{"order_uuid": printed.uuid, "cdek_number": int(printed.number)}]
        return JSONResponse(answer)


@pytest.mark.parametrize(
    ("what", "path", "skip", "doubt"),
    [
        ("find", "/v2/orders", 1, None),
        ("make", "/v2/orders", 5, False),
        ("make", "/v2/orders", 6, None),
        ("make", "/v2/orders", 7, True),
        ("make", "/v2/orders/", 3, True),
        ("make", "/v2/print/barcodes/", 4, True),
        ("cancel", "/v2/orders", 5, None),
        ("cancel", "/v2/orders", 6, None),
        ("cancel", "/v2/orders", 7, None),
        ("send back", "/v2/orders", 2, False),
        ("send back", "/v2/orders", 3, True),
        ("status", "/v2/orders/", 1, False),
        ("status of one that is gone", "/v2/orders/", 1, None),
    ],
)
async def test_an_answer_to_an_earlier_question_is_not_believed(
    tmp_path: Path, what: str, path: str, skip: int, doubt: bool | None
) -> None:
    """A system that answers twice answers the next question on its connection with what it was asked before."""
    consignments = {number: replace(CONSIGNMENT, order_number=number) for number in ("1042", "1043")}
    async with CdekStandIn() as account, connected(account, tmp_path, refuse=True) as cdek:
        numbers: dict[str, str] = {}
        for order, consignment in consignments.items():
            if what != "make" and (what, order) != ("find", "1042"):
                numbers[order] = (await cdek.create(consignment, "key")).tracking_number
                if what in ("send back", "status", "status of one that is gone"):
                    account.move(numbers[order], "TAKEN_BY_COURIER")
        events = {order: body(account.event(number)) for order, number in numbers.items()}
        if what == "status of one that is gone":
            account.parcel(numbers["1042"]).forgotten = True

        async def act(order: str) -> Any:
            match what:
                case "find":
                    return await cdek.find(consignments[order], "key")
                case "make":
                    return await cdek.create(consignments[order], "key")
                case "cancel" | "send back":
                    return await cdek.cancel(numbers[order], "undo")
                case _:
                    return await cdek.truth(events[order])

        account.requests.clear()
        account.misbehave(Misbehavior.EARLIER, path=path, skip=skip)
        first = await act("1042")
        if doubt is not None:
            with pytest.raises(Transient) as caught:
                await act("1043")
            assert caught.value.in_doubt is doubt
        second = await act("1043")

        match what:
            case "find":
                assert (first, second.tracking_number) == (None, numbers["1043"])
            case "make":
                by_number = {parcel.number: parcel.body["number"] for parcel in account.parcels}
                assert by_number == {
                    made.tracking_number: order_number(order, "key")
                    for order, made in zip(consignments, (first, second), strict=True)
                }
            case "cancel":
                assert account.live == []
            case "send back":
                assert len(sent(account, "POST", "/orders/.*/refusal")) == (3 if doubt else 2)
            case _:
                assert [change.number for change in (*first, *second)] == [*consignments][-len((*first, *second)) :]


async def test_a_label_of_another_parcel_is_not_stuck_on_this_one(tmp_path: Path) -> None:
    async with Labelled() as account, connected(account, tmp_path) as cdek:
        await cdek.create(CONSIGNMENT, "key")
        other = next(seen.path.split("/")[-1] for seen in reversed(account.requests) if not seen.path.endswith(".pdf"))
        account.said = {"entity": {"uuid": other}, "requests": []}
        account.misbehave(Misbehavior.STATUS_AFTER, path="/v2/print/barcodes", status=202)
        consignment = replace(CONSIGNMENT, order_number="1043")
        with pytest.raises(Transient, match="about another one"):
            await cdek.create(consignment, "key")
        assert len(labels_in(tmp_path)) == 1
        made = await cdek.create(consignment, "key")
        assert (tmp_path / str(made.label)).exists()


OTHER = "72753031-6b3c-4f9c-8b7a-8b2b4f5f1c55"


@pytest.mark.parametrize("said", [refusal("DELETE", "v2_entity_not_found"), {"entity": {"uuid": OTHER}}])
@pytest.mark.parametrize("status", ["CREATED", "TAKEN_BY_COURIER"])
async def test_what_is_said_of_another_parcel_does_not_call_this_one_off(
    tmp_path: Path, said: Json, status: str
) -> None:
    async with Odd() as account, connected(account, tmp_path, refuse=True, poll_for=0.01) as cdek:
        number = (await cdek.create(CONSIGNMENT, "key")).tracking_number
        if status != "CREATED":
            account.move(number, status)
        account.said = said
        account.misbehave(Misbehavior.FAILURE, path="/v2/orders/")
        with pytest.raises(OutsideError) as caught:
            await cdek.cancel(number, "undo")
        assert isinstance(caught.value, Rejected) or getattr(caught.value, "in_doubt", False)
        await cdek.cancel(number, "undo")
        assert (account.live == []) is (status == "CREATED")
        assert len(sent(account, "POST", "/orders/.*/refusal")) == (0 if status == "CREATED" else 2)


async def test_a_token_that_is_refused_makes_nothing_twice(account: CdekStandIn, cdek: Cdek) -> None:
    account.misbehave(Misbehavior.STATUS_AFTER, path="/v2/orders", skip=1, status=401)
    made = await cdek.create(CONSIGNMENT, "key")
    assert account.live == [made.tracking_number]


async def test_that_an_order_is_not_there_counts_when_it_is_said_of_it_or_twice(tmp_path: Path) -> None:
    async with Odd() as account, connected(account, tmp_path) as cdek:
        made = await cdek.create(CONSIGNMENT, "key")
        account.said = refusal("GET", "v2_entity_not_found_im_number")
        for times in (1, 2):
            account.misbehave(Misbehavior.STATUS_BEFORE, path="/v2/orders", status=400, times=times)
            assert await cdek.find(CONSIGNMENT, "key") == (made if times == 1 else None)


# Labels


async def test_the_label_is_the_file_that_cdek_printed_and_is_printed_once(
    account: CdekStandIn, cdek: Cdek, tmp_path: Path
) -> None:
    made = await cdek.create(CONSIGNMENT, "key")
    await cdek.find(CONSIGNMENT, "key")
    await cdek.create(CONSIGNMENT, "key")
    assert (tmp_path / str(made.label)).read_bytes() == account.label
    assert [printed.format for printed in account.printed] == ["A6"]


async def test_a_label_that_is_no_pdf_is_asked_for_again_and_the_order_is_not_made_again(
    account: CdekStandIn, cdek: Cdek, tmp_path: Path
) -> None:
    label, account.label = account.label, b"<html>try later</html>"
    with pytest.raises(Transient, match="not with a label"):
        await cdek.create(CONSIGNMENT, "key")
    assert labels_in(tmp_path) == []
    account.label = label
    made = await cdek.create(CONSIGNMENT, "key")
    assert (tmp_path / str(made.label)).read_bytes() == label
    assert account.live == [made.tracking_number]


async def test_a_parcel_that_was_ordered_is_in_doubt_while_its_label_does_not_come(
    account: CdekStandIn, cdek: Cdek
) -> None:
    account.misbehave(Misbehavior.STATUS_BEFORE, path="/v2/print", status=503)
    with pytest.raises(Transient) as caught:
        await cdek.create(CONSIGNMENT, "key")
    assert caught.value.in_doubt  # or whoever cancels the order would think that there is no parcel to cancel
    made = await cdek.find(CONSIGNMENT, "key")
    assert [parcel.number for parcel in account.parcels] == [made.tracking_number if made else None]


@pytest.mark.parametrize("prints", [True, False])
async def test_a_parcel_whose_label_cannot_be_had_is_ordered_all_the_same(
    account: CdekStandIn, cdek: Cdek, tmp_path: Path, caplog: pytest.LogCaptureFixture, prints: bool
) -> None:
    account.prints, account.label = prints, b"%PDF-" + b"x" * 6_000_000
    made = await cdek.create(CONSIGNMENT, "key")
    assert made == Shipment(tracking_number=ordered(account).number)
    assert f"no label of {made.tracking_number}" in caplog.text
    assert labels_in(tmp_path) == []


async def test_a_folder_that_cannot_be_written_to_is_told_as_a_wrong_setting(
    account: CdekStandIn, cdek: Cdek, tmp_path: Path
) -> None:
    (tmp_path / "labels").write_text("a file where the folder should be")
    with pytest.raises(Misconfigured, match="labels in KVIT_HOME can't be written to"):
        await cdek.create(CONSIGNMENT, "key")
    assert len(account.parcels) <= 1


# Cancelling


async def cancelled(account: CdekStandIn, cdek: Cdek, number: str) -> None:
    """Say that an order is cancelled in every way that shows."""
    assert account.live == []
    assert await cdek.find(CONSIGNMENT, "key") is None
    await cdek.cancel(number, "undo")
    with pytest.raises(Rejected, match="was cancelled"):
        await cdek.create(CONSIGNMENT, "key")
    assert len(sent(account, "POST", "/orders")) == 1


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_deleted_order_is_cancelled_whether_cdek_remembers_it_or_not(tmp_path: Path, remembers: bool) -> None:
    async with CdekStandIn(remembers=remembers) as account, connected(account, tmp_path) as cdek:
        made = await cdek.create(CONSIGNMENT, "key")
        await cdek.cancel(made.tracking_number, "undo")
        await cancelled(account, cdek, made.tracking_number)
        assert len(sent(account, "DELETE", "/orders/.*")) == 1
        assert not (tmp_path / str(made.label)).exists()


@pytest.mark.parametrize("kind", [*ACTED, Misbehavior.CUT_BEFORE])
async def test_a_deletion_whose_answer_is_lost_is_in_doubt_and_can_be_asked_for_again(
    account: CdekStandIn, cdek: Cdek, kind: Misbehavior
) -> None:
    made = await cdek.create(CONSIGNMENT, "key")
    account.misbehave(kind, path="/v2/orders/", times=1)
    with pytest.raises(Transient) as caught:
        await cdek.cancel(made.tracking_number, "undo")
    assert caught.value.in_doubt
    await cdek.cancel(made.tracking_number, "undo")
    await cancelled(account, cdek, made.tracking_number)


async def test_a_deletion_under_way_is_waited_for_and_not_asked_for_again(tmp_path: Path) -> None:
    async with CdekStandIn(looks=20) as account, connected(account, tmp_path) as cdek:
        made = await cdek.create(CONSIGNMENT, "key")
        async with connected(account, tmp_path, poll_for=0.002) as hasty:
            with pytest.raises(Transient) as caught:
                await hasty.cancel(made.tracking_number, "undo")
            assert caught.value.in_doubt
        await cdek.cancel(made.tracking_number, "undo")
        assert len(sent(account, "DELETE", "/orders/.*")) == 1
        await cancelled(account, cdek, made.tracking_number)


async def test_an_order_that_somebody_deleted_at_cdek_counts_as_cancelled(account: CdekStandIn, cdek: Cdek) -> None:
    made = await cdek.create(CONSIGNMENT, "key")
    ordered(account).forgotten = True
    await cdek.cancel(made.tracking_number, "undo")
    assert await cdek.find(CONSIGNMENT, "key") is None


async def test_a_parcel_that_was_handed_over_is_left_to_a_person(account: CdekStandIn, cdek: Cdek) -> None:
    made = await cdek.create(CONSIGNMENT, "key")
    account.move(made.tracking_number, "RECEIVED_AT_SHIPMENT_WAREHOUSE")
    with pytest.raises(Rejected, match="was handed over and is RECEIVED_AT_SHIPMENT_WAREHOUSE"):
        await cdek.cancel(made.tracking_number, "undo")
    assert await cdek.find(CONSIGNMENT, "key") == made
    assert sent(account, "DELETE", "/orders/.*") == []


async def test_a_parcel_on_its_way_is_refused_once_where_that_is_set_up(account: CdekStandIn, tmp_path: Path) -> None:
    async with connected(account, tmp_path, refuse=True) as cdek:
        made = await cdek.create(CONSIGNMENT, "key")
        account.move(made.tracking_number, "TAKEN_BY_COURIER")
        await cdek.cancel(made.tracking_number, "undo")
        await cdek.cancel(made.tracking_number, "undo")
        assert len(sent(account, "POST", "/orders/.*/refusal")) == 1
        assert await cdek.find(CONSIGNMENT, "key") is None
        with pytest.raises(Rejected, match="was cancelled"):
            await cdek.create(CONSIGNMENT, "key")


async def test_a_refusal_that_cdek_does_not_take_is_rejected(account: CdekStandIn, tmp_path: Path) -> None:
    async with connected(account, tmp_path, refuse=True) as cdek:
        made = await cdek.create(CONSIGNMENT, "key")
        account.deliver_parcel(made.tracking_number)
        with pytest.raises(Rejected, match="v2_refusal_forbidden"):
            await cdek.cancel(made.tracking_number, "undo")
        assert await cdek.find(CONSIGNMENT, "key") == made


async def test_an_order_handed_over_while_it_is_being_deleted_stays_what_it_is(tmp_path: Path) -> None:
    async with CdekStandIn(looks=20) as account, connected(account, tmp_path) as cdek:
        made = await cdek.create(CONSIGNMENT, "key")
        cancelling = asyncio.create_task(cdek.cancel(made.tracking_number, "undo"))
        await account.deleting.wait()
        account.move(made.tracking_number, "RECEIVED_AT_SHIPMENT_WAREHOUSE")
        with pytest.raises(Rejected, match="won't delete"):
            await cancelling
        assert account.live == [made.tracking_number]
        assert await cdek.find(CONSIGNMENT, "key") == made


# Webhooks


def verified(cdek: Cdek, sent: bytes, *, token: str = TOKEN, address: str = "") -> str:
    return cdek.verify({}, sent, now=NOW, origin=Origin(address=address, token=token)).external_id


async def moved(account: CdekStandIn, cdek: Cdek, status: str = "DELIVERED", *, now: datetime = NOW) -> Json:
    made = await cdek.create(CONSIGNMENT, "key")
    return account.move(made.tracking_number, status, now=now)


async def test_a_delivered_webhook_is_what_verify_takes_and_truth_explains(account: CdekStandIn, cdek: Cdek) -> None:
    event = await moved(account, cdek)
    async with StandIn(Response(status_code=200)) as shop:
        account.subscriptions["ORDER_STATUS"] = f"{shop.url}/webhooks/cdek/{TOKEN}"
        assert await account.deliver(event) == 200
        (seen,) = shop.requests
    taken = cdek.verify(seen.headers, seen.body, now=NOW, origin=Origin(token=TOKEN))
    assert taken.external_id == f"{ordered(account).uuid}:DELIVERED:2026-03-10T16:00:00+0700"
    assert taken.kind == "ORDER_STATUS"
    assert taken.kept
    assert await cdek.truth(seen.body) == [
        StatusChange(status="DELIVERED", number="1042", tracking_number=ordered(account).number, at=NOW)
    ]


async def test_the_stand_in_tells_a_status_once_to_the_address_subscribed_last(
    account: CdekStandIn, cdek: Cdek
) -> None:
    event = await moved(account, cdek)
    assert await account.deliver(event) is None
    async with StandIn(Response(status_code=500)) as shop, httpx.AsyncClient(base_url=account.base_url) as client:
        form = {"grant_type": "client_credentials", "client_id": account.client_id}
        answer = await client.post("/oauth/token", data=form | {"client_secret": account.client_secret})
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        for path in ("first", "second"):
            wanted = {"url": f"{shop.url}/{path}", "type": "ORDER_STATUS"}
            assert (await client.post("/webhooks", json=wanted, headers=headers)).status_code == 200
        assert await account.deliver(event) == 500
        assert [seen.path for seen in shop.requests] == ["/second"]


@pytest.mark.parametrize("token", ["", "another-token-of-letters", TOKEN.upper(), TOKEN + "x", "ž", "\udc80"])
async def test_another_token_is_refused_without_saying_the_right_one(
    account: CdekStandIn, cdek: Cdek, token: str
) -> None:
    event = body(await moved(account, cdek))
    with pytest.raises(BadSignature) as caught:
        verified(cdek, event, token=token)
    assert TOKEN not in str(caught.value)


async def test_without_a_token_of_ours_no_webhook_is_taken(account: CdekStandIn, cdek: Cdek, tmp_path: Path) -> None:
    event = body(await moved(account, cdek))
    async with connected(account, tmp_path, webhook_token=None) as without:
        for token in ("", "None"):
            with pytest.raises(BadSignature, match="webhook_token"):
                verified(without, event, token=token)


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("203.0.113.7", True),
        ("::ffff:203.0.113.7", True),
        ("2001:db8::7", True),
        ("203.0.114.7", False),
        ("2001:db9::7", False),
        ("", False),
        ("cdek.ru", False),
    ],
)
async def test_a_webhook_must_come_from_where_cdek_is_when_that_is_set_up(
    account: CdekStandIn, cdek: Cdek, tmp_path: Path, address: str, taken: bool
) -> None:
    event = body(await moved(account, cdek))
    async with connected(account, tmp_path, webhook_networks=["203.0.113.0/24", "2001:db8::/32"]) as strict:
        if taken:
            assert verified(strict, event, address=address)
        else:
            with pytest.raises(BadSignature, match="networks"):
                verified(strict, event, address=address)
    assert verified(cdek, event, address=address)


async def test_each_change_of_status_is_an_event_of_its_own_and_a_repeat_is_none(
    account: CdekStandIn, cdek: Cdek
) -> None:
    made = await cdek.create(CONSIGNMENT, "key")
    number = made.tracking_number
    events = [
        account.move(number, "TAKEN_BY_COURIER", now=NOW),
        account.move(number, "ACCEPTED_IN_RECIPIENT_CITY", now=NOW + timedelta(hours=1)),
        account.move(number, "TAKEN_BY_COURIER", now=NOW + timedelta(hours=2)),
        account.withdraw(number),
    ]
    ids = [verified(cdek, body(event)) for event in events]
    assert len(set(ids)) == 4
    assert [verified(cdek, body(event)) for event in events] == ids


@pytest.mark.parametrize("kind", ["PRINT_FORM", "PREALERT_CLOSED", "DELIV_PROBLEM"])
async def test_events_that_say_nothing_here_are_answered_and_not_kept(
    account: CdekStandIn, cdek: Cdek, kind: str
) -> None:
    event = cdek.verify({}, body({"type": kind, "uuid": "x"}), now=NOW, origin=Origin(token=TOKEN))
    assert not event.kept
    assert event.kind == kind
    assert await cdek.truth(body({"type": kind, "uuid": "x"})) == []
    assert not account.requests


ORDER = "72753031-6b3c-4f9c-8b7a-8b2b4f5f1c55"
NO_EVENTS = [
    b"",
    b"hello",
    b"[]",
    b"{}",
    b"null",
    b'{"type": null}',
    b'{"type": "collected", "day": "2026-03-10", "cdek_number": "1", "registry_number": "1"}',
    b'{"type": "ORDER_STATUS"}',
    body({"type": "ORDER_STATUS", "uuid": "../orders", "attributes": {"code": "DELIVERED"}, "date_time": "2026-03-10"}),
    body({"type": "ORDER_STATUS", "uuid": ORDER, "attributes": {}, "date_time": "2026-03-10T00:00:00+0700"}),
    body({"type": "ORDER_STATUS", "uuid": ORDER, "attributes": {"code": "DELIVERED"}}),
    body({"type": "ORDER_STATUS", "uuid": ORDER, "attributes": {"code": "a b"}, "date_time": "2026-03-10T00:00:00"}),
    body({"type": "ORDER_STATUS", "uuid": ORDER, "attributes": {"code": "DELIVERED"}, "date_time": "x" * 10_000}),
    b"\xff\xfe",
    b"[" * 200_000,
    b"9" * 10_000,
]


@pytest.mark.parametrize("sent", NO_EVENTS, ids=range(len(NO_EVENTS)))
def test_what_is_no_event_of_cdek_s_is_refused(sent: bytes) -> None:
    with pytest.raises(BadSignature):
        verified(Cdek(config()), sent)


@given(
    sent=st.binary(max_size=200),
    told=st.dictionaries(st.sampled_from(["type", "uuid", "attributes"]), st.text().map(str.lower)),
)
def test_nothing_that_is_sent_breaks_the_reader(sent: bytes, told: dict[str, str]) -> None:
    cdek = Cdek(config())
    for made in (sent, body(told)):
        with pytest.raises(BadSignature):
            verified(cdek, made)


# What a status really is


async def test_cdek_s_answer_counts_and_not_what_the_webhook_says(account: CdekStandIn, cdek: Cdek) -> None:
    event = await moved(account, cdek, "TAKEN_BY_COURIER")
    event["attributes"] |= {"code": "DELIVERED", "number": "2000", "cdek_number": "1"}
    (change,) = await cdek.truth(body(event))
    assert isinstance(change, StatusChange)
    assert (change.status, change.number, change.tracking_number) == (
        "TAKEN_BY_COURIER",
        "1042",
        ordered(account).number,
    )


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_the_last_status_counts_in_whichever_order_they_are_listed(tmp_path: Path, oldest_first: bool) -> None:
    async with CdekStandIn(oldest_first=oldest_first, clock=earlier) as account, connected(account, tmp_path) as cdek:
        number = (await cdek.create(CONSIGNMENT, "key")).tracking_number
        account.move(number, "TAKEN_BY_COURIER", now=NOW)
        event = account.move(number, "DELIVERED", now=NOW)  # within the same second
        (change,) = await cdek.truth(body(event))
        assert isinstance(change, StatusChange)
        assert (change.status, change.at) == ("DELIVERED", NOW)


async def test_a_status_that_was_withdrawn_does_not_count(account: CdekStandIn, cdek: Cdek) -> None:
    made = await cdek.create(CONSIGNMENT, "key")
    account.move(made.tracking_number, "TAKEN_BY_COURIER", now=NOW)
    account.move(made.tracking_number, "DELIVERED", now=NOW + timedelta(hours=1))
    (change,) = await cdek.truth(body(account.withdraw(made.tracking_number)))
    assert isinstance(change, StatusChange)
    assert change.status == "TAKEN_BY_COURIER"


async def test_a_return_parcel_says_nothing_of_the_order(account: CdekStandIn, cdek: Cdek) -> None:
    event = await moved(account, cdek)
    ordered(account).returning = True
    assert await cdek.truth(body(event)) == []


async def test_an_order_that_cdek_does_not_know_says_nothing(account: CdekStandIn, cdek: Cdek) -> None:
    event = await moved(account, cdek) | {"uuid": ORDER}
    assert await cdek.truth(body(event)) == []


@pytest.mark.parametrize(
    ("order", "shown"), [("RU-2026/7", "RU-2026/7"), ("Заказ 7", None), ("7" * 30, None), ("kv", "kv")]
)
async def test_an_order_is_named_by_its_number_where_cdek_can_keep_that(
    account: CdekStandIn, cdek: Cdek, order: str, shown: str | None
) -> None:
    made = await cdek.create(replace(CONSIGNMENT, order_number=order), "key")
    (change,) = await cdek.truth(body(account.event(made.tracking_number)))
    assert isinstance(change, StatusChange)
    assert (change.number, change.tracking_number) == (shown, made.tracking_number)


@pytest.mark.parametrize("number", ["1043", "2026-0123456789", "A-kv01"])
async def test_the_number_of_an_order_made_elsewhere_is_left_as_it_is(
    account: CdekStandIn, cdek: Cdek, number: str
) -> None:
    event = await moved(account, cdek)
    ordered(account).body["number"] = number
    (change,) = await cdek.truth(body(event))
    assert isinstance(change, StatusChange)
    assert change.number == number


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        (Misbehavior.STATUS_BEFORE, 500, Transient),
        (Misbehavior.STATUS_BEFORE, 429, Transient),
        (Misbehavior.STATUS_BEFORE, 403, Misconfigured),
        (Misbehavior.CUT_BEFORE, 500, Transient),
        (Misbehavior.GARBAGE, 200, Transient),
        (Misbehavior.FAILURE, 200, Rejected),
    ],
)
async def test_while_cdek_cannot_answer_a_status_means_nothing_yet(
    account: CdekStandIn, cdek: Cdek, kind: Misbehavior, status: int, error: type[Exception]
) -> None:
    event = await moved(account, cdek)
    account.misbehave(kind, path="/v2/orders/", status=status)
    with pytest.raises(error):
        await cdek.truth(body(event))
    assert await cdek.truth(body(event)) != []


# Money that was collected


async def parcels(account: CdekStandIn, cdek: Cdek, *orders: str, collect: str | None = None) -> list[str]:
    """Order parcels and have them delivered; return their numbers."""
    numbers: list[str] = []
    for order in orders:
        made = await cdek.create(replace(CONSIGNMENT, order_number=order), "key")
        account.deliver_parcel(made.tracking_number, collect=collect)
        numbers.append(made.tracking_number)
    return numbers


async def polled(cdek: Cdek, cursor: str | None = None, *, now: datetime = NOW) -> tuple[dict[str, bytes], str]:
    """Poll to the end; return the events and the cursor."""
    found: dict[str, bytes] = {}
    while True:
        page: Page = await cdek.fetch(cursor, now=now)
        found |= dict(page.events)
        cursor = page.cursor
        if not page.more:
            return found, cursor


async def test_a_line_of_a_registry_is_a_payment_for_the_parcel_and_tells_its_status(
    account: CdekStandIn, tmp_path: Path
) -> None:
    async with connected(account, tmp_path, name="cdek-ru", account="CDEK RU") as cdek:
        (number,) = await parcels(account, cdek, "1042")
        account.pay_out(TODAY, number=77)
        events, cursor = await polled(cdek)

        assert (list(events), cursor) == ([f"77/{number}"], "2026-03-10")
        payment, change = await cdek.truth(events[f"77/{number}"])
    assert payment == IncomingPayment(
        source="cdek:cdek-ru",
        external_id=f"77/{number}",
        method=Method.CASH_ON_DELIVERY,
        amount=Money.parse("1042.50", "RUB"),
        booked_on=TODAY,
        account="CDEK RU",
        order_reference="1042",
        tracking_number=number,
        text="CDEK registry 77, payment order 9000",
    )
    assert isinstance(change, StatusChange)
    assert (change.status, change.tracking_number) == ("DELIVERED", number)


async def reported(cdek: Cdek, cursor: str | None = None, *, now: datetime = NOW) -> tuple[list[PayoutReport], str]:
    """Poll the lump sums to the end; return their reports and the cursor."""
    found: list[PayoutReport] = []
    while True:
        page = await cdek.payouts(cursor, now=now)
        found += page.reports
        cursor = page.cursor
        if not page.more:
            return found, cursor


@pytest.mark.parametrize("money", ["registries", "payment"])
async def test_a_registry_is_the_report_of_the_lump_sum_that_its_payments_come_to(
    account: CdekStandIn, tmp_path: Path, money: str
) -> None:
    async with connected(account, tmp_path, money=money) as cdek:
        numbers = await parcels(account, cdek, "1042", "1043")
        account.pay_out(TODAY, number=77)
        events, _ = await polled(cdek)
        (report,), cursor = await reported(cdek)
        payments = [one for told in events.values() for one in await cdek.truth(told)]
        assert [one.external_id for one in (await reported(cdek, cursor, now=NOW + timedelta(days=1)))[0]] == [
            report.external_id
        ]
    payout = report.payout
    assert payout is not None
    assert (payout.source, payout.external_id, payout.reference) == (cdek.payout_source, "77", "9000")
    assert (payout.paid_on, payout.gross.amount, payout.fee.amount) == (TODAY, "2085.00", "762.56")
    assert payout.net.amount == "1322.44"
    made = [one for one in payments if isinstance(one, IncomingPayment)]
    assert [(line.external_id, line.gross) for line in payout.lines] == [(one.external_id, one.amount) for one in made]
    assert [one.tracking_number for one in made] == numbers
    assert {one.source for one in made} == {payout.source}


async def test_what_a_registry_keeps_for_a_parcel_without_money_is_a_fee(account: CdekStandIn, cdek: Cdek) -> None:
    (paid,) = await parcels(account, cdek, "1042")
    (free,) = await parcels(account, cdek, "1043", collect="0")
    account.pay_out(TODAY, numbers=[paid, free])
    (report,), _ = await reported(cdek)
    assert report.payout is not None
    assert [(line.kind, line.net.amount) for line in report.payout.lines] == [
        (LineKind.PAYMENT, "661.22"),
        (LineKind.FEE, "-350.00"),
    ]


async def test_a_registry_that_can_not_be_right_or_changes_is_told_and_one_not_paid_out_is_none(
    account: CdekStandIn, cdek: Cdek
) -> None:
    await parcels(account, cdek, "1042")
    registry = account.pay_out(TODAY, number=77)
    (right,), _ = await reported(cdek)
    registry["sum"] += 1
    (other,), _ = await reported(cdek)
    assert (other.payout, other.external_id == right.external_id) == (None, False)
    assert other.refused == "payout 77: net: it says 662.22 RUB, but its lines come to 661.22 RUB"
    del registry["orders"][0]["transfer_sum"]
    (silent,), _ = await reported(cdek)
    assert "registry 77: CDEK doesn't say what was transferred" in silent.refused
    account.announce(registry, TODAY)
    assert (await reported(cdek))[0] == []


@pytest.mark.parametrize("collected", ["900", "1042.1", "0.01", "9007199254740993.01"])
async def test_what_was_collected_counts_to_the_kopeck_and_not_what_was_ordered(
    account: CdekStandIn, cdek: Cdek, collected: str
) -> None:
    await parcels(account, cdek, "1042", collect=collected)
    account.pay_out(TODAY)
    events, _ = await polled(cdek)
    (told,) = events.values()
    payment, _ = await cdek.truth(told)
    assert isinstance(payment, IncomingPayment)
    assert payment.amount == Money.parse(collected, "RUB")


async def test_a_parcel_without_money_is_no_payment(account: CdekStandIn, cdek: Cdek) -> None:
    (paid,) = await parcels(account, cdek, "1042")
    (free,) = await parcels(account, cdek, "1043", collect="0")
    account.pay_out(TODAY, number=77, numbers=[paid, free])
    assert list((await polled(cdek))[0]) == [f"77/{paid}"]


async def test_two_lines_for_a_parcel_in_a_registry_are_one_payment(account: CdekStandIn, cdek: Cdek) -> None:
    (number,) = await parcels(account, cdek, "1042")
    lines = account.pay_out(TODAY, number=77)["orders"]
    lines.append(lines[0] | {"payment_sum": Decimal("7.50")})
    events, _ = await polled(cdek)
    payment, _ = await cdek.truth(events[f"77/{number}"])
    assert isinstance(payment, IncomingPayment)
    assert payment.amount == Money.parse("1050", "RUB")


async def test_a_registry_that_is_not_paid_out_yet_is_waited_for(account: CdekStandIn, cdek: Cdek) -> None:
    await parcels(account, cdek, "1042")
    registry = account.pay_out(TODAY)
    account.announce(registry, TODAY)
    events, cursor = await polled(cdek)
    assert events == {}
    registry["payment_date"] = "2026-03-09"
    events, _ = await polled(cdek, cursor, now=NOW + timedelta(days=1))
    (told,) = events.values()
    payment, _ = await cdek.truth(told)
    assert isinstance(payment, IncomingPayment)
    assert payment.booked_on == date(2026, 3, 9)


def days_asked(account: CdekStandIn, path: str = "/v2/registries") -> list[str]:
    return [seen.query.removeprefix("date=") for seen in account.requests if seen.path == path]


async def test_the_first_poll_looks_back_and_later_ones_overlap(account: CdekStandIn, tmp_path: Path) -> None:
    async with connected(account, tmp_path, days=3, overlap=2) as cdek:
        _, cursor = await polled(cdek)
        assert days_asked(account) == ["2026-03-07", "2026-03-08", "2026-03-09", "2026-03-10"]
        account.requests.clear()
        _, cursor = await polled(cdek, cursor, now=NOW + timedelta(days=1))
        assert days_asked(account) == ["2026-03-08", "2026-03-09", "2026-03-10", "2026-03-11"]
        assert cursor == "2026-03-11"


async def test_a_long_way_back_is_gone_in_pages_and_no_day_is_left_out(account: CdekStandIn, tmp_path: Path) -> None:
    async with connected(account, tmp_path, days=24, overlap=2) as cdek:
        page = await cdek.fetch(None, now=NOW)
        assert (page.more, page.cursor) == (True, "2026-02-23:more")
        await polled(cdek, page.cursor)
        asked = days_asked(account)
        assert asked == [(TODAY - timedelta(days=back)).isoformat() for back in range(24, -1, -1)]


async def test_a_registry_that_is_listed_late_is_still_found_and_one_seen_before_has_the_same_id(
    account: CdekStandIn, cdek: Cdek
) -> None:
    (first,) = await parcels(account, cdek, "1042")
    account.pay_out(TODAY, number=77)
    before, cursor = await polled(cdek)
    (late,) = await parcels(account, cdek, "1043")
    account.pay_out(TODAY - timedelta(days=3), number=78)
    after, _ = await polled(cdek, cursor, now=NOW + timedelta(days=1))
    assert list(before) == [f"77/{first}"]
    assert set(after) == {f"77/{first}", f"78/{late}"}


async def test_the_day_is_moscow_s(account: CdekStandIn, tmp_path: Path) -> None:
    async with connected(account, tmp_path, days=1) as cdek:
        page = await cdek.fetch(None, now=datetime(2026, 3, 10, 22, 0, tzinfo=UTC))
    assert page.cursor == "2026-03-11"


@pytest.mark.parametrize("cursor", ["yesterday", "2026-13-01", "2026-03-01:", "2026-03-01:more:more", "٢٠٢٦-03-01"])
async def test_what_is_no_cursor_is_told(cdek: Cdek, cursor: str) -> None:
    with pytest.raises(Misconfigured, match="is not a cursor"):
        await cdek.fetch(cursor, now=NOW)


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        (Misbehavior.STATUS_BEFORE, 500, Transient),
        (Misbehavior.STATUS_BEFORE, 403, Misconfigured),
        (Misbehavior.CUT_MIDWAY, 500, Transient),
        (Misbehavior.GARBAGE, 200, Transient),
        (Misbehavior.FAILURE, 200, Rejected),
    ],
)
async def test_a_day_that_cannot_be_read_is_never_taken_for_an_empty_one(
    account: CdekStandIn, cdek: Cdek, kind: Misbehavior, status: int, error: type[Exception]
) -> None:
    account.misbehave(kind, path="/v2/registries", skip=2, status=status)
    with pytest.raises(error):
        await cdek.fetch(None, now=NOW)


async def test_a_day_of_which_something_else_is_said_is_not_an_empty_one(tmp_path: Path) -> None:
    async with Odd() as account, connected(account, tmp_path) as cdek:
        unheard: list[Any] = [{"error": "failed"}, {"registries": "none"}, []]
        for said in unheard:
            account.said = said
            account.misbehave(Misbehavior.FAILURE, path="/v2/registries", times=1)
            with pytest.raises(Transient):
                await cdek.fetch(None, now=NOW)
        empty: list[Any] = [{}, {"registries": []}, {"warnings": []}, refusal("GET", "v2_registry_not_found")]
        for said in empty:
            account.said = said
            account.misbehave(Misbehavior.FAILURE, path="/v2/registries", times=1)
            assert (await cdek.fetch(None, now=NOW)).events == ()


@pytest.mark.parametrize("money", ["registries", "payment"])
async def test_money_of_an_earlier_day_is_not_taken_for_that_of_the_next(
    account: CdekStandIn, tmp_path: Path, money: str
) -> None:
    async with connected(account, tmp_path, money=money, days=2) as cdek:
        numbers = await parcels(account, cdek, "1042", "1043")
        for back, number in enumerate(numbers):
            account.pay_out(TODAY - timedelta(days=1 - back), number=77 + back, numbers=[number])
        account.misbehave(
            Misbehavior.EARLIER, path="/v2/registries" if money == "registries" else "/v2/payment", skip=2
        )
        events, _ = await polled(cdek)
        assert [json.loads(event)["day"] for event in events.values()] == ["2026-03-09", "2026-03-10"]
        account.misbehave(
            Misbehavior.EARLIER, path="/v2/registries" if money == "registries" else "/v2/payment", skip=1
        )
        told = [await cdek.truth(event) for event in events.values()]
        assert [one.tracking_number for one, _ in told if isinstance(one, IncomingPayment)] == numbers


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"payment_sum": Decimal("10.005")}, "finer than"),
        ({"payment_sum": Decimal(-5)}, "less than nothing"),
        ({"payment_sum": 0}, "doesn't say"),
        ({"cdek_number": "1"}, "doesn't say"),
    ],
)
async def test_money_that_cannot_be_is_left_to_a_person(
    account: CdekStandIn, cdek: Cdek, line: Json, said: str
) -> None:
    await parcels(account, cdek, "1042")
    registry = account.pay_out(TODAY)
    events, _ = await polled(cdek)
    registry["orders"][0] |= line
    (told,) = events.values()
    with pytest.raises(Rejected, match=said):
        await cdek.truth(told)


@pytest.mark.parametrize("value", ["12.50", True, [1], {"value": 1}])
async def test_a_sum_that_is_no_number_is_not_guessed(account: CdekStandIn, cdek: Cdek, value: Any) -> None:
    await parcels(account, cdek, "1042")
    account.pay_out(TODAY)["orders"][0]["payment_sum"] = value
    with pytest.raises(Transient, match="not as CDEK does"):
        await polled(cdek)


@pytest.mark.parametrize("number", ["1e999999999999999999999", "1e400", "NaN", "-Infinity", "0." + "1" * 5000])
async def test_a_number_beyond_all_money_is_no_answer(account: CdekStandIn, cdek: Cdek, number: str) -> None:
    await parcels(account, cdek, "1042")
    account.pay_out(TODAY)["orders"][0]["payment_sum"] = as_it_stands(number)
    with pytest.raises(Transient, match="not as CDEK does"):
        await polled(cdek)


async def test_money_for_a_parcel_that_cdek_has_forgotten_is_still_money(account: CdekStandIn, cdek: Cdek) -> None:
    (number,) = await parcels(account, cdek, "1042")
    account.pay_out(TODAY)
    events, _ = await polled(cdek)
    ordered(account).forgotten = True
    (told,) = events.values()
    (payment,) = await cdek.truth(told)
    assert isinstance(payment, IncomingPayment)
    assert (payment.tracking_number, payment.order_reference) == (number, None)


@pytest.mark.parametrize("sample_names", [True, False])
async def test_money_can_be_read_from_the_orders_paid_out_whatever_their_fields_are_called(
    tmp_path: Path, sample_names: bool
) -> None:
    async with (
        CdekStandIn(sample_names=sample_names) as account,
        connected(account, tmp_path, money="payment") as cdek,
    ):
        (number,) = await parcels(account, cdek, "1042", collect="900.40")
        account.pay_out(TODAY)
        events, _ = await polled(cdek)
        assert list(events) == [f"2026-03-10/{number}"]
        payment, _ = await cdek.truth(events[f"2026-03-10/{number}"])
        assert isinstance(payment, IncomingPayment)
        assert (payment.amount, payment.order_reference) == (Money.parse("900.40", "RUB"), "1042")
        assert payment.booked_on == TODAY
        assert days_asked(account) == []


async def test_a_stored_event_that_cannot_be_read_is_left_to_a_person(cdek: Cdek) -> None:
    for stored in (b"", b"{}", b'{"type": "collected"}', b'{"type": "ORDER_STATUS", "uuid": "x"}'):
        with pytest.raises(Rejected, match="can't be read"):
            await cdek.truth(stored)
