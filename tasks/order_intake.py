"""Order intake: an order that a shop hands over is stored once, and changed while nothing was done about it yet."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.holds import HoldState
from domain.matching import names_of
from domain.order_document import OrderDocument, OrderError
from domain.orders import CLOSED, Move, Order, Status, transition
from domain.rules import ChannelRules, DocumentKind
from store import documents, holds, journal, orders, payments, rules, stock, work
from store.journal import Actor
from tasks.balance import begin_on_balance
from tasks.installation import Installation
from tasks.waiting import begin_term

_AWAITS_MONEY = (Status.NEW, Status.AWAITING_PAYMENT)
"""An order taken in with a later status was begun elsewhere: reserving and asking for money would come too late."""


def _new_order(document: OrderDocument, channel: ChannelRules) -> orders.NewOrder:
    try:
        standard = channel.standard(document.status)
    except ValueError as error:
        raise OrderError(f"order {document.number}: status: {error}") from None
    if document.currency != channel.currency:
        raise OrderError(
            f"order {document.number}: currency: {document.currency}, but channel {channel.channel} sells in "
            f"{channel.currency}"
        )
    return orders.NewOrder(
        channel=document.channel,
        number=document.number,
        method=document.method,
        status=document.status,
        standard_status=standard,
        total=document.money(document.total, "total"),
        variable_symbol=document.variable_symbol,
        rf=document.rf,
        delivery_method=document.delivery.method,
        delivery_address=document.delivery.address.address(),
        placed_at=document.placed_at,
        customer_number=document.customer.number,
        customer_name=document.customer.name,
        email=document.customer.email,
        phone=document.customer.phone,
        language=document.customer.language,
        group=document.customer.group,
        tax_id=document.customer.tax_id,
        address=document.customer.address.address(),
        accounts=document.customer.accounts,
        lines=tuple(
            orders.NewLine(
                sku=line.sku,
                title=line.title,
                quantity=line.quantity,
                unit_price=document.money(line.unit_price, f"lines.{place}.unit_price"),
                vat_rate=line.vat_rate,
            )
            for place, line in enumerate(document.lines)
        ),
        references=names_of(
            document.number,
            variable_symbol=document.variable_symbol,
            rf=document.rf,
            provider_reference=document.provider_reference,
            tracking_number=document.tracking_number,
        ),
        external_id=document.external_id,
        due_on=document.due_on,
        on_delivery=document.on_delivery,
    )


async def take_order(
    connection: AsyncConnection, opened: Installation, document: OrderDocument, *, actor: Actor
) -> int | None:
    """Store an order, make its scenario due, and with it the payments that came before it; None if it is known.

    Raises OrderError for an unknown channel or status, or another currency than the channel's.
    """
    channels = await rules.current(connection)
    if document.channel not in channels:
        known = ", ".join(channels) or "none yet; apply its rules first with `kvit rules apply FILE`"
        raise OrderError(f"order {document.number}: channel “{document.channel}” is not known; there is {known}")
    order = _new_order(document, channels[document.channel].rules)
    now = opened.clock()
    await payments.begin_to_change(connection)  # before the customer is locked, as everywhere
    order_id = await orders.add(connection, order, now=now, actor=actor)
    if order_id is None:
        return None
    if order.standard_status in _AWAITS_MONEY:
        stored = (await orders.load(connection, [order_id]))[order_id]
        own = channels[document.channel].rules.for_customer(group=order.group, customer=order.customer_number)
        scenario = await begin_term(connection, stored, own, document.due_on, now=now)
        await work.add(connection, scenario, "order", [order_id], now=now)
        if own.balance.use and scenario == "order_placed":
            version = channels[document.channel].version
            await begin_on_balance(connection, stored, own, version, actor=actor, now=now)
    for payment_id, scenario in await payments.waiting_for_order(connection, order_id):
        await work.add(connection, scenario, "payment", [payment_id], now=now)
    if held := await holds.waiting_for_order(connection, order.number):
        await work.add(connection, "authorization", "hold", held, now=now)
    return order_id


async def revise_order(
    connection: AsyncConnection, opened: Installation, document: OrderDocument, *, actor: Actor
) -> int | None:
    """Change a known order to what the shop has of it now: its lines, total and delivery; None if nothing differs.

    Of an order that is closed here it doesn't matter any more.
    That is possible while no money, document or parcel of it is on its way, and while what is held for it covers it.
    Raises OrderError where it differs and can't be changed any more.
    """
    channels = await rules.current(connection)
    wanted = _new_order(document, channels[document.channel].rules)
    ((order_id, _),) = await orders.ids_of(connection, document.number, document.channel)
    before = (await orders.load(connection, [order_id]))[order_id]
    if before.standard_status in CLOSED or _content(before) == _content(wanted):
        return None
    await _refuse_late(connection, before, wanted)
    now = opened.clock()
    await orders.revise(connection, order_id, wanted)
    after = (await orders.load(connection, [order_id]))[order_id]
    try:
        await stock.reserve_anew(connection, before, after, now=now)
    except stock.StockError as error:
        raise OrderError(f"order {document.number}: {error}") from None
    entry = journal.entry(
        actor,
        at=now,
        step="revise",
        move="done",
        order_id=order_id,
        reason="the shop changed the order",
        before={"total": str(before.total), "lines": len(before.lines)},
        after={"total": str(after.total), "lines": len(after.lines)},
    )
    await journal.append(connection, [entry])
    return order_id


def _content(order: Order | orders.NewOrder) -> tuple[object, ...]:
    """Return what of an order can be changed, for comparison."""
    lines = [(line.sku, line.title, line.quantity, line.unit_price, line.vat_rate) for line in order.lines]
    return order.total, lines, order.delivery_method, order.delivery_address, order.on_delivery


async def _refuse_late(connection: AsyncConnection, before: Order, wanted: orders.NewOrder) -> None:
    """Raise OrderError when an order can't be changed any more, and say why."""
    number, kept = before.number, "it stays as it is here"
    status = before.standard_status
    if transition(status, Status.CANCELLED) is not Move.ALLOWED:
        raise OrderError(f"order {number}: the shop changed it, but it is {before.status}; {kept}")
    if before.settled:
        raise OrderError(f"order {number}: the shop changed it, but {before.settled} was paid for it; {kept}")
    for kind in DocumentKind:
        if (live := await documents.live(connection, before.id, kind)) is not None:
            said = f"{kind.replace('_', ' ')} {live['number']} was issued for it"
            raise OrderError(f"order {number}: the shop changed it, but {said}; {kept}")
    if await orders.live_shipment(connection, before.id) is not None:
        raise OrderError(f"order {number}: the shop changed it, but its parcel was ordered; {kept}")
    found = (await holds.of_orders(connection, [before.id])).get(before.id, [])
    held = [one.hold.amount for one in found if one.hold.state is HoldState.HELD]
    if held and wanted.total > max(held):
        raise OrderError(
            f"order {number}: the shop changed it to {wanted.total}, but only {max(held)} is held for it; {kept}"
        )
