"""The Bitrix24 connector, over real HTTP against a stand-in as strict as a portal; test_crms.py has the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from connectors import load
from connectors.bitrix24 import Bitrix24, Bitrix24Config
from connectors.errors import Misconfigured, Rejected, Transient
from connectors.roles import BadSignature, Income
from deployments.sandbox.bitrix24 import DEAL, SMART_PROCESS, Bitrix24StandIn
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.changes import StatusChange
from domain.money import Money
from domain.orders import Address, Customer, Order, OrderLine, Status
from domain.payments import Method

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CUSTOM = {
    "UF_CRM_NUMBER": "string",
    "UF_CRM_TO_PAY": "double",
    "UF_CRM_MONEY": "money",
    "UF_CRM_NAME": "string",
    "UF_CRM_EMAIL": "string",
    "UF_CRM_PHONE": "string",
    "UF_CRM_ADDRESS": "string",
}


def order(number: str = "1042", *, name: str = "Kateřina Dvořáčková", lines: int = 2) -> Order:
    each = Money.parse("450.25", "CZK")
    return Order(
        id=1,
        channel="eshop",
        number=number,
        status="paid",
        standard_status=Status.PAID,
        method=Method.CARD,
        total=Money(each.minor * lines, "CZK"),
        settled=Money.zero("CZK"),
        placed_at=NOW,
        customer=Customer(id=1, number="C1", name=name, email="katerina@example.com", phone="+420601234567"),
        lines=tuple(
            OrderLine(id=n, sku=f"K{n}", title=f"Konvice {n}", quantity=1, unit_price=each, vat_rate=Decimal(21))
            for n in range(lines)
        ),
        delivery_address=Address(
            name="K. Dvořáčková", street="Příčná 5", city="Plzeň", postcode="301 00", country="CZ"
        ),
    )


def income(**changed: Any) -> Income:
    told: dict[str, Any] = {
        "reference": "payment:17",
        "amount": Money(45025, "CZK"),
        "booked_on": date(2026, 3, 1),
        "method": Method.CARD,
    }
    return Income(**{**told, **changed})


def config(portal: Bitrix24StandIn | None = None, /, **changed: Any) -> Bitrix24Config:
    fields: dict[str, Any] = {
        "name": "bitrix24",
        "home": Path(),
        "base_url": portal.url if portal else "http://127.0.0.1:9",
        "user": 7,
        "token": portal.token if portal else "hooksecret",
        "application_token": portal.application_token if portal else "apptoken",
        "limits": {"per_second": None},
    }
    return Bitrix24Config.model_validate(fields | changed)


@asynccontextmanager
async def connected(portal: Bitrix24StandIn, /, **changed: Any) -> AsyncGenerator[Bitrix24]:
    made = Bitrix24(config(portal, **changed))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def portal() -> AsyncIterator[Bitrix24StandIn]:
    async with Bitrix24StandIn(custom=CUSTOM, burst=1000) as running:
        yield running


@pytest.fixture
async def crm(portal: Bitrix24StandIn) -> AsyncIterator[Bitrix24]:
    async with connected(portal) as made:
        yield made


def batch(told: dict[str, Any]) -> ASGIApp:
    """Answer each command of a batch by its method."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked = (await Request(scope, receive).json())["cmd"]
        results = {name: told[command.partition("?")[0]] for name, command in asked.items()}
        answer: dict[str, Any] = {"result": {"result": results, "result_error": []}}
        await Response(json.dumps(answer))(scope, receive, send)

    return app


def the_deal(portal: Bitrix24StandIn) -> dict[str, Any]:
    (item,) = portal.kinds[DEAL].items.values()
    return item


# Settings


def test_it_is_found_by_its_type_and_keeps_to_two_requests_a_second() -> None:
    settings = {"type": "bitrix24", "name": "crm", "base_url": "https://x.bitrix24.eu/", "user": 1, "token": "abc"}
    made = load({**settings, "application_token": "t"}, home=Path(), where="kvit.yaml")
    assert isinstance(made, Bitrix24)
    assert config(limits={"timeout": 5}).limits.per_second == 2


def test_secrets_do_not_show() -> None:
    assert "hidden" not in repr(config(token="hidden", application_token="hidden"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token", ""),
        ("token", "abc/../1"),
        ("token", "abc\n"),
        ("application_token", ""),
        ("application_token", "a,"),
        ("application_token", "a\nb"),
        ("base_url", "https://x.bitrix24.eu/rest/1/secret/"),
        ("entity_type_id", 31),
        ("entity_type_id", 1),
        ("number_field", "ufCrmNumber"),
        ("originator", "a:b"),
    ],
)
def test_what_can_not_be_right_is_no_setting(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        config(**{field: value})


async def test_a_check_names_the_fields_that_the_portal_does_not_have(portal: Bitrix24StandIn) -> None:
    async with connected(portal, paid_field="UF_CRM_GONE", customer_name_field="UF_CRM_LOST") as wrong:
        with pytest.raises(Misconfigured, match="no field UF_CRM_GONE, UF_CRM_LOST"):
            await wrong.check()


@pytest.mark.parametrize(
    "changed",
    [
        {"to_pay_field": "UF_CRM_MONEY"},
        {"to_pay_field": "UF_CRM_TO_PAY", "money_fields": True},
        {"number_field": "UF_CRM_TO_PAY"},
        {"entity_type_id": 177},
        {"user": 8},
        {"token": "WrongSecret1"},
    ],
)
async def test_a_check_finds_what_is_set_wrong(portal: Bitrix24StandIn, changed: dict[str, Any]) -> None:
    async with connected(portal, **changed) as wrong:
        with pytest.raises(Misconfigured) as raised:
            await wrong.check()
        assert "WrongSecret1" not in str(raised.value)


# As an app


def of_app(portal: Bitrix24StandIn | None = None, /, **changed: Any) -> dict[str, Any]:
    app = {
        "user": None,
        "token": None,
        "client_id": "local.app",
        "client_secret": "appsecret",
        "refresh_token": "begun",
    }
    if portal is not None:
        app |= {"client_id": portal.client_id, "client_secret": portal.client_secret, "oauth_url": portal.url}
        app |= {"refresh_token": portal.refresh_token}
    return app | changed


class Hours:
    """A clock that is set forward by hand, the connector's and the portal's."""

    def __init__(self, portal: Bitrix24StandIn) -> None:
        self._portal = portal
        portal.time = NOW

    def __call__(self) -> datetime:
        assert self._portal.time
        return self._portal.time

    def forward(self, **by: float) -> None:
        self._portal.time = self() + timedelta(**by)


@asynccontextmanager
async def as_app(settings: Bitrix24Config, hours: Hours) -> AsyncGenerator[Bitrix24]:
    made = Bitrix24(settings, clock=hours)
    try:
        yield made
    finally:
        await made.aclose()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (of_app(token="abc"), "set up one of the two"),
        (of_app(client_secret=None), "client_secret missing"),
        (of_app(client_id=None, refresh_token=None), "client_id and refresh_token missing"),
        ({"user": None}, "user missing: an incoming webhook needs user and token"),
        ({"user": None, "token": None}, "user and token missing"),
        (of_app(refresh_token="a b"), "copy it again"),
    ],
)
def test_a_portal_is_reached_in_one_way_that_is_whole(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**changed)
    assert "appsecret" not in repr(config(**of_app()))


async def test_an_app_renews_its_token_before_it_expires_and_sends_it_in_bodies_alone(
    portal: Bitrix24StandIn, tmp_path: Path
) -> None:
    hours, secrets = Hours(portal), {portal.client_secret, portal.refresh_token}
    async with as_app(config(portal, **of_app(portal), home=tmp_path), hours) as crm:
        assert await crm.check() == "bitrix24: Bitrix24 answers, accepts the app's token, and its cards have all fields"
        hours.forward(minutes=58)
        await crm.tell(order(), "EXECUTING", "key")
        assert portal.granted == 1
        hours.forward(minutes=1)
        await crm.tell(order(), "WON", "key")
    assert (portal.granted, the_deal(portal)["stageId"]) == (2, "WON")
    addresses = {f"{seen.path}?{seen.query}" for seen in portal.requests}
    assert {seen.path.rpartition("/")[0] for seen in portal.requests} == {"/rest", "/oauth/token"}
    assert not any(secret in address for secret in secrets | {portal.refresh_token} for address in addresses)


async def test_a_token_that_is_refused_early_is_renewed_once_for_all_who_ask(
    portal: Bitrix24StandIn, tmp_path: Path
) -> None:
    async with as_app(config(portal, **of_app(portal), home=tmp_path), Hours(portal)) as crm:
        assert set(await asyncio.gather(*(crm.find_income(order(), income(), "key") for _ in range(5)))) == {None}
        assert portal.granted == 1
        portal.expire()
        await asyncio.gather(*(crm.check() for _ in range(5)))
    assert portal.granted == 2


async def test_what_was_to_be_written_with_a_token_that_expired_is_in_doubt_and_written_once(
    portal: Bitrix24StandIn, tmp_path: Path
) -> None:
    async with as_app(config(portal, **of_app(portal), home=tmp_path), Hours(portal)) as crm:
        await crm.check()
        portal.then["crm.item.list"] = portal.expire
        with pytest.raises(Transient, match="access token is not accepted") as raised:
            await crm.tell(order(), "EXECUTING", "key")
        assert raised.value.in_doubt
        await crm.tell(order(), "EXECUTING", "key")
    assert (the_deal(portal)["stageId"], portal.granted) == ("EXECUTING", 2)


async def test_the_newest_refresh_token_outlives_the_process_and_is_shared_by_those_that_run(
    portal: Bitrix24StandIn, tmp_path: Path
) -> None:
    hours, settings = Hours(portal), config(portal, **of_app(portal), home=tmp_path)
    async with as_app(settings, hours) as crm:
        await crm.check()
    async with as_app(settings, hours) as one, as_app(settings, hours) as other:
        await asyncio.gather(one.check(), other.check())
        assert portal.granted == 1
        for times in (2, 3):
            hours.forward(hours=2)
            await asyncio.gather(*(crm.check() for crm in (one, other) * 3))
            assert portal.granted == times
    (kept,) = (tmp_path / "bitrix24" / "bitrix24").glob("token.json")
    assert kept.stat().st_mode & 0o077 == 0


async def test_a_renewal_that_nobody_waits_for_any_more_is_kept_all_the_same(
    portal: Bitrix24StandIn, tmp_path: Path
) -> None:
    hours, settings = Hours(portal), config(portal, **of_app(portal), home=tmp_path)
    async with as_app(settings, hours) as crm:
        asked = asyncio.create_task(crm.check())
        portal.then["oauth"] = asked.cancel
        with pytest.raises(asyncio.CancelledError):
            await asked
    async with as_app(settings, hours) as crm:
        await crm.check()
    assert portal.granted == 1


async def test_a_refresh_token_that_somebody_else_has_used_is_told_and_a_new_one_takes_its_place(
    portal: Bitrix24StandIn, tmp_path: Path
) -> None:
    hours, settings = Hours(portal), config(portal, **of_app(portal), home=tmp_path)
    portal.refresh_token = "another"
    async with as_app(settings, hours) as crm:
        with pytest.raises(Misconfigured, match="Install the app in the portal anew, and set refresh_token") as raised:
            await crm.check()
    assert settings.refresh_token
    assert settings.refresh_token.get_secret_value() not in str(raised.value)
    async with as_app(config(portal, **of_app(portal), home=tmp_path), hours) as crm:
        await crm.check()
    async with as_app(config(portal, **of_app(portal, client_secret="wrong"), home=tmp_path), hours) as crm:
        with pytest.raises(Misconfigured, match="invalid_client"):
            await crm.check()


@pytest.mark.parametrize("kind", [Misbehavior.STATUS_BEFORE, Misbehavior.CUT_BEFORE])
async def test_while_the_oauth_server_is_away_nothing_is_in_doubt(
    portal: Bitrix24StandIn, tmp_path: Path, kind: Misbehavior
) -> None:
    portal.misbehave(kind, path="/oauth/token/")
    async with as_app(config(portal, **of_app(portal), home=tmp_path), Hours(portal)) as crm:
        with pytest.raises(Transient) as raised:
            await crm.tell(order(), "EXECUTING", "key")
        assert not raised.value.in_doubt
        await crm.tell(order(), "EXECUTING", "key")
    assert the_deal(portal)["stageId"] == "EXECUTING"


async def test_a_renewal_whose_answer_got_lost_leaves_no_card_in_doubt_and_is_told(
    portal: Bitrix24StandIn, tmp_path: Path
) -> None:
    portal.misbehave(Misbehavior.CUT_AFTER, path="/oauth/token/")
    async with as_app(config(portal, **of_app(portal), home=tmp_path), Hours(portal)) as crm:
        with pytest.raises(Transient) as raised:
            await crm.tell(order(), "EXECUTING", "key")
        assert not raised.value.in_doubt
        with pytest.raises(Misconfigured, match="the answer that replaced it was lost"):
            await crm.tell(order(), "EXECUTING", "key")


# Cards


async def test_a_new_card_has_what_is_configured_and_no_more(portal: Bitrix24StandIn) -> None:
    people = {"customer_name_field": "UF_CRM_NAME", "customer_address_field": "UF_CRM_ADDRESS"}
    async with connected(portal, **people, category_id=9, responsible_id=3) as crm:
        await crm.tell(order(), "C9:UC_A1B2C3", "key")
    told = {
        "title": "1042",
        "originatorId": "kvit",
        "originId": "1042",
        "opportunity": Decimal("900.50"),
        "currencyId": "CZK",
        "isManualOpportunity": "Y",
        "categoryId": 9,
        "assignedById": 3,
        "stageId": "C9:UC_A1B2C3",
        "UF_CRM_NAME": "Kateřina Dvořáčková",
        "UF_CRM_ADDRESS": "K. Dvořáčková, Příčná 5, 301 00 Plzeň, CZ",
        "UF_CRM_EMAIL": None,
        "UF_CRM_PHONE": None,
    }
    assert {field: the_deal(portal)[field] for field in told} == told


async def test_what_people_change_on_a_card_is_left_alone(portal: Bitrix24StandIn) -> None:
    async with connected(portal, to_pay_field="UF_CRM_TO_PAY", customer_name_field="UF_CRM_NAME") as crm:
        card = await crm.tell(order(), "NEW", "key")
        portal.write(int(card), title="Konvice pro paní K.", UF_CRM_NAME="paní K.", opportunity="900", originId="1042 ")
        await crm.tell(order(lines=3), "WON", "key")
    deal = the_deal(portal)
    assert (deal["title"], deal["UF_CRM_NAME"], deal["opportunity"]) == ("Konvice pro paní K.", "paní K.", Decimal(900))
    assert (deal["stageId"], deal["UF_CRM_TO_PAY"]) == ("WON", Decimal("1350.75"))


async def test_what_is_so_already_fires_no_event(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    await crm.tell(order(), "NEW", "key")
    before = len(portal.events)
    await crm.tell(order(), "NEW", "key")
    assert len(portal.events) == before


async def test_a_card_can_be_known_by_a_custom_field(portal: Bitrix24StandIn) -> None:
    async with connected(portal, number_field="UF_CRM_NUMBER") as crm:
        made = portal.make("x", UF_CRM_NUMBER="cz1042 ")
        portal.make("CZ1042", UF_CRM_NUMBER="CZ10421")
        assert await crm.tell(order("CZ1042"), "WON", "key") == str(made["id"])
        event = portal.body(portal.move(made["id"], "LOSE"))
        assert [(one.number, one.status) for one in await crm.truth(event)] == [("cz1042", "LOSE")]


async def test_cards_of_another_originator_are_not_ours(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    theirs = portal.make("1042", originatorId="shop")
    assert await crm.tell(order(), "WON", "key") != str(theirs["id"])
    assert theirs["stageId"] == "NEW"
    assert await crm.truth(portal.body(portal.move(theirs["id"], "WON"))) == []
    assert [external_id.split(":")[0] for external_id, _ in (await crm.fetch(None, now=datetime.now(UTC))).events] == [
        str(theirs["id"] + 1)
    ]


async def test_a_card_that_somebody_else_makes_at_the_same_moment_is_told_to_a_person(
    portal: Bitrix24StandIn, crm: Bitrix24
) -> None:
    portal.then["crm.item.add"] = lambda: portal.make("1042")
    for _ in range(2):
        with pytest.raises(Rejected, match="more than one card: 1, 2; keep one"):
            await crm.tell(order(), "NEW", "key")
    assert len(portal.kinds[DEAL].items) == 2
    portal.delete(2)
    assert await crm.tell(order(), "NEW", "key") == "1"


@pytest.mark.parametrize("field", ["UF_CRM_GONE", "UF_CRM_TO_PAY"])
async def test_a_field_that_can_not_hold_the_number_never_makes_card_after_card(
    portal: Bitrix24StandIn, field: str
) -> None:
    async with connected(portal, number_field=field) as crm:
        for _ in range(3):
            with pytest.raises(Misconfigured):
                await crm.tell(order(), None, "key")
    assert len(portal.kinds[DEAL].items) <= 1


@pytest.mark.parametrize("field", ["to_pay_field", "customer_name_field"])
async def test_a_field_that_keeps_nothing_is_misconfigured(portal: Bitrix24StandIn, field: str) -> None:
    async with connected(portal, **{field: "UF_CRM_GONE"}) as crm:
        with pytest.raises(Misconfigured, match="UF_CRM_GONE"):
            await crm.tell(order(), None, "key")


async def test_sums_can_be_fields_of_the_kind_money(portal: Bitrix24StandIn) -> None:
    async with connected(portal, to_pay_field="UF_CRM_MONEY", money_fields=True) as crm:
        for _ in range(2):
            await crm.tell(order(), None, "key")
        assert the_deal(portal)["UF_CRM_MONEY"] == "900.5|CZK"
    assert len(portal.done) == 1


async def test_a_stage_of_another_funnel_is_rejected(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    portal.make("1042")
    with pytest.raises(Rejected, match="CRM_FIELD_ERROR_VALUE_NOT_VALID"):
        await crm.tell(order(), "C9:WON", "key")


async def test_a_smart_process_without_amounts_takes_none() -> None:
    async with Bitrix24StandIn(spa_money=False) as portal:
        async with connected(portal, entity_type_id=SMART_PROCESS) as wrong:
            with pytest.raises(Misconfigured, match="opportunity"):
                await wrong.tell(order("1041"), None, "key")
        async with connected(portal, entity_type_id=SMART_PROCESS, amount=False) as right:
            card = await right.tell(order(), "DT128_5:CLIENT", "key")
            assert portal.kinds[SMART_PROCESS].items[int(card)]["xmlId"] == "kvit:1042"


async def test_what_a_customer_writes_is_never_taken_for_a_reference_in_a_batch(portal: Bitrix24StandIn) -> None:
    name = "$result[card][items][0][id]&fields[stageId]=WON"
    async with connected(portal, customer_name_field="UF_CRM_NAME") as crm:
        await crm.tell(order(name=name), "NEW", "key")
        await crm.tell(order(name=name), "EXECUTING", "key")
    assert the_deal(portal)["UF_CRM_NAME"] == name


# Product rows


async def test_the_lines_become_product_rows_once(portal: Bitrix24StandIn) -> None:
    async with connected(portal, product_rows=True) as crm:
        card, again = [await crm.tell(order(), "NEW", "key") for _ in range(2)]
    assert card == again
    rows = portal.rows["D", int(card)]
    assert [
        (row["productName"], row["price"], row["quantity"], row["taxRate"], row["taxIncluded"]) for row in rows
    ] == [
        ("Konvice 0", Decimal("450.25"), 1, 21, "Y"),
        ("Konvice 1", Decimal("450.25"), 1, 21, "Y"),
    ]
    assert [method for method, _ in portal.done] == ["crm.item.add", "crm.item.productrow.set"]
    assert the_deal(portal)["opportunity"] == Decimal("900.50")


async def test_rows_that_were_not_written_are_written_the_next_time(portal: Bitrix24StandIn) -> None:
    async with connected(portal, product_rows=True, entity_type_id=SMART_PROCESS) as crm:
        portal.misbehave(Misbehavior.STATUS_BEFORE, path=f"/rest/7/{portal.token}/crm.item.productrow.set")
        with pytest.raises(Transient):
            await crm.tell(order(), None, "key")
        card = await crm.tell(order(), None, "key")
    assert len(portal.rows["T80", int(card)]) == 2
    assert [method for method, _ in portal.done] == ["crm.item.add", "crm.item.productrow.set"]


async def test_rows_that_a_person_changed_are_left(portal: Bitrix24StandIn) -> None:
    async with connected(portal, product_rows=True) as crm:
        card = int(await crm.tell(order(), None, "key"))
        del portal.rows["D", card][0]
        await crm.tell(order(), "WON", "key")
    assert len(portal.rows["D", card]) == 1


# Incomes


async def test_an_income_is_a_comment_that_says_all_of_it_without_markup(
    portal: Bitrix24StandIn, crm: Bitrix24
) -> None:
    portal.make("1042")
    await crm.add_income(order(), income(provider_reference="[url=http://x]pi_1<b>"), "key")
    (text,) = portal.texts(1)
    first, mark = text.split("\n")
    assert first == "+450.25 CZK · 2026-03-01 · card · urlhttp://xpi_1b · payment:17"
    assert mark.startswith("#kvit-")


async def test_an_income_that_may_not_be_looked_for_is_not_missing(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    portal.make("1042")
    portal.forbidden.add("crm.timeline.comment.list")
    for asked in (crm.find_income(order(), income(), "key"), crm.add_income(order(), income(), "key")):
        with pytest.raises(Misconfigured, match="insufficient_scope"):
            await asked
    assert portal.comments == []


async def test_looking_for_an_income_takes_one_request(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    portal.make("1042")
    await crm.find_income(order(), income(), "key")
    (seen,) = portal.requests
    assert seen.path.endswith("/batch.json")
    assert len(json.loads(seen.body)["cmd"]) == 2


async def test_a_comment_deleted_meanwhile_makes_nobody_overlook_another(
    portal: Bitrix24StandIn, crm: Bitrix24
) -> None:
    portal.make("1042")
    for n in range(49):
        portal.comments.append({"ID": str(n + 1), "ENTITY_TYPE": "deal", "ENTITY_ID": "1", "COMMENT": f"Note {n}"})
    first = await crm.add_income(order(), income(reference="payment:1"), "key")
    second = await crm.add_income(order(), income(reference="payment:2"), "key")
    portal.then["crm.timeline.comment.list"] = lambda: portal.comments.pop(0)
    with pytest.raises(Transient, match="changed while they were read"):
        await crm.find_income(order(), income(reference="payment:2"), "key")
    assert await crm.find_income(order(), income(reference="payment:1"), "key") == first
    assert await crm.find_income(order(), income(reference="payment:2"), "key") == second


async def test_a_list_of_comments_that_never_ends_is_left_once_it_comes_round() -> None:
    page = [{"ID": str(n), "COMMENT": ""} for n in range(1, 51)]
    card: dict[str, Any] = {"items": [{"id": 1, "originatorId": "kvit", "originId": "1042", "stageId": "NEW"}]}

    async with StandIn(batch({"crm.item.list": card, "crm.timeline.comment.list": page})) as system:
        crm = Bitrix24(config(base_url=system.url))
        with pytest.raises(Transient, match="changed while they were read"):
            await crm.find_income(order(), income(), "key")
        assert len(system.requests) == 2
        await crm.aclose()


# Limits and errors


async def test_too_many_requests_are_told_as_busy() -> None:
    async with Bitrix24StandIn(burst=1, leak=0) as portal, connected(portal) as crm:
        await crm.check()
        with pytest.raises(Transient, match=r"503 \(QUERY_LIMIT_EXCEEDED\)") as raised:
            await crm.check()
        assert (raised.value.busy, raised.value.in_doubt) == (True, False)


@pytest.mark.parametrize("method", ["crm.item.list", "crm.item.add"])
async def test_a_method_that_is_blocked_is_busy_until_it_is_let_free(
    portal: Bitrix24StandIn, crm: Bitrix24, method: str
) -> None:
    portal.block(method, 300)
    with pytest.raises(Transient, match="OPERATION_TIME_LIMIT") as raised:
        await crm.tell(order(), None, "key")
    assert (raised.value.busy, raised.value.in_doubt) == (True, False)
    assert 0 < (raised.value.retry_after or 0) <= 300
    assert portal.done == []


@pytest.mark.parametrize("method", ["crm.item.list", "crm.item.add", "crm.timeline.comment.add"])
async def test_a_right_that_is_missing_is_misconfigured(portal: Bitrix24StandIn, crm: Bitrix24, method: str) -> None:
    portal.forbidden.add(method)
    with pytest.raises(Misconfigured, match="insufficient_scope"):
        await crm.add_income(order(), income(), "key")


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (400, {"error": "CRM_FIELD_ERROR_REQUIRED", "error_description": "Jana"}, Rejected),
        (200, {"error": "CRM_FIELD_ERROR_REQUIRED", "error_description": "Jana"}, Rejected),
        (400, {"error": "Jana Nováková", "error_description": "Jana"}, Rejected),
        (400, {"error": "", "error_description": "Jana"}, Rejected),
        (401, {"error": "expired_token", "error_description": "Jana"}, Misconfigured),
        (403, {"error": "ACCESS_DENIED", "error_description": "Jana"}, Misconfigured),
        (503, {"error": "OVERLOAD_LIMIT"}, Transient),
        (200, {"error": "INTERNAL_SERVER_ERROR"}, Transient),
        (200, {"result": []}, Transient),
        (200, {"result": {"fields": "Jana"}}, Transient),
        (200, {}, Transient),
        (302, {}, Misconfigured),
        (404, {}, Misconfigured),
    ],
)
async def test_an_error_is_told_by_its_code_and_never_by_its_description(
    status: int, answer: dict[str, Any], error: type[Exception]
) -> None:
    async with StandIn(Response(json.dumps(answer), status_code=status)) as system:
        crm = Bitrix24(config(base_url=system.url))
        with pytest.raises(error) as raised:
            await crm.check()
        assert "Jana" not in str(raised.value)
        assert "hooksecret" not in str(raised.value)
        await crm.aclose()


@pytest.mark.parametrize(
    ("what", "path", "skip", "doubt"),
    [
        ("find", "batch", 1, False),
        ("ask", "batch", 1, False),
        ("poll", "batch", 1, False),
        ("change", "batch", 2, False),
        ("change", "batch", 3, True),
        ("note", "batch", 2, False),
        ("note", "batch", 3, True),
        ("make", "crm.item.add", 1, True),
        ("make", "batch", 2, False),
        ("make", "batch", 3, True),
        ("make", "crm.item.productrow.set", 1, True),
    ],
)
async def test_an_answer_to_an_earlier_question_is_not_believed(
    portal: Bitrix24StandIn, what: str, path: str, skip: int, doubt: bool
) -> None:
    """A system that answers twice answers the next question on its connection with what it was asked before."""
    async with connected(portal, product_rows=what == "make") as crm:
        portal.time = NOW
        cards: dict[str, int] = {}
        if what != "make":
            cards = {number: portal.make(number)["id"] for number in ("1042", "1043")}
            await crm.add_income(order("1043"), income(reference="payment:43"), "key")
        before = len(portal.done)

        async def act(number: str) -> Any:
            match what:
                case "find":
                    return await crm.find_income(order(number), income(reference="payment:43"), "key")
                case "ask":
                    return await crm.truth(portal.body(portal.move(cards[number], "WON")))
                case "poll":
                    portal.move(cards[number], "WON")
                    return [one[-3:] for one, _ in (await crm.fetch(None, now=NOW)).events]
                case "note":
                    return await crm.add_income(order(number), income(), "key")
                case _:
                    return await crm.tell(order(number), "WON", "key")

        portal.misbehave(Misbehavior.EARLIER, path=f"/rest/7/{portal.token}/{path}", skip=skip)
        first = await act("1042")
        with pytest.raises(Transient) as raised:
            await act("1043")
        assert raised.value.in_doubt is doubt
        second = await act("1043")

    match what:
        case "find":
            assert (first, second) == (None, portal.comments[0]["ID"])
        case "ask":
            assert [change.number for change in (*first, *second)] == ["1042", "1043"]
        case "poll":
            assert (first, second) == (["WON", "NEW"], ["WON", "WON"])
        case "note":
            assert [len(portal.texts(card)) for card in cards.values()] == [1, 2]
            assert len(portal.done) == before + 2
        case _:
            deals = {str(item["id"]): (item["originId"], item["stageId"]) for item in portal.kinds[DEAL].items.values()}
            assert deals == {first: ("1042", "WON"), second: ("1043", "WON")}
            assert [len(rows) for rows in portal.rows.values()] == ([2, 2] if what == "make" else [])


async def test_a_refusal_of_what_was_done_is_not_believed(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    path = f"/rest/7/{portal.token}/"
    portal.misbehave(Misbehavior.STATUS_AFTER, path=f"{path}crm.item.add", status=400)
    card = await crm.tell(order(), "NEW", "key")
    portal.misbehave(Misbehavior.STATUS_AFTER, path=f"{path}batch", status=400, skip=1)
    with pytest.raises(Transient) as raised:
        await crm.tell(order(), "WON", "key")
    assert raised.value.in_doubt
    assert await crm.tell(order(), "WON", "key") == card
    assert portal.done == [("crm.item.add", int(card)), ("crm.item.update", int(card))]


# Outgoing webhooks


async def test_a_delivered_webhook_is_what_verify_takes_and_truth_asks_about(
    portal: Bitrix24StandIn, crm: Bitrix24
) -> None:
    portal.time = NOW
    event = portal.move(portal.make("1042")["id"], "WON")
    async with StandIn(Response(status_code=200)) as shop:
        assert await portal.deliver(event, f"{shop.url}/webhooks/bitrix24") == 200
        (seen,) = shop.requests
    taken = crm.verify(seen.headers, seen.body, now=NOW)
    assert (taken.external_id, taken.kind, taken.kept) == (
        f"ONCRMDEALUPDATE:1:{int(NOW.timestamp())}:{NOW.timestamp():.6f}",
        "ONCRMDEALUPDATE",
        True,
    )
    assert await crm.truth(seen.body) == [StatusChange(status="WON", number="1042", at=NOW)]


def test_what_changes_twice_within_a_second_is_told_twice(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    portal.time = NOW
    card = portal.make("1042")["id"]
    ours, theirs = portal.body(portal.move(card, "EXECUTING")), portal.body(portal.move(card, "FINAL_INVOICE"))
    assert ours == theirs
    first = crm.verify({}, ours, now=NOW)
    assert first.external_id != crm.verify({}, theirs, now=NOW + timedelta(milliseconds=1)).external_id


async def test_a_webhook_that_is_lost_is_not_sent_again_and_polled(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    portal.time = NOW
    card = portal.make("1042")["id"]
    cursor = (await crm.fetch(None, now=NOW)).cursor
    portal.time = NOW + timedelta(minutes=1)
    event = portal.move(card, "WON")
    async with StandIn(Response(status_code=500)) as shop:
        assert await portal.deliver(event, shop.url) == 500
        assert len(shop.requests) == 1
    assert await portal.deliver(event, "http://127.0.0.1:9") is None
    ((external_id, body),) = (await crm.fetch(cursor, now=portal.time)).events
    assert external_id.endswith(":WON")
    assert [change.status for change in await crm.truth(body)] == ["WON"]


@pytest.mark.parametrize("ours", ["apptoken", "old,apptoken", "apptoken, new"])
def test_any_of_our_tokens_may_come(ours: str) -> None:
    portal = Bitrix24StandIn(application_token="apptoken")
    event = portal.make("1042") and portal.events[-1]
    assert Bitrix24(config(application_token=ours)).verify({}, portal.body(event), now=NOW).kind == "ONCRMDEALADD"


@pytest.mark.parametrize("token", ["", "apptoke", "apptokenn", "APPTOKEN", "apptoken ", "old,apptoken"])
def test_another_token_is_refused_and_not_shown(token: str) -> None:
    portal = Bitrix24StandIn()
    event = portal.make("1042") and portal.events[-1]
    with pytest.raises(BadSignature, match="application token") as raised:
        Bitrix24(config(application_token="old,apptoken")).verify({}, portal.body(event, token=token), now=NOW)
    assert "apptoken" not in str(raised.value)


@pytest.mark.parametrize(
    "form",
    [
        "",
        "hello",
        "auth[application_token]=apptoken",
        "event=ONCRMDEALUPDATE&data[FIELDS][ID]=5&auth[application_token]=apptoken",
        "event=ONCRMDEALUPDATE&data[FIELDS][ID]=5&ts=1e9&auth[application_token]=apptoken",
        "event=ONCRMDEALUPDATE&data[FIELDS][ID]=../5&ts=1&auth[application_token]=apptoken",
        "event=ONCRMDEALUPDATE&data[FIELDS][ID]=0&ts=1&auth[application_token]=apptoken",
        "event=ONCRMDEALUPDATE&ts=1&auth[application_token]=apptoken",
        "event=ONCRM DEAL&ts=1&auth[application_token]=apptoken",
        "event=ONCRMDEALUPDATE&data[FIELDS][ID]=5&data[FIELDS][ID]=6&ts=1&auth[application_token]=apptoken",
        "event=ONCRMDEALUPDATE&data[FIELDS][ID]=5&ts=1&auth[application_token]=x&auth[application_token]=apptoken",
        "auth[application_token]=apptoken" + "&a=1" * 200,
        "auth[application_token]=apptoken&a=" + "1" * 70_000,
    ],
)
def test_what_is_no_event_is_refused_with_the_right_token_too(form: str) -> None:
    with pytest.raises(BadSignature):
        Bitrix24(config()).verify({}, form.encode(), now=NOW)


READER = Bitrix24(config())


@given(body=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f"event={text}&ts=1".encode()))
def test_no_body_without_the_token_gets_through_or_breaks_the_reader(body: bytes) -> None:
    with pytest.raises(BadSignature):
        READER.verify({}, body, now=NOW)


@pytest.mark.parametrize(
    ("kind", "event", "of_type", "kept"),
    [
        (DEAL, "ONCRMDEALUPDATE", None, True),
        (DEAL, "ONCRMDEALADD", None, True),
        (DEAL, "oncrmdealupdate", None, True),
        (DEAL, "ONCRMDEALDELETE", None, False),
        (DEAL, "ONCRMLEADUPDATE", None, False),
        (DEAL, "ONCRMDYNAMICITEMUPDATE", "2", False),
        (SMART_PROCESS, "ONCRMDYNAMICITEMUPDATE", "128", True),
        (SMART_PROCESS, "ONCRMDYNAMICITEMUPDATE_128", "128", True),
        (SMART_PROCESS, "ONCRMDYNAMICITEMUPDATE", "130", False),
        (SMART_PROCESS, "ONCRMDYNAMICITEMUPDATE", None, False),
        (SMART_PROCESS, "ONCRMDEALUPDATE", None, False),
    ],
)
async def test_only_events_of_cards_are_kept_and_asked_about(
    kind: int, event: str, of_type: str | None, kept: bool
) -> None:
    form = {"event": event, "data[FIELDS][ID]": "5", "ts": "1700000000", "auth[application_token]": "apptoken"}
    body = urlencode(form | ({} if of_type is None else {"data[FIELDS][ENTITY_TYPE_ID]": of_type})).encode()
    reader = Bitrix24(config(entity_type_id=kind))
    assert reader.verify({}, body, now=NOW).kept is kept
    if not kept:
        assert await reader.truth(body) == []
    await reader.aclose()


async def test_a_card_that_is_gone_tells_nothing(portal: Bitrix24StandIn, crm: Bitrix24) -> None:
    event = portal.body(portal.move(portal.make("1042")["id"], "WON"))
    portal.delete(1)
    assert await crm.truth(event) == []


async def test_a_list_that_goes_backwards_is_not_walked_for_ever() -> None:
    items = [{"id": 1, "updatedTime": "2026-03-01T12:00:00+03:00", "stageId": "NEW"} for _ in range(50)]
    async with StandIn(batch({"crm.item.list": {"items": items}})) as system:
        crm = Bitrix24(config(base_url=system.url))
        with pytest.raises(Transient, match=r"crm\.item\.list"):
            await crm.fetch(None, now=NOW)
        await crm.aclose()
