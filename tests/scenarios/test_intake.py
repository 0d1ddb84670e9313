"""What comes in from outside becomes something that is due, once: orders, statement files, webhooks and polls."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from shop_builders import (
    NOW,
    SHOPKEEPER,
    Clock,
    buy,
    done_outside,
    order_document,
    order_of,
    payment_of,
    shop,
    take_payments,
)
from sqlalchemy import func, select

from connectors.errors import Transient
from connectors.roles import NOWHERE, Origin, Page, WebhookEvent
from deployments.dispatcher import Dispatcher
from deployments.sandbox.standin import Misbehavior, StandIn
from deployments.sandbox.stripe import StripeStandIn
from domain.order_document import OrderError, parse_order
from domain.payments import IncomingPayment
from domain.scenarios import TIMED
from store import inbox, payments
from store.tables import InboxRow, OrderRow, WorkRow
from tasks.installation import Installation
from tasks.intake import poll, take_statement, take_webhook, work_off_inbox
from tasks.order_intake import take_order
from web.app import create_app

# Orders.


async def take(opened: Installation, number: str, **fields: Any) -> int | None:
    """Take an order in as any source does; return None when it is known."""
    async with opened.store.write() as connection:
        document = parse_order(order_document(number, **fields), where="test")
        return await take_order(connection, opened, document, actor=SHOPKEEPER)


async def due(opened: Installation) -> list[tuple[str, str, int]]:
    """Return all that is due, as (scenario, subject, id)."""
    columns = (WorkRow.scenario, WorkRow.subject, WorkRow.subject_id)
    async with opened.store.read() as connection:
        rows = await connection.execute(select(*columns).where(WorkRow.due_at.is_not(None)).order_by(WorkRow.id))
    return [(row.scenario, row.subject, row.subject_id) for row in rows.all()]


async def test_an_order_that_is_taken_in_twice_is_one_order_and_due_once(opened: Installation) -> None:
    order_id = await take(opened, "CZ5001")
    assert order_id is not None
    assert await take(opened, "CZ5001") is None
    assert (
        await take(opened, "CZ5001", total="189.00", lines=[order_document("")["lines"][0] | {"quantity": 1}]) is None
    )
    assert await due(opened) == [("order_placed", "order", order_id)]
    assert (await order_of(opened, order_id)).total.minor == 37800


async def test_two_channels_may_use_the_same_number(opened: Installation) -> None:
    line = {"sku": "TEA-SEN-100", "title": "Sencha", "quantity": 1, "unit_price": "10.00"}
    first = await take(opened, "5001")
    second = await take(opened, "5001", channel="ro", currency="RON", total="10.00", lines=[line])
    assert first is not None
    assert second is not None
    assert first != second


async def test_each_method_begins_its_own_way_and_what_is_closed_begins_none(opened: Installation) -> None:
    ids = [await take(opened, f"CZ500{n}", method=m) for n, m in enumerate(("card", "bank_transfer"))]
    unpaid = await take(opened, "CZ5005", method="cash_on_delivery")
    await take(opened, "CZ5006", status="cancelled")
    begun = [row for row in await due(opened) if row[0] not in TIMED]
    assert begun == [("order_placed", "order", id_) for id_ in ids] + [("dispatch_unpaid", "order", unpaid)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"channel": "moon"}, "order CZ5001: channel “moon” is not known; there is cz, market, planfix, ro, woo"),
        ({"status": "asleep"}, "order CZ5001: status: channel cz has no status “asleep”; it has k_expedici, new"),
        ({"currency": "EUR"}, "order CZ5001: currency: EUR, but channel cz sells in CZK"),
    ],
)
async def test_an_order_that_its_channel_cant_have_is_refused_and_leaves_nothing(
    opened: Installation, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(OrderError) as refused:
        await take(opened, "CZ5001", **fields)
    assert str(refused.value).startswith(said)
    async with opened.store.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(OrderRow)) == 0
    assert await due(opened) == []


# Statement files.


HEADER = "booked_on,amount,currency,bank_reference,remittance"
FIRST, SECOND, THIRD = (
    f"2026-11-{20 + day},{amount},CZK,B-{day},Objednávka CZ500{day}"
    for day, amount in ((1, "378.00"), (2, "100.00"), (3, "278.00"))
)
TWIN = "2026-11-22,50.00,CZK,,dar"


def statement(*rows: str) -> bytes:
    return "\n".join([HEADER, *rows, ""]).encode()


async def test_a_statement_file_that_is_imported_twice_is_imported_once(opened: Installation) -> None:
    file = statement(FIRST, SECOND)
    first = await take_statement(opened, file, "november.csv")
    assert (first.format, first.entries, first.new, first.already_known, first.refused) == ("csv", 2, 2, 0, ())
    assert await due(opened) == [("bank_transfer", "payment", id_) for id_ in first.ids]
    again = await take_statement(opened, file, "november (copy).csv")
    assert (again.entries, again.new, again.already_known, again.ids) == (2, 0, 2, ())
    assert len(await due(opened)) == 2


async def test_of_files_that_overlap_each_payment_is_taken_once(opened: Installation) -> None:
    await take_statement(opened, statement(FIRST, SECOND), "to-22.csv")
    second = await take_statement(opened, statement(SECOND, THIRD), "from-22.csv")
    assert (second.new, second.already_known) == (1, 1)
    async with opened.store.read() as connection:
        amounts = [row["amount_minor"] for row in await payments.listing(connection)]
    assert amounts == [37800, 10000, 27800]


async def test_two_equal_payments_of_a_day_are_both_kept_and_once_each(opened: Installation) -> None:
    first = await take_statement(opened, statement(TWIN, TWIN), "two.csv")
    assert first.new == 2
    again = await take_statement(opened, statement(TWIN, FIRST, TWIN), "two-more.csv")
    assert (again.new, again.already_known) == (1, 2)


async def test_a_bad_row_is_told_with_its_line_and_stops_no_other(opened: Installation) -> None:
    file = statement(FIRST, "2026-11-22,much,CZK,B-9,Objednávka CZ5009", THIRD)
    imported = await take_statement(opened, file, "november.csv")
    assert (imported.entries, imported.new) == (2, 2)
    (refusal,) = imported.refused
    assert "3" in refusal.where
    assert "much" in refusal.reason


async def test_a_file_that_is_no_statement_leaves_nothing(opened: Installation) -> None:
    imported = await take_statement(opened, b"\x89PNG\r\n\x1a\n\x00\x00", "cat.png")
    assert (imported.entries, len(imported.refused)) == (0, 1)
    assert await due(opened) == []


async def test_a_transfer_on_a_statement_pays_its_order(opened: Installation) -> None:
    order_id = await buy(opened, "CZ5001", "bank_transfer")
    await take_statement(opened, statement(FIRST), "november.csv")
    await Dispatcher(opened).work_off()
    assert (await order_of(opened, order_id)).status == "k_expedici"
    assert (await done_outside(opened))["labels"] == 1


# Webhooks: stored, then the provider is asked what is true.


@dataclass
class Gateway:
    """A shop that is paid through Stripe."""

    opened: Installation
    stripe: StripeStandIn
    clock: Clock
    url: str

    def pays(self, number: str = "CZ5001", minor: int = 37800) -> dict[str, Any]:
        """Let a customer pay; return the event that Stripe would send."""
        return self.stripe.pay(number, minor, "czk", now=self.clock())

    async def told(self, event: dict[str, Any], times: int = 1) -> None:
        """Deliver an event's webhook."""
        assert await self.stripe.deliver(event, self.url, now=self.clock(), times=times) == [200] * times

    async def letters(self) -> list[dict[str, Any]]:
        """Return the inbox."""
        columns = (InboxRow.kind, InboxRow.due_at, InboxRow.handled_at, InboxRow.problem, InboxRow.attempts)
        async with self.opened.store.read() as connection:
            rows = await connection.execute(select(*columns).order_by(InboxRow.id))
        return [dict(row) for row in rows.mappings().all()]

    async def amounts(self) -> list[int]:
        """Return the amounts of the stored payments."""
        async with self.opened.store.read() as connection:
            return [row["amount_minor"] for row in await payments.listing(connection)]


@pytest.fixture
async def gateway(stocked: Path, tmp_path: Path, clock: Clock) -> AsyncGenerator[Gateway]:
    home = tmp_path / "shop"
    shutil.copytree(stocked, home)
    async with StripeStandIn() as stripe:
        connector = {
            "name": "stripe",
            "type": "stripe",
            "base_url": stripe.base_url,
            "api_key": stripe.api_key,
            "webhook_secret": stripe.webhook_secret,
        }
        (home / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [connector]}), encoding="utf-8")
        async with shop(home, clock=clock) as opened:
            dispatcher = Dispatcher(opened)
            app = create_app(opened, wake=dispatcher.wake, waiting=dispatcher.waiting)
            async with StandIn(app) as web:
                yield Gateway(opened, stripe, clock, f"{web.url}/webhooks/stripe")


async def test_a_webhook_is_stored_the_provider_is_asked_and_the_order_is_carried_on(gateway: Gateway) -> None:
    order_id = await buy(gateway.opened)
    await gateway.told(gateway.pays(), times=2)
    (letter,) = await gateway.letters()
    assert (letter["due_at"], letter["handled_at"]) == (NOW, None)
    assert await gateway.amounts() == []  # what a webhook says is not believed
    await Dispatcher(gateway.opened).work_off()
    assert await gateway.amounts() == [37800]
    (letter,) = await gateway.letters()
    assert (letter["due_at"], letter["handled_at"]) == (None, NOW)
    assert (await order_of(gateway.opened, order_id)).status == "paid"
    assert await done_outside(gateway.opened) == {"documents": 1, "letters": 2, "labels": 1, "deductions": 1}


async def test_an_attempt_that_failed_makes_no_payment(gateway: Gateway) -> None:
    await gateway.told(gateway.stripe.fail("CZ5001", 37800, "czk", now=gateway.clock()))
    assert await work_off_inbox(gateway.opened) == 1
    assert await gateway.amounts() == []
    assert (await gateway.letters())[0]["handled_at"] == NOW


async def test_while_the_provider_is_down_a_webhook_waits_and_is_due_later(gateway: Gateway) -> None:
    await gateway.told(gateway.pays())
    gateway.stripe.go_down()
    assert await work_off_inbox(gateway.opened) == 1
    (letter,) = await gateway.letters()
    assert letter["problem"].startswith("stripe: answered 503")
    assert NOW < letter["due_at"] <= NOW + timedelta(minutes=2)
    assert await work_off_inbox(gateway.opened) == 0
    gateway.stripe.behave()
    gateway.clock.now = letter["due_at"]
    assert await work_off_inbox(gateway.opened) == 1
    assert await gateway.amounts() == [37800]
    assert (await gateway.letters())[0]["problem"] is None


async def test_the_waits_for_a_provider_grow_and_at_last_a_person_must_look(gateway: Gateway) -> None:
    await gateway.told(gateway.pays())
    gateway.stripe.go_down()
    waits: list[timedelta] = []
    while (due_at := (await gateway.letters())[0]["due_at"]) is not None:
        waits.append(due_at - gateway.clock())
        gateway.clock.now = due_at
        assert await work_off_inbox(gateway.opened) == 1
        assert len(waits) < 20
    assert timedelta(days=2) < sum(waits, timedelta()) < timedelta(days=10)
    assert all(later > earlier * 0.7 for earlier, later in pairwise(waits))
    async with gateway.opened.store.read() as connection:
        (parked,) = await inbox.parked(connection)
    assert parked["problem"].startswith("stripe: answered 503")


async def test_an_object_that_the_provider_does_not_know_is_parked(gateway: Gateway) -> None:
    event = gateway.pays()
    gateway.stripe.objects["payment_intent"].clear()
    await gateway.told(event)
    assert await work_off_inbox(gateway.opened) == 1
    async with gateway.opened.store.read() as connection:
        (parked,) = await inbox.parked(connection)
    assert parked["problem"] == "stripe: answered 404 (invalid_request_error/resource_missing)"
    assert await gateway.amounts() == []


class Oddity:
    """A connector with a defect: what it says of a webhook depends on the webhook's body."""

    def __init__(self, *payments_: IncomingPayment) -> None:
        self._payments = list(payments_)

    def verify(
        self, headers: Mapping[str, str], body: bytes, *, now: datetime, origin: Origin = NOWHERE
    ) -> WebhookEvent:
        raise NotImplementedError(f"{headers} {body!r} {now} {origin}")

    async def truth(self, body: bytes) -> list[IncomingPayment]:
        if body == b"trips":
            raise KeyError("a defect")
        return self._payments


async def test_a_webhook_that_trips_us_stops_no_other(gateway: Gateway) -> None:
    gateway.opened.connectors["odd"] = Oddity()
    await take_webhook(gateway.opened, "odd", WebhookEvent(external_id="1", kind="odd"), b"trips")
    await gateway.told(gateway.pays())
    assert await work_off_inbox(gateway.opened) == 2
    odd, handled = await gateway.letters()
    assert odd["problem"] == "unexpected KeyError while asking odd"
    assert odd["due_at"] > NOW
    assert handled["handled_at"] == NOW
    assert await gateway.amounts() == [37800]


async def test_a_payment_that_cant_be_stored_stops_no_other(gateway: Gateway) -> None:
    gateway.opened.connectors["odd"] = Oddity(replace(payment_of("CZ5001"), text="half a letter: \udcff"))
    await take_webhook(gateway.opened, "odd", WebhookEvent(external_id="1", kind="odd"), b"{}")
    await gateway.told(gateway.pays())
    assert await work_off_inbox(gateway.opened) == 2
    odd, handled = await gateway.letters()
    assert odd["problem"] == "what odd says could not be stored (UnicodeEncodeError)"
    assert odd["handled_at"] is None
    assert handled["handled_at"] == NOW
    assert await gateway.amounts() == [37800]


async def test_a_webhook_of_a_connector_that_is_configured_no_more_is_kept(gateway: Gateway) -> None:
    await gateway.told(gateway.pays())
    stripe = gateway.opened.connectors.pop("stripe")
    assert await work_off_inbox(gateway.opened) == 1
    (letter,) = await gateway.letters()
    assert letter["problem"].startswith("connector “stripe” is not configured")
    gateway.opened.connectors["stripe"] = stripe
    gateway.clock.now = letter["due_at"]
    await work_off_inbox(gateway.opened)
    assert await gateway.amounts() == [37800]


# Polling.


async def test_a_poll_fetches_what_webhooks_missed_and_nothing_twice(gateway: Gateway) -> None:
    await gateway.told(gateway.pays("CZ5001"))
    gateway.pays("CZ5002")  # its webhook is lost
    gateway.clock.forward(minutes=1)
    assert await poll(gateway.opened) == {"stripe": 1}
    assert await poll(gateway.opened) == {"stripe": 0}
    assert await work_off_inbox(gateway.opened) == 2
    assert await gateway.amounts() == [37800, 37800]
    gateway.pays("CZ5003")
    gateway.clock.forward(minutes=1)
    assert await poll(gateway.opened) == {"stripe": 1}
    await work_off_inbox(gateway.opened)
    assert len(await gateway.amounts()) == 3


async def test_a_payment_is_one_whether_it_was_told_by_webhook_poll_or_both(gateway: Gateway) -> None:
    event = gateway.pays()
    gateway.clock.forward(minutes=1)
    assert await poll(gateway.opened) == {"stripe": 1}
    await gateway.told(event)
    # A second event about the same payment is another letter, and the same payment.
    again = dict(event, id=f"{event['id']}again")
    await gateway.told(again)
    assert await work_off_inbox(gateway.opened) == 2
    assert await gateway.amounts() == [37800]
    assert len([one for one in await due(gateway.opened) if one[1] == "payment"]) == 1


async def test_a_poll_that_fails_loses_nothing(gateway: Gateway) -> None:
    gateway.pays()
    gateway.clock.forward(minutes=1)
    gateway.stripe.misbehave(Misbehavior.STATUS_BEFORE, status=503)
    with pytest.raises(Transient):
        await poll(gateway.opened)
    assert await poll(gateway.opened) == {"stripe": 1}


class Chronicle(Oddity):
    """A source whose ids don't follow each other as its events do."""

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        events = tuple((f"{2 - place}", f"{place}".encode()) for place in range(3))
        return Page(() if cursor else events, cursor=f"{now}", more=False)


async def test_what_a_poll_finds_is_worked_off_in_the_order_in_which_it_is_told(opened: Installation) -> None:
    opened.connectors["chronicle"] = Chronicle()
    assert await poll(opened) == {"chronicle": 3}
    async with opened.store.write() as connection:
        now = opened.clock()
        letters = await inbox.take(connection, owner="one", now=now, lease_until=now, limit=100)
    assert [letter.body for letter in letters] == [b"0", b"1", b"2"]


async def test_more_than_one_page_is_fetched_to_its_end(gateway: Gateway) -> None:
    for _ in range(130):
        gateway.pays()
    gateway.clock.forward(minutes=1)
    assert await poll(gateway.opened) == {"stripe": 130}
    assert await poll(gateway.opened) == {"stripe": 0}


async def test_payments_that_are_stored_together_are_due_together(opened: Installation) -> None:
    incoming = [payment_of(None, "1.00") for _ in range(3)]
    ids = await take_payments(opened, *incoming)
    assert await due(opened) == [("card", "payment", id_) for id_ in ids]
