"""The scenarios' steps in the order of the documents that describe them; the flows carry them out as a DAG."""

from __future__ import annotations

from collections.abc import Iterable

STEPS: dict[str, tuple[str, ...]] = {
    # Card, paid at once: match → paid → invoice → message → stock → start of dispatch.
    "card": ("match", "status", "invoice", "message", "stock", "dispatch", "message dispatch"),
    # Bank transfer: match → message → invoice → by the rules into the next status / dispatch.
    "bank_transfer": (
        "match",
        "message",
        "invoice",
        "status",
        "message status",
        "stock",
        "dispatch",
        "message dispatch",
    ),
    # Cash on delivery: payment only after delivery → message → invoice.
    "cash_on_delivery": ("match", "message", "invoice", "status", "message status"),
    # Before any money: the goods go unpaid, or the customer gets payment instructions.
    "dispatch_unpaid": ("placed status", "stock", "dispatch", "message dispatch"),
    "order_placed": ("reservation", "proforma", "message placed", "placed status"),
}
"""Steps by scenario. Where money is short, the payment's scenario is match and `message incomplete`."""


def in_order(scenario: str, steps: Iterable[str]) -> list[str]:
    """Sort the steps of one cause as its scenario's document has them; branches of a DAG have no order of their own."""
    places = {step: place for place, step in enumerate(STEPS.get(scenario, ()))}
    return sorted(steps, key=lambda step: places.get(step, len(places)))
