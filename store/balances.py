"""Balances: the money of customers that settles no order. Entries are only added; a customer's balance is their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.balance import SOURCE
from domain.money import Money
from store import journal
from store.journal import Actor
from store.sql import among, chunks
from store.tables import AllocationRow, BalanceEntry, CustomerRow, OpenItemRow, OrderRow, PaymentRow

LIVE = (BalanceEntry.reverses_id.is_(None), BalanceEntry.reversed.is_(False))
"""What an entry is that counts: it takes back no other, and none takes it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A movement of a customer's balance; credit is positive. payment_id is the payment whose money it is.

    open_item_id is the invoice without an order that was paid with it.
    """

    id: int
    customer_id: int
    amount: Money
    payment_id: int | None
    reverses_id: int | None
    reversed: bool
    reason: str
    actor: str
    at: datetime
    open_item_id: int | None = None


def entry_of(row: Row[Any]) -> Entry:
    """Return the entry of a row that has all its columns."""
    return Entry(
        id=row.id,
        customer_id=row.customer_id,
        amount=Money(row.amount_minor, row.currency),
        payment_id=row.payment_id,
        open_item_id=row.open_item_id,
        reverses_id=row.reverses_id,
        reversed=row.reversed,
        reason=row.reason,
        actor=row.actor,
        at=row.at,
    )


_BALANCE = select(func.coalesce(func.sum(BalanceEntry.amount_minor), 0)).where(
    BalanceEntry.customer_id == bindparam("customer"), BalanceEntry.currency == bindparam("currency")
)


async def balance(connection: AsyncConnection, customer_id: int, currency: str) -> Money:
    """Return what a customer has in a currency."""
    minor = await connection.scalar(_BALANCE, {"customer": customer_id, "currency": currency})
    return Money(int(minor or 0), currency)


_LOCKED = select(CustomerRow.id).where(CustomerRow.id == bindparam("customer")).with_for_update(key_share=True)


async def lock(connection: AsyncConnection, customer_id: int) -> None:
    """Let nobody else take money off a customer's balance until this transaction ends; it may grow meanwhile."""
    await connection.execute(_LOCKED, {"customer": customer_id})


async def by_reference(connection: AsyncConnection, customer_id: int, reference: str) -> Entry | None:
    """Return the entry of a customer that a person knows by a reference."""
    row = (
        await connection.execute(
            select(*BalanceEntry.__table__.columns).where(
                BalanceEntry.customer_id == customer_id, BalanceEntry.reference == reference
            )
        )
    ).one_or_none()
    return entry_of(row) if row else None


async def by_id(connection: AsyncConnection, entry_id: int) -> Entry | None:
    """Return an entry."""
    row = (
        await connection.execute(select(*BalanceEntry.__table__.columns).where(BalanceEntry.id == entry_id))
    ).one_or_none()
    return entry_of(row) if row else None


async def all_of(connection: AsyncConnection, *, channel: str | None = None) -> list[dict[str, Any]]:
    """Return every customer that ever had money on a balance, with what is there now, by channel and number."""
    query = (
        select(
            CustomerRow.id,
            CustomerRow.channel,
            CustomerRow.number,
            CustomerRow.group,
            BalanceEntry.currency,
            func.sum(BalanceEntry.amount_minor).label("minor"),
        )
        .join(BalanceEntry, BalanceEntry.customer_id == CustomerRow.id)
        .group_by(CustomerRow.id, CustomerRow.channel, CustomerRow.number, CustomerRow.group, BalanceEntry.currency)
        .order_by(CustomerRow.channel, CustomerRow.number, BalanceEntry.currency)
    )
    if channel:
        query = query.where(CustomerRow.channel == channel)
    return [dict(row) | {"minor": int(row["minor"])} for row in (await connection.execute(query)).mappings().all()]


async def of_customer(connection: AsyncConnection, customer_id: int) -> list[Entry]:
    """Return every entry of a customer, oldest first, with those that were taken back and what took them back."""
    rows = await connection.execute(
        select(*BalanceEntry.__table__.columns).where(BalanceEntry.customer_id == customer_id).order_by(BalanceEntry.id)
    )
    return [entry_of(row) for row in rows.all()]


async def named(connection: AsyncConnection, customer_id: int) -> list[tuple[Entry, str | None, str | None]]:
    """Return every entry of a customer, oldest first, with the order that it pays, and the invoice that was paid."""
    rows = await connection.execute(
        select(*BalanceEntry.__table__.columns, OrderRow.number.label("order"), OpenItemRow.number.label("invoice"))
        .outerjoin(PaymentRow, (PaymentRow.id == BalanceEntry.payment_id) & (PaymentRow.source == SOURCE))
        .outerjoin(AllocationRow, (AllocationRow.payment_id == PaymentRow.id) & AllocationRow.reverses_id.is_(None))
        .outerjoin(OrderRow, OrderRow.id == AllocationRow.order_id)
        .outerjoin(OpenItemRow, OpenItemRow.id == BalanceEntry.open_item_id)
        .where(BalanceEntry.customer_id == customer_id)
        .order_by(BalanceEntry.id)
    )
    return [(entry_of(row), row.order, row.invoice) for row in rows.all()]


_OF_PAYMENTS = select(*BalanceEntry.__table__.columns).where(
    among(BalanceEntry.payment_id, "payments"), BalanceEntry.open_item_id.is_(None), *LIVE
)


async def of_payments(connection: AsyncConnection, payment_ids: Sequence[int]) -> dict[int, Entry]:
    """Return the live entries that payments were credited by, by payment; a payment has one at most.

    What paid an invoice without an order is none of them; what pays an order from the balance is, and negative.
    """
    found: dict[int, Entry] = {}
    for some in chunks(list(payment_ids)):
        rows = await connection.execute(_OF_PAYMENTS, {"payments": some})
        found.update({row.payment_id: entry_of(row) for row in rows.all()})
    return found


async def of_payment(connection: AsyncConnection, payment_id: int) -> Entry | None:
    """Return the live entry that a payment, or its surplus, was credited by."""
    return (await of_payments(connection, [payment_id])).get(payment_id)


async def add(
    connection: AsyncConnection,
    customer_id: int,
    amount: Money,
    *,
    reason: str,
    actor: Actor,
    now: datetime,
    payment_id: int | None = None,
    open_item_id: int | None = None,
    reference: str | None = None,
    cause: str | None = None,
) -> int:
    """Put money on a customer's balance, or take it off when it is negative, with its line in the journal.

    Whoever credits a payment holds that payment locked. A second live entry of one payment is an IntegrityError, but
    for those of invoices without order that it paid, named by their open item.
    """
    if not amount:
        raise ValueError("an entry of nothing says nothing")
    return await _write(
        connection,
        customer_id,
        amount,
        payment_id=payment_id,
        open_item_id=open_item_id,
        reference=reference,
        reason=reason,
        actor=actor,
        now=now,
        cause=cause,
    )


async def reverse(
    connection: AsyncConnection, entry_id: int, *, reason: str, actor: Actor, now: datetime, cause: str | None = None
) -> bool:
    """Take an entry back by one of its own; say whether there was something to take back."""
    customer_id = await connection.scalar(select(BalanceEntry.customer_id).where(BalanceEntry.id == entry_id))
    if customer_id is None:
        return False
    await lock(connection, customer_id)  # before the entry, as everywhere
    row = (
        await connection.execute(
            select(*BalanceEntry.__table__.columns).where(BalanceEntry.id == entry_id, *LIVE).with_for_update()
        )
    ).one_or_none()
    if row is None:
        return False
    await connection.execute(update(BalanceEntry).where(BalanceEntry.id == entry_id).values(reversed=True))
    await _write(
        connection,
        row.customer_id,
        Money(-row.amount_minor, row.currency),
        payment_id=row.payment_id,
        open_item_id=row.open_item_id,
        reverses_id=entry_id,
        reason=reason,
        actor=actor,
        now=now,
        cause=cause,
    )
    return True


async def keep(
    connection: AsyncConnection, payment_ids: Sequence[int], minor: int, *, reason: str, actor: Actor, now: datetime
) -> list[Entry]:
    """Take off balances what payments were credited beyond so many minor units, the last one first.

    Where some of an entry is kept, that is a new one. Return the entries that took back anything for this very reason,
    now or before.
    """
    left = max(minor, 0)
    credited = await of_payments(connection, payment_ids)
    for entry in sorted(credited.values(), key=lambda entry: entry.id):
        kept = min(entry.amount.minor, left)
        left -= kept
        if kept == entry.amount.minor:
            continue
        await reverse(connection, entry.id, reason=reason, actor=actor, now=now)
        if kept:
            rest = Money(kept, entry.amount.currency)
            await add(
                connection,
                entry.customer_id,
                rest,
                payment_id=entry.payment_id,
                reason=reason,
                actor=actor,
                now=now,
            )
    rows = await connection.execute(
        select(*BalanceEntry.__table__.columns)
        .where(
            BalanceEntry.payment_id.in_(list(payment_ids)),
            BalanceEntry.reverses_id.is_not(None),
            BalanceEntry.reason == reason,
        )
        .order_by(BalanceEntry.id)
    )
    return [entry_of(row) for row in rows.all()]


_NEW = insert(BalanceEntry).returning(BalanceEntry.id)


async def _write(
    connection: AsyncConnection,
    customer_id: int,
    amount: Money,
    *,
    payment_id: int | None,
    open_item_id: int | None,
    reason: str,
    actor: Actor,
    now: datetime,
    cause: str | None,
    reference: str | None = None,
    reverses_id: int | None = None,
) -> int:
    if amount.minor < 0:
        await lock(connection, customer_id)  # whoever spends it has seen all that was taken off it
    made = await connection.scalar(
        _NEW,
        {
            "customer_id": customer_id,
            "currency": amount.currency,
            "amount_minor": amount.minor,
            "payment_id": payment_id,
            "open_item_id": open_item_id,
            "reference": reference,
            "reverses_id": reverses_id,
            "reversed": False,
            "reason": reason,
            "actor": actor.name,
            "at": now,
        },
    )
    assert made is not None  # noqa: S101 - RETURNING of one inserted row
    told = {"entry": made, "customer": customer_id, "amount": amount.minor, "currency": amount.currency}
    await journal.append(
        connection,
        [
            journal.entry(
                actor,
                at=now,
                step="balance",
                move="credited" if reverses_id is None else "taken back",
                payment_id=payment_id,
                cause=cause,
                reason=reason,
                after=told if reverses_id is None else {**told, "reverses": reverses_id},
            )
        ],
    )
    return made
