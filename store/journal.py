"""The journal: what happened, when, by whom and by which version of the rules. Rows are only ever added."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.tables import JournalRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does something: a worker in a flow run, or a person at the command line."""

    name: str
    run: str | None = None


def entry(
    actor: Actor,
    *,
    at: datetime,
    step: str,
    move: str,
    order_id: int | None = None,
    payment_id: int | None = None,
    effect_id: int | None = None,
    cause: str | None = None,
    reference: str | None = None,
    reason: str | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    rule_version: int | None = None,
) -> dict[str, Any]:
    """Return one row of the journal, ready to be added."""
    return {
        "at": at,
        "order_id": order_id,
        "payment_id": payment_id,
        "effect_id": effect_id,
        "step": step,
        "cause": cause,
        "move": move,
        "reference": reference,
        "reason": reason,
        "before": before or {},
        "after": after or {},
        "actor": actor.name,
        "run": actor.run,
        "rule_version": rule_version,
    }


async def append(connection: AsyncConnection, entries: list[dict[str, Any]]) -> None:
    """Add rows to the journal."""
    if entries:
        await connection.execute(insert(JournalRow), entries)


async def of_order(connection: AsyncConnection, order_id: int) -> list[dict[str, Any]]:
    """Return an order's journal, oldest first."""
    columns = (
        JournalRow.at,
        JournalRow.step,
        JournalRow.cause,
        JournalRow.move,
        JournalRow.reference,
        JournalRow.reason,
        JournalRow.before,
        JournalRow.after,
        JournalRow.actor,
        JournalRow.run,
        JournalRow.rule_version,
    )
    rows = await connection.execute(select(*columns).where(JournalRow.order_id == order_id).order_by(JournalRow.id))
    return [dict(row) for row in rows.mappings().all()]
