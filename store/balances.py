"""Balances: the money of customers that settles no order. Entries are only added; a customer's balance is their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.money import Money
from store import journal
from store.journal import Actor
from store.sql import chunks
from store.tables import BalanceEntry

LIVE = (BalanceEntry.reverses_id.is_(None), BalanceEntry.reversed.is_(False))
"""What an entry is that counts: it takes back no other, and none takes it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A movement of a customer's balance; credit is positive. payment_id is the payment whose money it is."""

    id: int
    customer_id: int
    amount: Money
    payment_id: int | None
    reverses_id: int | None
    reversed: bool
    reason: str
    actor: str
    at: datetime


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        customer_id=row.customer_id,
        amount=Money(row.amount_minor, row.currency),
        payment_id=row.payment_id,
        reverses_id=row.reverses_id,
        reversed=row.reversed,
        reason=row.reason,
        actor=row.actor,
        at=row.at,
    )


async def balance(connection: AsyncConnection, customer_id: int, currency: str) -> Money:
    """Return what a customer has in a currency."""
    minor = await connection.scalar(
        select(func.coalesce(func.sum(BalanceEntry.amount_minor), 0)).where(
            BalanceEntry.customer_id == customer_id, BalanceEntry.currency == currency
        )
    )
    return Money(int(minor or 0), currency)


async def of_customer(connection: AsyncConnection, customer_id: int) -> list[Entry]:
    """Return every entry of a customer, oldest first, with those that were taken back and what took them back."""
    rows = await connection.execute(
        select(*BalanceEntry.__table__.columns).where(BalanceEntry.customer_id == customer_id).order_by(BalanceEntry.id)
    )
    return [_entry(row) for row in rows.all()]


async def of_payments(connection: AsyncConnection, payment_ids: Sequence[int]) -> dict[int, Entry]:
    """Return the live entries that payments were credited by, by payment; a payment has one at most."""
    found: dict[int, Entry] = {}
    for some in chunks(list(payment_ids)):
        rows = await connection.execute(
            select(*BalanceEntry.__table__.columns).where(BalanceEntry.payment_id.in_(some), *LIVE)
        )
        found.update({row.payment_id: _entry(row) for row in rows.all()})
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
    cause: str | None = None,
) -> int:
    """Put money on a customer's balance, or take it off when it is negative, with its line in the journal.

    Whoever credits a payment holds that payment locked. A second live entry of one payment is an IntegrityError.
    """
    if not amount:
        raise ValueError("an entry of nothing says nothing")
    return await _write(
        connection, customer_id, amount, payment_id=payment_id, reason=reason, actor=actor, now=now, cause=cause
    )


async def reverse(
    connection: AsyncConnection, entry_id: int, *, reason: str, actor: Actor, now: datetime, cause: str | None = None
) -> bool:
    """Take an entry back by one of its own; say whether there was something to take back."""
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
    return [_entry(row) for row in rows.all()]


async def _write(
    connection: AsyncConnection,
    customer_id: int,
    amount: Money,
    *,
    payment_id: int | None,
    reason: str,
    actor: Actor,
    now: datetime,
    cause: str | None,
    reverses_id: int | None = None,
) -> int:
    made = await connection.scalar(
        insert(BalanceEntry)
        .values(
            customer_id=customer_id,
            currency=amount.currency,
            amount_minor=amount.minor,
            payment_id=payment_id,
            reverses_id=reverses_id,
            reversed=False,
            reason=reason,
            actor=actor.name,
            at=now,
        )
        .returning(BalanceEntry.id)
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
