"""Again: what settles nothing is tried again when an order, a rule, an account or another payment says more."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from shop_builders import (
    PAYER,
    buy,
    carry_on,
    change_rules,
    order_of,
    pay,
    payment_row,
    steps_of,
)
from sqlalchemy import select

from deployments.dispatcher import Dispatcher
from store.audit import audit
from store.tables import AllocationRow
from tasks.installation import Installation
from tasks.revert import begin

HERS: dict[str, Any] = {"customer": {"number": "C0901", "name": "Eva Nová", "email": "eva@example.com"}}
CZ = "CZ6508000000192000145399"
"""The account that the sample's Czech channel is paid to."""


@pytest.fixture
async def opened(opened: Installation) -> AsyncGenerator[Installation]:
    """Open an installation, and audit it when the test has ended."""
    yield opened
    async with opened.store.read() as connection:
        assert await audit(connection, now=opened.clock()) == []


async def work_off(opened: Installation) -> None:
    """Let everything be carried on that is due."""
    await Dispatcher(opened).work_off()


async def outcome_of(opened: Installation, payment_id: int) -> str:
    return (await payment_row(opened, payment_id))["outcome"]


async def settles(opened: Installation, payment_id: int) -> list[int]:
    """Return the orders that a payment was ever allocated to, once for each time."""
    async with opened.store.read() as connection:
        rows = await connection.execute(select(AllocationRow.order_id).where(AllocationRow.payment_id == payment_id))
    return [order_id for order_id in rows.scalars().all() if order_id is not None]


async def transfer(opened: Installation, number: str | None = None, amount: str = "378.00", **told: Any) -> int:
    """Let money arrive on the channel's account, from an account of the payer's own."""
    return await pay(opened, number, amount, method="bank_transfer", account=CZ, **told)


async def test_a_rule_that_makes_a_payment_name_its_order_matches_it_and_once(opened: Installation) -> None:
    order_id = await buy(opened, "CZ5001", "bank_transfer", variable_symbol=None)
    await change_rules(opened, {"references": {"order_number": "X[0-9]{4}"}})
    payment = await transfer(opened, text="objednavka CZ5001", payer_account=None, payer_name=None)
    await work_off(opened)
    assert await outcome_of(opened, payment) == "unknown"

    await change_rules(opened, {"references": {"order_number": "CZ[0-9]{4}"}})
    await work_off(opened)

    assert await outcome_of(opened, payment) == "exact"
    assert await settles(opened, payment) == [order_id]
    done = {step: row["state"] for step, row in (await steps_of(opened, order_id, f"payment:{payment}")).items()}

    await change_rules(opened, {"tolerance": {"absolute": "2.00"}})
    await work_off(opened)
    assert await settles(opened, payment) == [order_id]
    after = {step: row["state"] for step, row in (await steps_of(opened, order_id, f"payment:{payment}")).items()}
    assert after == done


async def test_a_rate_that_is_given_later_settles_what_came_in_another_currency(opened: Installation) -> None:
    order_id = await buy(opened, "CZ5001")
    payment = await pay(opened, "CZ5001", "15.00", currency="EUR")
    await work_off(opened)
    assert await outcome_of(opened, payment) == "wrong_currency"

    await change_rules(opened, {"conversion": {"rates": {"EUR": "25.20"}}})
    await work_off(opened)

    assert await settles(opened, payment) == [order_id]


async def test_an_order_that_comes_after_its_payment_finds_it(opened: Installation) -> None:
    payment = await pay(opened, "CZ5001")
    await work_off(opened)
    assert await outcome_of(opened, payment) == "unknown"

    order_id = await buy(opened, "CZ5001")
    await work_off(opened)

    assert await settles(opened, payment) == [order_id]


async def test_a_later_order_of_a_customer_whose_account_is_known_finds_the_payment_that_names_nothing(
    opened: Installation,
) -> None:
    await buy(opened, "CZ5001", "bank_transfer")
    await transfer(opened, "CZ5001")
    await work_off(opened)
    silent = await transfer(opened)
    await work_off(opened)
    assert await outcome_of(opened, silent) == "unknown"

    order_id = await buy(opened, "CZ5002", "bank_transfer")
    await work_off(opened)

    assert await settles(opened, silent) == [order_id]
    assert "the payer's account is known" in (await payment_row(opened, silent))["reason"]


async def test_an_account_that_becomes_known_settles_the_payments_that_came_from_it_before(
    opened: Installation,
) -> None:
    await buy(opened, "CZ5001", "bank_transfer")
    second = await buy(
        opened, "CZ5002", "bank_transfer", lines=[{"title": "Tea", "quantity": 1, "unit_price": "99.00"}], total="99.00"
    )
    silent = await transfer(opened, None, "99.00", payer_name=None)
    await work_off(opened)
    assert await outcome_of(opened, silent) == "unknown"

    await transfer(opened, "CZ5001")
    await work_off(opened)

    assert await outcome_of(opened, silent) == "exact"
    assert await settles(opened, silent) == [second]


async def test_what_one_payment_of_a_batch_teaches_reaches_those_before_it(opened: Installation) -> None:
    first = await buy(opened, "CZ5001", "bank_transfer")
    second = await buy(
        opened, "CZ5002", "bank_transfer", lines=[{"title": "Tea", "quantity": 1, "unit_price": "99.00"}], total="99.00"
    )
    silent = await transfer(opened, None, "99.00", payer_name=None)
    named = await transfer(opened, "CZ5001")

    await work_off(opened)

    # What the second teaches comes too late for the first, which is tried again.
    assert await settles(opened, named) == [first]
    assert await settles(opened, silent) == [second]


async def test_a_payment_that_was_taken_back_has_taught_nothing(opened: Installation) -> None:
    first = await buy(opened, "CZ5001", "bank_transfer")
    await transfer(opened, "CZ5001")
    await work_off(opened)
    begun = await begin(opened, [first], author="eva", because="of somebody else", force=True)
    await carry_on("revert", *begun)

    await buy(opened, "CZ5002", "bank_transfer")
    silent = await transfer(opened)
    await work_off(opened)

    assert await outcome_of(opened, silent) == "unknown"


async def test_an_account_from_which_two_customers_paid_settles_nothing_by_itself(opened: Installation) -> None:
    await buy(opened, "CZ5001", "bank_transfer")
    await buy(opened, "CZ5002", "bank_transfer", **HERS)
    for number in ("CZ5001", "CZ5002"):
        await transfer(opened, number, payer_name=None)
    await work_off(opened)
    await buy(opened, "CZ5003", "bank_transfer")

    silent = await transfer(opened)
    await work_off(opened)

    assert await outcome_of(opened, silent) == "unknown"


async def test_what_could_be_for_two_orders_is_for_the_other_when_one_is_paid(opened: Installation) -> None:
    mine = await buy(opened, "CZ5001", "bank_transfer")
    hers = await buy(opened, "CZ5002", "bank_transfer", **HERS)
    between = await transfer(opened, None, text="CZ5001 CZ5002", payer_account=None, payer_name=None)
    await work_off(opened)
    row = await payment_row(opened, between)
    assert row["outcome"] == "ambiguous"
    assert [(one["order"], bool(one["evidence"])) for one in row["candidates"]] == [("CZ5001", True), ("CZ5002", True)]

    first = await transfer(opened, "CZ5001", payer_account=None, payer_name=None)
    await work_off(opened)

    assert await settles(opened, first) == [mine]
    assert await settles(opened, between) == [hers]


async def test_why_a_payment_settles_nothing_is_told_in_words_without_who_paid(opened: Installation) -> None:
    await buy(opened, "CZ5001", "bank_transfer")
    payment = await transfer(opened, None, text="dekuji", payer_account=None)
    await work_off(opened)

    row = await payment_row(opened, payment)
    assert row["reason"].startswith("no reference in the payment names an order that is known")
    assert [(one["order"], one["evidence"]) for one in row["candidates"]] == [
        ("CZ5001", ["the payer's name with the exact amount"])
    ]
    assert row["payer_name"] not in row["reason"]
    assert PAYER not in str(row["candidates"])
    assert (await order_of(opened, 1)).settled.minor == 0
