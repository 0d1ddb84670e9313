"""Held out: orders that a person holds out of automation. No step begins for them until they are put back."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.scenarios import STEPS, TELLING, TIMED, subject_of
from store import effects, work
from store.sql import among
from store.tables import EffectRow, OrderRow, WorkRow

_OPEN = EffectRow.state.in_(sorted(state.value for state in effects.OPEN))


_HOLDER = select(OrderRow.held_out).where(OrderRow.id == bindparam("order"))


async def by(connection: AsyncConnection, order_id: int) -> str | None:
    """Return who holds an order out of automation, and why; None when nobody does."""
    return await connection.scalar(_HOLDER, {"order": order_id})


_SAID = update(OrderRow).where(OrderRow.id == bindparam("order")).values(held_out=bindparam("by_whom"))


async def say(connection: AsyncConnection, order_id: int, by_whom: str | None) -> None:
    """Hold an order out of automation, or with None no longer; the caller has locked it with `bars.lock`."""
    await connection.execute(_SAID, {"order": order_id, "by_whom": by_whom})


_OF_ORDER = (EffectRow.order_id == bindparam("order"), _OPEN)
_BEGUN = select(EffectRow.id, EffectRow.step).where(*_OF_ORDER)


async def being_tried(connection: AsyncConnection, order_id: int, *, now: datetime) -> str | None:
    """Return a step of an order that a worker is at right now, if there is one; else its open effects are locked.

    The caller has locked the order.
    """
    rows = await connection.execute(_BEGUN, {"order": order_id})
    steps = {row.id: row.step for row in rows.all()}
    locked = await effects.lock(connection, list(steps), wait=False)
    for id_, step in steps.items():
        row = locked.get(id_)
        if row is None or (row.lease_owner is not None and row.lease_until > now):
            return step
    return None


_CAUSES = select(EffectRow.step, EffectRow.cause).where(*_OF_ORDER)
_WOKEN = update(EffectRow).where(*_OF_ORDER).values(due_at=None, updated_at=bindparam("now"))
_TIMED_WOKEN = (
    update(WorkRow)
    .where(
        WorkRow.subject == "order",
        WorkRow.subject_id == bindparam("order"),
        among(WorkRow.scenario, "scenarios"),
        WorkRow.due_at > bindparam("now"),
    )
    .values(due_at=bindparam("now"), again=WorkRow.lease_owner.is_not(None))
)


async def wake(connection: AsyncConnection, order_id: int, *, now: datetime) -> None:
    """Make everything that an order still waits for due at once."""
    rows = (await connection.execute(_CAUSES, {"order": order_id})).all()
    subjects: dict[str, set[int]] = {}
    for row in rows:
        subject, id_ = subject_of(row.cause)
        subjects.setdefault(subject, set()).add(id_)
    await connection.execute(_WOKEN, {"order": order_id, "now": now})
    for subject, ids in sorted(subjects.items()):
        await work.wake(connection, subject, sorted(ids), now=now)
    # That leaves alone what has a time of its own; a step of it that is open says that its time has come.
    if timed := _timed({row.step for row in rows}):
        await connection.execute(_TIMED_WOKEN, {"order": order_id, "scenarios": sorted(timed), "now": now})


def _timed(steps: set[str]) -> set[str]:
    """Return the scenarios with a time of their own that steps belong to; telling other systems belongs to all."""
    named = {f"message{step.removeprefix('sms')}" if step.startswith("sms") else step for step in steps} - TELLING
    return {scenario for scenario in TIMED if named & set(STEPS[scenario])}


_OPEN_STEPS = select(EffectRow.step).where(*_OF_ORDER, EffectRow.reverses_id.is_(None)).distinct()


async def open_steps(connection: AsyncConnection, order_id: int) -> list[str]:
    """Return the steps of an order that have begun and not ended, or wait, each once."""
    rows = await connection.execute(_OPEN_STEPS, {"order": order_id})
    return sorted(rows.scalars().all())
