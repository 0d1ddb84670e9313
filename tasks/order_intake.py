"""Order intake: an order that a shop hands over is stored once, and changed while nothing was done about it yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.holds import HoldState
from domain.matching import names_of
from domain.order_document import OrderDocument, OrderError
from domain.orders import CLOSED, Move, Order, Status, transition
from domain.rules import ChannelRules, DocumentKind
from store import documents, holds, journal, orders, payments, rules, stock, work
from store.journal import Actor
from store.rules import Versioned
from tasks.balance import begin_on_balance
from tasks.installation import Installation
from tasks.waiting import Beginning, beginning, within_limit

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


@dataclass(frozen=True, slots=True)
class _Coming:
    """An order that is to be stored, with the rules for its customer and how it begins, if it awaits its money."""

    order: orders.NewOrder
    own: ChannelRules
    version: int
    begins: Beginning | None

    @property
    def pays_from_balance(self) -> bool:
        return self.begins is not None and self.own.balance.use


def _coming(document: OrderDocument, channels: Mapping[str, Versioned], now: datetime) -> _Coming:
    if document.channel not in channels:
        known = ", ".join(channels) or "none yet; apply its rules first with `kvit rules apply FILE`"
        raise OrderError(f"order {document.number}: channel “{document.channel}” is not known; there is {known}")
    channel = channels[document.channel]
    order = _new_order(document, channel.rules)
    own = channel.rules.for_customer(group=order.group, customer=order.customer_number)
    if order.standard_status not in _AWAITS_MONEY:
        return _Coming(order, own, channel.version, None)
    begins = beginning(order.method, own, document.due_on, now=now)
    order = replace(order, reserved_until=begins.reserved_until, due_on=begins.due_on)
    return _Coming(order, own, channel.version, begins)


async def take_order(
    connection: AsyncConnection, opened: Installation, document: OrderDocument, *, actor: Actor
) -> int | None:
    """Store an order, make its scenario due, and with it the payments that came before it; None if it is known.

    Raises OrderError for an unknown channel or status, or another currency than the channel's.
    """
    (taken,) = await take_orders(connection, opened, [document], actor=actor)
    if isinstance(taken, OrderError):
        raise taken
    return taken


async def take_orders(
    connection: AsyncConnection, opened: Installation, documents: Sequence[OrderDocument], *, actor: Actor
) -> list[int | OrderError | None]:
    """Take in orders as `take_order` does one after the other; return by their places what came of each.

    An error stands in the place of an order that is refused, and the others are stored. Matchings wait until the
    transaction ends, so hand over some hundreds of orders at most.
    """
    await orders.take_turns(connection, [document.channel for document in documents])
    channels = await rules.current(connection)
    now = opened.clock()
    taken: list[int | OrderError | None] = [None] * len(documents)
    coming: dict[int, _Coming] = {}
    for place, document in enumerate(documents):
        try:
            coming[place] = _coming(document, channels, now)
        except OrderError as error:
            taken[place] = error
    if not coming:
        return taken
    await payments.begin_to_change(connection)  # before the customers are locked, as everywhere
    ids = await orders.add_all(connection, [one.order for one in coming.values()], now=now, actor=actor)
    new: dict[int, _Coming] = {}
    for (place, one), order_id in zip(coming.items(), ids, strict=True):
        taken[place] = order_id
        if order_id is not None:
            new[order_id] = one
    await _begin(connection, new, actor=actor, now=now)
    came_before = await payments.waiting_for_orders(connection, list(new))
    due = sorted((scenario, id_, now) for id_, scenario in came_before)
    await work.add_all(connection, "payment", due, now=now)
    held = await holds.waiting_for_orders(connection, {one.order.number for one in new.values()})
    await work.add(connection, "authorization", "hold", held, now=now)
    return taken


async def _begin(connection: AsyncConnection, new: Mapping[int, _Coming], *, actor: Actor, now: datetime) -> None:
    """Make due how stored orders begin, and what their terms say is done later."""
    begun = {id_: one.begins for id_, one in new.items() if one.begins}
    # What an order may take of its customer's credit or balance depends on the orders before it.
    asking = [id_ for id_, begins in begun.items() if begins.weighed or new[id_].pays_from_balance]
    stored = await orders.load(connection, asking) if asking else {}
    ids = list(new)
    for id_ in asking:
        one, order = new[id_], stored[id_]
        besides = ids[ids.index(id_) :]
        if begun[id_].weighed and not await within_limit(connection, order, one.own, besides=besides):
            begins = beginning(order.method, one.own, order.due_on, now=now, beyond_limit=True)
            begun[id_] = begins
            await orders.set_term(
                connection, id_, reserved_until=begins.reserved_until, due_on=begins.due_on, extended=0
            )
        if one.pays_from_balance and begun[id_].scenario == "order_placed":
            await begin_on_balance(connection, order, one.own, one.version, actor=actor, now=now)
    due: list[tuple[str, int, datetime]] = []
    for id_, begins in begun.items():
        due += [(scenario, id_, max(at, now)) for scenario, at in begins.due.items()]
        due.append((begins.scenario, id_, now))
    await work.add_all(connection, "order", due, now=now)


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
