"""Planned: what the rules would let a step do for an order as it stands now, before anybody does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from domain.hands import base_step
from domain.orders import CLOSED, Order
from domain.rules import ChannelRules, InvoiceAction, Moment, StockAction, Template, Wait
from domain.scenarios import STEPS, TELLING


def moment_of(step: str) -> Moment | None:
    """Return the moment whose message a step sends, None for a step that sends none."""
    base = base_step(step)
    if base != "message" and not base.startswith("message "):
        return None
    return Moment(base.removeprefix("message").strip() or Moment.PAID.value)


def no_step(step: str, order: Order, own: ChannelRules, *, quiet: bool = False) -> str | None:
    """Return why a step would be left out for an order by the rules that hold for it, or None when it would be done.

    quiet says that nobody gets a message. What only the outside systems know, such as whether goods are there, is not
    looked at.
    """
    if order.standard_status in CLOSED and step not in TELLING:
        return f"the order is {order.status}"
    if (moment := moment_of(step)) is not None:
        return _no_message(step, moment, order, own, quiet=quiet)
    scenario, placed = own.scenario_of(order), own.placed.of(order.method)
    left_out: dict[str, tuple[bool, str]] = {
        "status": (not scenario.change_status, "the status is left to a person"),
        "invoice": (scenario.invoice.action is InvoiceAction.IGNORE, "no document is issued"),
        "stock": (scenario.stock is StockAction.IGNORE, "stock is left to another system"),
        "dispatch": (not scenario.dispatch.start, "dispatch is left to a person"),
        "reservation": (not placed.reserve_stock, "nothing is reserved"),
        "proforma": (not placed.proforma, "no proforma is issued"),
        "shop note": (not scenario.dispatch.note, "no note is left in the shop"),
    }
    by_rules, said = left_out.get(step, (False, ""))
    if by_rules:
        return f"{said} by the rules of {own.channel}"
    if step == "proforma" and order.to_pay_now.minor <= 0:
        return "the order is paid already"
    if step == "placed status" and (placed.status if order.due_on is None else placed.deferred_status) is None:
        return f"a placed order's status is left as it is by the rules of {own.channel}"
    unpaid = Wait.PAYMENT in scenario.dispatch.waits_for and order.to_pay_now.minor > 0 and order.due_on is None
    if step == "dispatch" and unpaid:
        return f"dispatch waits for payment: {order.to_pay_now} is missing"
    return None


def _no_message(step: str, moment: Moment, order: Order, own: ChannelRules, *, quiet: bool) -> str | None:
    by = "sms" if step.startswith("sms") else "email"
    rule = own.scenario_of(order).message(moment, by)
    if rule is None:
        return f"no message goes out at this moment by the rules of {own.channel}"
    if quiet:
        return "messages are off"
    if moment is Moment.INCOMPLETE and order.to_pay_now.minor <= 0:
        return "the rest has come meanwhile"
    if rule.template in (Template.PROFORMA, Template.PAYMENT_REMINDER) and order.to_pay_now.minor <= 0:
        return "the order is paid already"
    reached = order.customer.email if by == "email" else order.customer.phone
    return None if reached else f"the customer has no {'e-mail address' if by == 'email' else 'phone number'}"


# One scenario, and many


DO, SKIP, LOOK = "would be done", "would be left out", "would be looked at"
SAID = {
    "done": "done before",
    "skipped": "left out before",
    "rejected": "waits for a person",
    "in_doubt": "is asked about first",
    "intended": "would go on",
}
"""What becomes of a step that has begun, by its state."""
ENDED = frozenset({SAID["done"], SAID["skipped"]})
_BY_MONEY = frozenset(STEPS["money_back"]) - TELLING
"""Steps of which the rules decide by how the money went back."""


def steps_of(scenario: str) -> list[str]:
    """Return a scenario's steps, each message by both ways; a payment that it carries on is matched already."""
    found: list[str] = []
    for step in STEPS.get(scenario, ()):
        if step == "match":
            continue
        found.append(step)
        if moment_of(step) is not None:
            found.append(step.replace("message", "sms", 1))
    return found


def planned_step(
    step: str, state: str | None, order: Order, own: ChannelRules, *, quiet: bool = False
) -> tuple[str, str]:
    """Return what would become of a step and why; state is how it stands, None before it has begun."""
    if state is not None:
        return SAID[state], ""
    if step in _BY_MONEY:
        return LOOK, ""
    why = no_step(step, order, own, quiet=quiet)
    return (SKIP, why) if why else (DO, "")


@dataclass(slots=True)
class Totals:
    """What would become of many orders: steps by (step, what), reasons by (step, why), messages by (moment, way)."""

    steps: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    messages: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def add(
        self,
        steps: Iterable[tuple[str, str | None]],
        order: Order,
        own: ChannelRules,
        *,
        quiet: bool,
    ) -> None:
        """Count an order's steps, each with how it stands."""
        for step, state in steps:
            would, why = planned_step(step, state, order, own, quiet=quiet)
            self.steps[step, would] += 1
            if would == SKIP:
                # Without what is of one order alone, such as its amount.
                self.reasons[step, why.partition(":")[0]] += 1
            elif would == DO and (moment := moment_of(step)) is not None:
                self.messages[moment.value, "SMS" if step.startswith("sms") else "e-mail"] += 1

    def rows(self) -> list[dict[str, str | int]]:
        """Return the steps as a table, a row for each in the order in which they are met."""
        whats = [DO, SKIP, LOOK, *SAID.values()]
        used = [what for what in whats if any(known == what for _, known in self.steps)]
        names = dict.fromkeys(step for step, _ in self.steps)
        return [{"Step": step} | {what.capitalize(): self.steps[step, what] for what in used} for step in names]
