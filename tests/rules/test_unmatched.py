"""The operator's queue: what can be decided at a glance and holds up goods comes first, the larger and older first."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from domain.money import Money
from domain.unmatched import Waiting, ranked

DAY = date(2026, 11, 23)


def waiting(id_: int, minor: int = 100, *, age: int = 0, orders: int = 0, currency: str = "EUR") -> Waiting:
    """Make a payment that waits for a person."""
    return Waiting(id_, Money(minor, currency), DAY - timedelta(days=age), orders)


def ids(*found: Waiting) -> list[int]:
    return [one.id for one in ranked(found)]


def test_one_open_order_comes_before_several_and_several_before_none() -> None:
    assert ids(waiting(1, 900), waiting(2, 500, orders=2), waiting(3, 100, orders=1), waiting(4, 600, orders=9)) == [
        3,
        4,
        2,
        1,
    ]


def test_within_these_the_larger_amount_comes_first_in_or_out() -> None:
    assert ids(waiting(1, 100), waiting(2, 300), waiting(3, -200)) == [2, 3, 1]


def test_of_equal_amounts_the_older_comes_first_and_of_equal_days_the_one_that_came_first() -> None:
    assert ids(waiting(3), waiting(2, age=4), waiting(1)) == [2, 1, 3]


def test_the_largest_of_each_currency_stand_side_by_side_the_older_first() -> None:
    crowns = [waiting(1, 100_000, currency="CZK", age=1), waiting(2, 90_000, currency="CZK", age=1)]
    euros = [waiting(3, 4_000), waiting(4, 3_000)]
    assert ids(*euros, *crowns) == [1, 3, 2, 4]


@given(
    st.lists(
        st.builds(
            waiting,
            st.integers(1, 1_000),
            st.integers(-50, 50),
            age=st.integers(0, 5),
            orders=st.integers(0, 3),
            currency=st.sampled_from(["EUR", "CZK"]),
        ),
        max_size=20,
        unique_by=lambda one: one.id,
    ),
    st.randoms(),
)
def test_the_order_does_not_depend_on_how_they_are_read(found: list[Waiting], random: Random) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert ids(*found) == ids(*shuffled)
    assert sorted(ids(*found)) == sorted(one.id for one in found)
