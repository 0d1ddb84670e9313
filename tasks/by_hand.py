"""By hand: a person holds an order out of automation, puts it back, or sets its status; with a name and a reason."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.by_hand import ByHandError
from domain.hands import doubts
from domain.holds import HoldState
from domain.orders import CLOSED, Order
from domain.rules import ChannelRules
from domain.scenarios import cause_of
from store import bars, held_out, journal, orders, rules, stock
from store import holds as stored_holds
from tasks import holds
from tasks.installation import Installation, installation
from tasks.named import actor_named, order_named, plain, reason_given, reason_needed
from tasks.step import run_log
from tasks.tell import tell_later


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How an order stands to automation now: by is who holds it out and why, changed says that it was not so before."""

    number: str
    by: str | None
    changed: bool


async def hold_out(
    opened: Installation, number: str, *, channel: str | None, author: str, because: str, back: bool = False
) -> HeldOut:
    """Hold an order out of automation, so that no step begins for it; back lets everything that waits go on at once.

    What a worker has begun is still ended. Payments are matched as ever. Raises ByHandError.
    """
    because, actor = reason_needed(because), actor_named(opened, author)
    order_id, number = await order_named(opened, number, channel), plain(number)
    after = None if back else f"{actor.name}: {because}"
    async with opened.store.write() as connection:
        now = opened.clock()
        before = await held_out.by(connection, order_id)
        if (before is None) == back:
            return HeldOut(number, before, changed=False)
        entry = journal.entry(
            actor,
            at=now,
            step="automation",
            move="put back" if back else "held out",
            order_id=order_id,
            reason=because,
            before={"held_out": before},
            after={"held_out": after},
        )
        await bars.lock(connection, [order_id])
        if await held_out.by(connection, order_id) != before:
            raise ByHandError(f"somebody else has just said so of order {number}; look at it again")
        if back:
            if step := await held_out.being_tried(connection, order_id, now=now):
                raise ByHandError(f"a worker is at step {step} of order {number} right now; try again in a minute")
            await held_out.wake(connection, order_id, now=now)
        await held_out.say(connection, order_id, after)
        await journal.append(connection, [entry])
    run_log().info("%s · %s by hand", number, entry["move"])
    return HeldOut(number, after, changed=True)


@task(name="hold out", cache_policy=NO_CACHE)
async def hold_out_named(number: str, *, channel: str | None, author: str, because: str, back: bool) -> HeldOut:
    """Do that for the form. Raises ByHandError."""
    return await hold_out(await installation(), number, channel=channel, author=author, because=because, back=back)


@dataclass(frozen=True, slots=True)
class StatusSet:
    """What came of setting a status: doubts stopped it, or it is so now; it may have been so before.

    by_money says that the status decides about money on hold, and comes of itself once that is carried out. planned
    are, for a plan, sentences on what would be done.
    """

    number: str
    before: str
    after: str
    doubts: tuple[str, ...] = ()
    changed: bool = False
    by_money: bool = False
    planned: tuple[str, ...] = ()


async def set_status(
    opened: Installation,
    number: str,
    status: str,
    *,
    channel: str | None,
    author: str,
    because: str,
    force: bool = False,
    plan: bool = False,
) -> StatusSet:
    """Give an order a status, a standard one or the channel's own; shop and CRM are told.

    What speaks against it stops it, unless it is forced; with plan only that and what would be done is said. Raises
    ByHandError.
    """
    because, actor = reason_given(because) if plan else reason_needed(because), actor_named(opened, author)
    order_id, status = await order_named(opened, number, channel), plain(status)
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
        if plan and await _decides_hold(connection, order, own, status):
            return StatusSet(
                order.number, before, status, by_money=True, planned=("its money on hold is decided about",)
            )
        if not plan and await holds.by_status(connection, opened, order, own, status, actor=actor):
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
        if plan:
            return StatusSet(order.number, before, status, doubts=tuple(against), planned=_would(order, own, status))
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


async def _decides_hold(connection: AsyncConnection, order: Order, own: ChannelRules, status: str) -> bool:
    """Say whether a status would capture or release money that is held for an order."""
    if status not in (*own.holds.capture_on, *own.holds.release_on):
        return False
    found = (await stored_holds.of_orders(connection, [order.id])).get(order.id, [])
    return any(one.hold.state is HoldState.HELD for one in found)


def _would(order: Order, own: ChannelRules, status: str) -> tuple[str, ...]:
    """Return what setting a status would do, a sentence each."""
    told = [name for name in (own.connectors.shop, own.connectors.crm) if name]
    found = [f"{order.status} → {status}"]
    found += [f"{' and '.join(told)} would be told"] if told else []
    handed_over = own.holds.handed_over(own.standard(status)) and not own.holds.handed_over(order.standard_status)
    found += ["the second receipt of what was paid through a gateway would be registered"] if handed_over else []
    found += ["what is reserved of its goods would be free again"] if own.standard(status) in CLOSED else []
    return tuple(found)


@task(name="set status", cache_policy=NO_CACHE)
async def set_status_named(
    number: str, status: str, *, channel: str | None, author: str, because: str, force: bool, plan: bool = False
) -> StatusSet:
    """Do that for the form. Raises ByHandError."""
    return await set_status(
        await installation(), number, status, channel=channel, author=author, because=because, force=force, plan=plan
    )
