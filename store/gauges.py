"""Gauges: what stands in the database right now, counted by indexes alone, for whoever watches an installation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.effects import EffectState
from store.sql import among, chunks
from store.tables import EffectRow, InboxRow, PaymentRow, WorkRow

OPEN_STATES: tuple[EffectState, ...] = (EffectState.INTENDED, EffectState.IN_DOUBT, EffectState.REJECTED)
"""The states of effects that somebody or something still has to do with; those that ended grow for ever."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How much is due, and since when at the earliest; how much of it is being worked on; effects that have not ended.

    due and oldest are by what it is: `work`, a payment or order to be carried on, or `webhook`, one to be asked about.
    in_doubt counts effects in doubt by their outside system, empty where they have none.
    """

    due: dict[str, int]
    oldest: dict[str, datetime | None]
    in_flight: dict[str, int]
    effects: dict[EffectState, int]
    in_doubt: dict[str, int]


@cache
def _due(table: type[WorkRow | InboxRow]) -> Select[Any]:
    return select(
        func.count(),
        func.min(table.due_at),
        func.count().filter(table.lease_until > bindparam("now")),
    ).where(table.due_at.is_not(None), table.due_at <= bindparam("now"))


_OPEN_EFFECTS = (
    select(EffectRow.state, EffectRow.system, func.count())
    .where(EffectRow.state.in_([state.value for state in OPEN_STATES]))
    .group_by(EffectRow.state, EffectRow.system)
)


async def standing(connection: AsyncConnection, now: datetime) -> Standing:
    """Count what stands in the database."""
    due: dict[str, int] = {}
    oldest: dict[str, datetime | None] = {}
    in_flight: dict[str, int] = {}
    for name, table in (("work", WorkRow), ("webhook", InboxRow)):
        row = (await connection.execute(_due(table), {"now": now})).one()
        due[name], oldest[name], in_flight[name] = row
    effects: dict[EffectState, int] = dict.fromkeys(OPEN_STATES, 0)
    in_doubt: dict[str, int] = {}
    rows = await connection.execute(_OPEN_EFFECTS)
    for state, system, count in rows.all():
        effects[EffectState(state)] += count
        if state == EffectState.IN_DOUBT:
            in_doubt[system or ""] = count
    return Standing(due, oldest, in_flight, effects, in_doubt)


_THEIR_CLOCK = select(func.clock_timestamp())


async def ahead_s(connection: AsyncConnection, now: datetime) -> float:
    """Return by how many seconds this machine's clock is ahead of the database's; on SQLite they are one."""
    if connection.dialect.name != "postgresql":
        return 0.0
    theirs: datetime = (await connection.execute(_THEIR_CLOCK)).scalar_one()
    return (now - theirs).total_seconds()


@dataclass(frozen=True, slots=True)
class Way:
    """When a payment came, when it was matched and as what, and when its last effect was recorded, if it was."""

    method: str
    outcome: str | None
    received_at: datetime
    matched_at: datetime | None
    finished_at: datetime | None


_WAYS = (
    select(
        PaymentRow.method,
        PaymentRow.outcome,
        PaymentRow.received_at,
        PaymentRow.matched_at,
        WorkRow.finished_at,
    )
    .join(PaymentRow, PaymentRow.id == WorkRow.subject_id)
    .where(among(WorkRow.id, "works"), WorkRow.subject == "payment", WorkRow.quiet.is_(False))
)


async def ways(connection: AsyncConnection, work_ids: Sequence[int]) -> list[Way]:
    """Return how far payments are, by the rows of their work; those whose customers are left in peace are left out."""
    found: list[Way] = []
    for some in chunks(list(work_ids)):
        rows = await connection.execute(_WAYS, {"works": some})
        found += [Way(*row) for row in rows.all()]
    return found
