"""Reverts: who wants which order back to before its payment, what that concerns, and the release of its money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from domain.balance import SOURCE
from domain.orders import Status
from domain.payments import Kind, Outcome
from domain.reverting import Line, Way, way_back
from domain.rules import Policy
from domain.scenarios import cause_of
from store import balances, bars, effects, hands, journal, work
from store.effects import EffectState, Ending
from store.payments import undecided
from store.sql import chunks
from store.tables import AllocationRow, EffectRow, OrderRow, PaymentRow, RevertRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A revert as it was asked for."""

    id: int
    order_id: int
    author: str
    reason: str
    force: bool
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPlan:
    """What reverting one order comes to: the payments that are taken off it, and each effect, the newest first.

    refused says why it can't be reverted at all, whatever its effects.
    """

    order_id: int
    number: str
    channel: str
    status: str
    payments: tuple[int, ...]
    lines: tuple[Line, ...]
    refused: str | None

    def of(self, way: Way) -> tuple[Line, ...]:
        """Return the lines of one way."""
        return tuple(line for line in self.lines if line.way is way)


async def begin(
    connection: AsyncConnection, order_id: int, *, author: str, reason: str, force: bool, now: datetime
) -> int:
    """Begin to revert an order, so that nothing more is done for its payment; return the revert that is under way.

    A second wish joins the one that is under way.
    """
    await bars.lock(connection, [order_id])
    known = await connection.scalar(
        select(RevertRow.id).where(RevertRow.order_id == order_id, RevertRow.finished_at.is_(None))
    )
    if known is not None:
        return known
    made = await connection.scalar(
        insert(RevertRow)
        .values(order_id=order_id, author=author, reason=reason, force=force, created_at=now)
        .returning(RevertRow.id)
    )
    assert made is not None  # noqa: S101 - RETURNING of one inserted row
    await journal.append(
        connection,
        [
            journal.entry(
                journal.Actor(name=author), at=now, step="revert", move="begun", order_id=order_id, reason=reason
            )
        ],
    )
    return made


async def open_ones(connection: AsyncConnection, order_id: int) -> list[int]:
    """Return the reverts of an order that are under way; there is one at most."""
    rows = await connection.execute(
        select(RevertRow.id).where(RevertRow.order_id == order_id, RevertRow.finished_at.is_(None))
    )
    return list(rows.scalars().all())


async def wishes(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, Wish]:
    """Return reverts by id."""
    found: dict[int, Wish] = {}
    for some in chunks(list(ids)):
        rows = await connection.execute(select(*RevertRow.__table__.columns).where(RevertRow.id.in_(some)))
        for row in rows.all():
            found[row.id] = Wish(
                id=row.id,
                order_id=row.order_id,
                author=row.author,
                reason=row.reason,
                force=row.force,
                finished=row.finished_at is not None,
            )
    return found


async def paid_together(connection: AsyncConnection, order_ids: Sequence[int]) -> list[int]:
    """Return the orders with those that the same payments settled, and so on, in the order of their ids."""
    mine, shared = aliased(AllocationRow), aliased(AllocationRow)
    found, new = set(order_ids), set(order_ids)
    while new:
        rows = await connection.execute(
            select(shared.order_id)
            .join(mine, mine.payment_id == shared.payment_id)
            .where(
                mine.order_id.in_(sorted(new)),
                *(column for one in (mine, shared) for column in (one.reversed.is_(False), one.reverses_id.is_(None))),
            )
        )
        new = {order_id for order_id in rows.scalars().all() if order_id is not None} - found
        found |= new
    return sorted(found)


def _live(column: Any) -> tuple[Any, ...]:
    return (column.reversed.is_(False), column.reverses_id.is_(None))


async def _payments(connection: AsyncConnection, order_id: int) -> list[Any]:
    rows = await connection.execute(
        select(PaymentRow.id, PaymentRow.kind, PaymentRow.round)
        .join(AllocationRow, AllocationRow.payment_id == PaymentRow.id)
        .where(AllocationRow.order_id == order_id, *_live(AllocationRow))
        .order_by(PaymentRow.id)
        .distinct()
    )
    return list(rows.all())


async def _effects(connection: AsyncConnection, order_id: int, payments: Sequence[Any]) -> list[Any]:
    causes = [cause_of("payment", payment.id, payment.round) for payment in payments]
    causes += [cause for cause, of in (await hands.of_order(connection, order_id)).items() if of in causes]
    back = aliased(EffectRow)
    undone = (
        select(back.id)
        .where(back.reverses_id == EffectRow.id, back.state.in_([EffectState.DONE.value, EffectState.SKIPPED.value]))
        .exists()
    )
    rows = await connection.execute(
        select(*EffectRow.__table__.columns, undone.label("undone"))
        .where(EffectRow.order_id == order_id, EffectRow.cause.in_(causes))
        .order_by(EffectRow.id.desc())
    )
    return list(rows.all())


async def plan(connection: AsyncConnection, order_ids: Sequence[int]) -> list[OrderPlan]:
    """Return what reverting orders would come to."""
    found: list[OrderPlan] = []
    for order_id in order_ids:
        order = (
            await connection.execute(
                select(OrderRow.number, OrderRow.channel, OrderRow.status, OrderRow.standard_status).where(
                    OrderRow.id == order_id
                )
            )
        ).one()
        payments = await _payments(connection, order_id)
        lines: list[Line] = []
        for row in await _effects(connection, order_id, payments):
            # A worker that died leaves its name in the lease: until somebody has asked, it may have happened.
            held = row.state == EffectState.INTENDED and row.lease_owner is not None
            way, said = way_back(
                row.step,
                row.state,
                row.reference,
                undone=row.undone,
                live=held,
                status=Status(order.standard_status),
            )
            lines.append(Line(effect_id=row.id, step=row.step, reference=row.reference, way=way, said=said))
        refused = None
        if any(payment.kind != Kind.PAYMENT for payment in payments):
            refused = "money of its payment went back already; what was done is taken back by the rules for that"
        elif not payments:
            refused = "no payment is allocated to it, so there is nothing to take back"
        found.append(
            OrderPlan(
                order_id=order_id,
                number=order.number,
                channel=order.channel,
                status=order.status,
                payments=tuple(payment.id for payment in payments),
                lines=tuple(lines),
                refused=refused,
            )
        )
    return found


async def done_effects(connection: AsyncConnection, effect_ids: Sequence[int]) -> dict[int, Any]:
    """Return what is told of done effects, by id."""
    found: dict[int, Any] = {}
    for some in chunks(list(effect_ids)):
        rows = await connection.execute(select(*EffectRow.__table__.columns).where(EffectRow.id.in_(some)))
        found.update({row.id: row for row in rows.all()})
    return found


async def release(connection: AsyncConnection, wish: Wish, *, actor: journal.Actor, now: datetime) -> str | None:
    """Take the payments off an order whose effects are undone, and end its revert; or return what still goes on.

    A payment that settles nothing any more is in its next round: matched again, it causes everything anew.
    """
    await bars.lock(connection, [wish.order_id])
    if (await wishes(connection, [wish.id]))[wish.id].finished:
        return None  # another run was faster
    payments = await _payments(connection, wish.order_id)
    rows = await _effects(connection, wish.order_id, payments)
    locked = await effects.lock(connection, [row.id for row in rows], wait=False)
    for row in rows:
        if row.id not in locked:
            return f"step {row.step} is still going on"
    for row in locked.values():
        if row.state == EffectState.IN_DOUBT or (row.state == EffectState.INTENDED and row.lease_owner is not None):
            return f"step {row.step} is {'in doubt' if row.state == EffectState.IN_DOUBT else 'still going on'}"
    for row in locked.values():
        if row.state == EffectState.INTENDED:
            never = Ending(
                effect_id=row.id,
                state=EffectState.SKIPPED,
                reason="the order was taken back to before its payment",
                before={},
                after={},
            )
            await effects.end(connection, row.step, [never], {row.id: row}, actor=actor, now=now)
    live = (
        await connection.execute(
            select(*AllocationRow.__table__.columns)
            .where(AllocationRow.order_id == wish.order_id, *_live(AllocationRow))
            .order_by(AllocationRow.id)
        )
    ).all()
    for row in live:
        await connection.execute(update(AllocationRow).where(AllocationRow.id == row.id).values(reversed=True))
        await connection.execute(
            insert(AllocationRow).values(
                payment_id=row.payment_id,
                open_item_id=row.open_item_id,
                order_id=row.order_id,
                amount_minor=-row.amount_minor,
                write_off_minor=-row.write_off_minor,
                taken_minor=None if row.taken_minor is None else -row.taken_minor,
                completes=False,
                evidence=[],
                reverses_id=row.id,
                reversed=False,
                at=now,
            )
        )
    number = await connection.scalar(select(OrderRow.number).where(OrderRow.id == wish.order_id))
    said = f"taken off order {number} by {wish.author}: {wish.reason}"
    by = journal.Actor(name=wish.author, run=actor.run)
    await _set_free(connection, [payment.id for payment in payments], said, actor=by, now=now)
    # What could have been for this order or another may be told apart now.
    for payment_id, scenario in await undecided(connection, [row.open_item_id for row in live]):
        await work.add(connection, scenario, "payment", [payment_id], now=now)
    await journal.append(
        connection,
        [
            journal.entry(
                by,
                at=now,
                step="match",
                move=Outcome.TAKEN_BACK.value,
                order_id=wish.order_id,
                payment_id=payment.id,
                cause=cause_of("payment", payment.id, payment.round),
                reason=said,
            )
            for payment in payments
        ]
        + [
            journal.entry(
                by,
                at=now,
                step="revert",
                move="done",
                order_id=wish.order_id,
                reason=wish.reason,
            )
        ],
    )
    await connection.execute(update(RevertRow).where(RevertRow.id == wish.id).values(finished_at=now))
    return None


async def _set_free(
    connection: AsyncConnection, payment_ids: Sequence[int], said: str, *, actor: journal.Actor, now: datetime
) -> None:
    """Let payments that settle nothing any more be matched anew, and take what they were credited off the balance."""
    still = await connection.execute(
        select(AllocationRow.payment_id).where(AllocationRow.payment_id.in_(payment_ids), *_live(AllocationRow))
    )
    free = sorted(set(payment_ids) - set(still.scalars().all()))
    await connection.execute(
        update(PaymentRow)
        .where(PaymentRow.id.in_(free))
        .values(
            outcome=Outcome.TAKEN_BACK.value,
            # What came from a balance is on it again, and is nothing that could be for another order.
            policy=case((PaymentRow.source == SOURCE, Policy.IGNORE.value), else_=Policy.OPERATOR.value),
            reason=said,
            surplus_minor=0,
            round=PaymentRow.round + 1,
        )
    )
    for _, entry in sorted((await balances.of_payments(connection, free)).items()):
        await balances.reverse(connection, entry.id, reason=said, actor=actor, now=now)
    rows = await connection.execute(select(PaymentRow.id, PaymentRow.method).where(PaymentRow.id.in_(free)))
    for row in rows.all():
        await work.finish(connection, row.method, "payment", [(row.id, None, said)], now=now)
