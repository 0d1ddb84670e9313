"""Authorize: money that a card authorized is put to its order, and captured or released once that was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import Rejected
from connectors.roles import Gateway
from domain.fiscal import FiscalLine, FiscalReceipt
from domain.holds import Decision, HoldState
from domain.matching import Match, Reader, decide
from domain.money import Money
from domain.orders import CLOSED, Order
from domain.payments import IncomingPayment, Method
from domain.rules import ChannelRules
from domain.scenarios import cause_of, cause_of_decision
from store import effects, holds, journal, orders, payments, rules, stock, work
from store.holds import StoredHold
from tasks.holds import record
from tasks.installation import Installation, installation
from tasks.status import move_to
from tasks.step import Batch, Item, Receipt, Skip, Transaction, current_actor, run_log, step, written

HoldId = int


def _run_name(parameters: dict[str, Any]) -> str:
    ids = parameters["ids"]
    return f"find order · hold {ids[0]}" if len(ids) == 1 else f"find orders · {len(ids)} holds"


_named: Any = _run_name  # called with the parameters, which its type doesn't say


@task(name="find order", task_run_name=_named, retries=3, retry_delay_seconds=[1, 5, 30], cache_policy=NO_CACHE)
async def orders_of_holds(ids: Sequence[HoldId]) -> Batch:
    """Find the order that each hold is for, as for a payment of that amount; nothing is allocated."""
    opened = await installation()
    log = run_log()
    items: list[Item] = []
    async with opened.store.write() as connection:
        found = await holds.load(connection, ids, lock=True)
        versions = await rules.current(connection)
        channels = {channel: versioned.rules for channel, versioned in versions.items()}
        # What was begun is brought to its end, whatever became of the hold meanwhile: later steps wait for it.
        begun = {one.cause for one in await effects.of_causes(connection, [cause_of("hold", id_) for id_ in ids])}
        for id_ in ids:
            if (stored := found.get(id_)) is None:
                log.info("hold %s · left alone: it is not in the store", id_)
                continue
            order_id, number, reason = stored.order_id, stored.number, stored.reason
            if order_id is None and stored.hold.state in (HoldState.HELD, HoldState.CAPTURED):
                order_id, number, reason = await _find(connection, opened, stored, channels)
            log.info("hold %s · %s", id_, reason or stored.hold.state)
            if order_id is None or number is None:
                continue
            if stored.hold.state is HoldState.HELD or cause_of("hold", id_) in begun:
                items.append(Item(order_id, number, cause_of("hold", id_)))
            if stored.hold.state is HoldState.HELD:
                await _at_once(connection, opened, stored, order_id, channels)
    return Batch(tuple(items))


async def _find(
    connection: AsyncConnection, opened: Installation, stored: StoredHold, channels: Mapping[str, ChannelRules]
) -> tuple[int | None, str | None, str]:
    """Find a hold's order by the evidence that counts for payments, and write down what was found."""
    now = opened.clock()
    hold = stored.hold
    as_payment = IncomingPayment(
        source=hold.source,
        external_id=hold.reference,
        method=Method.CARD,
        amount=hold.amount,
        booked_on=now.date(),
        provider_reference=hold.reference,
        order_reference=hold.order_reference,
    )
    reader = Reader(channels)
    named = reader.references(as_payment)
    candidates = await payments.candidates(connection, named)
    match = decide(as_payment, named, [candidates[id_] for id_ in sorted(candidates)], channels, reader)
    order_id, number, reason = _said(match)
    await holds.attach(connection, stored.id, order_id, reason, now=now)
    actor = current_actor(opened)
    entry = journal.entry(
        actor,
        at=now,
        step="find order",
        move="held" if order_id is not None else match.outcome.value,
        order_id=order_id,
        reason=f"{hold.amount} is held: {reason}",
        cause=cause_of("hold", stored.id),
    )
    await journal.append(connection, [entry])
    return order_id, number, reason


def _said(match: Match) -> tuple[int | None, str | None, str]:
    if len(match.parts) == 1 and match.parts[0].completes and match.parts[0].item.order_id is not None:
        return match.parts[0].item.order_id, match.parts[0].item.number, match.reason
    if match.parts:
        return None, None, f"{match.reason}; what is held must cover one order"
    return None, None, match.reason


async def _at_once(
    connection: AsyncConnection,
    opened: Installation,
    stored: StoredHold,
    order_id: int,
    channels: Mapping[str, ChannelRules],
) -> None:
    """Decide to capture at once, where the rules don't leave that to an operator."""
    order = (await orders.load(connection, [order_id]))[order_id]
    own = channels[order.channel].for_customer(group=order.customer.group, customer=order.customer.number)
    if own.holds.capture == "at_once" and stored.decision is None:
        amount = min(order.to_pay_now, stored.hold.amount)
        said = f"the rules of {order.channel} capture at once"
        actor = current_actor(opened)
        await record(connection, opened, stored, order, Decision.CAPTURE, amount, actor=actor, because=said)


@step("hold status", local=True)
async def set_hold_status(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Set the status of an order whose money is held."""
    if rules.holds.status is None:
        return Skip(f"the rules of {rules.channel} leave the status of an order on hold as it is")
    return move_to(order, rules, rules.holds.status, "its money is authorized and held")


@task(name="what was decided", cache_policy=NO_CACHE)
async def decided_holds(ids: Sequence[HoldId]) -> Batch:
    """Take the orders of holds about which somebody, or the rules, have decided."""
    opened = await installation()
    async with opened.store.read() as connection:
        found = await holds.load(connection, ids)
    log = run_log()
    items: list[Item] = []
    for id_ in ids:
        stored = found.get(id_)
        if stored is None or stored.decision is None or stored.order_id is None or stored.number is None:
            log.info("hold %s · left alone: nothing was decided, or its order is not known", id_)
            continue
        log.info("%s · %s was decided by %s", stored.number, stored.decision, stored.decided_by)
        items.append(Item(stored.order_id, stored.number, cause_of_decision(id_)))
    return Batch(tuple(items))


async def _decided(order: Order, decision: Decision) -> StoredHold:
    """Return the order's hold about which that was decided; the newest, should there be several."""
    opened = await installation()
    async with opened.store.read() as connection:
        found = (await holds.of_orders(connection, [order.id])).get(order.id, [])
    mine = [stored for stored in found if stored.decision is decision]
    if not mine:
        raise Rejected("no money of this order is held that this was decided about")
    return mine[-1]


async def _gateway(stored: StoredHold) -> Gateway:
    return (await installation()).connector(stored.connector, Gateway)


def receipt_of(order: Order, amount: Money) -> FiscalReceipt | None:
    """Return what a fiscal receipt says of an amount taken for an order; None where no lines of it cost just that.

    A receipt's lines must come to the sum that is taken, none of them below zero, and nobody but the shop can say which
    lines a part is for, or which a discount. Of an order whose delivery is paid when it comes, the one line that costs
    as much and is no article is left out.
    """
    left = list(order.lines)
    if order.on_delivery and amount == order.total - order.on_delivery:
        delivery = [line for line in left if line.sku is None and line.total == order.on_delivery]
        left = [line for line in left if line not in delivery] if len(delivery) == 1 else []
    elif amount != order.total:
        return None
    discounts = any(line.unit_price.minor < 0 for line in left)
    if not left or discounts or not (order.customer.email or order.customer.phone):
        return None
    lines = tuple(
        FiscalLine(title=line.title, quantity=line.quantity, amount=line.unit_price, vat_rate=Decimal(line.vat_rate))
        for line in left
    )
    return FiscalReceipt(lines=lines, email=order.customer.email, phone=order.customer.phone)


async def _look(stored: StoredHold) -> tuple[HoldState, Receipt]:
    """Ask the gateway what became of a hold; return that, and the receipt that writes it down with its payments."""
    gateway = await _gateway(stored)
    now_held, paid = await gateway.hold(stored.hold.reference)

    async def write(transaction: Transaction) -> None:
        await holds.put(transaction.connection, now_held, connector=stored.connector, now=transaction.now)
        for id_, scenario in await payments.add(transaction.connection, list(paid), now=transaction.now):
            await work.add(transaction.connection, scenario, "payment", [id_], now=transaction.now)

    after = {"hold": stored.id, "state": now_held.state.value, "captured": str(now_held.captured)}
    return now_held.state, Receipt(reference=stored.hold.reference[:80], after=after, write=write)


@step("capture")
async def capture_hold(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Take the held money that the order costs; the rest goes back to the payer."""
    stored = await _decided(order, Decision.CAPTURE)
    state, found = await _look(stored)
    if state is HoldState.CAPTURED:
        return found
    if state is not HoldState.HELD:
        raise Rejected(f"the money is not held any more: it was {state}; the customer must pay anew")
    amount = stored.decided or order.to_pay_now
    if amount.minor <= 0 or amount > stored.hold.amount:
        raise Rejected(f"{amount} can't be taken of the {stored.hold.amount} that are held")
    receipt = receipt_of(order, amount) if rules.holds.receipt else None
    if rules.holds.receipt and receipt is None:
        raise Rejected(
            "the gateway needs a fiscal receipt, and the order's lines don't come to what is to be captured, one is a "
            "discount, or it has neither e-mail nor phone; change the order to what it costs now"
        )
    await (await _gateway(stored)).capture(stored.hold, amount, key, receipt=receipt)
    return (await _look(stored))[1]


@capture_hold.lookup
async def find_captured(order: Order, rules: ChannelRules, key: str) -> Receipt | None:  # noqa: ARG001 - a lookup's shape
    """Ask the gateway whether the money was taken."""
    state, found = await _look(await _decided(order, Decision.CAPTURE))
    return found if state is HoldState.CAPTURED else None


@step("release", compensates=("capture",))
async def release_hold(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Give the held money back to the payer."""
    stored = await _decided(order, Decision.RELEASE)
    state, found = await _look(stored)
    if state is HoldState.CAPTURED:
        raise Rejected("the money was captured meanwhile; it can only be refunded")
    if state is HoldState.HELD:
        await (await _gateway(stored)).release(stored.hold, key)
        found = (await _look(stored))[1]
    return found


@release_hold.lookup
async def find_released(order: Order, rules: ChannelRules, key: str) -> Receipt | None:  # noqa: ARG001 - a lookup's shape
    """Ask the gateway whether the money was given back."""
    state, found = await _look(await _decided(order, Decision.RELEASE))
    return found if state in (HoldState.RELEASED, HoldState.EXPIRED) else None


@step("release status", local=True, compensates=("capture",))
async def set_released_status(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Set the status of an order whose money was released."""
    if rules.holds.released_status is None:
        return Skip(f"the rules of {rules.channel} leave the status of such an order as it is")
    made = move_to(order, rules, rules.holds.released_status, "its held money was released")
    if rules.standard(rules.holds.released_status) not in CLOSED:
        return made

    async def write(transaction: Transaction) -> Receipt | Skip | None:
        ended = await written(made, transaction)
        freed = await stock.free(transaction.connection, order, now=transaction.now)
        return replace(ended, after=ended.after | {"freed": freed}) if freed and isinstance(ended, Receipt) else ended

    return Receipt(write=write)
