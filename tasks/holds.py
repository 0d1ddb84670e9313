"""Holds: what is held now, who is warned before it expires, and what a person or the rules decide about it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.holds import Decision, HoldState, Verdict, look_after
from domain.money import Money, MoneyError
from domain.orders import Order
from domain.rules import ChannelRules
from domain.scenarios import cause_of_decision
from domain.wording import counted
from store import holds, journal, orders, rules, work
from store.holds import StoredHold
from store.journal import Actor
from tasks.cells import TABLE_ROWS, cells
from tasks.installation import Installation, installation
from tasks.step import current_actor, run_log

_BECAUSE_MAX = 2_000


class HoldError(ValueError):
    """What a person asks for can't be done with held money; its text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    """One hold as an operator sees it; owed is what its order costs and is not paid yet."""

    stored: StoredHold
    owed: Money | None
    warned: bool


async def rows(opened: Installation, number: str | None = None, channel: str | None = None) -> list[HoldRow]:
    """Return what is held now, or all that was ever held for one order. Raises HoldError for an unknown order.

    What expired, or was released at the gateway itself, is with the first as long as its order waits for that money.
    """
    async with opened.store.read() as connection:
        if number is None:
            found = await holds.still_held(connection)
            found += await _lost(connection, {one.order_id for one in found})
        else:
            order_id = await _order_named(connection, number, channel)
            found = (await holds.of_orders(connection, [order_id])).get(order_id, [])
        known = await orders.load(connection, [one.order_id for one in found if one.order_id is not None])
        versions = await rules.current(connection)
    now = opened.clock()
    seen: list[HoldRow] = []
    for one in found:
        order = known.get(one.order_id) if one.order_id is not None else None
        own = _own(versions, order) if order else None
        warned = bool(own) and (_warned(one, own, now) or (number is None and one.hold.state is not HoldState.HELD))
        seen.append(HoldRow(stored=one, owed=order.to_pay_now if order else None, warned=warned))
    return seen


async def _lost(connection: AsyncConnection, held_for: Collection[int | None]) -> list[StoredHold]:
    """Return the holds that went, of orders that still wait for their money; held_for are those with another hold."""
    gone = {one.order_id: one for one in await holds.lost(connection) if one.order_id not in held_for}
    known = await orders.load(connection, [order_id for order_id in gone if order_id is not None])
    return [one for order_id, one in gone.items() if order_id in known and known[order_id].to_pay_now.minor > 0]


def _own(versions: dict[str, rules.Versioned], order: Order) -> ChannelRules:
    customer = order.customer
    return versions[order.channel].rules.for_customer(group=customer.group, customer=customer.number)


def _warned(one: StoredHold, own: ChannelRules | None, now: datetime) -> bool:
    if own is None or one.hold.state is not HoldState.HELD or one.decision is not None:
        return False
    return _verdict(one, own, now).warn


def _verdict(one: StoredHold, own: ChannelRules, now: datetime) -> Verdict:
    limits = own.holds
    return look_after(
        one.hold.expires_at,
        now=now,
        warn_hours=limits.warn_hours,
        act_hours=limits.act_hours,
        at_expiry=limits.at_expiry,
    )


async def _order_named(connection: AsyncConnection, number: str, channel: str | None) -> int:
    same = await orders.ids_of(connection, number.strip(), channel)
    if not same:
        raise HoldError(f"order {number:.80} is not known{f' in channel {channel}' if channel else ''}")
    if len(same) > 1:
        raise HoldError(f"order {number:.80} is in {', '.join(one for _, one in same)}; name the channel")
    return same[0][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What was decided about the money held for an order; amount is what will be captured of it."""

    number: str
    decision: Decision
    held: Money
    amount: Money | None


async def decide_hold(
    opened: Installation,
    number: str,
    decision: Decision,
    *,
    amount: str | None = None,
    channel: str | None = None,
    author: str,
    because: str,
) -> Said:
    """Write down that held money is to be captured or released; the order is due at once, and goes on.

    Without an amount what the order costs now is captured. Raises HoldError.
    """
    if not because.strip():
        raise HoldError("say why; it stands in the order's history")
    async with opened.store.write() as connection:
        order_id = await _order_named(connection, number, channel)
        (order,) = (await orders.load(connection, [order_id])).values()
        one = await _held(connection, order)
        taken = _amount(order, one, amount) if decision is Decision.CAPTURE else None
        if decision is Decision.RELEASE and amount:
            raise HoldError("all of what is held is released; an amount goes with a capture alone")
        actor = Actor(name=author[:200], run=current_actor(opened).run)
        await record(connection, opened, one, order, decision, taken, actor=actor, because=because[:_BECAUSE_MAX])
    return Said(number=order.number, decision=decision, held=one.hold.amount, amount=taken)


@task(name="decide", cache_policy=NO_CACHE)
async def decide_named(
    number: str, decision: Decision, *, amount: str | None, channel: str | None, author: str, because: str
) -> str:
    """Do that for the form; return what was decided, in a sentence. Raises HoldError."""
    opened = await installation()
    said = await decide_hold(opened, number, decision, amount=amount, channel=channel, author=author, because=because)
    return sentence(said)


def sentence(said: Said) -> str:
    """Say what was decided."""
    what = f"{said.amount} of the {said.held} held" if said.amount is not None else f"the {said.held} held"
    return f"order {said.number}: {what} will be {said.decision}d; it is due and goes on"


async def _held(connection: AsyncConnection, order: Order) -> StoredHold:
    found = (await holds.of_orders(connection, [order.id])).get(order.id, [])
    live = [one for one in found if one.hold.state is HoldState.HELD]
    if not found:
        raise HoldError(f"no money is held for order {order.number}")
    if not live:
        raise HoldError(f"nothing is held for order {order.number} any more: it was {found[-1].hold.state}")
    if live[-1].decision is not None:
        raise HoldError(f"{live[-1].decision} was decided by {live[-1].decided_by} before; it is being carried out")
    return (await holds.load(connection, [live[-1].id], lock=True))[live[-1].id]


def _amount(order: Order, one: StoredHold, text: str | None) -> Money:
    held = one.hold.amount
    try:
        wanted = Money.parse(text, held.currency) if text else order.to_pay_now
    except MoneyError as error:
        raise HoldError(f"amount: {error}") from None
    if wanted.currency != held.currency:
        raise HoldError(f"the order is in {wanted.currency} and {held} is held; decide in the gateway itself")
    if wanted.minor <= 0:
        raise HoldError(f"{wanted} is nothing to capture; release the money instead")
    if wanted > held:
        raise HoldError(
            f"order {order.number} costs {wanted} now and only {held} is held; change the order to what is held, or "
            "give the amount to capture"
        )
    return wanted


async def record(
    connection: AsyncConnection,
    opened: Installation,
    one: StoredHold,
    order: Order,
    decision: Decision,
    amount: Money | None,
    *,
    actor: Actor,
    because: str,
) -> bool:
    """Write a decision about a hold down and make it due; False when something else was decided meanwhile."""
    now = opened.clock()
    if not await holds.decide(connection, one.id, decision, amount, by=actor.name, because=because, now=now):
        return False
    what = f"{amount} of {one.hold.amount}" if amount is not None else str(one.hold.amount)
    entry = journal.entry(
        actor,
        at=now,
        step="decide hold",
        move=decision.value,
        order_id=order.id,
        cause=cause_of_decision(one.id),
        reason=f"{decision} {what}: {because}",
    )
    await journal.append(connection, [entry])
    await work.add(connection, decision.value, "hold", [one.id], now=now)
    return True


@task(name="look after holds", cache_policy=NO_CACHE)
async def look_after_holds() -> tuple[int, int, int]:
    """Decide by the rules what expires shortly, and show what is held; return held, decided and to be warned of."""
    opened = await installation()
    found = await rows(opened)
    decided = 0
    for row in found:
        decided += await _by_the_rules(opened, row.stored)
    found = await rows(opened)
    warned = [row for row in found if row.warned or row.stored.order_id is None]
    log = run_log()
    for row in warned:
        log.warning("%s · %s", row.stored.number or f"hold {row.stored.id}", _why(row, opened.clock()))
    await acreate_table_artifact(
        key="holds",
        table=cells(_shown(row, opened.clock()) for row in found[:TABLE_ROWS]),
        description=f"{counted(len(found), 'hold')}, what expires first at the top",
    )
    return len(found), decided, len(warned)


async def _by_the_rules(opened: Installation, one: StoredHold) -> bool:
    if one.order_id is None or one.decision is not None or one.hold.state is not HoldState.HELD:
        return False
    async with opened.store.write() as connection:
        order = (await orders.load(connection, [one.order_id]))[one.order_id]
        own = _own(await rules.current(connection), order)
        decision = _verdict(one, own, opened.clock()).decision
        if decision is None:
            return False
        amount = min(order.to_pay_now, one.hold.amount) if decision is Decision.CAPTURE else None
        if amount is not None and amount.minor <= 0:
            return False
        said = f"the hold expires within {counted(own.holds.act_hours, 'hour')}, and the rules say so"
        return await record(connection, opened, one, order, decision, amount, actor=current_actor(opened), because=said)


def _why(row: HoldRow, now: datetime) -> str:
    one = row.stored
    if one.order_id is None:
        return one.reason or "its order is not known"
    if one.hold.state is not HoldState.HELD:
        return f"it was {one.hold.state}; ask the customer to pay anew, or cancel the order"
    left = (one.hold.expires_at - now).total_seconds() / 3600 if one.hold.expires_at else 0
    return f"{one.hold.amount} is held for {left:.0f} hours more; capture or release it" if left > 0 else "it expired"


def _shown(row: HoldRow, now: datetime) -> dict[str, str]:
    one = row.stored
    return {
        "Order": one.number or "—",
        "Held": str(one.hold.amount),
        "To pay": str(row.owed) if row.owed is not None else "",
        "Until": f"{one.hold.expires_at:%Y-%m-%d %H:%M} UTC" if one.hold.expires_at else "not told",
        "Decided": f"{one.decision} by {one.decided_by}" if one.decision else "",
        "What to do": _why(row, now) if row.warned or one.order_id is None else "",
    }


async def by_status(
    connection: AsyncConnection, opened: Installation, order: Order, own: ChannelRules, status: str, *, actor: Actor
) -> bool:
    """Capture or release an order's held money because of a status given elsewhere; say whether that was decided."""
    wanted = {Decision.CAPTURE: own.holds.capture_on, Decision.RELEASE: own.holds.release_on}
    decision = next((decision for decision, statuses in wanted.items() if status in statuses), None)
    if decision is None:
        return False
    try:
        one = await _held(connection, order)
        amount = _amount(order, one, None) if decision is Decision.CAPTURE else None
    except HoldError:
        return False
    said = f"the order was made “{status}” by {actor.name}"
    return await record(connection, opened, one, order, decision, amount, actor=actor, because=said)


async def dead(connection: AsyncConnection, order: Order) -> str | None:
    """Say why an order that isn't paid must not be sent: money was held for it, and isn't any more; else None."""
    if order.to_pay_now.minor <= 0:
        return None
    found: Sequence[StoredHold] = (await holds.of_orders(connection, [order.id])).get(order.id, [])
    if not found or any(one.hold.state is HoldState.HELD for one in found):
        return None
    return f"payment: its hold was {found[-1].hold.state}, and {order.to_pay_now} is missing"
