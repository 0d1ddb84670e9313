"""By hand: a person's word is taken as it is said, and what can't be meant so is refused in a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_builders import eur

from domain.allocation import OpenItem
from domain.by_hand import ByHandError, Shared, Wish, named_amount, share
from domain.money import Money
from domain.orders import CLOSED, Status
from domain.payments import Outcome

INSTEAD = "send it back with --refund, or keep it for the customer with --balance"


def item(id_: int, open_: str = "450.00", status: Status = Status.AWAITING_PAYMENT) -> OpenItem:
    """Make an order's open item, numbered E1, E2 and on."""
    return OpenItem(
        id=id_,
        order_id=id_,
        channel="shop",
        number=f"E{id_}",
        status=status,
        amount=eur("450.00"),
        open=eur(open_),
        references=frozenset(),
    )


def shared(amount: str, *wishes: tuple[OpenItem, str | None], tolerance: str = "0.00") -> Shared:
    """Split a payment over orders, each with its amount or without."""
    made = [Wish(one, eur(given) if given else None) for one, given in wishes]
    return share(eur(amount), made, {one.id: eur(tolerance) for one, _ in wishes})


def told(result: Shared) -> list[tuple[str, str, bool]]:
    return [(part.item.number, part.amount.amount, part.completes) for part in result.parts]


@pytest.mark.parametrize(
    ("amount", "tolerance", "allocated", "completes", "surplus", "outcome"),
    [
        ("450.00", "0.00", "450.00", True, "0.00", Outcome.EXACT),
        ("449.50", "1.00", "449.50", True, "0.00", Outcome.WITHIN_TOLERANCE),
        ("450.50", "1.00", "450.50", True, "0.00", Outcome.WITHIN_TOLERANCE),
        ("400.00", "1.00", "400.00", False, "0.00", Outcome.SHORT),
        ("500.00", "1.00", "450.00", True, "50.00", Outcome.OVER),
    ],
)
def test_a_single_order_takes_the_whole_payment_as_its_channel_lets_it(
    amount: str, tolerance: str, allocated: str, completes: bool, surplus: str, outcome: Outcome
) -> None:
    result = shared(amount, (item(1), None), tolerance=tolerance)
    assert told(result) == [("E1", allocated, completes)]
    assert (result.surplus, result.outcome) == (eur(surplus), outcome)


def test_several_orders_take_what_is_open_of_each_in_the_order_given_and_the_last_the_rest() -> None:
    result = shared("700.00", (item(2), None), (item(1), None))
    assert told(result) == [("E2", "450.00", True), ("E1", "250.00", False)]
    assert (result.outcome, result.surplus) == (Outcome.SHORT, eur("0.00"))


def test_the_last_of_several_takes_what_is_open_of_it_and_no_more() -> None:
    result = shared("950.00", (item(1), None), (item(2), None))
    assert told(result) == [("E1", "450.00", True), ("E2", "450.00", True)]
    assert (result.outcome, result.surplus) == (Outcome.OVER, eur("50.00"))


def test_a_difference_within_tolerance_is_let_pass_on_the_last_of_several() -> None:
    result = shared("899.50", (item(1), None), (item(2), None), tolerance="1.00")
    assert told(result) == [("E1", "450.00", True), ("E2", "449.50", True)]
    assert (result.parts[1].write_off, result.outcome) == (eur("0.50"), Outcome.WITHIN_TOLERANCE)


def test_an_amount_that_is_said_is_what_the_order_gets() -> None:
    result = shared("500.00", (item(1), "300.00"), (item(2), "150.00"))
    assert told(result) == [("E1", "300.00", False), ("E2", "150.00", False)]
    assert (result.outcome, result.surplus) == (Outcome.OVER, eur("50.00"))


def test_what_is_said_is_set_aside_before_the_others_take_theirs() -> None:
    result = shared("500.00", (item(1), None), (item(2), "450.00"))
    assert told(result) == [("E1", "50.00", False), ("E2", "450.00", True)]


@pytest.mark.parametrize(
    ("amount", "wishes", "said"),
    [
        ("450.00", (), "name at least one order"),
        ("900.00", ((1, None), (1, "5.00")), "order E1 is named twice; name it once, with all that it gets"),
        ("900.00", ((1, "450.01"),), "450.01 EUR is more than the 450.00 EUR that is open of order E1"),
        (
            "500.00",
            ((1, "300.00"), (2, "200.01")),
            "500.01 EUR in all is more than the 500.00 EUR that there are to give",
        ),
        (
            "450.00",
            ((1, None), (2, None)),
            "nothing is left for order E2; say how much each order gets, such as E2=10.00",
        ),
        (
            "450.00",
            ((1, "450.00"), (2, None)),
            "nothing is left for order E2; say how much each order gets, such as E2=10.00",
        ),
    ],
    ids=["none", "twice", "more than is open", "more than there is", "nothing left", "nothing left beside"],
)
def test_what_does_not_add_up_is_refused(amount: str, wishes: tuple[tuple[int, str | None], ...], said: str) -> None:
    with pytest.raises(ByHandError) as refused:
        shared(amount, *((item(id_), given) for id_, given in wishes))
    assert str(refused.value) == said


@pytest.mark.parametrize("status", sorted(CLOSED))
def test_an_order_that_is_closed_takes_no_money(status: Status) -> None:
    with pytest.raises(ByHandError) as refused:
        shared("450.00", (item(1, status=status), None))
    assert str(refused.value) == f"order E1 is {status}, so it takes no money any more; {INSTEAD}"


@pytest.mark.parametrize("open_", ["0.00", "-5.00"])
def test_an_order_of_which_nothing_is_open_takes_no_money(open_: str) -> None:
    with pytest.raises(ByHandError) as refused:
        shared("450.00", (item(1, open_), None))
    assert str(refused.value) == f"nothing is open of order E1, it is paid already; {INSTEAD}"


def test_an_order_in_another_currency_is_refused() -> None:
    other = replace(item(1), amount=Money(45_000, "CZK"), open=Money(45_000, "CZK"))
    with pytest.raises(ByHandError) as refused:
        share(eur("450.00"), [Wish(other)], {1: Money.zero("CZK")})
    assert str(refused.value) == f"order E1 is to be paid in CZK, not in EUR; {INSTEAD}"


@pytest.mark.parametrize(
    ("text", "number", "amount"),
    [
        ("CZ1042", "CZ1042", None),
        (" CZ1042 ", "CZ1042", None),
        ("CZ1042=450.00", "CZ1042", "450.00"),
        ("CZ1042 = 450", "CZ1042", "450.00"),
        ("A=B=450.00", "A=B", "450.00"),
    ],
)
def test_an_order_is_named_by_its_number_with_an_amount_or_without(text: str, number: str, amount: str | None) -> None:
    assert named_amount(text, "EUR") == (number, eur(amount) if amount else None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "“” names no order; write its number, such as CZ1042 or CZ1042=450.00"),
        ("=450.00", "“=450.00” names no order; write its number, such as CZ1042 or CZ1042=450.00"),
        ("CZ1042=", "order CZ1042: “” is not an amount; write digits with a dot, such as 450.00"),
        ("CZ1042=450,00", "order CZ1042: “450,00” is not an amount; write digits with a dot, such as 450.00"),
        ("CZ1042=450.001", "order CZ1042: 450.001 EUR is finer than the smallest unit of EUR"),
        ("CZ1042=0", "order CZ1042: 0.00 EUR is nothing to allocate; write an amount above zero"),
        ("CZ1042=-5", "order CZ1042: -5.00 EUR is nothing to allocate; write an amount above zero"),
    ],
)
def test_what_names_no_order_or_no_amount_is_refused(text: str, said: str) -> None:
    with pytest.raises(ByHandError) as refused:
        named_amount(text, "EUR")
    assert str(refused.value) == said


_minor = st.integers(1, 2_000)


@given(
    amount=_minor,
    wishes=st.lists(st.tuples(_minor, st.none() | _minor), min_size=1, max_size=5),
    tolerance=st.integers(0, 20),
)
def test_the_parts_and_the_surplus_are_the_payment_and_no_order_gets_more_than_it_may(
    amount: int, wishes: list[tuple[int, int | None]], tolerance: int
) -> None:
    made = [
        Wish(replace(item(id_), open=Money(open_, "EUR")), Money(given, "EUR") if given else None)
        for id_, (open_, given) in enumerate(wishes, 1)
    ]
    try:
        result = share(Money(amount, "EUR"), made, {wish.item.id: Money(tolerance, "EUR") for wish in made})
    except ByHandError:
        return
    assert sum(part.amount.minor for part in result.parts) + result.surplus.minor == amount
    assert result.surplus.minor >= 0
    assert [part.item.id for part in result.parts] == [wish.item.id for wish in made]
    for part in result.parts:
        assert part.amount.minor > 0
        assert abs(part.write_off.minor) <= tolerance
        assert part.amount + part.write_off <= part.item.open
        assert part.completes == (part.amount + part.write_off == part.item.open)
