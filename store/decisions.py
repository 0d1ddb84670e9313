"""Decisions: payments that wait for a person, how each stands, and what a person said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.allocation import OpenItem
from domain.money import Money
from domain.orders import Status
from domain.payments import Outcome, Payment
from domain.rules import Policy
from store import balances, bars, orders, payments
from store.sql import among, chunks
from store.tables import (
    CustomerRow,
    OpenItemRow,
    OrderRow,
    PaymentReference,
    PaymentRow,
    RevertRow,
)


def meant(candidates: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what of a payment's candidates it names; of one that names none, those that who paid speaks for."""
    return [one for one in candidates if one.get("named")] or list(candidates)


@dataclass(frozen=True, slots=True)
class Named:
    """An order that payments name, as it stands now: what is open of it, and who owes that."""

    order_id: int
    customer_id: int
    open: Money
    status: Status


async def orders_named(connection: AsyncConnection, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Named]:
    """Return orders by (channel, number), with those of the same numbers in other channels."""
    found: dict[tuple[str, str], Named] = {}
    for some in chunks(sorted({number for _, number in names})):
        rows = (
            await connection.execute(
                select(
                    OrderRow.id,
                    OrderRow.channel,
                    OrderRow.number,
                    OrderRow.customer_id,
                    OrderRow.standard_status,
                    OrderRow.currency,
                    OrderRow.total_minor,
                ).where(OrderRow.number.in_(some))
            )
        ).all()
        settled = await orders.settled(connection, [row.id for row in rows])
        for row in rows:
            found[row.channel, row.number] = Named(
                order_id=row.id,
                customer_id=row.customer_id,
                open=Money(row.total_minor - settled.get(row.id, 0), row.currency),
                status=Status(row.standard_status),
            )
    return found


async def waiting(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Return the payments that wait for a person, with the part of each that is to be decided about as waits_minor.

    They are to be decided, or have a surplus that nobody has decided about, or are to be sent back: these are in it
    until the gateway says that the money has gone, or a person does.
    """
    rows = await connection.execute(
        select(
            PaymentRow.id,
            PaymentRow.source,
            PaymentRow.method,
            PaymentRow.kind,
            PaymentRow.currency,
            PaymentRow.amount_minor,
            PaymentRow.booked_on,
            PaymentRow.outcome,
            PaymentRow.policy,
            PaymentRow.reason,
            PaymentRow.candidates,
            PaymentRow.surplus_minor,
        )
        .where(or_(PaymentRow.policy.in_([Policy.OPERATOR.value, Policy.REFUND.value]), PaymentRow.surplus_minor > 0))
        .order_by(PaymentRow.id)
    )
    found = [dict(row) for row in rows.mappings().all()]
    back = {row["id"]: row["amount_minor"] for row in await payments.to_send_back(connection)}
    kept = await payments.by_ids(connection, [row["id"] for row in found if row["surplus_minor"]])
    waits = {row["id"]: row["amount_minor"] for row in found if row["policy"] == Policy.OPERATOR}
    waits |= {id_: row["surplus_left_minor"] for id_, row in kept.items() if row["surplus_left_minor"]} | back
    return [row | {"waits_minor": waits[row["id"]]} for row in found if row["id"] in waits]


_NOT_A_PERSONS = (Outcome.OUTGOING.value, Outcome.PAYOUT.value)
"""Outcomes that are left alone without anybody's word, and may turn out to be something else."""

_SETTLED = select(PaymentRow.id).where(
    among(PaymentRow.id, "payments"),
    PaymentRow.policy.in_([Policy.REFUND.value, Policy.IGNORE.value]),
    PaymentRow.outcome.not_in(_NOT_A_PERSONS),
    ~exists().where(PaymentReference.payment_id == PaymentRow.id),
)


async def settled(connection: AsyncConnection, ids: Sequence[int]) -> set[int]:
    """Return the payments that are to be sent back or left alone, and wait for no order and no other rules.

    A person has said so, or the rules of what nothing new can change; they are matched again when a person asks for it.
    """
    found: set[int] = set()
    for some in chunks(list(ids)):
        rows = await connection.execute(_SETTLED, {"payments": some})
        found.update(rows.scalars().all())
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a payment stands for whoever decides on it.

    row is what it turned out to be, parts are its live allocations, and credit is the live entry on a balance. free is
    the money that is to be decided about: of a payment that settles nothing all that did not go back, else its surplus.
    settled says that the rules leave it alone.
    """

    payment: Payment
    row: dict[str, Any]
    parts: tuple[dict[str, Any], ...]
    credit: balances.Entry | None
    free: Money
    went_back: payments.WentBack | None
    settled: bool

    @property
    def outcome(self) -> Outcome | None:
        """What it turned out to be."""
        return Outcome(self.row["outcome"]) if self.row["outcome"] else None

    @property
    def policy(self) -> Policy | None:
        """What was decided of it."""
        return Policy(self.row["policy"]) if self.row["policy"] else None


async def standing(connection: AsyncConnection, payment_id: int) -> Standing | None:
    """Return how a payment stands, locked against being matched or decided on by anybody else meanwhile."""
    found = (await payments.load(connection, [payment_id])).get(payment_id)
    if found is None:
        return None
    row = (await payments.by_ids(connection, [payment_id]))[payment_id]
    parts = tuple((await payments.allocated(connection, [payment_id])).get(payment_id, ()))
    back = None if parts else (await payments.gone_back(connection, [found])).get(payment_id)
    free = row["surplus_minor"] if parts else found.amount.minor + (back.minor if back else 0)
    return Standing(
        payment=found,
        row=row,
        parts=parts,
        credit=await balances.of_payment(connection, payment_id),
        free=Money(free, found.amount.currency),
        went_back=back,
        settled=bool(await settled(connection, [payment_id])),
    )


_OPEN_ITEMS = (
    select(*OpenItemRow.__table__.columns)
    .where(among(OpenItemRow.order_id, "orders"))
    .order_by(OpenItemRow.id)
    .with_for_update()
)


async def open_items(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, OpenItem]:
    """Return the open items of orders by order id, locked: neither what is open of one nor its status can change."""
    statuses = await bars.lock(connection, order_ids, shared=True)
    found: dict[int, OpenItem] = {}
    for some in chunks(sorted(statuses)):
        rows = (await connection.execute(_OPEN_ITEMS, {"orders": some})).all()
        loaded = await orders.load(connection, some)
        for row in rows:
            order = loaded[row.order_id]
            found[row.order_id] = OpenItem(
                id=row.id,
                order_id=row.order_id,
                channel=row.channel,
                number=order.number,
                status=statuses[row.order_id],
                amount=Money(row.amount_minor, row.currency),
                open=order.to_pay,
                references=frozenset(),
                customer=row.customer_id,
                group=order.customer.group,
                customer_number=order.customer.number,
                on_delivery=order.on_delivery,
                collected=order.collected,
            )
    return found


_BEING_REVERTED = select(RevertRow.order_id).where(among(RevertRow.order_id, "orders"), RevertRow.finished_at.is_(None))


async def being_reverted(connection: AsyncConnection, order_ids: Sequence[int]) -> set[int]:
    """Return the orders that somebody takes back right now."""
    rows = await connection.execute(_BEING_REVERTED, {"orders": order_ids})
    return set(rows.scalars().all())


async def customers(connection: AsyncConnection, number: str, channel: str | None) -> list[tuple[int, str]]:
    """Return the (id, channel) of every customer with a number; several channels may use the same one."""
    query = select(CustomerRow.id, CustomerRow.channel).where(CustomerRow.number == number).order_by(CustomerRow.id)
    if channel:
        query = query.where(CustomerRow.channel == channel)
    return [(row.id, row.channel) for row in (await connection.execute(query)).all()]


async def owners_named(connection: AsyncConnection, of: Standing) -> set[int]:
    """Return the customers of the orders that a payment settles, or else of those that it could be for."""
    if of.parts:
        rows = await connection.execute(
            select(OrderRow.customer_id).where(OrderRow.id.in_([part["order_id"] for part in of.parts]))
        )
        return set(rows.scalars().all())
    candidates = await connection.scalar(select(PaymentRow.candidates).where(PaymentRow.id == of.payment.id))
    names = {(one["channel"], one["order"]) for one in meant(candidates or ())}
    found = await orders_named(connection, names)
    return {found[name].customer_id for name in names if name in found}


_DECIDED = (
    update(PaymentRow)
    .where(PaymentRow.id == bindparam("payment"))
    .values(
        outcome=bindparam("new_outcome"),
        policy=bindparam("new_policy"),
        reason=bindparam("because"),
        surplus_minor=bindparam("left_over"),
        matched_at=bindparam("now"),
    )
)


async def decide(
    connection: AsyncConnection,
    of: Standing,
    *,
    outcome: Outcome,
    policy: Policy,
    reason: str,
    surplus: Money,
    now: datetime,
) -> None:
    """Store what a person made of a payment; new orders and rules find it no more."""
    await connection.execute(
        _DECIDED,
        {
            "payment": of.payment.id,
            "new_outcome": outcome.value,
            "new_policy": policy.value,
            "because": reason,
            "left_over": surplus.minor,
            "now": now,
        },
    )
    await payments.waits_no_more(connection, of.payment.id)


async def begin_anew(connection: AsyncConnection, of: Standing, *, reason: str) -> None:
    """Let a payment be as if it had never been matched, in its next round."""
    await connection.execute(
        update(PaymentRow)
        .where(PaymentRow.id == of.payment.id)
        .values(
            outcome=None,
            policy=None,
            reason=reason,
            candidates=[],
            surplus_minor=0,
            round=PaymentRow.round + 1,
            matched_at=None,
        )
    )
    await payments.waits_no_more(connection, of.payment.id)
