"""Hands: what speaks against a status that a person gives an order."""

from __future__ import annotations

from collections.abc import Sequence

from domain.orders import CLOSED, Move, Order, Status, transition
from domain.payments import Method

WORK = frozenset({Status.PAID, Status.PROCESSING, Status.IN_PRODUCTION, Status.READY, Status.DISPATCHED})
"""What only an order may become that is paid, or whose money is to come later."""
_GONE = frozenset({Status.DISPATCHED, Status.DELIVERED, Status.COMPLETED})


def waits_for_money(order: Order) -> bool:
    """Say whether an order must not go to work, because money is missing that was to come first."""
    if order.to_pay.minor <= 0:
        return False
    money_later = order.method is Method.CASH_ON_DELIVERY or order.due_on is not None
    return not money_later or order.standard_status is Status.AWAITING_PAYMENT


def doubts(order: Order, wanted: str, meant: Status, *, shipped: bool, waiting: Sequence[str]) -> list[str]:
    """Return what speaks against giving an order a status, a sentence each.

    meant is the standard status that it stands for; shipped says that the order has a consignment or needs none;
    waiting are its steps that have not ended.
    """
    found: list[str] = []
    move = transition(order.standard_status, meant)
    if move is Move.FORBIDDEN:
        reopened = "; what was freed of its goods is not reserved again" if order.standard_status in CLOSED else ""
        found.append(f"an order that is {order.status} does not become {wanted}{reopened}")
    elif move is Move.ALREADY and meant != order.standard_status:
        found.append(f"an order that is {order.status} would go back to {wanted}; nothing that was done is taken back")
    if (meant in WORK or meant in _GONE) and waits_for_money(order):
        found.append(f"{order.to_pay} is missing")
    if meant in _GONE and not shipped:
        found.append("no label was ordered for it")
    if waiting and meant in CLOSED:
        found.append(
            f"steps are still to be done ({', '.join(waiting)}), and none begins for an order that is {wanted}"
        )
    elif waiting and meant in _GONE:
        found.append(f"steps are still to be done ({', '.join(waiting)}); they go on all the same")
    return found
