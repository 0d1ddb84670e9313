"""An order's status only moves forward, and its payment state follows from all its payments, in any order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_builders import eur

from domain.money import Money, MoneyError
from domain.orders import (
    CLOSED,
    Customer,
    Move,
    Order,
    OrderLine,
    PaymentState,
    Status,
    payment_state,
    transition,
)
from domain.payments import Method

# + allowed, = already there or past, x forbidden. Rows: the status now; columns: the status wanted, in the rows' order.
TABLE = """
    new               = + + + + + + + + + + + x
    awaiting_payment  = = + + + + + + + + + + x
    on_hold           = = = + + + + + + + + + x
    paid              = = = = + + + + + + + x x
    processing        = = = = = + + + + + + x x
    in_production     = = = = = = + + + + + x x
    ready             = = = = = = = + + + + x x
    dispatched        = = = = = = = = + + x x +
    delivered         = = = = = = = = = + x x +
    completed         = = = = = = = = = = x x +
    cancelled         x x x x x x x x x x = x x
    expired           x x x x x x x x x x x = x
    returned          x x x x x x x x x x x x =
"""
MARKS = {"+": Move.ALLOWED, "=": Move.ALREADY, "x": Move.FORBIDDEN}
ROWS = {Status(name): marks for name, *marks in map(str.split, TABLE.strip().splitlines())}

statuses = st.sampled_from(list(Status))


def test_every_status_is_decided_against_every_other() -> None:
    assert list(ROWS) == list(Status)
    assert {len(marks) for marks in ROWS.values()} == {len(Status)}


@pytest.mark.parametrize("now", Status)
def test_transitions_are_as_in_the_table(now: Status) -> None:
    assert {to: transition(now, to) for to in Status} == {
        to: MARKS[mark] for to, mark in zip(ROWS, ROWS[now], strict=True)
    }


@pytest.mark.parametrize("closed", sorted(CLOSED))
def test_nothing_leaves_a_closed_status(closed: Status) -> None:
    assert Move.ALLOWED not in {transition(closed, to) for to in Status}


@given(statuses, st.lists(statuses, max_size=20))
def test_an_order_never_comes_back_to_a_status_it_has_left(start: Status, wanted: list[Status]) -> None:
    visited = [start]
    for to in wanted:
        if transition(visited[-1], to) is Move.ALLOWED:
            visited.append(to)
    assert len(set(visited)) == len(visited)
    path = [status for status in Status if status not in CLOSED]
    on_path = [path.index(status) for status in visited if status not in CLOSED]
    assert all(earlier < later for earlier, later in pairwise(on_path))


@given(statuses, st.permutations([Status.PAID, Status.PROCESSING, Status.DISPATCHED]))
def test_steps_that_finish_out_of_order_end_in_the_same_status(start: Status, order: list[Status]) -> None:
    def ends(wanted: list[Status]) -> Status:
        now = start
        for to in wanted:
            now = to if transition(now, to) is Move.ALLOWED else now
        return now

    assert ends(order) == ends(sorted(order, key=list(Status).index))


def test_a_paid_order_does_not_expire() -> None:
    assert transition(Status.AWAITING_PAYMENT, Status.EXPIRED) is Move.ALLOWED
    assert transition(Status.PAID, Status.EXPIRED) is Move.FORBIDDEN


# Payment state

TOTAL = eur("100.00")


def state(*moves: str, total: str = "100.00") -> PaymentState:
    return payment_state(eur(total), [eur(move) for move in moves])


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([], PaymentState.UNPAID),
        (["0"], PaymentState.UNPAID),
        (["0.01"], PaymentState.PART_PAID),
        (["40", "59.99"], PaymentState.PART_PAID),
        (["100"], PaymentState.PAID),
        (["40", "60"], PaymentState.PAID),
        (["100.01"], PaymentState.OVERPAID),
        (["100", "100"], PaymentState.OVERPAID),
        (["100", "-100"], PaymentState.REFUNDED),
        (["40", "-40"], PaymentState.REFUNDED),
        (["100", "-30"], PaymentState.PART_REFUNDED),
        (["100", "-60", "-40"], PaymentState.REFUNDED),
    ],
)
def test_the_state_follows_from_what_came_and_what_went_back(moves: list[str], expected: PaymentState) -> None:
    assert state(*moves) is expected


def test_every_payment_state_is_reached() -> None:
    reached = {state(), state("1"), state("100"), state("101"), state("100", "-100"), state("100", "-1")}
    assert reached | {payment_state(eur("100"), [eur("100")], [eur("-100")])} == set(PaymentState)


def test_what_a_chargeback_took_is_told_apart_until_the_dispute_is_won() -> None:
    took, came = eur("-100"), eur("100")
    assert payment_state(eur("100"), [eur("100")], [took]) is PaymentState.CHARGED_BACK
    assert payment_state(eur("100"), [eur("100")], [took, came]) is PaymentState.PAID
    assert payment_state(eur("100"), [eur("100"), eur("100")], [took]) is PaymentState.PAID


def test_one_of_two_charges_given_back_leaves_the_order_paid() -> None:
    assert state("100", "100", "-100") is PaymentState.PAID


def test_a_surplus_given_back_leaves_the_order_paid() -> None:
    assert state("120", "-20") is PaymentState.PAID
    assert state("150", "-20") is PaymentState.OVERPAID


def test_a_refunded_order_that_is_paid_again_is_paid() -> None:
    assert state("100", "-100", "100") is PaymentState.PAID


def test_an_order_that_costs_nothing_waits_for_nothing() -> None:
    assert state(total="0") is PaymentState.PAID
    assert state("5", total="0") is PaymentState.OVERPAID
    assert state("5", "-5", total="0") is PaymentState.REFUNDED


moves_of_an_order = st.lists(st.integers(-150_00, 150_00).map(lambda minor: Money(minor, "EUR")), max_size=6)


@given(moves_of_an_order, st.randoms())
def test_the_order_in_which_events_arrive_does_not_matter(moves: list[Money], random: Random) -> None:
    shuffled = random.sample(moves, len(moves))
    assert payment_state(TOTAL, shuffled) is payment_state(TOTAL, moves)


@given(moves_of_an_order)
def test_a_refund_of_everything_is_refunded(moves: list[Money]) -> None:
    kept = sum(moves, Money.zero("EUR"))
    if kept.minor > 0:
        assert payment_state(TOTAL, [*moves, -kept]) is PaymentState.REFUNDED


@given(moves_of_an_order)
def test_an_order_counts_as_paid_exactly_when_what_was_kept_reaches_its_total(moves: list[Money]) -> None:
    paid = payment_state(TOTAL, moves) in (PaymentState.PAID, PaymentState.OVERPAID)
    assert paid == (sum(moves, Money.zero("EUR")) >= TOTAL)


@given(moves_of_an_order)
def test_only_money_given_back_makes_an_order_refunded(moves: list[Money]) -> None:
    if all(move.minor >= 0 for move in moves):
        assert payment_state(TOTAL, moves) not in (PaymentState.REFUNDED, PaymentState.PART_REFUNDED)


def test_money_of_another_currency_never_counts_towards_a_total() -> None:
    for stray in (Money(100_00, "CZK"), Money(-100_00, "CZK"), Money.zero("CZK")):
        with pytest.raises(MoneyError, match="different currencies"):
            payment_state(TOTAL, [stray])


# What is to pay


def order(*, settled: Money) -> Order:
    return Order(
        id=1,
        channel="shop",
        number="1042",
        status="new",
        standard_status=Status.NEW,
        method=Method.CARD,
        total=TOTAL,
        settled=settled,
        placed_at=datetime(2026, 5, 4, tzinfo=UTC),
        customer=Customer(id=1, number="1", name="Jan Novák"),
        lines=(),
    )


@pytest.mark.parametrize(("settled", "to_pay"), [("0", "100.00"), ("40", "60.00"), ("100", "0.00"), ("120", "-20.00")])
def test_to_pay_is_what_is_missing_and_negative_when_too_much_came(settled: str, to_pay: str) -> None:
    assert order(settled=eur(settled)).to_pay.amount == to_pay


def test_to_pay_never_mixes_currencies() -> None:
    with pytest.raises(MoneyError, match="different currencies"):
        _ = order(settled=Money.zero("CZK")).to_pay


@pytest.mark.parametrize(
    ("settled", "collected", "now", "later"),
    [
        ("0", None, "80.00", "20.00"),
        ("30", None, "50.00", "20.00"),
        ("80", None, "0.00", "20.00"),
        ("90", None, "0.00", "10.00"),
        ("100", "20", "0.00", "0.00"),
        ("20", "20", "80.00", "0.00"),
        ("120", "20", "-20.00", "0.00"),
    ],
)
def test_what_is_paid_on_delivery_is_not_missing_before(
    settled: str, collected: str | None, now: str, later: str
) -> None:
    brought = eur(collected) if collected else None
    of = replace(order(settled=eur(settled)), on_delivery=eur("20"), collected=brought)
    assert (of.to_pay_now.amount, of.to_collect.amount) == (now, later)
    ended = of.to_pay.minor <= 0 and collected is not None
    assert of.carried_on_as is (Method.CASH_ON_DELIVERY if ended else Method.CARD)


def test_a_lines_total_is_its_unit_price_times_its_quantity() -> None:
    line = OrderLine(id=1, sku=None, title="Mug", quantity=3, unit_price=eur("33.33"), vat_rate=Decimal(21))
    assert line.total == eur("99.99")
