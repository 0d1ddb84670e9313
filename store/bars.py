"""Bars: what has happened to an order since a step's cause arose, so that the step may no longer be what anybody wants.

Asked in the transaction that claims the step's effects, with the orders locked against whatever takes them back: who
takes money or an order back locks it first, so it sees every effect that was claimed before, and no later one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.orders import CLOSED, Status
from domain.payments import Kind
from domain.scenarios import round_of, subject_of
from store.sql import chunks
from store.tables import AllocationRow, OrderRow, PaymentRow, RevertRow


@dataclass(frozen=True, slots=True)
class Facts:
    """How an order stands for one cause.

    closed is its status when that waits for no money any more; reverting says that somebody is taking it back now, and
    taken_off that the payment that is the cause was taken off it; back is how its money went back, all of it. held_out
    says who holds it out of automation, and why.
    """

    closed: Status | None = None
    reverting: bool = False
    taken_off: bool = False
    back: Kind | None = None
    held_out: str | None = None


async def lock(connection: AsyncConnection, order_ids: Sequence[int], *, shared: bool = False) -> dict[int, Status]:
    """Lock orders, in one order everywhere, and return their statuses; shared is enough for who only begins steps.

    Neither holds up who adds a row that points at an order, as each claim does before it comes here.
    """
    return {id_: status for id_, (status, _) in (await _locked(connection, order_ids, shared=shared)).items()}


async def _locked(
    connection: AsyncConnection, order_ids: Sequence[int], *, shared: bool
) -> dict[int, tuple[Status, str | None]]:
    """Lock orders, and return each one's status and who holds it out of automation."""
    found: dict[int, tuple[Status, str | None]] = {}
    for ids in chunks(sorted(set(order_ids))):
        columns = (OrderRow.id, OrderRow.standard_status, OrderRow.held_out)
        query = select(*columns).where(OrderRow.id.in_(ids)).order_by(OrderRow.id)
        rows = await connection.execute(query.with_for_update(read=shared, key_share=not shared))
        found.update({row.id: (Status(row.standard_status), row.held_out) for row in rows.all()})
    return found


async def facts(connection: AsyncConnection, items: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Facts]:
    """Lock the orders of (order id, cause) pairs, shared, and return how each stands for its cause."""
    order_ids = sorted({order_id for order_id, _ in items})
    locked = await _locked(connection, order_ids, shared=True)
    payment_ids = sorted({id_ for _, cause in items for subject, id_ in [subject_of(cause)] if subject == "payment"})
    reverting: set[int] = set()
    back: dict[int, Kind] = {}
    for ids in chunks(order_ids):
        rows = await connection.execute(
            select(RevertRow.order_id).where(RevertRow.order_id.in_(ids), RevertRow.finished_at.is_(None))
        )
        reverting.update(rows.scalars().all())
        back.update(await gone_back(connection, ids))
    rounds: dict[int, int] = {}
    live: dict[tuple[int, int], bool] = {}
    for ids in chunks(payment_ids):
        known = await connection.execute(select(PaymentRow.id, PaymentRow.round).where(PaymentRow.id.in_(ids)))
        rounds.update({row.id: row.round for row in known.all()})
        allocated = await connection.execute(
            select(AllocationRow.payment_id, AllocationRow.order_id, AllocationRow.reversed).where(
                AllocationRow.payment_id.in_(ids), AllocationRow.reverses_id.is_(None)
            )
        )
        for row in allocated.all():
            key = (row.payment_id, row.order_id)
            live[key] = live.get(key, False) or not row.reversed
    found: dict[tuple[int, str], Facts] = {}
    for order_id, cause in items:
        subject, id_ = subject_of(cause)
        of_payment = subject == "payment"
        taken_off = of_payment and (rounds.get(id_, 1) > round_of(cause) or live.get((id_, order_id), True) is False)
        status, held_out = locked[order_id]
        closed = status if status in CLOSED else None
        found[order_id, cause] = Facts(closed, order_id in reverting, taken_off, back.get(order_id), held_out)
    return found


async def gone_back(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, Kind]:
    """Return the orders of which no money is left, and how the most of it went."""
    rows = await connection.execute(
        select(AllocationRow.order_id, PaymentRow.kind, func.sum(AllocationRow.amount_minor).label("minor"))
        .join(PaymentRow, PaymentRow.id == AllocationRow.payment_id)
        .where(AllocationRow.order_id.in_(order_ids))
        .group_by(AllocationRow.order_id, PaymentRow.kind)
    )
    sums: dict[int, dict[Kind, int]] = {}
    for row in rows.all():
        sums.setdefault(row.order_id, {})[Kind(row.kind)] = int(row.minor)
    found: dict[int, Kind] = {}
    for order_id, by_kind in sums.items():
        refunded = by_kind.get(Kind.REFUND, 0)
        disputed = by_kind.get(Kind.CHARGEBACK, 0) + by_kind.get(Kind.REINSTATED, 0)
        if min(refunded, disputed) < 0 and sum(by_kind.values()) <= 0:
            found[order_id] = Kind.REFUND if refunded <= disputed else Kind.CHARGEBACK
    return found
