"""Bars: what has happened to an order since a step's cause arose, so that the step may no longer be what anybody wants.

Asked in the transaction that claims the step's effects, with the orders locked against whatever takes them back: who
takes money or an order back locks it first, so it sees every effect that was claimed before, and no later one begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from sqlalchemy import BigInteger, Text, case, cast, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.orders import CLOSED, Status
from domain.payments import Kind
from domain.scenarios import round_of, subject_of
from store import hands
from store.sql import among, chunks
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


_STANDINGS = (
    select(OrderRow.id, OrderRow.standard_status, OrderRow.held_out)
    .where(among(OrderRow.id, "orders"))
    .order_by(OrderRow.id)
)
_LOCKED = _STANDINGS.with_for_update(key_share=True)
_LOCKED_SHARED = _STANDINGS.with_for_update(read=True)


async def _locked(
    connection: AsyncConnection, order_ids: Sequence[int], *, shared: bool
) -> dict[int, tuple[Status, str | None]]:
    """Lock orders, and return each one's status and who holds it out of automation."""
    found: dict[int, tuple[Status, str | None]] = {}
    for ids in chunks(sorted(set(order_ids))):
        rows = await connection.execute(_LOCKED_SHARED if shared else _LOCKED, {"orders": ids})
        found.update({row.id: (Status(row.standard_status), row.held_out) for row in rows.all()})
    return found


async def facts(connection: AsyncConnection, items: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Facts]:
    """Lock the orders of (order id, cause) pairs, shared, and return how each stands for its cause.

    What a person has repeated stands as what it repeats.
    """
    order_ids = sorted({order_id for order_id, _ in items})
    locked = await _locked(connection, order_ids, shared=True)
    meant = await hands.meant(connection, {cause for _, cause in items})
    causes = {meant.get(cause, cause) for _, cause in items}
    payment_ids = sorted({id_ for cause in causes for subject, id_ in [subject_of(cause)] if subject == "payment"})
    reverting: set[int] = set()
    sums: dict[int, dict[Kind, int]] = {}
    rounds: dict[int, int] = {}
    live: dict[tuple[int, int], bool] = {}
    # In one statement: this is asked before each step of each order.
    for ids, paid in zip_longest(chunks(order_ids), chunks(payment_ids), fillvalue=()):
        for row in (await connection.execute(_KNOWN, {"order_ids": list(ids), "payment_ids": list(paid)})).all():
            if row.what == "reverting":
                reverting.add(row.id)
            elif row.what == "round":
                rounds[row.id] = row.number
            elif row.what == "live":
                key = (row.id, row.number)
                live[key] = live.get(key, False) or row.said == "live"
            else:
                sums.setdefault(row.id, {})[Kind(row.said)] = int(row.number)
    back = _gone_back(sums)
    found: dict[tuple[int, str], Facts] = {}
    for order_id, cause in items:
        of = meant.get(cause, cause)
        subject, id_ = subject_of(of)
        of_payment = subject == "payment"
        taken_off = of_payment and (rounds.get(id_, 1) > round_of(of) or live.get((id_, order_id), True) is False)
        status, held_out = locked[order_id]
        closed = status if status in CLOSED else None
        found[order_id, cause] = Facts(closed, order_id in reverting, taken_off, back.get(order_id), held_out)
    return found


_SUMS = (
    select(
        literal("sum").label("what"),
        AllocationRow.order_id.label("id"),
        cast(func.sum(AllocationRow.amount_minor), BigInteger).label("number"),
        cast(PaymentRow.kind, Text).label("said"),
    )
    .join(PaymentRow, PaymentRow.id == AllocationRow.payment_id)
    .where(among(AllocationRow.order_id, "order_ids"))
    .group_by(AllocationRow.order_id, PaymentRow.kind)
)
_KNOWN = union_all(
    select(
        literal("reverting").label("what"),
        RevertRow.order_id.label("id"),
        cast(0, BigInteger).label("number"),
        cast("", Text).label("said"),
    ).where(among(RevertRow.order_id, "order_ids"), RevertRow.finished_at.is_(None)),
    select(literal("round"), PaymentRow.id, cast(PaymentRow.round, BigInteger), cast("", Text)).where(
        among(PaymentRow.id, "payment_ids")
    ),
    select(
        literal("live"),
        AllocationRow.payment_id,
        cast(AllocationRow.order_id, BigInteger),
        case((AllocationRow.reversed, "reversed"), else_="live"),
    ).where(
        among(AllocationRow.payment_id, "payment_ids"),
        AllocationRow.order_id.is_not(None),
        AllocationRow.reverses_id.is_(None),
    ),
    _SUMS,
)


async def gone_back(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, Kind]:
    """Return the orders of which no money is left, and how the most of it went."""
    sums: dict[int, dict[Kind, int]] = {}
    for row in (await connection.execute(_SUMS, {"order_ids": list(order_ids)})).all():
        sums.setdefault(row.id, {})[Kind(row.said)] = int(row.number)
    return _gone_back(sums)


def _gone_back(sums: Mapping[int, Mapping[Kind, int]]) -> dict[int, Kind]:
    found: dict[int, Kind] = {}
    for order_id, by_kind in sums.items():
        refunded = by_kind.get(Kind.REFUND, 0)
        disputed = by_kind.get(Kind.CHARGEBACK, 0) + by_kind.get(Kind.REINSTATED, 0)
        if min(refunded, disputed) < 0 and sum(by_kind.values()) <= 0:
            found[order_id] = Kind.REFUND if refunded <= disputed else Kind.CHARGEBACK
    return found
