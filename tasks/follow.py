"""Follow: a status that a person set in a shop or a CRM, or that a carrier tells, becomes the order's status here."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.roles import Carrier
from domain.changes import StatusChange
from domain.hands import WORK, waits_for_money
from domain.orders import CLOSED, Move, Order, transition
from domain.rules import ChannelRules
from domain.scenarios import cause_of
from store import journal, orders, rules, stock
from store.journal import Actor
from tasks import holds
from tasks.installation import Installation
from tasks.tell import tell_later


async def follow(connection: AsyncConnection, opened: Installation, system: str, change: StatusChange) -> str | None:
    """Give an order the status that it was given elsewhere; system is the connector's name.

    What names no order of ours, or a status that the rules don't follow, changes nothing; and so does what we told that
    system ourselves. What can't be followed is told to the system as it really is, where the rules tell it anything.
    Returns what a person must look at: an unpaid order that was sent to work, or a closed one that was to go on.
    """
    said: list[str] = []
    versions = await rules.current(connection)
    following = [channel for channel, versioned in versions.items() if system in versioned.rules.follows]
    carrier = isinstance(opened.connectors.get(system), Carrier)
    for order_id in await orders.of_change(connection, change, following, carrier=system if carrier else None):
        order = (await orders.load(connection, [order_id]))[order_id]
        own = versions[order.channel].rules.for_customer(group=order.customer.group, customer=order.customer.number)
        if problem := await _follow(connection, opened, system, change, order, own, of_carrier=carrier):
            said.append(problem)
    return "; ".join(said) or None


async def _follow(
    connection: AsyncConnection,
    opened: Installation,
    system: str,
    change: StatusChange,
    order: Order,
    own: ChannelRules,
    *,
    of_carrier: bool,
) -> str | None:
    wanted = own.follows.get(system, {}).get(change.status)
    if wanted is None or own.tells.get(system, {}).get(order.status) == change.status:
        return None
    now_is, standard = await orders.lock_status(connection, order.id)
    meant = own.standard(wanted)
    move = transition(standard, meant)
    if now_is == wanted or (move is Move.ALREADY and standard == meant):
        return None
    actor = Actor(name=system, run=None)
    if await holds.by_status(connection, opened, order, own, wanted, actor=actor):
        return None  # the order's status follows from what becomes of its money
    if move is Move.ALREADY:
        # A person set the card back, or it is behind: here an order goes forward only.
        await _tell_back(connection, opened, order)
        return None
    if move is Move.FORBIDDEN:
        return f"{order.number}: {system} made it “{wanted}”, but an order that is {now_is} can't become that"
    if meant in WORK and waits_for_money(order) and not of_carrier:
        await _tell_back(connection, opened, order)
        return f"{order.number}: {system} made it “{wanted}”, but {order.to_pay_now} is missing; it stays {now_is} here"
    history_id = await orders.set_status(
        connection,
        order.id,
        after=wanted,
        standard=meant,
        reason=f"made so in {system}",
        actor=actor,
        now=opened.clock(),
    )
    freed = await stock.free(connection, order, now=opened.clock()) if meant in CLOSED else {}
    entry = journal.entry(
        actor,
        at=opened.clock(),
        step="follow",
        move="done",
        order_id=order.id,
        cause=cause_of("status", history_id),
        reference=f"{now_is} → {wanted}",
        reason=f"made so in {system}",
        before={"status": now_is},
        after={"status": wanted} | ({"freed": freed} if freed else {}),
    )
    await journal.append(connection, [entry])
    await tell_later(connection, opened, order, history_id)
    return None


async def _tell_back(connection: AsyncConnection, opened: Installation, order: Order) -> None:
    if (last := await orders.last_history_id(connection, order.id)) is not None:
        await tell_later(connection, opened, order, last)
