"""Holds: what gateways say they hold for us, which order it is for, and what was decided about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, Row, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.holds import Decision, Hold, HoldState, moves_on
from domain.money import Money
from domain.orders import CLOSED
from store import archive
from store.archived import Name
from store.sql import among, chunks, insert_new
from store.tables import HoldRow, OrderRow


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHold:
    """A hold with what we know of it; number and channel are those of its order, once that is found."""

    id: int
    hold: Hold
    connector: str
    order_id: int | None
    number: str | None
    channel: str | None
    reason: str | None
    decision: Decision | None
    decided: Money | None
    decided_by: str | None
    created_at: datetime


_HOLDS = select(*HoldRow.__table__.columns, OrderRow.number, OrderRow.channel).outerjoin(
    OrderRow, OrderRow.id == HoldRow.order_id
)


def _stored(row: Row[Any]) -> StoredHold:
    return StoredHold(
        id=row.id,
        hold=Hold(
            source=row.source,
            reference=row.reference,
            amount=Money(row.amount_minor, row.currency),
            captured=Money(row.captured_minor, row.currency),
            state=HoldState(row.state),
            order_reference=row.order_reference,
            expires_at=row.expires_at,
        ),
        connector=row.connector,
        order_id=row.order_id,
        number=row.number,
        channel=row.channel,
        reason=row.reason,
        decision=Decision(row.decision) if row.decision else None,
        decided=Money(row.decided_minor, row.currency) if row.decided_minor is not None else None,
        decided_by=row.decided_by,
        created_at=row.created_at,
    )


_NEW = insert_new(HoldRow).returning(HoldRow.id)
_KNOWN = _HOLDS.where(
    HoldRow.source == bindparam("source"), HoldRow.reference == bindparam("reference")
).with_for_update(of=HoldRow)
_MOVED_ON = (
    update(HoldRow)
    .where(HoldRow.id == bindparam("hold"))
    .values(
        captured_minor=bindparam("captured"),
        state=bindparam("new_state"),
        expires_at=bindparam("until"),
        updated_at=bindparam("now"),
    )
)


async def put(connection: AsyncConnection, hold: Hold, *, connector: str, now: datetime) -> tuple[int, bool]:
    """Store a hold, or what has become of a known one; return its id, and whether that is news.

    A hold that was captured, released or has expired stays so, whatever comes late.
    """
    await archive.bring_back(
        connection, [Name("hold", hold.source, hold.reference)], because="its hold was told of once more"
    )
    id_ = await connection.scalar(
        _NEW,
        {
            "source": hold.source,
            "reference": hold.reference,
            "connector": connector,
            "order_reference": hold.order_reference,
            "currency": hold.amount.currency,
            "amount_minor": hold.amount.minor,
            "captured_minor": hold.captured.minor,
            "state": hold.state.value,
            "expires_at": hold.expires_at,
            "created_at": now,
            "updated_at": now,
        },
    )
    if id_ is not None:
        return id_, True
    known = (await connection.execute(_KNOWN, {"source": hold.source, "reference": hold.reference})).one()
    before = _stored(known).hold
    extended = before.state is HoldState.HELD is hold.state and before.expires_at != hold.expires_at
    if not moves_on(before.state, hold.state) and not extended:
        return known.id, False
    await connection.execute(
        _MOVED_ON,
        {
            "hold": known.id,
            "captured": hold.captured.minor,
            "new_state": hold.state.value,
            "until": hold.expires_at,
            "now": now,
        },
    )
    return known.id, not extended


_BY_ID = _HOLDS.where(among(HoldRow.id, "holds")).order_by(HoldRow.id)
_LOCKED = _BY_ID.with_for_update(of=HoldRow)


async def load(connection: AsyncConnection, ids: Sequence[int], *, lock: bool = False) -> dict[int, StoredHold]:
    """Return holds by id; lock keeps others from deciding about them meanwhile."""
    found: dict[int, StoredHold] = {}
    for some in chunks(sorted(ids)):
        rows = await connection.execute(_LOCKED if lock else _BY_ID, {"holds": some})
        found.update({row.id: _stored(row) for row in rows.all()})
    return found


_OF_ORDERS = _HOLDS.where(among(HoldRow.order_id, "orders")).order_by(HoldRow.id)


async def of_orders(connection: AsyncConnection, order_ids: Iterable[int]) -> dict[int, list[StoredHold]]:
    """Return the holds of orders, by order, the oldest first."""
    found: dict[int, list[StoredHold]] = {}
    for some in chunks(sorted(set(order_ids))):
        rows = await connection.execute(_OF_ORDERS, {"orders": some})
        for row in rows.all():
            found.setdefault(row.order_id, []).append(_stored(row))
    return found


_STILL_HELD = (
    _HOLDS.where(HoldRow.state == HoldState.HELD.value)
    .order_by(HoldRow.expires_at.is_(None), HoldRow.expires_at, HoldRow.id)
    .limit(bindparam("most", type_=Integer))
)


async def still_held(connection: AsyncConnection, *, limit: int = 5_000) -> list[StoredHold]:
    """Return what is held now, what expires first at the top; what has no expiry comes last."""
    rows = await connection.execute(_STILL_HELD, {"most": limit})
    return [_stored(row) for row in rows.all()]


_LOST = (
    _HOLDS.where(
        HoldRow.state.in_([HoldState.EXPIRED.value, HoldState.RELEASED.value]),
        HoldRow.decision.is_(None),
        OrderRow.standard_status.not_in(sorted(CLOSED)),
    )
    .order_by(HoldRow.id.desc())
    .limit(bindparam("most", type_=Integer))
)


async def lost(connection: AsyncConnection, *, limit: int = 5_000) -> list[StoredHold]:
    """Return what is not held any more though nobody here has said so, of orders that are not closed; newest first."""
    rows = await connection.execute(_LOST, {"most": limit})
    return [_stored(row) for row in rows.all()]


_ATTACHED = (
    update(HoldRow)
    .where(HoldRow.id == bindparam("hold"))
    .values(order_id=bindparam("order"), reason=bindparam("because"), updated_at=bindparam("now"))
)


async def attach(connection: AsyncConnection, id_: int, order_id: int | None, reason: str, *, now: datetime) -> None:
    """Say which order a hold is for, or why none was found."""
    await connection.execute(_ATTACHED, {"hold": id_, "order": order_id, "because": reason, "now": now})


_DECIDED = (
    update(HoldRow)
    .where(HoldRow.id == bindparam("hold"), HoldRow.state == HoldState.HELD.value, HoldRow.decision.is_(None))
    .values(
        decision=bindparam("what"),
        decided_minor=bindparam("minor"),
        decided_by=bindparam("by"),
        decided_because=bindparam("because"),
        decided_at=bindparam("now"),
        updated_at=bindparam("now"),
    )
)


async def decide(
    connection: AsyncConnection,
    id_: int,
    decision: Decision,
    amount: Money | None,
    *,
    by: str,
    because: str,
    now: datetime,
) -> bool:
    """Write down what is to be done with a hold; False when it is not held any more, or was decided about before."""
    changed = await connection.execute(
        _DECIDED,
        {
            "hold": id_,
            "what": decision.value,
            "minor": amount.minor if amount is not None else None,
            "by": by,
            "because": because,
            "now": now,
        },
    )
    return bool(changed.rowcount)


_WAITING = select(HoldRow.id).where(HoldRow.order_id.is_(None), among(HoldRow.order_reference, "numbers"))


async def waiting_for_orders(connection: AsyncConnection, numbers: Collection[str]) -> list[int]:
    """Return the holds without an order that name one of these numbers, for when those orders appear."""
    found: list[int] = []
    for some in chunks(sorted(numbers)):
        rows = await connection.execute(_WAITING, {"numbers": some})
        found.extend(rows.scalars().all())
    return sorted(found)
