"""Hands: steps that a person has repeated. The row of the journal that says who and why is the cause, `hand:17`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.scenarios import TIMED, cause_of, subject_of
from store import journal
from store.sql import chunks
from store.tables import STANDING, AllocationRow, EffectRow, JournalRow, OrderRow, PaymentRow, WorkRow

SUBJECT, ASKED = "hand", "to repeat"
"""What such causes begin with, and the move by which the journal tells of one."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """A step that is to be done once more for an order; of is the cause for which it was done before, if it was."""

    id: int
    order_id: int
    number: str
    step: str
    of: str | None


async def add(connection: AsyncConnection, entry: dict[str, Any]) -> int:
    """Write down that a step is to be repeated, and return the number that is its cause; the order is locked."""
    await journal.append(connection, [entry])
    made = await connection.scalar(
        select(func.max(JournalRow.id)).where(JournalRow.order_id == entry["order_id"], JournalRow.move == ASKED)
    )
    assert made is not None  # noqa: S101 - it was added a line above
    return made


async def asked(connection: AsyncConnection, order_id: int, step: str, *, author: str, because: str) -> int | None:
    """Return the number of a repetition that the same person asked for with the same words."""
    return await connection.scalar(
        select(func.max(JournalRow.id)).where(
            JournalRow.order_id == order_id,
            JournalRow.step == step,
            JournalRow.move == ASKED,
            JournalRow.actor == author,
            JournalRow.reason == because,
        )
    )


async def load(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, Repeat]:
    """Return repetitions by number."""
    found: dict[int, Repeat] = {}
    query = select(JournalRow.id, JournalRow.order_id, OrderRow.number, JournalRow.step, JournalRow.cause).join(
        OrderRow, OrderRow.id == JournalRow.order_id
    )
    for some in chunks(sorted(set(ids))):
        rows = await connection.execute(query.where(JournalRow.id.in_(some), JournalRow.move == ASKED))
        found |= {row.id: Repeat(*row) for row in rows.all()}
    return found


async def meant(connection: AsyncConnection, causes: Iterable[str]) -> dict[str, str]:
    """Return for causes that are a person's word the cause of what is repeated; the others are left out."""
    ids = {cause: subject_of(cause)[1] for cause in causes if cause.startswith(f"{SUBJECT}:")}
    if not ids:
        return {}
    found = await load(connection, list(ids.values()))
    return {cause: of for cause, id_ in ids.items() if id_ in found and (of := found[id_].of)}


async def of_order(connection: AsyncConnection, order_id: int) -> dict[str, str | None]:
    """Return the causes by which steps of an order were repeated, each with the cause of what it repeats."""
    rows = await connection.execute(
        select(JournalRow.id, JournalRow.cause).where(JournalRow.order_id == order_id, JournalRow.move == ASKED)
    )
    return {f"{SUBJECT}:{row.id}": row.cause for row in rows.all()}


async def last(connection: AsyncConnection, order_id: int, step: str) -> Row[Any] | None:
    """Return an order's latest effect of a step, of any cause."""
    query = (
        select(EffectRow.id, EffectRow.state, EffectRow.cause, EffectRow.reference)
        .where(EffectRow.order_id == order_id, EffectRow.step == step, EffectRow.reverses_id.is_(None))
        .order_by(EffectRow.id.desc())
    )
    return (await connection.execute(query.limit(1))).first()


async def ways(connection: AsyncConnection, order_id: int) -> list[tuple[str, str, int, str]]:
    """Return the scenarios that carry an order on, as (scenario, subject, its id, the cause of what it does now).

    These are its own, and those of the payments that are allocated to it.
    """
    extended = await connection.scalar(select(OrderRow.extended).where(OrderRow.id == order_id)) or 0
    own = await connection.execute(
        select(WorkRow.scenario, WorkRow.subject_id)
        .where(WorkRow.subject == "order", WorkRow.subject_id == order_id)
        .order_by(WorkRow.id)
    )
    found = [
        (row.scenario, "order", order_id, cause_of("order", order_id, extended + 1 if row.scenario in TIMED else 1))
        for row in own.all()
    ]
    paid = await connection.execute(
        select(WorkRow.scenario, PaymentRow.id, PaymentRow.round)
        .join(PaymentRow, (WorkRow.subject == "payment") & (WorkRow.subject_id == PaymentRow.id))
        .join(AllocationRow, AllocationRow.payment_id == PaymentRow.id)
        .where(AllocationRow.order_id == order_id, *STANDING)
        .order_by(PaymentRow.id)
        .distinct()
    )
    return found + [(row.scenario, "payment", row.id, cause_of("payment", row.id, row.round)) for row in paid.all()]
