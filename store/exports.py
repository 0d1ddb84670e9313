"""Exports: which orders a system that fetches them has, and which it was given and has not said yet that it took.

An order counts as exported only when the system says so, in the session in which it was given it. Until then it is
given again; and it is given again when it has changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import String, and_, bindparam, cast, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store import journal
from store.journal import Actor
from store.sql import add_new, chunks, take_turns
from store.tables import ExportRow, JournalHead, OrderRow


@dataclass(frozen=True, slots=True)
class Candidate:
    """An order that may have to be exported: how long its journal is now, and the hash of what the system has of it."""

    order_id: int
    version: int
    exported: str | None


async def begin(connection: AsyncConnection, system: str, session: str) -> None:
    """Begin to choose what a session is given; what it was given before and has not confirmed is forgotten.

    Others who choose for the same system wait until this transaction ends.
    """
    await take_turns(connection, f"exports {system}")
    await connection.execute(
        update(ExportRow)
        .where(ExportRow.system == system, ExportRow.session == session)
        .values(offered=None, offered_version=None, session=None)
    )


async def candidates(
    connection: AsyncConnection,
    system: str,
    *,
    channels: Sequence[str],
    statuses: Sequence[str],
    since: datetime,
    after: int,
    limit: int,
) -> list[Candidate]:
    """Return orders placed since a time that the system has not, or that something happened to since it took them.

    statuses are a channel's own or standard ones; what the system has already is told on whatever its status is. after
    is the id of the last one that was looked at; the oldest come first.
    """
    length = func.coalesce(JournalHead.length, 0)
    rows = await connection.execute(
        select(OrderRow.id, length.label("version"), ExportRow.hash)
        .outerjoin(ExportRow, and_(ExportRow.order_id == OrderRow.id, ExportRow.system == system))
        .outerjoin(JournalHead, JournalHead.chain == literal("order:", String) + cast(OrderRow.id, String))
        .where(
            OrderRow.channel.in_(channels),
            OrderRow.placed_at >= since,
            OrderRow.id > after,
            or_(OrderRow.status.in_(statuses), OrderRow.standard_status.in_(statuses), ExportRow.hash.is_not(None)),
            or_(ExportRow.version.is_(None), ExportRow.version != length),
        )
        .order_by(OrderRow.id)
        .limit(limit)
    )
    return [Candidate(row.id, row.version, row.hash) for row in rows.all()]


async def seen(connection: AsyncConnection, system: str, unchanged: Sequence[Candidate]) -> None:
    """Note that what happened to orders changed nothing that the system has of them."""
    if unchanged:
        await connection.execute(
            update(ExportRow)
            .where(ExportRow.system == system, ExportRow.order_id == bindparam("_order"))
            .values(version=bindparam("_version")),
            [{"_order": one.order_id, "_version": one.version} for one in unchanged],
        )


async def offer(
    connection: AsyncConnection, system: str, session: str, offered: Sequence[tuple[Candidate, str]]
) -> None:
    """Note what a session is given: orders, each with the hash of what is said of it."""
    if not offered:
        return
    await add_new(connection, ExportRow, [{"order_id": one.order_id, "system": system} for one, _ in offered])
    await connection.execute(
        update(ExportRow)
        .where(ExportRow.system == system, ExportRow.order_id == bindparam("_order"))
        .values(offered=bindparam("_hash"), offered_version=bindparam("_version"), session=bindparam("_session")),
        [
            {"_order": one.order_id, "_hash": hash_, "_version": one.version, "_session": session}
            for one, hash_ in offered
        ],
    )


async def confirm(connection: AsyncConnection, system: str, session: str, *, now: datetime) -> int:
    """Count as exported what a session was given last, exactly that; return how many orders it was."""
    given = (
        await connection.execute(
            select(ExportRow.id, ExportRow.order_id, ExportRow.offered, ExportRow.hash)
            .where(ExportRow.system == system, ExportRow.session == session, ExportRow.offered.is_not(None))
            .order_by(ExportRow.order_id)
            .with_for_update()
        )
    ).all()
    for some in chunks(given):
        await connection.execute(
            update(ExportRow)
            .where(ExportRow.id.in_([row.id for row in some]))
            .values(
                hash=ExportRow.offered,
                # What is written to the journal below is no change of the order.
                version=ExportRow.offered_version + 1,
                exported_at=now,
                offered=None,
                offered_version=None,
                session=None,
            )
        )
    actor = Actor(name=system)
    entries = [
        journal.entry(
            actor,
            at=now,
            step="export",
            move="done",
            order_id=row.order_id,
            reference=row.offered[:12],
            reason=f"{system} took it" if row.hash is None else f"{system} took what had changed",
        )
        for row in given
    ]
    await journal.append(connection, entries)
    return len(given)
