"""Transitions: the history of statuses, read as each order's ways from one status to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from sqlalchemy import func, or_, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.payments import Method
from domain.transitions import Transition
from store.tables import OrderRow, StatusHistory

_PIECE = 5_000


async def transitions(
    connection: AsyncConnection, *, since: datetime, until: datetime, channel: str | None = None, piece: int = _PIECE
) -> AsyncIterator[list[Transition]]:
    """Yield, in pieces and any order, the transitions that ended from a time on and before another.

    They are those of one channel, or of all. A status that was written again is none; its time counts from when the
    order first came to it.
    """
    order = StatusHistory.order_id
    moved = (
        select(
            order,
            StatusHistory.after,
            StatusHistory.at,
            func.lag(StatusHistory.after).over(partition_by=order, order_by=StatusHistory.id).label("was"),
            # SQLite has no type for a moment, and would give its text.
            type_coerce(
                func.lag(StatusHistory.at).over(partition_by=order, order_by=StatusHistory.id), StatusHistory.at.type
            ).label("began"),
        )
        .where(or_(StatusHistory.before.is_(None), StatusHistory.before != StatusHistory.after))
        .where(StatusHistory.at < until)
        .subquery()
    )
    wanted = (
        select(
            OrderRow.channel,
            OrderRow.method,
            OrderRow.number,
            moved.c.was,
            moved.c.after,
            moved.c.began,
            moved.c.at,
        )
        .join(OrderRow, OrderRow.id == moved.c.order_id)
        .where(moved.c.was.is_not(None), moved.c.at >= since)
    )
    if channel is not None:
        wanted = wanted.where(OrderRow.channel == channel)
    async with connection.stream(wanted.execution_options(yield_per=piece)) as rows:
        async for some in rows.partitions():
            yield [
                Transition(
                    channel=row.channel,
                    method=Method(row.method),
                    number=row.number,
                    before=row.was,
                    after=row.after,
                    began=row.began,
                    ended=row.at,
                )
                for row in some
            ]
