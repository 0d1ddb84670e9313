"""The scenarios' steps in the order of the documents that describe them; the flows carry them out as a DAG."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from domain.payments import Kind, Method

if TYPE_CHECKING:
    from domain.rules import Moment, Way

STEPS: dict[str, tuple[str, ...]] = {
    # Card, paid at once: match → paid → invoice → message → stock → start of dispatch.
    "card": (
        "match",
        "status",
        "invoice",
        "message",
        "stock",
        "dispatch",
        "message dispatch",
        "shop",
        "crm",
        "shop note",
    ),
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
        "shop",
        "crm",
        "shop note",
    ),
    # Cash on delivery: payment only after delivery → message → invoice.
    "cash_on_delivery": (
        "match",
        "message",
        "invoice",
        "status",
        "message status",
        "shop",
        "crm",
        "second receipt",
    ),
    # Before any money: the goods go unpaid, or the customer gets payment instructions.
    "dispatch_unpaid": ("placed status", "stock", "dispatch", "message dispatch", "shop", "crm", "shop note"),
    "order_placed": ("reservation", "proforma", "message placed", "placed status", "shop", "crm"),
    # "Assembling starts at once, the money comes later": on credit, with an invoice that says when it is due.
    "deferred": (
        "invoice",
        "message placed",
        "placed status",
        "stock",
        "dispatch",
        "message dispatch",
        "shop",
        "crm",
        "shop note",
    ),
    # Nothing was paid yet, and the day has come on which something is to be done about it.
    "remind": ("message reminder",),
    "overdue": ("message overdue",),
    "last_day": ("call customer",),
    "expire": ("expire", "shop", "crm"),
    # A card was authorized: on hold → letter; an operator edits the order, then captures or releases the money.
    "authorization": ("hold status", "message held", "shop", "crm"),
    "capture": ("capture",),
    "release": ("release", "release status", "shop", "crm"),
    # A status that no payment brought about: the other systems are told of it; the goods may be handed over.
    "status_changed": ("shop", "crm", "second receipt"),
    # What a person has repeated: whichever step that is, once more.
    "by_hand": (),
    # Money that went back: what its channel's rules take back of what was done.
    "money_back": ("match", "cancel dispatch", "restock", "credit note", "status back", "shop", "crm"),
}
"""Steps by scenario. Where money is short, the payment's scenario is that of `SHORT`.

A message that goes by SMS is a step of its own beside the one by e-mail: `sms` beside `message`, and so on.
"""

SHORT = ("match", "message incomplete")
"""Steps of a payment, in whichever scenario, that leaves some of an order's money open."""

TIMED = frozenset({"remind", "overdue", "last_day", "expire"})
"""Scenarios whose time is set when the order is placed; nothing else makes them due."""

DECIDED = frozenset({"capture", "release"})
"""Scenarios in which what somebody decided about held money is carried out."""

TELLING = frozenset({"shop", "crm", "shop note", "second receipt"})
"""Steps that tell other systems how an order stands; only channels have them that name a shop, a CRM, or when goods are
handed over for the tax office."""


def message_step(moment: Moment, by: Way) -> str:
    """Return the name of the step that sends the message of a moment: `message`, `sms dispatch`."""
    name = "message" if by == "email" else "sms"
    return name if moment == "paid" else f"{name} {moment}"


def scenario_of(method: Method, kind: Kind = Kind.PAYMENT) -> str:
    """Return the scenario that carries a payment on."""
    return method.value if kind in (Kind.PAYMENT, Kind.RETURN) else "money_back"


def beginning_of(method: Method, *, on_credit: bool = False) -> str:
    """Return the scenario with which a placed order begins; only one that has a term can go on credit."""
    if method is Method.CASH_ON_DELIVERY:
        return "dispatch_unpaid"
    return "deferred" if on_credit and has_term(method) else "order_placed"


def has_term(method: Method) -> bool:
    """Say whether days are set, when an order is placed, on which something is done about its money."""
    return method is Method.BANK_TRANSFER


def steps_by_method(method: Method) -> frozenset[str]:
    """Return all steps that there can be for an order of a method: placed, held, waiting for its money, and paid.

    A card can be authorized for any order. Paid in another way than was chosen, an order goes by the other scenario,
    and still by the rules of its own method.
    """
    scenarios = {beginning_of(method, on_credit=on_credit) for on_credit in (False, True)}
    scenarios |= {"authorization", scenario_of(method)} | (TIMED if has_term(method) else set[str]())
    return frozenset(step for scenario in scenarios for step in STEPS[scenario]).union(SHORT)


def in_order(scenario: str, steps: Iterable[str]) -> list[str]:
    """Sort the steps of one cause as its scenario's document has them; branches of a DAG have no order of their own."""
    places = {step: place for place, step in enumerate(STEPS.get(scenario, ()))}
    return sorted(steps, key=lambda step: places.get(step, len(places)))


def cause_of(subject: str, subject_id: int, round_: int = 1) -> str:
    """Return the cause that a subject's effects carry as a part of their key: `payment:17`, `order:4`, `revert:2`.

    A payment that was taken back and matched anew is in a later round, `payment:17#2`: what it causes now is not what
    it caused before.
    """
    return f"{subject}:{subject_id}" if round_ == 1 else f"{subject}:{subject_id}#{round_}"


def cause_of_decision(hold_id: int) -> str:
    """Return the cause of what is done because somebody decided about a hold.

    It is another one than that of what the authorization brought about: both tell the same systems of the order.
    """
    return cause_of("hold", hold_id, 2)


def subject_of(cause: str) -> tuple[str, int]:
    """Return the subject and its id that a cause names, whatever its round; `undo:9` names the effect taken back."""
    subject, _, rest = cause.partition(":")
    return subject, int(rest.partition("#")[0])


def round_of(cause: str) -> int:
    """Return the round that a cause names, 1 for the first."""
    return int(cause.partition("#")[2] or 1)
