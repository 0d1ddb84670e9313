"""By hand: a person holds an order out of automation, puts it back, or sets its status; with a name and a reason."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from domain.by_hand import ByHandError
from domain.hands import doubts
from domain.orders import CLOSED
from domain.scenarios import cause_of
from store import bars, held_out, journal, orders, rules, stock
from store.journal import Actor
from tasks import holds
from tasks.installation import Installation, installation
from tasks.revert import RevertError, orders_named
from tasks.step import current_actor, run_log
from tasks.tell import tell_later

_AUTHOR_MAX, _REASON_MAX = 200, 2_000


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How an order stands to automation now: by is who holds it out and why, changed says that it was not so before."""

    number: str
    by: str | None
    changed: bool


async def _order_named(opened: Installation, number: str, channel: str | None) -> int:
    try:
        (order_id,) = await orders_named(opened, [number.strip()], channel)
    except RevertError as error:
        raise ByHandError(str(error)) from None
    return order_id


async def hold_out(
    opened: Installation, number: str, *, channel: str | None, author: str, because: str, back: bool = False
) -> HeldOut:
    """Hold an order out of automation, so that no step begins for it; back lets everything that waits go on at once.

    What a worker has begun is still ended. Payments are matched as ever. Raises ByHandError.
    """
    if not because.strip():
        raise ByHandError("say why; it stands in the order's history")
    order_id = await _order_named(opened, number, channel)
    author, because = author.strip()[:_AUTHOR_MAX], because.strip()[:_REASON_MAX]
    after = None if back else f"{author}: {because}"
    async with opened.store.write() as connection:
        now = opened.clock()
        before = await held_out.by(connection, order_id)
        if (before is None) == back:
            return HeldOut(number, before, changed=False)
        # Effects, journal, order: in the order of whoever claims a step, so that nobody waits for ever.
        if back:
            await held_out.lock_effects(connection, order_id)
        entry = journal.entry(
            Actor(name=author, run=current_actor(opened).run),
            at=now,
            step="automation",
            move="put back" if back else "held out",
            order_id=order_id,
            reason=because,
            before={"held_out": before},
            after={"held_out": after},
        )
        await journal.append(connection, [entry])
        await bars.lock(connection, [order_id])
        if await held_out.by(connection, order_id) != before:
            raise ByHandError(f"somebody else has just said so of order {number}; look at it again")
        if back:
            if step := await held_out.being_tried(connection, order_id, now=now):
                raise ByHandError(f"a worker is at step {step} of order {number} right now; try again in a minute")
            await held_out.wake(connection, order_id, now=now)
        await held_out.say(connection, order_id, after)
    run_log().info("%s · %s by hand", number, entry["move"])
    return HeldOut(number, after, changed=True)


@task(name="hold out", cache_policy=NO_CACHE)
async def hold_out_named(number: str, *, channel: str | None, author: str, because: str, back: bool) -> HeldOut:
    """Do that for the form. Raises ByHandError."""
    return await hold_out(await installation(), number, channel=channel, author=author, because=because, back=back)


@dataclass(frozen=True, slots=True)
class StatusSet:
    """What came of setting a status: doubts stopped it, or it is so now; it may have been so before.

    by_money says that the status decides about money on hold, and comes of itself once that is carried out.
    """

    number: str
    before: str
    after: str
    doubts: tuple[str, ...] = ()
    changed: bool = False
    by_money: bool = False


async def set_status(
    opened: Installation,
    number: str,
    status: str,
    *,
    channel: str | None,
    author: str,
    because: str,
    force: bool = False,
) -> StatusSet:
    """Give an order a status, a standard one or the channel's own; shop and CRM are told.

    What speaks against it stops it, unless it is forced. Raises ByHandError.
    """
    if not because.strip():
        raise ByHandError("say why; it stands in the order's history")
    order_id = await _order_named(opened, number, channel)
    author, because = author.strip()[:_AUTHOR_MAX], because.strip()[:_REASON_MAX]
    async with opened.store.write() as connection:
        now = opened.clock()
        before, _ = await orders.lock_status(connection, order_id)
        order = (await orders.load(connection, [order_id]))[order_id]
        versions = await rules.current(connection)
        own = versions[order.channel].rules.for_customer(group=order.customer.group, customer=order.customer.number)
        try:
            meant = own.standard(status)
        except ValueError as error:
            raise ByHandError(f"order {order.number}: {error}") from None
        if before == status:
            return StatusSet(order.number, before, before)
        actor = Actor(name=author, run=current_actor(opened).run)
        if await holds.by_status(connection, opened, order, own, status, actor=actor):
            decided = journal.entry(
                actor,
                at=now,
                step="set status",
                move="money decided",
                order_id=order_id,
                reference=f"{before} → {status}",
                reason=because,
            )
            await journal.append(connection, [decided])
            return StatusSet(order.number, before, status, changed=True, by_money=True)
        against = doubts(
            order,
            status,
            meant,
            shipped=not own.connectors.carrier or await orders.live_shipment(connection, order_id) is not None,
            waiting=await held_out.open_steps(connection, order_id),
        )
        if against and not force:
            return StatusSet(order.number, before, status, doubts=tuple(against))
        history_id = await orders.set_status(
            connection, order_id, after=status, standard=meant, reason=because, actor=actor, now=now
        )
        freed = await stock.free(connection, order, now=now) if meant in CLOSED else {}
        entry = journal.entry(
            actor,
            at=now,
            step="set status",
            move="done",
            order_id=order_id,
            cause=cause_of("status", history_id),
            reference=f"{before} → {status}",
            reason=because,
            before={"status": before},
            after={"status": status} | ({"freed": freed} if freed else {}) | ({"against": against} if against else {}),
        )
        await journal.append(connection, [entry])
        await tell_later(connection, opened, order, history_id)
    run_log().info("%s · %s → %s by hand", order.number, before, status)
    return StatusSet(order.number, before, status, doubts=tuple(against), changed=True)


@task(name="set status", cache_policy=NO_CACHE)
async def set_status_named(
    number: str, status: str, *, channel: str | None, author: str, because: str, force: bool
) -> StatusSet:
    """Do that for the form. Raises ByHandError."""
    return await set_status(
        await installation(), number, status, channel=channel, author=author, because=because, force=force
    )
