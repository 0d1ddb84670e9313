"""Stock: reserve what an order will need, deduct what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.errors import Rejected
from domain.orders import Order
from domain.rules import ChannelRules, StockAction
from store import stock
from tasks.step import Entry, Receipt, Skip, Transaction, WriteAll, step


def moved(quantities: dict[str, int]) -> str | None:
    """Say how much of which articles was moved, or None for nothing."""
    return ", ".join(f"{quantity} × {sku}" for sku, quantity in sorted(quantities.items())) or None


def _take_all(kind: str, called: str) -> WriteAll:
    """Return what takes the goods of many orders at once; called is the word for it."""

    async def write_all(wanted: Sequence[tuple[Transaction, Order]]) -> list[Receipt | Skip | Rejected]:
        first = wanted[0][0]
        orders = [(order, transaction.effect_id) for transaction, order in wanted]
        results: list[Receipt | Skip | Rejected] = []
        for taken in await stock.take_all(first.connection, kind, orders, now=first.now):
            if isinstance(taken, stock.StockError):
                results.append(Rejected(str(taken)))
            elif taken:
                results.append(Receipt(reference=moved(taken), after={called: taken}))
            else:
                results.append(Skip(f"{called} before"))
        return results

    return write_all


_DEDUCT = _take_all("deduct", "deducted")
_RESERVE = _take_all("reserve", "reserved")


@step("stock", local=True)
async def deduct_stock(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Take the order's goods out of stock, once per line."""
    if rules.scenario_of(order).stock is StockAction.IGNORE:
        return Skip(f"the rules of {rules.channel} leave stock to another system")
    return Receipt(write_all=_DEDUCT, subject=order)


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
    return Receipt(write_all=_RESERVE, subject=order)


reserve_stock.undo(restock)
