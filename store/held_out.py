"""Held out: orders that a person holds out of automation. No step begins for them until they are put back."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.scenarios import STEPS, TELLING, TIMED, subject_of
from store import effects, work
from store.tables import EffectRow, OrderRow, WorkRow

_OPEN = EffectRow.state.in_(sorted(state.value for state in effects.OPEN))


async def by(connection: AsyncConnection, order_id: int) -> str | None:
    """Return who holds an order out of automation, and why; None when nobody does."""
    return await connection.scalar(select(OrderRow.held_out).where(OrderRow.id == order_id))


async def say(connection: AsyncConnection, order_id: int, by_whom: str | None) -> None:
    """Hold an order out of automation, or with None no longer; the caller has locked it with `bars.lock`."""
    await connection.execute(update(OrderRow).where(OrderRow.id == order_id).values(held_out=by_whom))


async def being_tried(connection: AsyncConnection, order_id: int, *, now: datetime) -> str | None:
    """Return a step of an order that a worker is at right now, if there is one; else its open effects are locked.

    The caller has locked the order.
    """
    rows = await connection.execute(select(EffectRow.id, EffectRow.step).where(EffectRow.order_id == order_id, _OPEN))
    steps = {row.id: row.step for row in rows.all()}
    locked = await effects.lock(connection, list(steps), wait=False)
    for id_, step in steps.items():
        row = locked.get(id_)
        if row is None or (row.lease_owner is not None and row.lease_until > now):
            return step
    return None


async def wake(connection: AsyncConnection, order_id: int, *, now: datetime) -> None:
    """Make everything that an order still waits for due at once."""
    rows = (
        await connection.execute(select(EffectRow.step, EffectRow.cause).where(EffectRow.order_id == order_id, _OPEN))
    ).all()
    subjects: dict[str, set[int]] = {}
    for row in rows:
        subject, id_ = subject_of(row.cause)
        subjects.setdefault(subject, set()).add(id_)
    await connection.execute(
        update(EffectRow).where(EffectRow.order_id == order_id, _OPEN).values(due_at=None, updated_at=now)
    )
    for subject, ids in sorted(subjects.items()):
        await work.wake(connection, subject, sorted(ids), now=now)
    # That leaves alone what has a time of its own; a step of it that is open says that its time has come.
    if timed := _timed({row.step for row in rows}):
        await connection.execute(
            update(WorkRow)
            .where(
                WorkRow.subject == "order",
                WorkRow.subject_id == order_id,
                WorkRow.scenario.in_(sorted(timed)),
                WorkRow.due_at > now,
            )
            .values(due_at=now, again=WorkRow.lease_owner.is_not(None))
        )


def _timed(steps: set[str]) -> set[str]:
    """Return the scenarios with a time of their own that steps belong to; telling other systems belongs to all."""
    named = {f"message{step.removeprefix('sms')}" if step.startswith("sms") else step for step in steps} - TELLING
    return {scenario for scenario in TIMED if named & set(STEPS[scenario])}


async def open_steps(connection: AsyncConnection, order_id: int) -> list[str]:
    """Return the steps of an order that have begun and not ended, or wait, each once."""
    rows = await connection.execute(
        select(EffectRow.step).where(EffectRow.order_id == order_id, _OPEN, EffectRow.reverses_id.is_(None)).distinct()
    )
    return sorted(rows.scalars().all())
