"""Spending: orders that are paid from their customers' balances.

Such money is a payment like any other, of the source `balance`: it is allocated, carried on by the scenario of the
order's method, shown and taken back as one that came from outside. Its entry on the balance is negative.

Locks are taken in one order everywhere: what keeps matching and order intake apart, then orders, their open items, and
only then the customer. An order that is taken in locks its customer before its own items, which nobody else can see.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.allocation import OpenItem, Part
from domain.balance import SOURCE, Waiting
from domain.money import Money
from domain.orders import Status
from domain.payments import IncomingPayment, Method, Outcome
from domain.rules import Policy
from domain.scenarios import cause_of
from store import balances, decisions, journal, payments, work
from store.journal import Actor
from store.tables import AllocationRow, BalanceEntry, OrderRow, PaymentRow


@dataclass(frozen=True, slots=True)
class Held:
    """Orders of one customer that wait for his balance, locked with it; items and methods are by the order's id."""

    balance: Money
    items: dict[int, OpenItem]
    methods: dict[int, Method]
    waiting: tuple[Waiting, ...]


def _waiting(column: Any, customer_id: int, currency: str) -> Select[Any]:
    return select(column).where(
        OrderRow.customer_id == customer_id,
        OrderRow.currency == currency,
        OrderRow.standard_status == Status.AWAITING_PAYMENT.value,
        OrderRow.method != Method.CASH_ON_DELIVERY.value,
        OrderRow.due_on.is_(None),
        OrderRow.held_out.is_(None),
    )


async def count_waiting(connection: AsyncConnection, customer_id: int, currency: str) -> int:
    """Return how many orders of a customer wait for their money."""
    return await connection.scalar(_waiting(func.count(), customer_id, currency)) or 0


async def hold(connection: AsyncConnection, customer_id: int, currency: str) -> Held:
    """Lock the orders of a customer that wait for his balance, and the balance, and return both.

    One that is being taken back, is held out of automation, or goes before its money, is none of them.
    """
    rows = await connection.execute(_waiting(OrderRow.id, customer_id, currency).order_by(OrderRow.id))
    items = await decisions.open_items(connection, list(rows.scalars().all()))
    # Asked again of what is locked: it may have moved on meanwhile.
    still = {
        id_: item.asked_of(Method.CARD, Money.zero(currency))
        for id_, item in items.items()
        if item.status is Status.AWAITING_PAYMENT
    }
    reverted = await decisions.being_reverted(connection, list(still))
    await balances.lock(connection, customer_id)
    told = (
        await connection.execute(
            select(OrderRow.id, OrderRow.placed_at, OrderRow.method).where(OrderRow.id.in_(list(still)))
        )
    ).all()
    waiting = tuple(
        Waiting(order_id=row.id, open=still[row.id].open, placed_at=row.placed_at)
        for row in told
        if row.id not in reverted and still[row.id].open.minor > 0
    )
    methods = {row.id: Method(row.method) for row in told}
    return Held(await balances.balance(connection, customer_id, currency), still, methods, waiting)


async def pay(
    connection: AsyncConnection,
    order_id: int,
    item: OpenItem,
    *,
    method: Method,
    because: str,
    rule_version: int,
    actor: Actor,
    now: datetime,
) -> int:
    """Pay what is open of an order from its customer's balance, both locked, and return the payment, which is due."""
    before = await connection.scalar(
        select(func.count())
        .select_from(AllocationRow)
        .join(PaymentRow, PaymentRow.id == AllocationRow.payment_id)
        .where(AllocationRow.order_id == order_id, AllocationRow.reverses_id.is_(None), PaymentRow.source == SOURCE)
    )
    payment_id = await settle(
        connection,
        item,
        source=SOURCE,
        external_id=f"order:{order_id}:{(before or 0) + 1}",
        method=method,
        reason=f"{item.number} is paid from the balance: {because}",
        evidence="the customer's balance",
        rule_version=rule_version,
        actor=actor,
        now=now,
    )
    assert isinstance(item.customer, int)  # noqa: S101 - the store's own items name their customer by id
    await balances.add(
        connection,
        item.customer,
        -item.open,
        payment_id=payment_id,
        reason=f"pays {item.number}: {because}",
        actor=actor,
        now=now,
        cause=cause_of("payment", payment_id),
    )
    return payment_id


async def settle(
    connection: AsyncConnection,
    item: OpenItem,
    *,
    source: str,
    external_id: str,
    method: Method,
    reason: str,
    evidence: str,
    rule_version: int,
    actor: Actor,
    now: datetime,
) -> int:
    """Make a payment over what is open of a locked item, settle that with it, and let it be due; return it."""
    incoming = IncomingPayment(
        source=source,
        external_id=external_id,
        method=method,
        amount=item.open,
        booked_on=now.date(),
        order_reference=item.number,
    )
    [(payment_id, scenario)] = await payments.add(connection, [incoming], now=now)
    await connection.execute(
        update(PaymentRow)
        .where(PaymentRow.id == payment_id)
        .values(outcome=Outcome.EXACT.value, policy=Policy.RELEASE.value, reason=reason, candidates=[], matched_at=now)
    )
    part = Part(item, item.open, Money.zero(item.open.currency), completes=True)
    await payments.allocate(connection, payment_id, [part], {item.id: [evidence]}, now=now)
    entry = journal.entry(
        actor,
        at=now,
        step="match",
        move=Outcome.EXACT.value,
        order_id=item.order_id,
        payment_id=payment_id,
        cause=cause_of("payment", payment_id),
        reason=reason,
        after={"policy": Policy.RELEASE.value, "surplus": 0},
        rule_version=rule_version,
    )
    await journal.append(connection, [entry])
    again = {(payment_id, scenario), *await payments.undecided(connection, [item.id])}
    for id_, of in sorted(again):
        await work.add(connection, of, "payment", [id_], now=now)
    return payment_id


async def mark_released(connection: AsyncConnection, entry_id: int, *, now: datetime) -> bool:
    """Say that the orders that a top-up lets go are paid; say whether nobody said so before."""
    done = await connection.scalar(
        update(BalanceEntry)
        .where(BalanceEntry.id == entry_id, BalanceEntry.released_at.is_(None))
        .values(released_at=now)
        .returning(BalanceEntry.id)
    )
    return done is not None
