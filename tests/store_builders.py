"""Builders shared by the tests of the store; each fills in what a test doesn't speak of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.matching import Match, Reference
from domain.money import Money
from domain.orders import Address, Order, Status
from domain.payments import IncomingPayment, Method, Payment
from store import orders, payments
from store.database import Store
from store.journal import Actor

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WORKER = Actor(name="worker 1", run="run 1")
LINE = orders.NewLine(sku="MUG", title="Mug", quantity=2, unit_price=Money(22_500, "EUR"), vat_rate=Decimal(21))

_numbers = itertools.count(1042)


def line(sku: str | None = "MUG", quantity: int = 1, unit_price: int = 10_000) -> orders.NewLine:
    """Make a line of an order."""
    return orders.NewLine(
        sku=sku, title=sku or "Gift", quantity=quantity, unit_price=Money(unit_price, "EUR"), vat_rate=Decimal(21)
    )


def new_order(number: str | None = None, **fields: Any) -> orders.NewOrder:
    """Make an order over 450.00 EUR that awaits a bank transfer, with the next free number unless one is given."""
    lines: tuple[orders.NewLine, ...] = fields.pop("lines", (LINE,))
    values: dict[str, Any] = {
        "channel": "shop",
        "number": number or f"{next(_numbers)}",
        "method": Method.BANK_TRANSFER,
        "status": "awaiting_payment",
        "standard_status": Status.AWAITING_PAYMENT,
        "total": Money(sum(line.unit_price.minor * line.quantity for line in lines), "EUR"),
        "variable_symbol": None,
        "rf": None,
        "delivery_method": "parcel",
        "delivery_address": Address(name="Jan Novák", street="Dlouhá 1", city="Praha", postcode="11000", country="CZ"),
        "placed_at": NOW,
        "customer_number": "7",
        "customer_name": "Jan Novák",
        "email": "jan@example.com",
        "phone": None,
        "language": "cs",
        "group": None,
        "tax_id": None,
        "address": Address(name="Jan Novák", country="CZ"),
        "accounts": (),
        "lines": lines,
        "references": frozenset(),
        **fields,
    }
    return orders.NewOrder(**values)


async def place(store: Store, number: str | None = None, **fields: Any) -> int:
    """Store an order and return its id."""
    async with store.write() as connection:
        order_id = await orders.add(connection, new_order(number, **fields), now=NOW, actor=WORKER)
    assert order_id is not None
    return order_id


async def place_many(store: Store, count: int) -> list[int]:
    """Store orders in one transaction and return their ids."""
    async with store.write() as connection:
        ids = [await orders.add(connection, new_order(), now=NOW, actor=WORKER) for _ in range(count)]
    return [order_id for order_id in ids if order_id is not None]


async def load(store: Store, order_id: int) -> Order:
    """Return a stored order."""
    async with store.read() as connection:
        return (await orders.load(connection, [order_id]))[order_id]


def incoming(external_id: str = "E1", minor: int = 45_000, **told: Any) -> IncomingPayment:
    """Make a payment of 450.00 EUR by bank transfer."""
    values: dict[str, Any] = {
        "source": "statement",
        "external_id": external_id,
        "method": Method.BANK_TRANSFER,
        "amount": Money(minor, told.pop("currency", "EUR")),
        "booked_on": date(2026, 5, 4),
        **told,
    }
    return IncomingPayment(**values)


async def receive(store: Store, external_id: str = "E1", minor: int = 45_000, **told: Any) -> int:
    """Store a payment and return its id."""
    async with store.write() as connection:
        [(payment_id, _)] = await payments.add(connection, [incoming(external_id, minor, **told)], now=NOW)
    return payment_id


async def scalar(connection: AsyncConnection, sql: str, **values: Any) -> Any:
    """Return what a query of one value gives."""
    return (await connection.execute(text(sql), values)).scalar_one()


async def column(store: Store, sql: str, **values: Any) -> list[Any]:
    """Return what a query of one column gives, row by row."""
    async with store.read() as connection:
        return list((await connection.execute(text(sql), values)).scalars().all())


async def change(store: Store, sql: str, **values: Any) -> None:
    """Change rows behind the store's back."""
    async with store.write() as connection:
        await connection.execute(text(sql), values)


async def record_match(
    connection: AsyncConnection, payment: Payment, match: Match, references: Sequence[Reference], *, now: datetime
) -> list[tuple[int, str]]:
    """Record what one payment turned out to be; return the payments to be tried again."""
    return await payments.record_matches(connection, [payments.Decided(payment, match, references)], now=now)
