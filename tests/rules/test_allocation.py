"""Allocation: not a minor unit of a payment is lost or invented, and no item gets more than it may."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_builders import eur

from domain.allocation import OpenItem, Part, split
from domain.money import Money, MoneyError
from domain.orders import Status

ITEM = OpenItem(
    id=1,
    order_id=1,
    channel="shop",
    number="1042",
    status=Status.NEW,
    amount=eur("450.00"),
    open=eur("450.00"),
    references=frozenset(),
)


@pytest.mark.parametrize(
    ("came", "tolerance", "allocated", "write_off", "completes", "surplus"),
    [
        ("450.00", "0.00", "450.00", "0.00", True, "0.00"),
        ("450.00", "1.00", "450.00", "0.00", True, "0.00"),
        ("449.01", "1.00", "449.01", "0.99", True, "0.00"),
        ("449.00", "1.00", "449.00", "1.00", True, "0.00"),
        ("448.99", "1.00", "448.99", "0.00", False, "0.00"),
        ("449.99", "0.00", "449.99", "0.00", False, "0.00"),
        ("450.99", "1.00", "450.99", "-0.99", True, "0.00"),
        ("451.00", "1.00", "451.00", "-1.00", True, "0.00"),
        ("451.01", "1.00", "450.00", "0.00", True, "1.01"),
        ("450.01", "0.00", "450.00", "0.00", True, "0.01"),
        ("0.01", "1.00", "0.01", "0.00", False, "0.00"),
        ("900.00", "1.00", "450.00", "0.00", True, "450.00"),
    ],
    ids=[
        "exact",
        "exact with tolerance",
        "short within tolerance",
        "short at the limit",
        "short just over the limit",
        "short without tolerance",
        "over within tolerance",
        "over at the limit",
        "over just over the limit",
        "over without tolerance",
        "almost nothing",
        "twice as much",
    ],
)
def test_a_payment_is_split_between_an_item_and_the_surplus(
    came: str, tolerance: str, allocated: str, write_off: str, completes: bool, surplus: str
) -> None:
    part = Part(ITEM, eur(allocated), eur(write_off), completes=completes)
    assert split(eur(came), ITEM, eur(tolerance)) == (part, eur(surplus))


def test_what_counts_is_what_is_still_open_and_not_the_whole_amount() -> None:
    rest = replace(ITEM, open=eur("50.00"))
    assert split(eur("50.00"), rest, eur("0.00")) == (
        Part(rest, eur("50.00"), eur("0.00"), completes=True),
        eur("0.00"),
    )
    _, surplus = split(eur("450.00"), rest, eur("0.00"))
    assert surplus == eur("400.00")


def test_money_of_another_currency_is_never_split_over_an_item() -> None:
    with pytest.raises(MoneyError):
        split(Money(45000, "CZK"), ITEM, eur("1.00"))


AMOUNTS = st.integers(1, 10**6)


@given(AMOUNTS, AMOUNTS, st.integers(0, 10**4))
def test_part_and_surplus_are_the_payment_and_the_item_never_gets_more_than_it_may(
    came: int, open_: int, tolerance: int
) -> None:
    item = replace(ITEM, open=Money(open_, "EUR"))
    part, surplus = split(Money(came, "EUR"), item, Money(tolerance, "EUR"))
    assert part.amount.minor + surplus.minor == came
    assert surplus.minor >= 0
    assert 0 < part.amount.minor <= open_ + tolerance
    assert abs(part.write_off.minor) <= tolerance


@given(AMOUNTS, AMOUNTS, st.integers(0, 10**4))
def test_an_item_is_complete_exactly_when_nothing_of_it_is_left_open(came: int, open_: int, tolerance: int) -> None:
    item = replace(ITEM, open=Money(open_, "EUR"))
    part, _ = split(Money(came, "EUR"), item, Money(tolerance, "EUR"))
    left = open_ - part.amount.minor - part.write_off.minor
    assert left >= 0
    assert part.completes == (left == 0)
    assert part.completes == (came >= open_ - tolerance)


@given(AMOUNTS, st.lists(AMOUNTS, min_size=1, max_size=6))
def test_several_payments_complete_an_item_when_the_difference_is_zero(open_: int, payments: list[int]) -> None:
    item = replace(ITEM, open=Money(open_, "EUR"))
    came = 0
    for minor in payments:
        came += minor
        part, surplus = split(Money(minor, "EUR"), item, Money.zero("EUR"))
        item = replace(item, open=item.open - part.amount)
        if part.completes:
            assert item.open == Money.zero("EUR")
            assert surplus.minor == came - open_
            return
        assert surplus == Money.zero("EUR")
    assert item.open.minor == open_ - came > 0
