"""Revert: an order goes back to before its payment, by a plan that is shown first.

What was done is undone one by one, the newest first, each reversal an effect of its own that points at what it
reverses. Then the payment is taken off the order, and can be matched again. A revert stands in the database from its
beginning, so one that is cut short goes on, and a second wish for the same order joins it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from prefect import State, task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from sqlalchemy import Row

from domain.orders import Order
from domain.reverting import Way
from domain.rules import ChannelRules
from store import archived, orders, reverts, rules, work
from store.effects import EffectState
from store.reverts import OrderPlan, Wish
from tasks.catalogue import STEPS
from tasks.cells import cells
from tasks.ends import needs_person
from tasks.installation import Installation, installation
from tasks.invoice import print_documents
from tasks.pace import LEASE
from tasks.step import Attempt, Entry, current_actor, run_log

RevertId = int

_SOON = timedelta(seconds=15)


class RevertError(Exception):
    """An order can't be reverted as it was asked for; its text says why, and what to do."""


async def plan(opened: Installation, order_ids: Sequence[int]) -> list[OrderPlan]:
    """Return what reverting orders would come to, with the orders that the same payments settled."""
    async with opened.store.read() as connection:
        together = await reverts.paid_together(connection, order_ids)
        return await reverts.plan(connection, together)


def _refuse(plans: Sequence[OrderPlan], order_ids: Sequence[int], *, force: bool, with_others: bool) -> None:
    for one in plans:
        if one.refused:
            raise RevertError(f"order {one.number}: {one.refused}")
        if busy := one.of(Way.IN_THE_WAY):
            raise RevertError(f"order {one.number}: step {busy[0].step} is in the way: {busy[0].said}")
    others = [one.number for one in plans if one.order_id not in order_ids]
    if others and not with_others:
        listed = ", ".join(others)
        raise RevertError(f"the same payment settled {listed} too; revert them together with --with-others")
    final = [(one.number, line) for one in plans for line in one.of(Way.IRREVERSIBLE)]
    if final and not force:
        number, line = final[0]
        more = f", and {len(final) - 1} more" if len(final) > 1 else ""
        raise RevertError(
            f"order {number}: {line.said}{more}; that can't be taken back. Revert the rest all the same with --force"
        )


async def begin(
    opened: Installation,
    order_ids: Sequence[int],
    *,
    author: str,
    because: str,
    force: bool = False,
    with_others: bool = False,
) -> list[RevertId]:
    """Begin to revert orders, all or none; return the reverts, which the caller carries out, or else the dispatcher.

    Raises RevertError when one of them can't be, or not without force or the orders that were paid with it.
    """
    if not because.strip():
        raise RevertError("say why the order is taken back, with --because")
    now = opened.clock()
    async with opened.store.write() as connection:
        together = await reverts.paid_together(connection, order_ids)
        plans = await reverts.plan(connection, together)
        _refuse(plans, order_ids, force=force, with_others=with_others)
        begun = [
            await reverts.begin(connection, one.order_id, author=author, reason=because.strip(), force=force, now=now)
            for one in plans
        ]
        await work.add(connection, "revert", "revert", begun, now=now + LEASE)
    return begun


@dataclass(frozen=True, slots=True)
class Ended:
    """How far one order was taken back; due_at is when that goes on."""

    number: str
    person: str | None = None
    waits: str | None = None
    due_at: datetime | None = None
    rows: tuple[dict[str, str], ...] = ()


@task(name="take back", cache_policy=NO_CACHE)
async def take_back_orders(ids: Sequence[RevertId]) -> list[Ended]:
    """Undo what was done for orders, newest first, and take their payments off them."""
    opened = await installation()
    async with opened.store.read() as connection:
        wishes = await reverts.wishes(connection, ids)
    ended: list[Ended] = []
    for id_ in ids:
        end = await _take_back(opened, wishes[id_])
        ended.append(end)
        async with opened.store.write() as connection:
            ends = [(id_, end.due_at, end.person or end.waits)]
            await work.finish(connection, "revert", "revert", ends, now=opened.clock())
    await print_documents(opened, sorted({wishes[id_].order_id for id_ in ids}))
    await acreate_table_artifact(
        key="taken-back",
        table=cells(row for end in ended for row in end.rows),
        description="What this run took back, newest first",
    )
    return ended


def ended_as(ended: Sequence[Ended]) -> State[Any]:
    """Return the state of a run that took orders back, in words."""
    persons = [end for end in ended if end.person]
    later = [end for end in ended if end.waits and not end.person]
    if persons:
        return needs_person(f"order {persons[0].number}: {persons[0].person}")
    if later:
        return Completed(name="Will go on", message=f"order {later[0].number}: {later[0].waits}")
    return Completed(name="Done", message=f"{len(ended)} orders are back to before their payment")


async def _take_back(opened: Installation, wish: Wish) -> Ended:
    async with opened.store.read() as connection:
        order = (await orders.load(connection, [wish.order_id]))[wish.order_id]
        if wish.finished:
            return Ended(order.number)
        (current,) = await reverts.plan(connection, [wish.order_id])
        channel = (await rules.current(connection))[order.channel].rules
        found = await reverts.done_effects(connection, [line.effect_id for line in current.lines])
    if busy := current.of(Way.IN_THE_WAY):
        return Ended(order.number, waits=f"{busy[0].step}: {busy[0].said}", due_at=opened.clock() + _SOON)
    log = run_log()
    rows: list[dict[str, str]] = []
    for line in current.lines:
        result = line.said
        if line.way in (Way.REVERSIBLE, Way.COMPENSABLE):
            own = channel.for_customer(group=order.customer.group, customer=order.customer.number)
            entry = entry_of(found[line.effect_id], order, own)
            attempt = await STEPS[line.step].take_back(opened, entry, owner=f"{opened.worker[-80:]}/{uuid4()}")
            result = _result(attempt)
            if attempt.state not in (EffectState.DONE, EffectState.SKIPPED):
                log.warning("%s · undo %s · %s", order.number, line.step, result)
                return _stuck(order.number, line.step, attempt, result, rows, now=opened.clock())
        log.info("%s · undo %s · %s · %s", order.number, line.step, line.way, result)
        rows.append({"Order": order.number, "Step": line.step, "How": line.way, "Result": result})
    async with opened.store.write() as connection:
        waits = await reverts.release(connection, wish, actor=current_actor(opened), now=opened.clock())
    if waits:
        return Ended(order.number, waits=waits, due_at=opened.clock() + _SOON, rows=tuple(rows))
    payments = ", ".join(f"payment {id_}" for id_ in current.payments)
    said = f"{payments} settles nothing here any more, and can be matched again"
    rows.append({"Order": order.number, "Step": "match", "How": Way.REVERSIBLE, "Result": said})
    log.info("%s · %s", order.number, said)
    return Ended(order.number, rows=tuple(rows))


def entry_of(effect: Row[Any], order: Order, own: ChannelRules) -> Entry:
    """Return what whoever takes a done effect back is told of it."""
    return Entry(
        effect_id=effect.id,
        order_id=order.id,
        number=order.number,
        reference=effect.reference,
        before=effect.before,
        after=effect.after,
        rules=own,
    )


def _result(attempt: Attempt) -> str:
    reference = attempt.receipt.reference if attempt.receipt else attempt.claim.reference
    return " · ".join(filter(None, (str(attempt.state or attempt.claim.state), reference, attempt.reason)))


def _stuck(
    number: str, step: str, attempt: Attempt, result: str, rows: Sequence[dict[str, str]], *, now: datetime
) -> Ended:
    """Say what an undo that did not end waits for: a person, when nothing else can help it, or its next attempt."""
    said = f"undo {step}: {result}"
    if attempt.state is EffectState.REJECTED or (attempt.error is not None and not attempt.retry):
        return Ended(number, person=said, rows=tuple(rows))
    return Ended(number, waits=said, due_at=attempt.due_at or now + LEASE, rows=tuple(rows))


async def show_plan(plans: Sequence[OrderPlan], *, planned_only: bool) -> None:
    """Show what a revert does, as a table in the run."""
    await acreate_table_artifact(
        key="revert-plan",
        table=cells(
            {"Order": one.number, "Step": line.step, "How": line.way, "What": line.said}
            for one in plans
            for line in one.lines
        ),
        description=f"{len(plans)} orders: {', '.join(one.number for one in plans[:20])}. "
        + ("A plan only: nothing was done." if planned_only else ""),
    )


async def orders_named(opened: Installation, numbers: Sequence[str], channel: str | None) -> list[int]:
    """Return the ids of orders by number. Raises RevertError for one that is not known, or not known apart."""
    found: list[int] = []
    async with opened.store.read() as connection:
        for number in numbers:
            same = await orders.ids_of(connection, number, channel)
            if not same and await archived.of_number(connection, number, channel):
                raise RevertError(f"order {number} is archived; bring it back first: kvit archive back {number}")
            if not same:
                raise RevertError(f"order {number} is not known")
            if len(same) > 1:
                raise RevertError(f"order {number} is in {', '.join(one for _, one in same)}; name the channel")
            found.append(same[0][0])
    return found


async def plan_named(numbers: Sequence[str], channel: str | None) -> list[OrderPlan]:
    """Return the plan for orders by number. Raises RevertError."""
    if not numbers:
        raise RevertError("name at least one order")
    opened = await installation()
    return await plan(opened, await orders_named(opened, numbers, channel))


async def begin_named(
    numbers: Sequence[str], channel: str | None, *, author: str, because: str, force: bool, with_others: bool
) -> list[RevertId]:
    """Begin to revert orders by number. Raises RevertError."""
    opened = await installation()
    ids = await orders_named(opened, numbers, channel)
    return await begin(opened, ids, author=author, because=because, force=force, with_others=with_others)
