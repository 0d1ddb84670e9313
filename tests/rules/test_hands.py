"""Hands: what speaks against what a person does with an order, and what to do instead."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from domain.hands import PRINT, Again, Before, doubts, missed, no_repeat, no_skip, once_more
from domain.money import Money
from domain.orders import Customer, Order, Status
from domain.payments import Method
from domain.rules import Wait
from domain.scenarios import STEPS


def order(status: Status = Status.PAID, *, settled: int = 10000, method: Method = Method.CARD) -> Order:
    """Return an order of 100 EUR."""
    return Order(
        id=1,
        channel="shop",
        number="1042",
        status=status.value,
        standard_status=status,
        method=method,
        total=Money(10000, "EUR"),
        settled=Money(settled, "EUR"),
        placed_at=datetime(2026, 5, 4, tzinfo=UTC),
        customer=Customer(id=1, number="1", name="Jan Novák"),
        lines=(),
    )


@pytest.mark.parametrize(
    ("of", "wanted", "shipped", "waiting", "said"),
    [
        (order(), Status.PROCESSING, False, ["invoice"], []),
        (order(), Status.DISPATCHED, True, [], []),
        (order(), Status.CANCELLED, False, [], []),
        (order(settled=0), Status.CANCELLED, False, [], []),
        (order(settled=0, method=Method.CASH_ON_DELIVERY), Status.PROCESSING, False, [], []),
        (order(Status.NEW, settled=4000), Status.PROCESSING, False, [], ["60.00 EUR is missing"]),
        (order(Status.NEW, settled=0), Status.COMPLETED, True, [], ["100.00 EUR is missing"]),
        (replace(order(settled=6000), on_delivery=Money(4000, "EUR")), Status.PROCESSING, False, [], []),
        (replace(order(settled=5000), on_delivery=Money(4000, "EUR")), Status.READY, False, [], ["10.00 EUR is"]),
        (order(), Status.DISPATCHED, False, [], ["no label was ordered"]),
        (order(), Status.DISPATCHED, True, ["invoice"], ["still to be done (invoice); they go on"]),
        (order(), Status.CANCELLED, True, ["invoice", "stock"], ["(invoice, stock), and none begins"]),
        (order(), Status.NEW, False, [], ["would go back to new"]),
        (order(Status.DISPATCHED), Status.CANCELLED, True, [], ["that is dispatched does not become cancelled"]),
        (order(Status.CANCELLED), Status.PAID, True, [], ["what was freed of its goods is not reserved again"]),
    ],
)
def test_what_speaks_against_a_status_is_said_and_nothing_else(
    of: Order, wanted: Status, shipped: bool, waiting: list[str], said: list[str]
) -> None:
    found = doubts(of, wanted.value, wanted, shipped=shipped, waiting=waiting)
    assert len(found) == len(said), found
    for text, part in zip(found, said, strict=True):
        assert part in text


DONE = Before(last="done")


def test_of_every_step_it_is_said_whether_it_can_be_repeated() -> None:
    every = {step for steps in STEPS.values() for step in steps}
    assert {step for step in every if once_more(step) is None} == set()
    assert {step for step in every if once_more(step) is Again.ONCE_GONE} == {
        "invoice",
        "proforma",
        "dispatch",
        "stock",
    }


@pytest.mark.parametrize("step", ["message", "sms dispatch", "shop", "crm", "shop note", PRINT])
def test_what_only_tells_can_be_repeated_as_often_as_somebody_wants(step: str) -> None:
    assert no_repeat(step, "CZ1", Before(last="done", stands="invoice 7")) is None
    assert no_repeat(step, "CZ1", Before(last="skipped", stands="invoice 7")) is None


@pytest.mark.parametrize(
    ("step", "before", "said"),
    [
        ("capture", DONE, "step capture is not repeated: money is taken once"),
        ("status", DONE, "set it with `kvit orders status CZ1 STATUS`"),
        ("match", DONE, "`kvit resolve PAYMENT`"),
        (
            "invoice",
            Before(last="done", stands="invoice 7"),
            "invoice 7 of order CZ1 stands, and there is one at a time",
        ),
        ("invoice", Before(last="done", stands="invoice 7"), "`kvit orders repeat CZ1 print`"),
        ("dispatch", Before(last="done", stands="consignment RR1"), "say so with --gone"),
        ("stock", Before(last="done", stands="what was deducted"), "`kvit stock import`"),
        ("message", Before(), "step message was never begun for order CZ1; `kvit orders run CZ1 SCENARIO`"),
        ("message", Before(last="in_doubt"), "is in doubt; say what came of it with `kvit resolve step CZ1 'message'`"),
        ("dispatch", Before(last="rejected"), "was refused"),
        ("message", Before(last="intended"), "is still to be done"),
        ("message", Before(last="done", stopped="it is cancelled"), "it is cancelled, so step message is not done"),
        (PRINT, Before(), "order CZ1 has no document to print"),
        ("leter", DONE, "there is no step leter; `kvit orders show CZ1` lists"),
    ],
)
def test_what_must_not_happen_twice_is_refused_with_what_to_do_instead(step: str, before: Before, said: str) -> None:
    assert said in (no_repeat(step, "CZ1", before) or "")


@pytest.mark.parametrize("step", ["invoice", "dispatch", "stock"])
def test_what_there_is_one_of_is_done_again_once_the_first_is_gone(step: str) -> None:
    assert no_repeat(step, "CZ1", DONE) is None


@pytest.mark.parametrize("step", ["shop", "crm", PRINT])
def test_of_an_order_that_has_ended_only_what_tells_of_it_is_repeated(step: str) -> None:
    assert no_repeat(step, "CZ1", Before(last="done", stands="invoice 7", stopped="it is cancelled")) is None


@pytest.mark.parametrize(
    ("step", "waits_for", "said"),
    [
        ("invoice", [], ["message, message dispatch will have no invoice with it"]),
        ("invoice", [Wait.INVOICE], ["will have no invoice", "dispatch waits for invoice by the rules, so no label"]),
        ("stock", [Wait.PAYMENT, Wait.STOCK], ["dispatch waits for stock by the rules, so no label"]),
        ("stock", [Wait.PAYMENT], []),
        ("dispatch", [Wait.STOCK], ["message dispatch, shop note will have no parcel to tell of"]),
        ("status", [], ["shop, crm, shop note will be told the status that the order has"]),
        ("message", [Wait.INVOICE], []),
    ],
)
def test_what_later_steps_miss_of_a_step_that_is_left_out_is_said(
    step: str, waits_for: list[Wait], said: list[str]
) -> None:
    found = missed(step, [one for one in STEPS["card"] if one not in ("match", step)], waits_for)
    assert len(found) == len(said), found
    for text, part in zip(found, said, strict=True):
        assert part in text
    assert missed(step, [], waits_for) == []


@pytest.mark.parametrize("step", ["match", "leter", PRINT])
def test_what_can_not_be_left_out_is_refused(step: str) -> None:
    assert no_skip(step)
    assert no_skip("sms dispatch") is None
