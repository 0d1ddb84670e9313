"""Builders shared by the tests that need a whole shop: an installation with rules and stock, orders, and a clock."""

from __future__ import annotations

import csv
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import yaml
from prefect import State
from sqlalchemy import func, select

from connectors.roles import Carrier
from domain.money import Money
from domain.order_document import parse_order
from domain.orders import Order, Status
from domain.payments import IncomingPayment, Method
from domain.rules import parse_rules
from flows.scenarios import SCENARIOS
from store import effects, orders, payments, rules, stock, work
from store.journal import Actor
from store.tables import StockMove, WorkRow
from tasks.dispatch import consignment_of
from tasks.installation import Installation, open_installation, working_on
from tasks.order_intake import take_order
from tasks.step import Batch, Item

DEPLOYMENTS = Path(__file__).parent.parent / "deployments"
NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
SHOPKEEPER = Actor(name="shopkeeper")
NAME, EMAIL = "Božena Pokorná", "bozena.pokorna@example.com"
"""The customer of every order that doesn't name another; neither may turn up in any log."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def forward(self, **by: float) -> None:
        """Move the clock by what a timedelta takes, such as minutes=5."""
        self.now += timedelta(**by)


async def stock_up(opened: Installation) -> None:
    """Save the rules of every sample channel, and the sample's stock."""
    async with opened.store.write() as connection:
        for file in sorted((DEPLOYMENTS / "rules").glob("*.yaml")):
            parsed = parse_rules(yaml.safe_load(file.read_text(encoding="utf-8")), where=file.name)
            document = parsed.model_dump(mode="json", exclude_unset=True)
            await rules.save(
                connection, document, channel=parsed.channel, author="shopkeeper", reason="opening", now=opened.clock()
            )
        with (DEPLOYMENTS / "sample" / "stock.csv").open(encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows):
                await stock.count(connection, row["sku"], row["title"], int(row["on_hand"]), now=opened.clock())


@asynccontextmanager
async def shop(
    home: Path, *, url: str | None = None, clock: Callable[[], datetime] | None = None
) -> AsyncGenerator[Installation]:
    """Open an installation and let the tasks work on it; give `url` for another database than SQLite in its folder."""
    opened = await open_installation(home, database_url=url)
    async with working_on(replace(opened, clock=clock or Clock())) as working:
        yield working


def order_document(number: str, **fields: Any) -> dict[str, Any]:
    """Make the document of a Czech order paid by card, for two packets of tea, or with the fields given."""
    return {
        "number": number,
        "channel": "cz",
        "method": "card",
        "placed_at": (NOW - timedelta(days=1)).isoformat(),
        "currency": "CZK",
        "total": "378.00",
        "customer": {"number": "C0900", "name": NAME, "email": EMAIL},
        "lines": [{"sku": "TEA-SEN-100", "title": "Sencha, 100 g", "quantity": 2, "unit_price": "189.00"}],
    } | fields


async def place(opened: Installation, number: str = "CZ5001", **fields: Any) -> int:
    """Take an order in as an import does, and return its id."""
    document = parse_order(order_document(number, **fields), where="test")
    async with opened.store.write() as connection:
        order_id = await take_order(connection, opened, document, actor=SHOPKEEPER)
    assert order_id is not None
    return order_id


async def placed(opened: Installation, count: int = 1) -> Batch:
    """Take some orders in, CZ5001 and on; return them as a batch, each with a payment of its own as the cause."""
    numbers = [f"CZ{5001 + place_}" for place_ in range(count)]
    ids: list[int] = []
    async with opened.store.write() as connection:
        for number in numbers:
            document = parse_order(order_document(number), where="test")
            order_id = await take_order(connection, opened, document, actor=SHOPKEEPER)
            assert order_id is not None
            ids.append(order_id)
    return Batch(tuple(Item(id_, number, f"payment:{id_}") for id_, number in zip(ids, numbers, strict=True)))


# A shop in which something is bought, paid and sent.

STREET, PHONE, PAYER = "Údolní 418/12", "+420600000471", "CZ5599100000190000004711"
"""Where the customer lives, and from which account he pays; nor may these turn up in any log."""

_payments = itertools.count(1)


async def buy(opened: Installation, number: str = "CZ5001", method: str = "card", **fields: Any) -> int:
    """Take in an order that can be delivered, and paid by its digits as variable symbol; return its id."""
    address = {"name": NAME, "street": STREET, "city": "Brno", "postcode": "602 00", "country": "CZ"}
    document: dict[str, Any] = {
        "method": method,
        "variable_symbol": "".join(filter(str.isdecimal, number)),
        "customer": {"number": "C0900", "name": NAME, "email": EMAIL, "phone": PHONE, "address": address},
        "delivery": {"method": "Kurýr", "address": address},
    }
    return await place(opened, number, **(document | fields))


def payment_of(number: str | None, amount: str = "378.00", method: str = "card", **fields: Any) -> IncomingPayment:
    """Make a payment that names an order, or none, as its source tells it."""
    id_ = f"test-{next(_payments)}"
    values: dict[str, Any] = {
        "source": "test",
        "external_id": id_,
        "method": Method(method),
        "amount": Money.parse(amount, fields.pop("currency", "CZK")),
        "booked_on": NOW.date(),
        "order_reference": number,
        "payer_name": NAME,
        "payer_account": PAYER,
    }
    return IncomingPayment(**(values | fields))


async def take_payments(opened: Installation, *incoming: IncomingPayment) -> list[int]:
    """Store payments and make them due, as every source does; return the ids of those that were new."""
    async with opened.store.write() as connection:
        new = await payments.add(connection, incoming, now=opened.clock())
        for payment_id, scenario in new:
            await work.add(connection, scenario, "payment", [payment_id], now=opened.clock())
    return [payment_id for payment_id, _ in new]


async def pay(opened: Installation, number: str | None = "CZ5001", amount: str = "378.00", **fields: Any) -> int:
    """Let a customer pay for an order, by card unless another method is given; return the payment's id."""
    (payment_id,) = await take_payments(opened, payment_of(number, amount, **fields))
    return payment_id


async def carry_on(scenario: str, *ids: int) -> State[Any]:
    """Run a scenario's flow for payments or orders, and return the state in which its run ended."""
    flow, parameter = SCENARIOS[scenario]
    return cast("State[Any]", await flow(**{parameter: [*ids]}, return_state=True))


async def due_now(opened: Installation) -> list[tuple[str, int]]:
    """Return what is due, as (scenario, the id of its payment, order or entry)."""
    async with opened.store.read() as connection:
        rows = await connection.execute(
            select(WorkRow.scenario, WorkRow.subject_id)
            .where(WorkRow.due_at.is_not(None), WorkRow.due_at <= opened.clock())
            .order_by(WorkRow.id)
        )
    return [(row.scenario, row.subject_id) for row in rows.all()]


async def carry_on_all(opened: Installation) -> list[str]:
    """Carry on all that is due until nothing is, one by one; return how the runs ended."""
    ended: list[str] = []
    while due := await due_now(opened):
        ended += [f"{scenario}: {(await carry_on(scenario, id_)).name}" for scenario, id_ in due]
    return ended


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(below[key], above[key]) for key in above if isinstance(above[key], dict) and key in below}
    return below | above | both


async def change_rules(opened: Installation, changes: dict[str, Any], channel: str = "cz") -> None:
    """Save the next version of a channel's rules: mappings are merged, anything else is replaced."""
    async with opened.store.write() as connection:
        now = await rules.document(connection, channel)
        parsed = parse_rules(_merged(now or {}, changes))
        document = parsed.model_dump(mode="json", exclude_unset=True)
        await rules.save(connection, document, channel=channel, author="shopkeeper", reason="test", now=opened.clock())


async def cancel(opened: Installation, order_id: int) -> None:
    """Cancel an order by hand."""
    async with opened.store.write() as connection:
        await orders.set_status(
            connection,
            order_id,
            after="cancelled",
            standard=Status.CANCELLED,
            reason="the customer has changed his mind",
            actor=SHOPKEEPER,
            now=opened.clock(),
        )


async def begin_and_die(opened: Installation, order_id: int, step: str, cause: str) -> effects.Claim:
    """Begin a step as a worker does that dies before it can write down what came of it."""
    async with opened.store.write() as connection:
        order = (await orders.load(connection, [order_id]))[order_id]
        version = (await rules.current(connection))[order.channel].version
        (claim,) = await effects.claim(
            connection,
            step,
            [effects.Wanted(order_id, cause, version)],
            owner="a worker that is gone",
            lease_until=opened.clock() + timedelta(minutes=1),
            actor=SHOPKEEPER,
            now=opened.clock(),
        )
    return claim


async def order_label_and_die(opened: Installation, order_id: int, cause: str) -> str:
    """Order a label as a worker does that dies before it can write so down; return the tracking number."""
    claim = await begin_and_die(opened, order_id, "dispatch", cause)
    async with opened.store.read() as connection:
        order = (await orders.load(connection, [order_id]))[order_id]
        own = (await rules.current(connection))[order.channel].rules
    carrier = opened.connector(own.connectors.carrier, Carrier)
    return (await carrier.create(consignment_of(order, own), claim.key)).tracking_number


async def steps_of(opened: Installation, order_id: int, cause: str | None = None) -> dict[str, dict[str, Any]]:
    """Return an order's effects by step, of one cause if there were several."""
    async with opened.store.read() as connection:
        found = await effects.of_order(connection, order_id)
    return {effect["step"]: effect for effect in found if cause in (None, effect["cause"])}


async def order_of(opened: Installation, order_id: int) -> Order:
    """Return an order as it stands."""
    async with opened.store.read() as connection:
        return (await orders.load(connection, [order_id]))[order_id]


async def payment_row(opened: Installation, payment_id: int) -> dict[str, Any]:
    """Return a payment as it stands."""
    async with opened.store.read() as connection:
        (row,) = await payments.listing(connection, payment_id=payment_id)
    return row


def letters(opened: Installation) -> list[EmailMessage]:
    """Return the messages that lie in the maildir, by subject."""
    parsed = [
        message_from_bytes(file.read_bytes(), policy=policy.default)
        for file in sorted((opened.home / "maildir" / "new").glob("*"))
    ]
    return sorted(parsed, key=lambda message: str(message["Subject"]))


async def done_outside(opened: Installation) -> dict[str, int]:
    """Count what was done to the world: files of documents, letters and labels, and deductions of stock."""
    async with opened.store.read() as connection:
        query = select(func.count()).select_from(StockMove).where(StockMove.kind == "deduct")
        deductions = await connection.scalar(query) or 0
    return {
        "documents": len(list((opened.home / "documents").rglob("*.pdf"))),
        "letters": len(letters(opened)),
        "labels": len(list((opened.home / "labels").glob("*.pdf"))),
        "deductions": deductions,
    }
