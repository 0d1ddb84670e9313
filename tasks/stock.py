"""Stock: reserve what an order will need, deduct what it takes."""

from __future__ import annotations

from connectors.errors import Rejected
from domain.orders import Order
from domain.rules import ChannelRules, StockAction
from store import stock
from tasks.step import Entry, Receipt, Skip, Transaction, step


def moved(quantities: dict[str, int]) -> str | None:
    """Say how much of which articles was moved, or None for nothing."""
    return ", ".join(f"{quantity} × {sku}" for sku, quantity in sorted(quantities.items())) or None


@step("stock", local=True)
async def deduct_stock(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Take the order's goods out of stock, once per line."""
    if rules.scenarios.of(order.method).stock is StockAction.IGNORE:
        return Skip(f"the rules of {rules.channel} leave stock to another system")

    async def write(transaction: Transaction) -> Receipt | Skip:
        try:
            taken = await stock.deduct(
                transaction.connection, order, effect_id=transaction.effect_id, now=transaction.now
            )
        except stock.StockError as error:
            raise Rejected(str(error)) from error
        return Receipt(reference=moved(taken), after={"deducted": taken}) if taken else Skip("deducted before")

    return Receipt(write=write)


@deduct_stock.undo
async def restock(order: Order, entry: Entry, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Put back exactly what was deducted or reserved, and not yet put back."""

    async def write(transaction: Transaction) -> Receipt | Skip:
        returned = await stock.give_back(
            transaction.connection, order, effect_id=transaction.effect_id, now=transaction.now
        )
        return Receipt(reference=moved(returned), before=entry.after, after={"given_back": returned})

    return Receipt(write=write)


@step("reservation", local=True)
async def reserve_stock(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Set the order's goods aside until it is paid."""
    if not rules.placed.of(order.method).reserve_stock:
        return Skip(f"the rules of {rules.channel} reserve nothing for such orders")

    async def write(transaction: Transaction) -> Receipt | Skip:
        try:
            taken = await stock.reserve(
                transaction.connection, order, effect_id=transaction.effect_id, now=transaction.now
            )
        except stock.StockError as error:
            raise Rejected(str(error)) from error
        return Receipt(reference=moved(taken), after={"reserved": taken}) if taken else Skip("reserved before")

    return Receipt(write=write)


reserve_stock.undo(restock)
