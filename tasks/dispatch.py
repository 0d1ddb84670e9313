"""Dispatch: the carrier's label is ordered once what the rules wait for has happened."""

from __future__ import annotations

from typing import Any

from connectors.errors import Rejected
from connectors.roles import Carrier, Consignment, Shipment
from domain.money import Money
from domain.orders import Order
from domain.payments import Method
from domain.references import compact
from domain.rules import ChannelRules, DocumentKind, EvidenceKind, Wait
from store import documents, orders, stock
from tasks import holds
from tasks.installation import installation
from tasks.step import Entry, Receipt, Skip, Transaction, step


def consignment_of(order: Order, rules: ChannelRules) -> Consignment:
    """Return what the carrier is asked to take, with what it collects of an order that isn't paid."""
    whole = order.method is Method.CASH_ON_DELIVERY
    owed = order.to_pay if whole else order.to_collect
    return Consignment(
        order_number=order.number,
        sender=rules.seller,
        recipient=order.delivery_address if order.delivery_address.name else order.customer.address,
        phone=order.customer.phone,
        collect=owed if owed.minor > 0 else None,
        only_delivery=not whole and owed.minor > 0,
        note=order.delivery_method or "",
    )


async def _missing(order: Order, rules: ChannelRules) -> str | None:
    """Return what dispatch still waits for, in words, or None when nothing."""
    waits = rules.scenario_of(order).dispatch.waits_for
    if Wait.PAYMENT in waits and order.to_pay_now.minor > 0 and order.due_on is None:
        return f"payment: {order.to_pay_now} is missing"
    opened = await installation()
    async with opened.store.read() as connection:
        if order.method is Method.CARD and (said := await holds.dead(connection, order)):
            return said
        if Wait.INVOICE in waits and await documents.live(connection, order.id, DocumentKind.INVOICE) is None:
            return "the invoice"
        if Wait.STOCK in waits and not await stock.is_deducted(connection, order):
            return "the goods to be deducted from stock"
    return None


def _ordered(
    order: Order, rules: ChannelRules, consignment: Consignment, shipment: Shipment, *, settled: Money | None
) -> Receipt:
    """Return the receipt of a consignment; settled is what was paid when it was ordered, None if that isn't known."""

    async def write(transaction: Transaction) -> None:
        await orders.add_shipment(
            transaction.connection,
            {
                "order_id": order.id,
                "carrier": rules.connectors.carrier,
                "tracking_number": shipment.tracking_number,
                "currency": order.total.currency,
                "collect_minor": consignment.collect.minor if consignment.collect else 0,
                "settled_minor": settled.minor if settled else None,
                "label": shipment.label,
                "effect_id": transaction.effect_id,
                "live": True,
                "created_at": transaction.now,
            },
        )
        # The carrier's remittance names the consignment, not always the order.
        await orders.add_order_reference(
            transaction.connection, order.id, EvidenceKind.TRACKING_NUMBER, compact(shipment.tracking_number)
        )

    collect = str(consignment.collect) if consignment.collect else None
    return Receipt(
        reference=shipment.tracking_number,
        after={"tracking_number": shipment.tracking_number, "collect": collect},
        write=write,
    )


@step("dispatch", system=lambda rules: rules.connectors.carrier, one_per_order=True)
async def start_dispatch(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Order the carrier's label, with the amount to collect when the order is not paid yet."""
    if missing := await _missing(order, rules):
        return Skip(f"dispatch waits for {missing}")
    opened = await installation()
    async with opened.store.read() as connection:
        live = await orders.live_shipment(connection, order.id)
    if live is not None:
        return Skip(f"consignment {live['tracking_number']} was ordered before")
    carrier = opened.connector(rules.connectors.carrier, Carrier)
    consignment = consignment_of(order, rules)
    return _ordered(order, rules, consignment, await carrier.create(consignment, key), settled=order.settled)


@start_dispatch.unless
def without_dispatch(order: Order, rules: ChannelRules) -> Skip | None:
    """Say that the rules leave dispatch to a person in the order's scenario."""
    if rules.scenario_of(order).dispatch.start:
        return None
    return Skip(f"the rules of {rules.channel} leave dispatch to a person")


@start_dispatch.lookup
async def find_consignment(order: Order, rules: ChannelRules, key: str) -> Receipt | None:
    """Ask the carrier whether it took the consignment on."""
    opened = await installation()
    consignment = consignment_of(order, rules)
    shipment = await opened.connector(rules.connectors.carrier, Carrier).find(consignment, key)
    return _ordered(order, rules, consignment, shipment, settled=None) if shipment else None


@start_dispatch.told
async def told_consignment(order: Order, rules: ChannelRules, key: str, reference: str) -> Receipt:  # noqa: ARG001 - as told
    """Write down the consignment that a person says was ordered."""
    if not reference:
        raise Rejected("give the consignment's tracking number with --reference")
    opened = await installation()
    async with opened.store.read() as connection:
        live = await orders.live_shipment(connection, order.id)
    if live is not None:
        raise Rejected(f"consignment {live['tracking_number']} of this order is on its way already")
    return _ordered(order, rules, consignment_of(order, rules), Shipment(tracking_number=reference), settled=None)


def cancelled(live: dict[str, Any], *, before: dict[str, Any]) -> Receipt:
    """Return the receipt whose writing ends a consignment that the carrier has cancelled."""

    async def write(transaction: Transaction) -> None:
        await orders.cancel_shipment(transaction.connection, live["id"])

    return Receipt(reference=live["tracking_number"], before=before, write=write)


async def cancelled_by_hand(order: Order) -> Receipt:
    """Return the receipt for a consignment that a person says was cancelled; without a live one nothing is written."""
    opened = await installation()
    async with opened.store.read() as connection:
        live = await orders.live_shipment(connection, order.id)
    return cancelled(live, before={"tracking_number": live["tracking_number"]}) if live else Receipt()


@start_dispatch.undo
async def cancel_consignment(order: Order, entry: Entry, key: str) -> Receipt | Skip:
    """Cancel the label, unless another one took its place."""
    opened = await installation()
    async with opened.store.read() as connection:
        live = await orders.live_shipment(connection, order.id)
    if live is None or live["tracking_number"] != entry.reference:
        return Skip(f"consignment {entry.reference} is not live any more")
    await opened.connector(live["carrier"], Carrier).cancel(live["tracking_number"], key)
    return cancelled(live, before=entry.after)


@start_dispatch.undo_told
async def told_cancelled(order: Order, entry: Entry, key: str, reference: str) -> Receipt:  # noqa: ARG001 - as told
    """Write down that the carrier has cancelled the label."""
    return await cancelled_by_hand(order)


@start_dispatch.undo_lookup
async def find_cancelled(order: Order, entry: Entry, key: str) -> Receipt | None:  # noqa: ARG001 - a lookup's shape
    """Say that cancelling may be asked for again: of a cancelled consignment it changes nothing."""
    return None
