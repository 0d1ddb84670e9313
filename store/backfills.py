"""Backfills: who carried which work on again in bulk, chunk by chunk, and what became of each order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.scenarios import subject_of
from store import journal
from store.sql import add_new, chunks
from store.tables import BackfillChunk, BackfillItem, BackfillRow, EffectRow, JournalRow, OrderRow, WorkRow

SET_ASIDE = "backfill "
"""What the note of work begins with that was set aside for a backfill."""
_IS_ASIDE = func.coalesce(WorkRow.note, "").startswith(SET_ASIDE)


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
    rates: Mapping[str, float] | None = None,
) -> int:
    """Store a backfill and its chunks of (work, order), and return its number.

    rates are requests a second at most, by outside system.
    """
    added = await connection.execute(
        insert(BackfillRow)
        .values(
            selection=selection,
            notify=notify,
            rates=dict(rates or {}),
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


async def open_by_subject(connection: AsyncConnection, backfill_id: int) -> list[tuple[int, str]]:
    """Return the chunks in which something has not ended, the first one first, each with what its subjects are."""
    rows = await connection.execute(
        select(BackfillItem.chunk, func.min(WorkRow.subject))
        .join(WorkRow, WorkRow.id == BackfillItem.work_id)
        .where(BackfillItem.backfill_id == backfill_id, BackfillItem.result.is_(None))
        .group_by(BackfillItem.chunk)
        .order_by(BackfillItem.chunk)
    )
    return [(row[0], row[1]) for row in rows.all()]


async def hold_chunk(
    connection: AsyncConnection, backfill_id: int, chunk: int, owner: str, *, until: datetime, now: datetime
) -> bool:
    """Lease a chunk, or go on holding it; False when another run holds it or has ended it."""
    held = {"backfill_id": backfill_id, "chunk": chunk, "lease_owner": None, "lease_until": None}
    await add_new(connection, BackfillChunk, [held])
    own = BackfillChunk.lease_owner
    free = or_(own.is_(None), own == owner, BackfillChunk.lease_until <= now)
    mine = (BackfillItem.backfill_id == backfill_id) & (BackfillItem.chunk == chunk)
    is_open = exists().where(mine, BackfillItem.result.is_(None))
    taken = await connection.execute(
        update(BackfillChunk)
        .where(BackfillChunk.backfill_id == backfill_id, BackfillChunk.chunk == chunk, free, is_open)
        .values(lease_owner=owner, lease_until=until)
    )
    return taken.rowcount == 1


async def let_chunk_go(connection: AsyncConnection, backfill_id: int, chunk: int, owner: str) -> None:
    """End a run's lease of a chunk."""
    mine = (BackfillChunk.backfill_id == backfill_id) & (BackfillChunk.chunk == chunk)
    await connection.execute(
        update(BackfillChunk).where(mine, BackfillChunk.lease_owner == owner).values(lease_owner=None, lease_until=None)
    )


async def runs_at_work(connection: AsyncConnection, backfill_id: int, now: datetime) -> int:
    """Return how many runs hold a chunk of a backfill."""
    mine = (BackfillChunk.backfill_id == backfill_id) & (BackfillChunk.lease_until > now)
    return await connection.scalar(select(func.count(BackfillChunk.lease_owner.distinct())).where(mine)) or 0


async def keep_aside(connection: AsyncConnection, backfill_id: int, *, until: datetime) -> None:
    """Let what was set aside for a backfill and has not begun to end fall due at `until`, and no sooner."""
    waiting = select(BackfillItem.work_id).where(BackfillItem.backfill_id == backfill_id, BackfillItem.result.is_(None))
    await connection.execute(
        update(WorkRow)
        # What fell due has another note by now: it has ended, or is tried again when it is due.
        .where(WorkRow.id.in_(waiting), WorkRow.due_at.is_not(None), WorkRow.note.startswith(SET_ASIDE))
        .values(due_at=until)
    )


async def parts(connection: AsyncConnection, backfill_id: int, chunk: int) -> list[Part]:
    """Return what has not ended of a chunk."""
    mine = (BackfillItem.backfill_id == backfill_id, BackfillItem.chunk == chunk, BackfillItem.result.is_(None))
    rows = await connection.execute(_PARTS.where(*mine).order_by(BackfillItem.id))
    return [Part(*row) for row in rows.all()]


async def ended_as(connection: AsyncConnection, backfill_id: int, results: Sequence[str]) -> list[Part]:
    """Return the pieces of a backfill's work that ended in one of some ways."""
    mine = (BackfillItem.backfill_id == backfill_id, BackfillItem.result.in_(list(results)))
    rows = await connection.execute(_PARTS.where(*mine).order_by(BackfillItem.id))
    return [Part(*row) for row in rows.all()]


async def say_anew(connection: AsyncConnection, ends: Sequence[tuple[Part, str, str]]) -> None:
    """Put into a backfill's report what has become since of work that had not ended when its chunk did."""
    if ends:
        await connection.execute(
            update(BackfillItem)
            .where(BackfillItem.id == bindparam("_id"))
            .values(result=bindparam("_result"), said=bindparam("_said")),
            [{"_id": part.item_id, "_result": result, "_said": said} for part, result, said in ends],
        )


_PARTS = select(
    BackfillItem.id,
    WorkRow.id,
    WorkRow.scenario,
    WorkRow.subject,
    WorkRow.subject_id,
    BackfillItem.order_id,
).join(WorkRow, WorkRow.id == BackfillItem.work_id)


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


async def still_due(connection: AsyncConnection, some: Sequence[Part]) -> dict[int, str]:
    """Return which work is due again, by its id, and why; what is set aside for a backfill is not meant."""
    rows = await connection.execute(
        select(WorkRow.id, func.coalesce(WorkRow.note, "")).where(
            WorkRow.id.in_([part.work_id for part in some]), WorkRow.due_at.is_not(None), ~_IS_ASIDE
        )
    )
    return {row[0]: row[1] for row in rows.all()}


async def aside(connection: AsyncConnection, some: Sequence[Part]) -> set[int]:
    """Return the ids of the work that is set aside for a backfill, this one or another."""
    mine = WorkRow.id.in_([part.work_id for part in some])
    rows = await connection.execute(select(WorkRow.id).where(mine, WorkRow.due_at.is_not(None), _IS_ASIDE))
    return set(rows.scalars().all())


async def first_due(connection: AsyncConnection, backfill_id: int, result: str) -> datetime | None:
    """Return when the first piece of a backfill's work is due that ended in some way."""
    return await connection.scalar(
        select(func.min(WorkRow.due_at))
        .join(BackfillItem, BackfillItem.work_id == WorkRow.id)
        .where(BackfillItem.backfill_id == backfill_id, BackfillItem.result == result)
    )


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


async def count_ended(connection: AsyncConnection, backfill_id: int) -> int:
    """Return how many pieces of a backfill's work have ended."""
    mine = (BackfillItem.backfill_id == backfill_id) & BackfillItem.result.is_not(None)
    return await connection.scalar(select(func.count()).select_from(BackfillItem).where(mine)) or 0


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
