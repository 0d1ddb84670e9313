"""Skip: a person leaves a step of an order out for good, before it begins or while it goes on being tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.by_hand import ByHandError
from domain.hands import base_step, missed, no_skip, unclear
from domain.scenarios import STEPS, subject_of
from domain.wording import listed
from store import effects, hands, orders, reverts, rules, work
from store.effects import EffectState
from tasks.catalogue import STEPS as MADE
from tasks.installation import Installation, installation
from tasks.named import actor_named, order_named, plain, reason_needed
from tasks.step import run_log, unneeded


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that is left out: changed is False where it was so already, or where nobody knows whether it happened.

    warnings say what becomes of later steps; unclear is what must be known first, unless it is forced.
    """

    number: str
    step: str
    cause: str
    changed: bool
    warnings: tuple[str, ...] = ()
    unclear: str | None = None


async def skip(
    opened: Installation,
    number: str,
    step_name: str,
    *,
    channel: str | None,
    author: str,
    because: str,
    force: bool = False,
    cause: str | None = None,
) -> Skipped:
    """Leave a step of an order out, for what it is done for now; what comes after it goes on.

    cause says for what, where there are several, such as payment:17. Force leaves out what may have happened. Raises
    ByHandError.
    """
    said = reason_needed(because)
    actor, step_name = actor_named(opened, author), plain(step_name)
    if refused := no_skip(step_name):
        raise ByHandError(refused)
    order_id = await order_named(opened, number, channel)
    async with opened.store.write() as connection:
        now = opened.clock()
        order = (await orders.load(connection, [order_id]))[order_id]
        of, begun = await _meant(connection, order_id, order.number, step_name, plain(cause or "") or None)
        effect_id = await effects.prepare(connection, order_id, step_name, of, now=now)
        (row,) = (await effects.lock(connection, [effect_id])).values()
        if row.state == EffectState.SKIPPED:
            return Skipped(order.number, step_name, of, changed=False)
        _check(row, order.number, now=now)
        doubt = unclear(step_name, row.reason) if _is_unclear(row) else None
        own = (await rules.current(connection))[order.channel].rules.for_customer(
            group=order.customer.group, customer=order.customer.number
        )
        waits_for = own.scenario_of(order).dispatch.waits_for
        warnings = tuple(missed(step_name, await _later(connection, order_id, step_name, of), waits_for))
        if doubt and not force:
            return Skipped(order.number, step_name, of, changed=False, warnings=warnings, unclear=doubt)
        await effects.settle(
            connection, row, EffectState.SKIPPED, actor=actor, because=f"left out by {actor.name}: {said}", now=now
        )
        if begun:
            subject, id_ = subject_of(of)
            if subject == "undo":
                await work.wake(connection, "revert", await reverts.open_ones(connection, order_id), now=now)
            else:
                await work.wake(connection, subject, [id_], now=now)
    run_log().info("%s · %s · left out by hand", order.number, step_name)
    return Skipped(order.number, step_name, of, changed=True, warnings=warnings, unclear=doubt)


async def _meant(
    connection: AsyncConnection, order_id: int, number: str, step_name: str, cause: str | None
) -> tuple[str, bool]:
    """Return the cause for which a step is to be left out, and whether it has begun for it. Raises ByHandError."""
    known = {
        row["cause"]: row["state"]
        for row in await effects.of_order(connection, order_id)
        if row["step"] == step_name and cause in (None, row["cause"])
    }
    going = [one for one, state in known.items() if state not in (EffectState.DONE, EffectState.SKIPPED)]
    base = base_step(step_name)
    ahead = [
        of
        for scenario, _, _, of in await hands.ways(connection, order_id)
        if base in STEPS.get(scenario, ()) and of not in known and cause in (None, of)
    ]
    choice = going or ahead
    if len(choice) > 1:
        raise ByHandError(f"step {step_name} of order {number} is for {listed(choice)}; choose one with --cause")
    if choice:
        return choice[0], bool(going)
    if skipped := [one for one, state in known.items() if state == EffectState.SKIPPED]:
        return skipped[-1], True
    if known:
        raise ByHandError(f"step {step_name} of order {number} is done already, so it can't be left out")
    raise ByHandError(
        f"nothing that carries order {number} on now has a step {step_name}"
        + (f" for {cause}" if cause else "")
        + f"; what its payment will bring can be kept back with `kvit orders hold-out {number}`"
    )


def _check(row: Row[Any], number: str, *, now: Any) -> None:
    if row.state == EffectState.DONE:
        raise ByHandError(f"step {row.step} of order {number} is done already, so it can't be left out")
    if row.lease_owner is not None and row.lease_until > now:
        raise ByHandError(f"step {row.step} of order {number} is being tried right now; look again in a minute")


def _is_unclear(row: Row[Any]) -> bool:
    """Say whether a step may have happened: it is in doubt, or its worker died in the middle."""
    if row.step in MADE and MADE[row.step].local:
        return False
    return row.state == EffectState.IN_DOUBT or (row.state == EffectState.INTENDED and row.lease_owner is not None)


async def _later(connection: AsyncConnection, order_id: int, step_name: str, cause: str) -> list[str]:
    """Return the steps that an order has yet to come to for a cause, after one of them."""
    ended = {
        row["step"]
        for row in await effects.of_order(connection, order_id)
        if row["cause"] == cause and row["state"] in (EffectState.DONE, EffectState.SKIPPED)
    }
    ways = [scenario for scenario, _, _, of in await hands.ways(connection, order_id) if of == cause]
    steps = [one for scenario in ways for one in STEPS.get(scenario, ())]
    spared = (await unneeded(connection, [(order_id, cause)]))[order_id, cause]
    past = {"match", base_step(step_name)} | ended | spared
    return [one for one in dict.fromkeys(steps) if one not in past]


@task(name="skip", cache_policy=NO_CACHE)
async def skip_named(
    number: str, step_name: str, *, channel: str | None, author: str, because: str, force: bool
) -> Skipped:
    """Do that for the form. Raises ByHandError."""
    return await skip(
        await installation(), number, step_name, channel=channel, author=author, because=because, force=force
    )
