"""Holds: what gateways say they hold for us, which order it is for, and what was decided about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.holds import Decision, Hold, HoldState, moves_on
from domain.money import Money
from domain.orders import CLOSED
from store import archive
from store.archived import Name
from store.sql import chunks, insert_new
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


def _query() -> Select[Any]:
    return select(*HoldRow.__table__.columns, OrderRow.number, OrderRow.channel).outerjoin(
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


async def put(connection: AsyncConnection, hold: Hold, *, connector: str, now: datetime) -> tuple[int, bool]:
    """Store a hold, or what has become of a known one; return its id, and whether that is news.

    A hold that was captured, released or has expired stays so, whatever comes late.
    """
    await archive.bring_back(
        connection, [Name("hold", hold.source, hold.reference)], because="its hold was told of once more"
    )
    id_ = await connection.scalar(
        insert_new(HoldRow)
        .values(
            source=hold.source,
            reference=hold.reference,
            connector=connector,
            order_reference=hold.order_reference,
            currency=hold.amount.currency,
            amount_minor=hold.amount.minor,
            captured_minor=hold.captured.minor,
            state=hold.state.value,
            expires_at=hold.expires_at,
            created_at=now,
            updated_at=now,
        )
        .returning(HoldRow.id)
    )
    if id_ is not None:
        return id_, True
    known = (
        await connection.execute(
            _query()
            .where(HoldRow.source == hold.source, HoldRow.reference == hold.reference)
            .with_for_update(of=HoldRow)
        )
    ).one()
    before = _stored(known).hold
    extended = before.state is HoldState.HELD is hold.state and before.expires_at != hold.expires_at
    if not moves_on(before.state, hold.state) and not extended:
        return known.id, False
    await connection.execute(
        update(HoldRow)
        .where(HoldRow.id == known.id)
        .values(captured_minor=hold.captured.minor, state=hold.state.value, expires_at=hold.expires_at, updated_at=now)
    )
    return known.id, not extended


async def load(connection: AsyncConnection, ids: Sequence[int], *, lock: bool = False) -> dict[int, StoredHold]:
    """Return holds by id; lock keeps others from deciding about them meanwhile."""
    found: dict[int, StoredHold] = {}
    for some in chunks(sorted(ids)):
        query = _query().where(HoldRow.id.in_(some)).order_by(HoldRow.id)
        rows = await connection.execute(query.with_for_update(of=HoldRow) if lock else query)
        found.update({row.id: _stored(row) for row in rows.all()})
    return found


async def of_orders(connection: AsyncConnection, order_ids: Iterable[int]) -> dict[int, list[StoredHold]]:
    """Return the holds of orders, by order, the oldest first."""
    found: dict[int, list[StoredHold]] = {}
    for some in chunks(sorted(set(order_ids))):
        rows = await connection.execute(_query().where(HoldRow.order_id.in_(some)).order_by(HoldRow.id))
        for row in rows.all():
            found.setdefault(row.order_id, []).append(_stored(row))
    return found


async def still_held(connection: AsyncConnection, *, limit: int = 5_000) -> list[StoredHold]:
    """Return what is held now, what expires first at the top; what has no expiry comes last."""
    rows = await connection.execute(
        _query()
        .where(HoldRow.state == HoldState.HELD.value)
        .order_by(HoldRow.expires_at.is_(None), HoldRow.expires_at, HoldRow.id)
        .limit(limit)
    )
    return [_stored(row) for row in rows.all()]


async def lost(connection: AsyncConnection, *, limit: int = 5_000) -> list[StoredHold]:
    """Return what is not held any more though nobody here has said so, of orders that are not closed; newest first."""
    rows = await connection.execute(
        _query()
        .where(
            HoldRow.state.in_([HoldState.EXPIRED.value, HoldState.RELEASED.value]),
            HoldRow.decision.is_(None),
            OrderRow.standard_status.not_in(sorted(CLOSED)),
        )
        .order_by(HoldRow.id.desc())
        .limit(limit)
    )
    return [_stored(row) for row in rows.all()]


async def attach(connection: AsyncConnection, id_: int, order_id: int | None, reason: str, *, now: datetime) -> None:
    """Say which order a hold is for, or why none was found."""
    await connection.execute(
        update(HoldRow).where(HoldRow.id == id_).values(order_id=order_id, reason=reason, updated_at=now)
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
        update(HoldRow)
        .where(HoldRow.id == id_, HoldRow.state == HoldState.HELD.value, HoldRow.decision.is_(None))
        .values(
            decision=decision.value,
            decided_minor=amount.minor if amount is not None else None,
            decided_by=by,
            decided_because=because,
            decided_at=now,
            updated_at=now,
        )
    )
    return bool(changed.rowcount)


async def waiting_for_orders(connection: AsyncConnection, numbers: Collection[str]) -> list[int]:
    """Return the holds without an order that name one of these numbers, for when those orders appear."""
    found: list[int] = []
    for some in chunks(sorted(numbers)):
        rows = await connection.execute(
            select(HoldRow.id).where(HoldRow.order_id.is_(None), HoldRow.order_reference.in_(some))
        )
        found.extend(rows.scalars().all())
    return sorted(found)
