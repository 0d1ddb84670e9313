"""What every CRM must keep to: one card an order, each payment on it once, and it says what is so and not what was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pytest

from connectors.bitrix24 import Bitrix24, Bitrix24Config
from connectors.errors import Misconfigured, OutsideError, Rejected, Transient
from connectors.planfix import Planfix, PlanfixConfig
from connectors.roles import Checked, Crm, Income, Page, PaymentSource, WebhookReader
from deployments.sandbox import planfix as account_of
from deployments.sandbox.bitrix24 import DEAL, SMART_PROCESS, Bitrix24StandIn
from deployments.sandbox.planfix import PlanfixStandIn
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.changes import StatusChange
from domain.money import Money
from domain.orders import Address, Customer, Order, OrderLine, Status
from domain.payments import Method

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NAME, EMAIL, PHONE = "Kateřina Dvořáčková", "katerina@example.com", "+420601234567"


def order(number: str = "1042", *, total: str = "1042.50", paid: str = "0", currency: str = "CZK") -> Order:
    money = Money.parse(total, currency)
    line = OrderLine(id=1, sku="K1", title="Konvice", quantity=1, unit_price=money, vat_rate=Decimal(21))
    return Order(
        id=1,
        channel="eshop",
        number=number,
        status="awaiting_payment",
        standard_status=Status.AWAITING_PAYMENT,
        method=Method.BANK_TRANSFER,
        total=money,
        settled=Money.parse(paid, currency),
        placed_at=NOW,
        customer=Customer(id=1, number="C1", name=NAME, email=EMAIL, phone=PHONE, address=Address(city="Plzeň")),
        lines=(line,),
    )


def income(reference: str = "payment:17", amount: str = "450.10", **changed: Any) -> Income:
    told: dict[str, Any] = {
        "reference": reference,
        "amount": Money.parse(amount, "CZK"),
        "booked_on": date(2026, 3, 1),
        "method": Method.CARD,
        "provider_reference": "pi_3001",
    }
    return Income(**{**told, **changed})


class Connector(Crm, Checked, WebhookReader, PaymentSource, Protocol):
    """A connector that plays all the roles of a CRM."""


@dataclass(frozen=True)
class Card:
    """A card as the CRM has it."""

    status: str
    to_pay: Decimal
    paid: Decimal
    difference: Decimal


Write = tuple[str, int]


@dataclass
class Case:
    """A CRM, its other side, and what a person sees or does there.

    writes are the beginnings of the paths that a card, a change and an income are written to, each with how many other
    requests go there before.
    """

    crm: Connector
    system: StandIn
    statuses: tuple[str, str]
    unknown_status: str
    secret: str
    writes: tuple[Write, Write, tuple[Write, ...]]
    cards: Callable[[str], list[Card]]
    incomes: Callable[[], list[str]]
    done: Callable[[], int]
    make: Callable[[str], str]
    set_status: Callable[[str, str], bytes]
    set_clock: Callable[[datetime], None]
    chatter: Callable[[str, int], None]


Opener = Callable[[bool], AbstractAsyncContextManager[Case]]


def bitrix24(kind: int) -> Opener:
    """Open a portal with deals by its webhook, and with a smart process as an app."""
    hook = kind == DEAL

    @asynccontextmanager
    async def opened(makes_cards: bool) -> AsyncGenerator[Case]:
        sums = {name: f"UF_CRM_{name.upper()}" for name in ("to_pay", "paid", "difference")}
        people = {"customer_name": "UF_CRM_NAME", "customer_email": "UF_CRM_EMAIL"}
        custom = {**dict.fromkeys(sums.values(), "double"), **dict.fromkeys(people.values(), "string")}
        home = TemporaryDirectory()
        async with Bitrix24StandIn(custom=custom, burst=10_000) as portal:
            app = {"client_id": portal.client_id, "client_secret": portal.client_secret, "oauth_url": portal.url}
            app |= {"refresh_token": portal.refresh_token}
            settings: dict[str, Any] = {
                "name": "bitrix24",
                "home": Path(home.name),
                "base_url": portal.url,
                **({"user": portal.user, "token": portal.token} if hook else app),
                "application_token": portal.application_token,
                "entity_type_id": kind,
                "make_cards": makes_cards,
                "limits": {"per_second": None},
                **{f"{name}_field": field for name, field in (sums | people).items()},
            }
            crm = Bitrix24(Bitrix24Config.model_validate(settings))
            items = portal.kinds[kind].items

            def cards(number: str) -> list[Card]:
                values = (
                    item for item in items.values() if number in (item.get("originId"), item.get("xmlId", "")[5:])
                )
                return [
                    Card(item["stageId"], *(Decimal(item[field] or 0) for field in sums.values())) for item in values
                ]

            def chatter(number: str, count: int) -> None:
                type_ = "deal" if kind == DEAL else f"DYNAMIC_{kind}"
                for n in range(len(portal.comments), len(portal.comments) + count):
                    said = {"ID": str(100_000 + n), "ENTITY_TYPE": type_, "ENTITY_ID": number, "COMMENT": "Zavolat"}
                    portal.comments.append(said)

            def set_clock(now: datetime) -> None:
                portal.time = now

            prefix = f"/rest/{portal.user}/{portal.token}/" if hook else "/rest/"
            if not hook:
                await crm.check()  # which gets a token
                portal.requests.clear()
            stages = ("PREPARATION", "EXECUTING") if kind == DEAL else ("DT128_5:PREPARATION", "DT128_5:CLIENT")
            try:
                yield Case(
                    crm=crm,
                    system=portal,
                    statuses=stages,
                    unknown_status="C9:UC_XXXXXX",
                    secret=portal.token if hook else portal.refresh_token,
                    writes=((f"{prefix}crm.item.add", 0), (f"{prefix}batch", 1), ((f"{prefix}batch", 1),)),
                    cards=cards,
                    incomes=lambda: [one["COMMENT"] for one in portal.comments if one["COMMENT"] != "Zavolat"],
                    done=lambda: len(portal.done),
                    make=lambda number: str(portal.make(number, kind=kind)["id"]),
                    set_status=lambda card, status: portal.body(portal.move(int(card), status, kind=kind)),
                    set_clock=set_clock,
                    chatter=chatter,
                )
            finally:
                await crm.aclose()
                home.cleanup()

    return opened


@asynccontextmanager
async def planfix(makes_cards: bool) -> AsyncGenerator[Case]:
    async with PlanfixStandIn() as account:
        settings: dict[str, Any] = {
            "name": "planfix",
            "home": Path(),
            "base_url": account.base_url,
            "token": account.token,
            "webhook_token": account.webhook_token,
            "template_id": account_of.TEMPLATE,
            "number_field": account_of.NUMBER,
            "to_pay_field": account_of.TO_PAY,
            "paid_field": account_of.PAID,
            "difference_field": account_of.DIFFERENCE,
            "income_tag": account_of.INCOME,
            "income_reference_field": account_of.REFERENCE,
            "income_amount_field": account_of.AMOUNT,
            "income_date_field": account_of.DATE,
            "income_payment_field": account_of.PAYMENT,
            "make_cards": makes_cards,
            "time_zone": "Europe/Kyiv",
            "limits": {"per_second": None},
        }
        crm = Planfix(PlanfixConfig.model_validate(settings))
        sums = (account_of.TO_PAY, account_of.PAID, account_of.DIFFERENCE)

        def cards(number: str) -> list[Card]:
            found = (task for task in account.tasks.values() if task["values"].get(account_of.NUMBER) == number)
            return [
                Card(str(task["status"]), *(Decimal(task["values"].get(field, 0)) for field in sums)) for task in found
            ]

        def chatter(task: str, count: int) -> None:
            began = 100_000 + len(account.entries)
            for n in range(began, began + count):
                values = {account_of.REFERENCE: "payment:17"}
                account.entries[n] = {"key": n, "task": int(task) + 1, "commentId": n, "values": values}

        def incomes() -> list[str]:
            return [
                f"{one['values'][account_of.AMOUNT]} {one['values'][account_of.REFERENCE]}"
                for one in account.entries.values()
                if one["key"] < 100_000
            ]

        def set_status(task: str, status: str) -> bytes:
            return json.dumps(account.set_status(int(task), int(status))).encode()

        def set_clock(now: datetime) -> None:
            account.now = now

        try:
            yield Case(
                crm=crm,
                system=account,
                statuses=("102", "3"),
                unknown_status="999",
                secret=account.token,
                writes=(
                    ("/rest/task/", 2),
                    ("/rest/task/1", 0),
                    (("/rest/task/1/comments/", 2), ("/rest/task/1/datatags/", 0)),
                ),
                cards=cards,
                incomes=incomes,
                done=lambda: len(account.done),
                make=lambda number: str(account.make(number)["id"]),
                set_status=set_status,
                set_clock=set_clock,
                chatter=chatter,
            )
        finally:
            await crm.aclose()


@pytest.fixture(params=[bitrix24(DEAL), bitrix24(SMART_PROCESS), planfix], ids=["deal", "smart process", "planfix"])
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param


@pytest.fixture
async def case(opener: Opener) -> AsyncIterator[Case]:
    """A CRM in which each order has a card already."""
    async with opener(False) as made:
        yield made


@pytest.fixture
async def making(opener: Opener) -> AsyncIterator[Case]:
    """A CRM in which the connector makes the cards."""
    async with opener(True) as made:
        yield made


LOST = [
    Misbehavior.CUT_AFTER,
    Misbehavior.CUT_MIDWAY,
    Misbehavior.STATUS_AFTER,
    Misbehavior.GARBAGE,
]


# Cards


async def test_it_plays_its_roles_and_says_that_it_works(case: Case) -> None:
    for role in (Crm, Checked, WebhookReader, PaymentSource):
        assert isinstance(case.crm, role)
    assert "answers" in await case.crm.check()


async def test_a_card_is_brought_to_a_status_with_to_pay_paid_and_difference(case: Case) -> None:
    made = case.make("1042")
    assert await case.crm.tell(order(paid="450.10"), case.statuses[0], "key") == made
    assert case.cards("1042") == [Card(case.statuses[0], Decimal("1042.50"), Decimal("450.10"), Decimal("592.40"))]


async def test_saying_the_same_again_changes_nothing(case: Case) -> None:
    case.make("1042")
    await case.crm.tell(order(paid="450.10"), case.statuses[0], "key")
    before = case.done()
    for key in ("key", "another"):
        await case.crm.tell(order(paid="450.10"), case.statuses[0], key)
    await case.crm.tell(order(paid="450.10"), None, "key")
    assert case.done() == before == 1


async def test_without_a_status_the_card_stays_where_a_person_put_it(case: Case) -> None:
    card = case.make("1042")
    case.set_status(card, case.statuses[1])
    await case.crm.tell(order(paid="1042.50"), None, "key")
    assert case.cards("1042") == [Card(case.statuses[1], Decimal("1042.50"), Decimal("1042.50"), Decimal(0))]


async def test_part_payments_add_up_until_nothing_is_missing_and_too_much_is_negative(case: Case) -> None:
    case.make("1042")
    differences: list[Decimal] = []
    for paid in ("0", "1000", "1042.50", "1042.51"):
        await case.crm.tell(order(paid=paid), None, "key")
        differences += [card.difference for card in case.cards("1042")]
    assert differences == [Decimal("1042.50"), Decimal("42.50"), Decimal(0), Decimal("-0.01")]


@pytest.mark.parametrize("total", ["0.01", "0.29", "450.1", "9007199254740.93"])
async def test_sums_are_exact_to_the_last_cent(case: Case, total: str) -> None:
    case.make("1042")
    await case.crm.tell(order(total=total), None, "key")
    (card,) = case.cards("1042")
    assert (card.to_pay, card.difference) == (Decimal(total), Decimal(total))


async def test_a_card_is_that_of_the_whole_number_and_of_no_other(case: Case) -> None:
    cards = {number: case.make(number) for number in ("10421", "1042-1", "01042", "A1042", "1042")}
    assert await case.crm.tell(order("1042"), case.statuses[0], "key") == cards["1042"]
    assert [case.cards(number)[0].status == case.statuses[0] for number in cards] == [False] * 4 + [True]


async def test_an_order_with_two_cards_is_a_question_for_a_person(case: Case) -> None:
    cards = [case.make("1042"), case.make("1042")]
    for asked in (case.crm.tell(order(), None, "key"), case.crm.add_income(order(), income(), "key")):
        with pytest.raises(Rejected, match=rf"order 1042 has more than one .*{cards[0]}, {cards[1]}"):
            await asked
    assert case.done() == 0


async def test_an_order_without_a_card_is_rejected_where_none_is_made(case: Case) -> None:
    for asked in (case.crm.tell(order(), None, "key"), case.crm.add_income(order(), income(), "key")):
        with pytest.raises(Rejected, match="order 1042 has no"):
            await asked
    assert await case.crm.find_income(order(), income(), "key") is None
    assert case.done() == 0


@pytest.mark.parametrize("status", ["unknown", "", "a\nb", "../1"])
async def test_a_status_that_the_system_does_not_have_is_rejected(case: Case, status: str) -> None:
    case.make("1042")
    before = case.cards("1042")
    with pytest.raises(Rejected):
        await case.crm.tell(order(), case.unknown_status if status == "unknown" else status, "key")
    assert case.cards("1042") == before


async def test_a_new_card_is_made_once_and_stands_as_it_is_told(making: Case) -> None:
    first = await making.crm.tell(order(paid="42.50"), making.statuses[0], "key")
    second = await making.crm.tell(order(paid="42.50"), making.statuses[0], "another")
    assert first == second
    assert making.cards("1042") == [Card(making.statuses[0], Decimal("1042.50"), Decimal("42.50"), Decimal(1000))]
    assert making.done() == 1


async def test_those_who_tell_at_the_same_moment_make_one_card_and_one_income(making: Case) -> None:
    made = await asyncio.gather(*(making.crm.tell(order(), None, f"key-{n}") for n in range(6)))
    noted = await asyncio.gather(*(making.crm.add_income(order(), income(), f"key-{n}") for n in range(6)))
    assert (len(set(made)), len(making.cards("1042"))) == (1, 1)
    assert (len(set(noted)), len(making.incomes())) == (1, 1)


@pytest.mark.parametrize("lost", LOST)
async def test_a_card_whose_making_was_not_answered_is_not_made_again(making: Case, lost: Misbehavior) -> None:
    path, skip = making.writes[0]
    making.system.misbehave(lost, path=path, skip=skip)
    with pytest.raises(Transient) as raised:
        await making.crm.tell(order(), making.statuses[0], "key")
    assert raised.value.in_doubt
    await making.crm.tell(order(), making.statuses[0], "key")
    assert len(making.cards("1042")) == 1


@pytest.mark.parametrize("lost", LOST)
async def test_a_change_that_was_not_answered_can_be_told_again(case: Case, lost: Misbehavior) -> None:
    case.make("1042")
    path, skip = case.writes[1]
    case.system.misbehave(lost, path=path, skip=skip)
    with suppress(Transient):  # it may also see for itself that the change is made
        await case.crm.tell(order(paid="1"), case.statuses[0], "key")
    await case.crm.tell(order(paid="1"), case.statuses[0], "key")
    assert case.cards("1042") == [Card(case.statuses[0], Decimal("1042.50"), Decimal(1), Decimal("1041.50"))]
    assert case.done() == 1


# Incomes


async def test_an_income_is_added_once_and_found(case: Case) -> None:
    case.make("1042")
    assert await case.crm.find_income(order(), income(), "key") is None
    added = await case.crm.add_income(order(), income(), "key")
    assert added
    assert await case.crm.find_income(order(), income(), "key") == added
    for key in ("key", "another"):
        assert await case.crm.add_income(order(), income(), key) == added
    (text,) = case.incomes()
    assert "450.10" in text
    assert "payment:17" in text


async def test_an_income_of_an_order_without_a_card_makes_it_first(making: Case) -> None:
    added = await making.crm.add_income(order(paid="450.10"), income(), "key")
    assert await making.crm.find_income(order(), income(), "key") == added
    assert [card.paid for card in making.cards("1042")] == [Decimal("450.10")]


async def test_equal_incomes_and_alike_references_are_all_kept(case: Case) -> None:
    case.make("1042")
    references = ["payment:1", "payment:11", "payment:17", "Payment:1", "payment:1 "]
    added = [await case.crm.add_income(order(), income(reference), "key") for reference in references]
    assert len(set(added)) == len(case.incomes()) == 5
    assert [await case.crm.find_income(order(), income(reference), "key") for reference in references] == added


async def test_money_given_back_is_an_income_below_zero(case: Case) -> None:
    case.make("1042")
    await case.crm.add_income(order(), income("refund:3", "-450.10"), "key")
    (text,) = case.incomes()
    assert text.startswith("-450.10")


async def test_the_income_of_another_order_is_not_found(case: Case) -> None:
    case.make("1042")
    case.make("1043")
    await case.crm.add_income(order("1042"), income(), "key")
    assert await case.crm.find_income(order("1043"), income(), "key") is None


@pytest.mark.parametrize("lost", LOST)
async def test_an_income_whose_adding_was_not_answered_is_not_added_again(case: Case, lost: Misbehavior) -> None:
    case.make("1042")
    for path, skip in case.writes[2]:
        case.system.misbehave(lost, path=path, skip=skip)
        with pytest.raises(Transient) as raised:
            await case.crm.add_income(order(), income(), "key")
        assert raised.value.in_doubt
    added = await case.crm.find_income(order(), income(), "key")
    assert added
    assert await case.crm.add_income(order(), income(), "key") == added
    assert len(case.incomes()) == 1
    assert case.done() == len(case.writes[2])


@pytest.mark.parametrize("count", [49, 50, 100, 101])
async def test_an_income_is_found_among_many(case: Case, count: int) -> None:
    card = case.make("1042")
    case.chatter(card, count)
    assert await case.crm.find_income(order(), income(), "key") is None
    added = await case.crm.add_income(order(), income(), "key")
    case.chatter(card, 3)
    assert await case.crm.find_income(order(), income(), "key") == added


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize(
    "kind",
    [
        Misbehavior.CUT_BEFORE,
        Misbehavior.CUT_MIDWAY,
        Misbehavior.STATUS_BEFORE,
        Misbehavior.GARBAGE,
        Misbehavior.FAILURE,
    ],
)
async def test_an_income_that_could_not_be_looked_for_is_never_said_to_be_missing(
    case: Case, kind: Misbehavior, skip: int
) -> None:
    card = case.make("1042")
    case.chatter(card, 60)
    await case.crm.add_income(order(), income(), "key")
    case.system.misbehave(kind, skip=skip)
    with pytest.raises(OutsideError):
        await case.crm.find_income(order(), income(), "key")
    assert await case.crm.find_income(order(), income(), "key")


# What goes wrong


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_errors_are_the_three_and_tell_nothing_secret_or_personal(making: Case, status: int) -> None:
    making.system.misbehave(Misbehavior.STATUS_BEFORE, times=None, status=status)
    asked = [
        making.crm.check(),
        making.crm.tell(order(), making.statuses[0], "key"),
        making.crm.add_income(order(), income(), "key"),
        making.crm.find_income(order(), income(), "key"),
        making.crm.fetch(None, now=NOW),
    ]
    for one in asked:
        with pytest.raises(OutsideError) as raised:
            await one
        said = str(raised.value)
        assert making.crm.__class__.__name__.lower() in said
        assert not any(text in said for text in (making.secret, "/rest/7", "http://", NAME, EMAIL, PHONE, "misbehave"))
        assert raised.value.__cause__ is None


async def test_a_system_that_is_busy_is_not_in_doubt(making: Case) -> None:
    making.system.misbehave(Misbehavior.STATUS_BEFORE, status=429)
    with pytest.raises(Transient) as raised:
        await making.crm.tell(order(), None, "key")
    assert (raised.value.busy, raised.value.in_doubt) == (True, False)
    await making.crm.tell(order(), None, "key")
    assert len(making.cards("1042")) == 1


async def test_an_outage_is_transient_until_it_ends(making: Case) -> None:
    making.system.go_down()
    for _ in range(3):
        with pytest.raises(Transient):
            await making.crm.tell(order(), None, "key")
    making.system.behave()
    await making.crm.tell(order(), None, "key")
    assert len(making.cards("1042")) == 1


# What the CRM tells


async def test_a_status_set_by_a_person_is_told_as_it_stands_when_asked(case: Case) -> None:
    card = case.make("CZ-1042")
    event = case.set_status(card, case.statuses[0])
    (change,) = await case.crm.truth(event)
    assert isinstance(change, StatusChange)
    assert (change.number, change.status) == ("CZ-1042", case.statuses[0])
    case.set_status(card, case.statuses[1])
    (later,) = await case.crm.truth(event)
    assert isinstance(later, StatusChange)
    assert later.status == case.statuses[1]


async def test_what_is_no_card_of_an_order_tells_nothing(case: Case) -> None:
    event = case.set_status(case.make(""), case.statuses[0])
    assert await case.crm.truth(event) == []


@pytest.mark.parametrize(
    "stored", [b"", b"hello", b"[]", b"{}", b"\xff", b"task=1", b'{"task": "../1"}', b"[" * 90_000]
)
async def test_a_stored_body_that_is_no_event_is_rejected(case: Case, stored: bytes) -> None:
    with suppress(Rejected):
        assert await case.crm.truth(stored) == []
    assert not case.system.requests


def ids(page: Page) -> list[str]:
    return [external_id for external_id, _ in page.events]


async def poll(case: Case, cursor: str | None, now: datetime) -> tuple[list[tuple[str, bytes]], str]:
    """Fetch until there is no more; return the events and the last cursor."""
    events: list[tuple[str, bytes]] = []
    more = True
    while more:
        page = await case.crm.fetch(cursor, now=now)
        events += page.events
        cursor, more = page.cursor, page.more
    assert cursor is not None
    return events, cursor


@pytest.mark.parametrize("count", [0, 50, 100, 230])
async def test_every_card_that_was_changed_is_polled(case: Case, count: int) -> None:
    case.set_clock(NOW - timedelta(hours=1))
    for n in range(count):
        case.make(f"CZ{n}")
    events, _ = await poll(case, None, NOW)
    assert len(dict(events)) == count
    if events:
        (change,) = await case.crm.truth(events[-1][1])
        assert isinstance(change, StatusChange)
        assert change.number


async def test_a_card_is_polled_anew_for_each_status_that_it_comes_to(case: Case) -> None:
    case.set_clock(NOW)
    card = case.make("1042")
    seen: set[str] = set()
    cursor: str | None = None
    for minute, status in enumerate((None, case.statuses[0], case.statuses[1], case.statuses[0])):
        now = NOW + timedelta(minutes=minute)
        case.set_clock(now)
        if status:
            case.set_status(card, status)
        events, cursor = await poll(case, cursor, now)
        assert len(dict(events).keys() - seen) == 1
        seen |= dict(events).keys()
    events, _ = await poll(case, cursor, NOW + timedelta(minutes=9))
    assert dict(events).keys() <= seen


async def test_two_statuses_within_one_second_are_two_events(case: Case) -> None:
    case.set_clock(NOW)
    card = case.make("1042")
    first, cursor = await poll(case, None, NOW)
    case.set_status(card, case.statuses[0])
    second, _ = await poll(case, cursor, NOW)
    assert len(dict(first + second)) == 2


async def test_a_card_that_changes_while_others_are_polled_is_not_lost(case: Case) -> None:
    case.set_clock(NOW - timedelta(minutes=10))
    cards = [case.make(f"CZ{n}") for n in range(130)]
    first = await case.crm.fetch(None, now=NOW)
    assert first.more
    case.set_clock(NOW + timedelta(seconds=5))
    case.set_status(cards[0], case.statuses[0])
    rest, cursor = await poll(case, first.cursor, NOW + timedelta(seconds=10))
    later, _ = await poll(case, cursor, NOW + timedelta(seconds=60))
    assert len(dict([*first.events, *rest, *later])) == 131


async def test_an_interrupted_poll_goes_on_where_it_stood(case: Case) -> None:
    case.set_clock(NOW - timedelta(minutes=10))
    for n in range(130):
        case.make(f"CZ{n}")
    first = await case.crm.fetch(None, now=NOW)
    case.system.misbehave(Misbehavior.CUT_MIDWAY)
    with pytest.raises(Transient):
        await case.crm.fetch(first.cursor, now=NOW)
    rest, _ = await poll(case, first.cursor, NOW)
    assert len(dict([*first.events, *rest])) == 130


async def test_the_first_poll_looks_back_three_days(case: Case) -> None:
    case.set_clock(NOW - timedelta(days=3, minutes=2))
    case.make("old")
    case.set_clock(NOW - timedelta(days=3) + timedelta(minutes=2))
    case.make("young")
    events, _ = await poll(case, None, NOW)
    assert len(events) == 1


@pytest.mark.parametrize("cursor", ["", "1:2", "1:2:-3", "1:2:3\n", "9" * 20 + ":1:1"])
async def test_a_cursor_of_another_shape_is_misconfigured(case: Case, cursor: str) -> None:
    with pytest.raises(Misconfigured, match="is not a cursor"):
        await case.crm.fetch(cursor, now=NOW)
    assert not case.system.requests


async def test_nothing_of_the_customer_is_sent_where_no_field_is_for_it(case: Case) -> None:
    case.make("1042")
    told = replace(order(paid="1"), customer=replace(order().customer, phone=PHONE))
    await case.crm.tell(told, case.statuses[0], "key")
    await case.crm.add_income(told, income(), "key")
    sent = b"".join(seen.body for seen in case.system.requests).decode()
    assert not any(text in sent for text in (NAME, EMAIL, PHONE))
