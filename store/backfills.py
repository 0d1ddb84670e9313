"""Backfills: who carried which work on again in bulk, chunk by chunk, and what became of each order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.scenarios import subject_of
from store import journal
from store.sql import chunks
from store.tables import BackfillItem, BackfillRow, EffectRow, JournalRow, OrderRow, WorkRow


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of work in a backfill: the subject that is due, and the order that it is about."""

    item_id: int
    work_id: int
    scenario: str
    subject: str
    subject_id: int
    order_id: int


async def begin(
    connection: AsyncConnection,
    cut: Sequence[Sequence[tuple[int, int]]],
    *,
    selection: dict[str, Any],
    notify: bool,
    author: str,
    reason: str,
    now: datetime,
) -> int:
    """Store a backfill and its chunks of (work, order), and return its number."""
    added = await connection.execute(
        insert(BackfillRow)
        .values(
            selection=selection,
            notify=notify,
            author=author,
            reason=reason,
            total=sum(len(some) for some in cut),
            chunks=len(cut),
            journal_mark=select(func.coalesce(func.max(JournalRow.id), 0)).scalar_subquery(),
            started_at=now,
        )
        .returning(BackfillRow.id)
    )
    backfill_id: int = added.scalar_one()
    rows = [
        {"backfill_id": backfill_id, "chunk": chunk, "work_id": work_id, "order_id": order_id}
        for chunk, some in enumerate(cut, start=1)
        for work_id, order_id in some
    ]
    for some in chunks(rows, 5_000):
        await connection.execute(insert(BackfillItem), list(some))
    return backfill_id


async def channels_of(connection: AsyncConnection, numbers: Sequence[str], channel: str | None) -> dict[str, list[str]]:
    """Return the channels that have orders with these numbers, or of them the one that is named."""
    found: dict[str, list[str]] = {}
    query = select(OrderRow.number, OrderRow.channel).order_by(OrderRow.id)
    if channel:
        query = query.where(OrderRow.channel == channel)
    for some in chunks(list(numbers)):
        for row in (await connection.execute(query.where(OrderRow.number.in_(some)))).all():
            found.setdefault(row.number, []).append(row.channel)
    return found


async def load(connection: AsyncConnection, backfill_id: int) -> dict[str, Any] | None:
    """Return a backfill, or None where there is none."""
    rows = await connection.execute(select(*BackfillRow.__table__.columns).where(BackfillRow.id == backfill_id))
    row = rows.mappings().one_or_none()
    return dict(row) if row else None


async def last_open(connection: AsyncConnection) -> int | None:
    """Return the latest backfill that has not ended."""
    return await connection.scalar(select(func.max(BackfillRow.id)).where(BackfillRow.finished_at.is_(None)))


async def listing(connection: AsyncConnection, limit: int = 50) -> list[dict[str, Any]]:
    """Return the latest backfills, the newest first, each with how many pieces of its work have ended."""
    ended = (
        select(func.count())
        .where(BackfillItem.backfill_id == BackfillRow.id, BackfillItem.result.is_not(None))
        .scalar_subquery()
        .label("ended")
    )
    rows = await connection.execute(
        select(*BackfillRow.__table__.columns, ended).order_by(BackfillRow.id.desc()).limit(limit)
    )
    return [dict(row) for row in rows.mappings().all()]


async def hold(connection: AsyncConnection, backfill_id: int, owner: str, *, until: datetime, now: datetime) -> bool:
    """Lease a backfill, or go on holding it; False when another worker holds it."""
    free = or_(BackfillRow.lease_owner.is_(None), BackfillRow.lease_owner == owner, BackfillRow.lease_until <= now)
    taken = await connection.execute(
        update(BackfillRow).where(BackfillRow.id == backfill_id, free).values(lease_owner=owner, lease_until=until)
    )
    return taken.rowcount == 1


async def let_go(
    connection: AsyncConnection, backfill_id: int, owner: str, *, finished_at: datetime | None = None
) -> None:
    """End a worker's lease of a backfill; finished_at says that its work has ended, too."""
    await connection.execute(
        update(BackfillRow)
        .where(BackfillRow.id == backfill_id, BackfillRow.lease_owner == owner)
        .values(lease_owner=None, lease_until=None, finished_at=func.coalesce(finished_at, BackfillRow.finished_at))
    )


async def open_chunks(connection: AsyncConnection, backfill_id: int) -> list[int]:
    """Return the chunks in which something has not ended, the first one first."""
    rows = await connection.execute(
        select(BackfillItem.chunk)
        .where(BackfillItem.backfill_id == backfill_id, BackfillItem.result.is_(None))
        .distinct()
        .order_by(BackfillItem.chunk)
    )
    return list(rows.scalars().all())


async def parts(connection: AsyncConnection, backfill_id: int, chunk: int) -> list[Part]:
    """Return what has not ended of a chunk."""
    rows = await connection.execute(
        select(
            BackfillItem.id,
            WorkRow.id,
            WorkRow.scenario,
            WorkRow.subject,
            WorkRow.subject_id,
            BackfillItem.order_id,
        )
        .join(WorkRow, WorkRow.id == BackfillItem.work_id)
        .where(BackfillItem.backfill_id == backfill_id, BackfillItem.chunk == chunk, BackfillItem.result.is_(None))
        .order_by(BackfillItem.id)
    )
    return [Part(*row) for row in rows.all()]


async def moved(
    connection: AsyncConnection, some: Sequence[Part], *, mark: int
) -> dict[tuple[str, int], list[tuple[str, str, str | None, bool]]]:
    """Return by subject its steps: (step, state, reason, whether the journal tells of it after the mark)."""
    wanted = {(part.subject, part.subject_id) for part in some}
    found: dict[tuple[str, int], list[tuple[str, str, str | None, bool]]] = {one: [] for one in wanted}
    query = select(EffectRow.cause, EffectRow.step, EffectRow.state, EffectRow.reason, EffectRow.id)
    for ids in chunks(sorted({part.order_id for part in some})):
        after = select(JournalRow.effect_id).where(
            JournalRow.order_id.in_(ids), JournalRow.id > mark, JournalRow.effect_id.is_not(None)
        )
        new = set((await connection.execute(after.distinct())).scalars().all())
        for row in (await connection.execute(query.where(EffectRow.order_id.in_(ids)).order_by(EffectRow.id))).all():
            subject = subject_of(row.cause)
            if subject in wanted:
                found[subject].append((row.step, row.state, row.reason, row.id in new))
    return found


async def end(
    connection: AsyncConnection,
    backfill_id: int,
    ends: Sequence[tuple[Part, str, str]],
    *,
    actor: journal.Actor,
    now: datetime,
) -> None:
    """Record (part, result, what is said of it) of a chunk, and tell it in the history of each order."""
    if not ends:
        return
    await connection.execute(
        update(BackfillItem)
        .where(BackfillItem.id == bindparam("_id"), BackfillItem.result.is_(None))
        .values(result=bindparam("_result"), said=bindparam("_said")),
        [{"_id": part.item_id, "_result": result, "_said": said} for part, result, said in ends],
    )
    told: dict[int, list[str]] = {}
    for part, result, _ in ends:
        told.setdefault(part.order_id, []).append(f"{part.scenario.replace('_', ' ')}: {result}")
    await journal.append(
        connection,
        [
            journal.entry(
                actor,
                at=now,
                step="backfill",
                move="carried on",
                order_id=order_id,
                reference=f"backfill {backfill_id}",
                reason="; ".join(said),
            )
            for order_id, said in sorted(told.items())
        ],
    )


async def totals(connection: AsyncConnection, backfill_id: int) -> dict[str, int]:
    """Return how many pieces of a backfill's work ended in each way; those that have not are `not yet`."""
    result = func.coalesce(BackfillItem.result, "not yet")
    rows = await connection.execute(
        select(result, func.count()).where(BackfillItem.backfill_id == backfill_id).group_by(result).order_by(result)
    )
    return {row[0]: row[1] for row in rows.all()}


async def report(
    connection: AsyncConnection, backfill_id: int, page: int = 5_000
) -> AsyncGenerator[list[dict[str, Any]]]:
    """Give a backfill's results page by page: order, channel, scenario, chunk, result, said."""
    last = 0
    while True:
        rows = (
            (
                await connection.execute(
                    select(
                        BackfillItem.id,
                        OrderRow.number.label("order"),
                        OrderRow.channel,
                        WorkRow.scenario,
                        BackfillItem.chunk,
                        func.coalesce(BackfillItem.result, "not yet").label("result"),
                        func.coalesce(BackfillItem.said, "").label("said"),
                    )
                    .join(OrderRow, OrderRow.id == BackfillItem.order_id)
                    .join(WorkRow, WorkRow.id == BackfillItem.work_id)
                    .where(BackfillItem.backfill_id == backfill_id, BackfillItem.id > last)
                    .order_by(BackfillItem.id)
                    .limit(page)
                )
            )
            .mappings()
            .all()
        )
        if not rows:
            return
        last = rows[-1]["id"]
        yield [{name: value for name, value in row.items() if name != "id"} for row in rows]
