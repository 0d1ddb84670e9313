"""Reverting: what can be taken back of what a payment caused, how, and what can't be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from domain.orders import Status
from domain.scenarios import TELLING

HANDED_OVER = frozenset({Status.DISPATCHED, Status.DELIVERED, Status.COMPLETED, Status.RETURNED})
"""Statuses in which the parcel is out of the shop's hands."""


class Way(StrEnum):
    """What becomes of an effect when its order is taken back to before the payment."""

    REVERSIBLE = "reversible"
    """It is as if it had never been, but for the history."""
    COMPENSABLE = "compensable"
    """It stays, and something is set against it: a credit note, a restock, a cancelled label."""
    IRREVERSIBLE = "irreversible"
    NOTHING = "nothing"
    """It did nothing, or was taken back before."""
    IN_THE_WAY = "in the way"
    """Whether it happened has to be known first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One effect in the plan of a revert, with what becomes of it in words."""

    effect_id: int
    step: str
    reference: str | None
    way: Way
    said: str


def way_back(
    step: str, state: str, reference: str | None, *, undone: bool, live: bool, status: Status
) -> tuple[Way, str]:
    """Return what becomes of one effect; status is its order's, live says that a worker is at it, or died at it."""
    if live:
        return (
            Way.IN_THE_WAY,
            "it is being carried out right now, or was by a worker that is gone; try again in a minute",
        )
    if state == "in_doubt":
        return Way.IN_THE_WAY, "whether it happened is not known; settle it first with `kvit resolve step`"
    if undone:
        return Way.NOTHING, "taken back before"
    if state in ("intended", "rejected"):
        return Way.NOTHING, "it has not happened, and won't"
    if state == "skipped":
        return Way.NOTHING, "there was nothing to do"
    named = f" {reference}" if reference else ""
    if step.startswith(("message", "sms")):
        return Way.IRREVERSIBLE, f"the message was sent{named and f' ({reference})'}; the customer has it"
    if step == "dispatch" and status in HANDED_OVER:
        return Way.IRREVERSIBLE, f"parcel{named} was handed over to the carrier"
    if step == "second receipt":
        return Way.IRREVERSIBLE, f"receipt{named} is registered; a refund's own receipt takes it back"
    if step in TELLING:
        return Way.NOTHING, f"{step} is told anew how the order stands"
    return {
        "status": (Way.REVERSIBLE, f"the status goes back{named and f' ({reference})'}"),
        "stock": (Way.COMPENSABLE, f"the goods are put back into stock{named and f' ({reference})'}"),
        "invoice": (Way.COMPENSABLE, f"document{named} is taken back, an invoice by a credit note"),
        "dispatch": (Way.COMPENSABLE, f"label{named} is cancelled at the carrier"),
    }.get(step, (Way.IRREVERSIBLE, f"step {step} can't be taken back"))
