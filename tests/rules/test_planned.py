"""Planned: what the rules would let a step do is said before anybody does it, with the reason where they don't."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rules_builders import rules as made

from domain.money import Money
from domain.orders import Customer, Order, Status
from domain.payments import Method
from domain.planned import Totals, moment_of, no_step
from domain.rules import ChannelRules, Moment


def order(**fields: object) -> Order:
    """Return a paid order of 100 EUR."""
    paid = Order(
        id=1,
        channel="shop",
        number="1042",
        status="paid",
        standard_status=Status.PAID,
        method=Method.CARD,
        total=Money(10000, "EUR"),
        settled=Money(10000, "EUR"),
        placed_at=datetime(2026, 5, 4, tzinfo=UTC),
        customer=Customer(id=1, number="1", name="Jan Novák", email="jan@example.com"),
        lines=(),
    )
    return replace(paid, **fields)  # pyright: ignore[reportArgumentType]


def rules(**card: object) -> ChannelRules:
    """Return rules that do everything for an order paid by card, but for what is said."""
    everything: dict[str, object] = {
        "messages": [{"template": "payment_received", "moment": "paid"}],
        "dispatch": {"start": True, "waits_for": ["payment"]},
    }
    return made(scenarios={"card": everything | card})


@pytest.mark.parametrize("step", ["status", "invoice", "stock", "dispatch", "message"])
def test_a_step_that_the_rules_ask_for_would_be_done(step: str) -> None:
    assert no_step(step, order(), rules()) is None


@pytest.mark.parametrize(
    ("step", "card", "said"),
    [
        ("status", {"change_status": False}, "the status is left to a person by the rules of shop"),
        ("invoice", {"invoice": {"action": "ignore"}}, "no document is issued"),
        ("stock", {"stock": "ignore"}, "stock is left to another system"),
        ("dispatch", {"dispatch": {"start": False}}, "dispatch is left to a person"),
        ("message", {"messages": []}, "no message goes out at this moment"),
        ("sms", {}, "no message goes out at this moment"),
        ("reservation", {}, "nothing is reserved"),
        ("proforma", {}, "no proforma is issued"),
        ("placed status", {}, "a placed order's status is left as it is"),
    ],
)
def test_a_step_that_the_rules_leave_out_is_said_to_be_with_the_rule(
    step: str, card: dict[str, object], said: str
) -> None:
    assert said in (no_step(step, order(), rules(**card)) or "")


def test_what_is_left_out_for_the_orders_own_sake_is_said() -> None:
    unpaid = order(settled=Money(0, "EUR"))
    assert no_step("dispatch", unpaid, rules()) == "dispatch waits for payment: 100.00 EUR is missing"
    cancelled = order(status="cancelled", standard_status=Status.CANCELLED)
    assert no_step("invoice", cancelled, rules()) == "the order is cancelled"
    assert no_step("shop", cancelled, rules()) is None
    unreachable = order(customer=Customer(id=1, number="1", name="Jan Novák"))
    assert no_step("message", unreachable, rules()) == "the customer has no e-mail address"
    assert no_step("message", order(), rules(), quiet=True) == "messages are off"


def test_a_message_belongs_to_its_moment_by_whichever_way_it_goes() -> None:
    said = {
        "message": Moment.PAID,
        "sms": Moment.PAID,
        "sms dispatch": Moment.DISPATCH,
        "message placed": Moment.PLACED,
    }
    assert {step: moment_of(step) for step in said} == said
    assert moment_of("invoice") is None


def test_many_orders_are_counted_by_step_with_the_reasons_and_the_messages_of_each_moment() -> None:
    totals, own = Totals(), rules(invoice={"action": "ignore"})
    steps = [("invoice", None), ("message", None), ("dispatch", None), ("stock", "done")]
    for place in range(3):
        totals.add(steps, order(settled=Money(place * 5000, "EUR")), own, quiet=place == 0)
    assert totals.rows() == [
        {"Step": "invoice", "Would be done": 0, "Would be left out": 3, "Done before": 0},
        {"Step": "message", "Would be done": 2, "Would be left out": 1, "Done before": 0},
        {"Step": "dispatch", "Would be done": 1, "Would be left out": 2, "Done before": 0},
        {"Step": "stock", "Would be done": 0, "Would be left out": 0, "Done before": 3},
    ]
    assert totals.reasons == {
        ("invoice", "no document is issued by the rules of shop"): 3,
        ("message", "messages are off"): 1,
        ("dispatch", "dispatch waits for payment"): 2,
    }
    assert totals.messages == {("paid", "e-mail"): 2}
