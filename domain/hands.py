"""Hands: what a person does with one order, and what speaks against it: a status, a step once more, a step left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import get_args

from domain.orders import CLOSED, Move, Order, Status, transition
from domain.payments import Method
from domain.rules import Moment, Wait, Way
from domain.scenarios import TELLING, message_step

WORK = frozenset({Status.PAID, Status.PROCESSING, Status.IN_PRODUCTION, Status.READY, Status.DISPATCHED})
"""What only an order may become that is paid, or whose money is to come later."""
_GONE = frozenset({Status.DISPATCHED, Status.DELIVERED, Status.COMPLETED})


def waits_for_money(order: Order) -> bool:
    """Say whether an order must not go to work, because money is missing that was to come first."""
    if order.to_pay_now.minor <= 0:
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
        found.append(f"{order.to_pay_now} is missing")
    if meant in _GONE and not shipped:
        found.append("no label was ordered for it")
    if waiting and meant in CLOSED:
        found.append(
            f"steps are still to be done ({', '.join(waiting)}), and none begins for an order that is {wanted}"
        )
    elif waiting and meant in _GONE:
        found.append(f"steps are still to be done ({', '.join(waiting)}); they go on all the same")
    return found


# Once more


class Again(StrEnum):
    """Whether a person can have a step of an order done once more."""

    FREELY = "freely"
    ONCE_GONE = "once the first is gone"
    """There is one of it at a time: a number, a parcel, goods."""
    NEVER = "never"


PRINT = "print"
"""Prints an order's documents once more; a step of no scenario, which only a person asks for."""

_MONEY_BACK = "it takes back what was done for money that has gone back, once for each time that money goes back"
_STATUS = "a status is set, not repeated; set it with `kvit orders status {number} STATUS`"
_REPEATS: dict[str, tuple[Again, str]] = {
    PRINT: (Again.FREELY, ""),
    # The same once more: the other system is brought to where the order stands, or the customer reads it twice.
    **dict.fromkeys(TELLING, (Again.FREELY, "")),
    **{message_step(moment, by): (Again.FREELY, "") for moment in Moment for by in get_args(Way)},
    # A number given twice is two invoices, a label twice two parcels, goods twice are missing in stock.
    "invoice": (
        Again.ONCE_GONE,
        "print it again with `kvit orders repeat {number} print`, or have it credited with `kvit revert {number}`",
    ),
    "proforma": (Again.ONCE_GONE, "print it again with `kvit orders repeat {number} print`"),
    "dispatch": (
        Again.ONCE_GONE,
        "have it cancelled at the carrier, then say so with --gone, and another label is ordered",
    ),
    "stock": (Again.ONCE_GONE, "correct what is in stock with `kvit stock import`"),
    # What decides about money or the order's way, each once for what brought it about.
    "match": (Again.NEVER, "say what a payment is for with `kvit resolve PAYMENT`"),
    "status": (Again.NEVER, _STATUS),
    "placed status": (Again.NEVER, _STATUS),
    "hold status": (Again.NEVER, _STATUS),
    "release status": (Again.NEVER, _STATUS),
    "status back": (Again.NEVER, _STATUS),
    "reservation": (
        Again.NEVER,
        "goods are promised once, when the order is placed; `kvit orders extend {number} --days N` keeps them longer",
    ),
    "capture": (Again.NEVER, "money is taken once; `kvit hold show` shows what is still held"),
    "release": (Again.NEVER, "held money is let go once; `kvit hold show` shows what is still held"),
    "call customer": (Again.NEVER, "it only asks a person to call; call, or `kvit orders extend {number} --days N`"),
    "expire": (Again.NEVER, "end the order with `kvit orders status {number} cancelled`"),
    "cancel dispatch": (Again.NEVER, _MONEY_BACK),
    "restock": (Again.NEVER, f"{_MONEY_BACK}; correct what is in stock with `kvit stock import`"),
    "credit note": (Again.NEVER, _MONEY_BACK),
}
"""Every step, whether it can be repeated, and what to do instead where it can't, or not while the first stands."""


def once_more(step: str) -> Again | None:
    """Return whether a step can be repeated, None for one that there isn't."""
    return _REPEATS[step][0] if step in _REPEATS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """How a step of an order stands before it is repeated.

    last is the state of the latest time that it was begun, None if it never was. stands is what there is of it now,
    such as `consignment RR123`. stopped says why nothing begins for the order any more.
    """

    last: str | None = None
    stands: str | None = None
    stopped: str | None = None


def no_repeat(step: str, number: str, before: Before) -> str | None:
    """Return why a step of an order is not repeated and what to do instead, or None when it may be."""
    if step not in _REPEATS:
        return f"there is no step {step:.60}; `kvit orders show {number}` lists the order's steps"
    again, instead = _REPEATS[step]
    instead = instead.format(number=number)
    if again is Again.NEVER:
        return f"step {step} is not repeated: {instead}"
    if before.last is None and step != PRINT:
        return f"step {step} was never begun for order {number}; `kvit orders run {number} SCENARIO` carries it on"
    if before.last in ("intended", "in_doubt", "rejected"):
        how = {"intended": "is still to be done", "in_doubt": "is in doubt", "rejected": "was refused"}[before.last]
        return f"step {step} of order {number} {how}; say what came of it with `kvit resolve step {number} '{step}'`"
    if step == PRINT and not before.stands:
        return f"order {number} has no document to print"
    if again is Again.ONCE_GONE and before.stands:
        return f"{before.stands} of order {number} stands, and there is one at a time; {instead}"
    if before.stopped and step != PRINT and step not in TELLING:
        return f"{before.stopped}, so step {step} is not done for order {number} any more"
    return None


# Left out


def base_step(step: str) -> str:
    """Return the step by which scenarios name a step: a message by SMS goes under the one by e-mail."""
    return f"message{step.removeprefix('sms')}" if step == "sms" or step.startswith("sms ") else step


def no_skip(step: str) -> str | None:
    """Return why a step can't be left out at all, and what to do instead, or None when it may be."""
    if step == "match":
        return "step match can't be left out; say what becomes of a payment with `kvit resolve PAYMENT --ignore`"
    if step not in _REPEATS or step == PRINT:
        return f"there is no step {step:.60} that could be left out"
    return None


def missed(step: str, later: Collection[str], waits_for: Collection[Wait]) -> list[str]:
    """Return what becomes of an order's later steps when one is left out, a sentence each.

    later are the steps that are still to come; waits_for is what its dispatch waits for by the rules.
    """
    found: list[str] = []
    letters = [one for one in later if base_step(one).startswith("message")]
    waits = {"invoice": Wait.INVOICE, "stock": Wait.STOCK}.get(step)
    if step in ("invoice", "proforma") and letters:
        found.append(f"{', '.join(letters)} will have no {step} with it, unless there is one from before")
    if "dispatch" in later and waits in waits_for:
        found.append(f"dispatch waits for {waits} by the rules, so no label will be ordered")
    if step == "dispatch" and (told := [one for one in later if one in ("message dispatch", "shop note")]):
        found.append(f"{', '.join(told)} will have no parcel to tell of")
    if step in ("status", "placed status") and (told := [one for one in later if one in TELLING]):
        found.append(f"{', '.join(told)} will be told the status that the order has, not the new one")
    if step == "reservation":
        found.append("its goods can be sold to somebody else")
    return found


def unclear(step: str, reason: str | None) -> str:
    """Return what is to be said of leaving out a step of which nobody knows whether it happened."""
    why = f" ({reason})" if reason else ""
    return f"whether step {step} happened is not known{why}; if it did, nothing here will tell of it or take it back"
