"""Money that settles no order: on the customer's balance or sent back, as the rules say, and undone with the rest."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from shop_builders import (
    SHOPKEEPER,
    buy,
    cancel,
    carry_on,
    change_rules,
    order_of,
    pay,
    payment_of,
    payment_row,
    take_payments,
)

from domain.money import Money
from domain.payments import Kind
from store import balances, payments
from store.audit import audit
from tasks.installation import Installation
from tasks.revert import begin

HERS: dict[str, Any] = {"customer": {"number": "C0901", "name": "Eva Nová", "email": "eva@example.com"}}


@pytest.fixture
async def opened(opened: Installation) -> AsyncGenerator[Installation]:
    """Open an installation, and audit it when the test has ended."""
    yield opened
    async with opened.store.read() as connection:
        assert await audit(connection, now=opened.clock()) == []


async def on_balance(opened: Installation, order_id: int) -> int:
    """Return what the customer of an order has on his balance, in minor units."""
    customer = (await order_of(opened, order_id)).customer.id
    async with opened.store.read() as connection:
        return (await balances.balance(connection, customer, "CZK")).minor


async def to_send_back(opened: Installation) -> list[tuple[int, int]]:
    async with opened.store.read() as connection:
        return [(row["id"], row["amount_minor"]) for row in await payments.to_send_back(connection)]


async def paid_twice(opened: Installation, **told: Any) -> tuple[int, int]:
    """Let an order be paid, and paid again; return the order and the second payment."""
    order_id = await buy(opened, "CZ5001")
    await carry_on("card", await pay(opened, "CZ5001"))
    return order_id, await pay(opened, "CZ5001", **told)


async def test_what_is_paid_twice_goes_to_the_balance_where_the_rules_say_so(opened: Installation) -> None:
    await change_rules(opened, {"outcomes": {"duplicate": "balance"}})
    order_id, second = await paid_twice(opened)

    state = await carry_on("card", second)

    assert state.name == "Done"
    row = await payment_row(opened, second)
    assert (row["outcome"], row["policy"]) == ("duplicate", "balance")
    assert row["reason"].endswith("but is already paid; it is kept on the customer's balance")
    assert await on_balance(opened, order_id) == 37_800
    assert (await order_of(opened, order_id)).settled == Money(37_800, "CZK")


async def test_it_is_credited_once_however_often_the_payment_is_matched(opened: Installation) -> None:
    await change_rules(opened, {"outcomes": {"duplicate": "balance"}})
    order_id, second = await paid_twice(opened)
    for _ in range(3):
        assert (await carry_on("card", second)).name == "Done"

    assert await on_balance(opened, order_id) == 37_800
    async with opened.store.read() as connection:
        entry = await balances.of_payment(connection, second)
    assert entry is not None
    assert entry.reason.startswith(f"payment {second}: CZ5001 is named by the order number CZ5001")


async def test_a_credited_payment_settles_nothing_even_when_its_order_is_open_again(opened: Installation) -> None:
    await change_rules(opened, {"outcomes": {"duplicate": "balance"}})
    order_id, second = await paid_twice(opened)
    await carry_on("card", second)
    begun = await begin(opened, [order_id], author="eva", because="a mistake", force=True)
    assert (await carry_on("revert", *begun)).name == "Done"

    await carry_on("card", second)

    assert (await payment_row(opened, second))["policy"] == "balance"
    assert (await order_of(opened, order_id)).settled.minor == 0
    assert await on_balance(opened, order_id) == 37_800


async def test_what_comes_for_a_cancelled_order_goes_to_the_balance_where_the_rules_say_so(
    opened: Installation,
) -> None:
    await change_rules(opened, {"outcomes": {"late": "balance"}})
    order_id = await buy(opened, "CZ5001")
    await cancel(opened, order_id)

    state = await carry_on("card", late := await pay(opened, "CZ5001"))

    assert (state.name, (await payment_row(opened, late))["outcome"]) == ("Done", "late")
    assert await on_balance(opened, order_id) == 37_800


async def test_money_for_orders_of_two_customers_is_on_nobodys_balance(opened: Installation) -> None:
    await change_rules(opened, {"outcomes": {"duplicate": "balance"}})
    mine, hers = await buy(opened, "CZ5001"), await buy(opened, "CZ5002", **HERS)
    for number in ("CZ5001", "CZ5002"):
        await carry_on("card", await pay(opened, number))
    both = await pay(opened, None, "756.00", text="CZ5001, CZ5002")

    state = await carry_on("card", both)

    assert state.name == "Needs a person"
    row = await payment_row(opened, both)
    assert (row["outcome"], row["policy"]) == ("duplicate", "operator")
    assert row["reason"].endswith("; whose balance it belongs to is not certain")
    assert (await on_balance(opened, mine), await on_balance(opened, hers)) == (0, 0)


async def test_what_is_too_much_goes_to_the_balance_and_the_order_is_carried_on(opened: Installation) -> None:
    await change_rules(opened, {"outcomes": {"surplus": "balance"}})
    order_id = await buy(opened, "CZ5001")

    state = await carry_on("card", paid := await pay(opened, "CZ5001", "400.00"))

    assert state.name == "Done"
    row = await payment_row(opened, paid)
    assert (row["outcome"], row["policy"], row["surplus_minor"], row["surplus_left_minor"]) == (
        "over",
        "release",
        2_200,
        0,
    )
    assert row["reason"].endswith("22.00 CZK is too much, which is kept on the customer's balance")
    assert await on_balance(opened, order_id) == 2_200
    assert (await order_of(opened, order_id)).status == "paid"


async def test_a_customers_own_rules_say_where_his_surplus_goes(opened: Installation) -> None:
    await change_rules(opened, {"customers": {"C0900": {"outcomes": {"surplus": "balance"}}}})
    mine, hers = await buy(opened, "CZ5001"), await buy(opened, "CZ5002", **HERS)

    assert (await carry_on("card", await pay(opened, "CZ5001", "400.00"))).name == "Done"
    other = await pay(opened, "CZ5002", "400.00", payer_name="Eva Nová")
    assert (await carry_on("card", other)).name == "Needs a person"
    assert (await payment_row(opened, other))["surplus_left_minor"] == 2_200

    assert (await on_balance(opened, mine), await on_balance(opened, hers)) == (2_200, 0)


async def test_what_is_to_be_sent_back_needs_nobody_to_decide_and_stays_listed_until_it_has_gone(
    opened: Installation,
) -> None:
    await change_rules(opened, {"outcomes": {"duplicate": "refund", "surplus": "refund"}})
    await buy(opened, "CZ5002", **HERS)
    order_id, second = await paid_twice(opened, provider_reference="pi_2")
    assert (await carry_on("card", second)).name == "Done"
    over = await pay(opened, "CZ5002", "400.00", provider_reference="pi_3", payer_name="Eva Nová")
    assert (await carry_on("card", over)).name == "Done"

    assert await to_send_back(opened) == [(second, 37_800), (over, 2_200)]
    rows = [await payment_row(opened, id_) for id_ in (second, over)]
    assert [(row["outcome"], row["policy"]) for row in rows] == [("duplicate", "refund"), ("over", "refund")]
    assert [row["surplus_left_minor"] for row in rows] == [0, 0]
    assert await on_balance(opened, order_id) == 0

    for intent, amount in (("pi_2", "-378.00"), ("pi_3", "-22.00")):
        back = payment_of(None, amount, provider_reference=intent, kind=Kind.REFUND)
        assert (await carry_on("money_back", *await take_payments(opened, back))).name == "Done"
    assert await to_send_back(opened) == []


async def test_a_revert_takes_the_surplus_off_the_balance_too(opened: Installation) -> None:
    await change_rules(opened, {"outcomes": {"surplus": "balance"}})
    order_id = await buy(opened, "CZ5001")
    await carry_on("card", paid := await pay(opened, "CZ5001", "400.00"))

    begun = await begin(opened, [order_id], author="eva", because="for another order", force=True)
    assert (await carry_on("revert", *begun)).name == "Done"

    assert await on_balance(opened, order_id) == 0
    async with opened.store.read() as connection:
        entries = await balances.of_customer(connection, (await order_of(opened, order_id)).customer.id)
    assert [entry.amount.minor for entry in entries] == [2_200, -2_200]
    assert entries[1].actor == "eva"

    # Matched again, it settles and credits as if it had never been.
    await carry_on("card", paid)
    assert await on_balance(opened, order_id) == 2_200


@pytest.mark.parametrize(("amount", "left"), [("-378.00", 0), ("-100.00", 27_800)])
async def test_what_goes_back_of_a_credited_payment_is_taken_off_the_balance(
    opened: Installation, amount: str, left: int
) -> None:
    await change_rules(opened, {"outcomes": {"duplicate": "balance"}})
    order_id, second = await paid_twice(opened, provider_reference="pi_2")
    await carry_on("card", second)
    (back,) = await take_payments(opened, payment_of(None, amount, provider_reference="pi_2", kind=Kind.REFUND))

    for _ in range(2):  # told again, it takes nothing more
        assert (await carry_on("money_back", back)).name == "Done"

    assert await on_balance(opened, order_id) == left
    assert (await payment_row(opened, back))["reason"].endswith("; it is taken off the customer's balance")
    assert (await order_of(opened, order_id)).settled == Money(37_800, "CZK")


async def test_a_surplus_on_the_balance_goes_back_before_what_the_order_has(opened: Installation) -> None:
    await change_rules(opened, {"outcomes": {"surplus": "balance"}})
    order_id = await buy(opened, "CZ5001")
    await carry_on("card", await pay(opened, "CZ5001", "400.00", provider_reference="pi_1"))
    (back,) = await take_payments(opened, payment_of(None, "-30.00", provider_reference="pi_1", kind=Kind.REFUND))

    state = await carry_on("money_back", back)

    assert state.name == "Needs a person"  # a part of what the order had went back too
    row = await payment_row(opened, back)
    assert row["reason"].startswith("8.00 CZK of CZ5001 was refunded")
    assert row["reason"].endswith("; it is taken off the customer's balance")
    assert await on_balance(opened, order_id) == 0


async def test_a_balance_that_was_used_before_its_money_went_back_needs_a_person(opened: Installation) -> None:
    await change_rules(opened, {"outcomes": {"duplicate": "balance"}})
    order_id, second = await paid_twice(opened, provider_reference="pi_2")
    await carry_on("card", second)
    async with opened.store.write() as connection:
        customer = (await order_of(opened, order_id)).customer.id
        used = Money(-10_000, "CZK")
        await balances.add(connection, customer, used, reason="used", actor=SHOPKEEPER, now=opened.clock())
    (back,) = await take_payments(opened, payment_of(None, "-378.00", provider_reference="pi_2", kind=Kind.CHARGEBACK))

    for _ in range(2):
        assert (await carry_on("money_back", back)).name == "Needs a person"

    reason = (await payment_row(opened, back))["reason"]
    assert reason.endswith("; it is taken off the customer's balance, which had been used: 100.00 CZK is missing on it")


# Another currency.


async def test_a_payment_in_another_currency_settles_its_order_at_the_channels_rate(opened: Installation) -> None:
    await change_rules(opened, {"conversion": {"rates": {"EUR": "25.20"}}})
    order_id = await buy(opened, "CZ5001")

    state = await carry_on("card", paid := await pay(opened, "CZ5001", "15.00", currency="EUR"))

    assert state.name == "Done"
    assert (await payment_row(opened, paid))["outcome"] == "exact"
    assert (await order_of(opened, order_id)).settled == Money(37_800, "CZK")
    async with opened.store.read() as connection:
        [part] = (await payments.allocated(connection, [paid]))[paid]
    assert (part["amount_minor"], part["currency"], part["taken_minor"]) == (37_800, "CZK", 1_500)


async def test_what_goes_back_of_a_converted_payment_is_for_a_person_to_book(opened: Installation) -> None:
    await change_rules(opened, {"conversion": {"rates": {"EUR": "25.20"}}})
    order_id = await buy(opened, "CZ5001")
    await carry_on("card", await pay(opened, "CZ5001", "15.00", currency="EUR", provider_reference="pi_1"))
    refund = payment_of(None, "-15.00", currency="EUR", provider_reference="pi_1", kind=Kind.REFUND)
    (back,) = await take_payments(opened, refund)

    state = await carry_on("money_back", back)

    assert state.name == "Needs a person"
    row = await payment_row(opened, back)
    assert (row["outcome"], row["policy"]) == ("refund", "operator")
    assert row["reason"] == (
        "the payment that it belongs to was in another currency than CZ5001; decide by hand what of that it takes back"
    )
    assert (await order_of(opened, order_id)).settled == Money(37_800, "CZK")


async def test_a_converted_payment_is_taken_back_whole(opened: Installation) -> None:
    await change_rules(opened, {"conversion": {"rates": {"EUR": "25.00"}}})
    order_id = await buy(opened, "CZ5001")
    await carry_on("card", await pay(opened, "CZ5001", "15.00", currency="EUR"))
    assert (await order_of(opened, order_id)).to_pay.minor == 0

    begun = await begin(opened, [order_id], author="eva", because="a mistake", force=True)
    assert (await carry_on("revert", *begun)).name == "Done"

    assert (await order_of(opened, order_id)).settled.minor == 0
