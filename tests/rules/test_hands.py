"""Hands: what speaks against a status that a person gives an order."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from domain.hands import doubts
from domain.money import Money
from domain.orders import Customer, Order, Status
from domain.payments import Method


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
