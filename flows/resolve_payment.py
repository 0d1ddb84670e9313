"""Resolve payment: a person says what becomes of a payment that the rules left to one, and what it pays goes on."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from domain.by_hand import ByHandError
from tasks.decide import Decision, decide_named, name_by_payment
from tasks.forms import form_field


@flow(name="resolve payment", flow_run_name=name_by_payment)
async def resolve_payment(
    payment: int = form_field("Payment", "Its number, as the table of unmatched payments shows it", 0),
    what: Decision = form_field(
        "What to do",
        "To orders: they are paid by it. Balance: the customer keeps it. Refund: it is to be sent back. "
        "Ignore: nothing. Match again: take back what was said, and let the rules decide",
        Decision.TO,
    ),
    orders: list[str] = form_field(
        "Orders", "To orders: each one's number, such as CZ1042, or with its amount, CZ1042=450.00", []
    ),
    customer: str = form_field(
        "Customer", "Balance: the customer's number, where the orders that the payment names don't tell", ""
    ),
    because: str = form_field("Because", "Why; it stands in the history of the payment and its orders", ""),
    channel: str = form_field("Channel", "Needed when a number is used in several", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Check → write down → the orders are carried on."""
    if not payment:
        return Failed(name="Refused", message="say which payment it is")
    try:
        decided = await decide_named(
            payment,
            what,
            to=orders,
            customer=customer or None,
            channel=channel or None,
            author=author,
            because=because,
        )
    except ByHandError as error:
        return Failed(name="Refused", message=str(error))
    again = "" if decided.changed else "it was so already: "
    return Completed(name="Done", message=f"payment {payment}: {again}{decided.reason}")
