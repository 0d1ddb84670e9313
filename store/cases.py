"""What the cases of a channel's rules need to know of orders beside the orders themselves: how they stood at first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store import hands
from store.sql import among, chunks
from store.tables import EffectRow, StatusHistory

Begun = tuple[int, str]
"""An order and a cause."""


_BEGUN = (
    select(EffectRow.order_id, EffectRow.cause, func.min(EffectRow.created_at).label("at"))
    .where(among(EffectRow.cause, "causes"))
    .group_by(EffectRow.order_id, EffectRow.cause)
)


async def begun_as(connection: AsyncConnection, begun: Iterable[Begun]) -> dict[Begun, str]:
    """Return by order and cause the status that an order had when its first step for the cause began.

    An order for which none has begun is left out: it goes by the status that it has. What a person has repeated goes by
    the status that what it repeats went by.
    """
    asked = set(begun)
    meant = await hands.meant(connection, {cause for _, cause in asked})
    wanted = {(order_id, meant.get(cause, cause)) for order_id, cause in asked}
    first: dict[Begun, datetime] = {}
    for some in chunks(sorted({cause for _, cause in wanted})):
        rows = await connection.execute(_BEGUN, {"causes": some})
        first |= {(row.order_id, row.cause): row.at for row in rows.all() if (row.order_id, row.cause) in wanted}
    had = await _statuses(connection, {order_id for order_id, _ in first})
    found: dict[Begun, str] = {}
    for (order_id, cause), at in first.items():
        # What the cause itself has made of it comes after its beginning, even within the same moment.
        before = [status for since, of, status in had[order_id] if since <= at and of != cause]
        if before:
            found[order_id, cause] = before[-1]
    return {one: found[of] for one in asked if (of := (one[0], meant.get(one[1], one[1]))) in found}


_PAID_BY = (
    select(EffectRow.order_id, EffectRow.cause)
    .where(among(EffectRow.order_id, "orders"), EffectRow.cause.startswith("payment:"))
    .order_by(EffectRow.id)
)


async def paid_as(connection: AsyncConnection, order_ids: Iterable[int]) -> dict[int, str]:
    """Return the status that orders had when their last payment's first step began, for those that have one."""
    last: dict[int, str] = {}
    for some in chunks(sorted(set(order_ids))):
        rows = await connection.execute(_PAID_BY, {"orders": some})
        last |= {row.order_id: row.cause for row in rows.all()}
    return {order_id: status for (order_id, _), status in (await begun_as(connection, last.items())).items()}


_STATUSES = (
    select(StatusHistory.order_id, StatusHistory.at, EffectRow.cause, StatusHistory.after)
    .outerjoin(EffectRow, EffectRow.id == StatusHistory.effect_id)
    .where(among(StatusHistory.order_id, "orders"))
    .order_by(StatusHistory.id)
)


async def _statuses(connection: AsyncConnection, ids: set[int]) -> dict[int, list[tuple[datetime, str | None, str]]]:
    had: dict[int, list[tuple[datetime, str | None, str]]] = defaultdict(list)
    for some in chunks(sorted(ids)):
        rows = await connection.execute(_STATUSES, {"orders": some})
        for row in rows.all():
            had[row.order_id].append((row.at, row.cause, row.after))
    return had
