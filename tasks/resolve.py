"""Resolve: a person settles a step that is in doubt, was refused or goes on being tried, and its order goes on.

What the person says is a fact from outside: it is recorded with their name and reason, and what a step leaves behind in
our own database is written then too, so that the order can be carried on, and taken back, as if it had been seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError

from connectors.errors import OutsideError
from domain.orders import Order
from domain.rules import ChannelRules
from domain.scenarios import subject_of
from store import bars, cases, effects, orders, reverts, rules, work
from store.effects import EffectState
from store.journal import Actor
from tasks.catalogue import STEPS
from tasks.installation import Installation, installation
from tasks.revert import RevertError, entry_of, orders_named
from tasks.step import Receipt, Skip, Step, Transaction, current_actor, run_log, written


class Said(StrEnum):
    """What a person can say of a step."""

    HAPPENED = "happened"
    AGAIN = "again"
    """It did not happen, or what was in its way is gone: it is to be tried again."""
    SKIP = "skip"
    """It is left undone for good."""


_TRIED_NOW = "step {step} of order {number} is being tried right now; look again in a minute"
_STATES = {Said.HAPPENED: EffectState.DONE, Said.AGAIN: EffectState.INTENDED, Said.SKIP: EffectState.SKIPPED}


class ResolveError(Exception):
    """A step can't be settled as it was asked for; its text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A step that a person settled, and how it stands now."""

    number: str
    step: str
    cause: str
    state: EffectState
    reference: str | None


def _chosen(number: str, step: str, rows: list[Row[Any]]) -> Row[Any]:
    if not rows:
        raise ResolveError(
            f"step {step} of order {number} waits for nobody; `kvit orders show {number}` lists the order's steps"
        )
    if len(rows) > 1:
        causes = ", ".join(row.cause for row in rows)
        raise ResolveError(
            f"step {step} of order {number} waits for several causes ({causes}); choose one with --cause"
        )
    return rows[0]


async def resolve_step(
    opened: Installation,
    order_id: int,
    step: str,
    said: Said,
    *,
    author: str,
    because: str,
    reference: str = "",
    cause: str | None = None,
) -> Settled:
    """Settle one step of an order by hand, once, and make what it belongs to due.

    reference is what the outside system calls what it did, such as a tracking number. Raises ResolveError.
    """
    if not because.strip():
        raise ResolveError("say how you know, with --because")
    async with opened.store.read() as connection:
        order = (await orders.load(connection, [order_id]))[order_id]
        versions = await rules.current(connection)
        row = _chosen(order.number, step, await effects.to_settle(connection, order_id, step, cause=cause))
        taken_back = await reverts.done_effects(connection, [row.reverses_id] if row.reverses_id else [])
        begun_as = await cases.begun_as(connection, [(order_id, row.cause)])
    channel = versions[order.channel].rules
    order = replace(order, begun_as=begun_as.get((order_id, row.cause)))
    own = channel.for_customer(group=order.customer.group, customer=order.customer.number)
    receipt = Receipt()
    if said is Said.HAPPENED:
        receipt = await _receipt(_step_of(row, order, own, taken_back), row, order, own, reference.strip())
    actor = Actor(name=author, run=current_actor(opened).run)
    try:
        async with opened.store.write() as connection:
            await bars.lock(connection, [order_id])
            now = opened.clock()
            locked = (await effects.lock(connection, [row.id], wait=False)).get(row.id)
            if locked is None:
                raise ResolveError(_TRIED_NOW.format(step=step, number=order.number))
            if (locked.state, locked.attempts) != (row.state, row.attempts):
                raise ResolveError(f"step {step} of order {order.number} has moved on meanwhile; look at it again")
            if locked.lease_owner is not None and locked.lease_until > now:
                raise ResolveError(_TRIED_NOW.format(step=step, number=order.number))
            written = await _write(
                receipt, Transaction(connection=connection, effect_id=row.id, cause=row.cause, actor=actor, now=now)
            )
            await effects.settle(
                connection,
                locked,
                _STATES[said],
                actor=actor,
                because=f"{author}: {because.strip()}",
                reference=written.reference,
                before=written.before,
                after=written.after,
                now=now,
            )
            await _go_on(connection, order_id, row.cause, now=now)
    except IntegrityError:
        raise ResolveError(f"step {step} of order {order.number} is done already, by another cause") from None
    run_log().info("%s · %s · settled by hand: %s", order.number, step, said)
    return Settled(order.number, step, row.cause, _STATES[said], written.reference or row.reference)


def _step_of(row: Row[Any], order: Order, own: ChannelRules, taken_back: dict[int, Any]) -> Step:
    if row.reverses_id is None:
        return STEPS[row.step]
    effect = taken_back[row.reverses_id]
    return STEPS[effect.step].inverse(entry_of(effect, order, own))


async def _receipt(made: Step, row: Row[Any], order: Order, own: ChannelRules, reference: str) -> Receipt:
    if made.local:
        raise ResolveError(
            f"step {row.step} takes place in Kvit's own database, which knows that it has not happened; "
            "let it be tried again, or leave it"
        )
    try:
        return await made.told_by_hand(order, own, row.key, reference)
    except OutsideError as error:
        raise ResolveError(f"step {row.step} of order {order.number}: {error}") from None


async def _write(receipt: Receipt, transaction: Transaction) -> Receipt:
    more = await written(receipt, transaction)
    if isinstance(more, Skip):
        raise ResolveError(more.reason)
    return more or receipt


async def _go_on(connection: Any, order_id: int, cause: str, *, now: Any) -> None:
    subject, id_ = subject_of(cause)
    if subject == "undo":
        subject, ids = "revert", await reverts.open_ones(connection, order_id)
    else:
        ids = [id_]
    await work.wake(connection, subject, ids, now=now)


@task(name="settle", cache_policy=NO_CACHE)
async def resolve_named(
    number: str, step: str, said: Said, *, channel: str | None, author: str, because: str, reference: str
) -> Settled:
    """Settle one step of an order by its number. Raises ResolveError."""
    opened = await installation()
    try:
        (order_id,) = await orders_named(opened, [number], channel)
    except RevertError as error:
        raise ResolveError(str(error)) from None
    return await resolve_step(opened, order_id, step, said, author=author, because=because, reference=reference)
