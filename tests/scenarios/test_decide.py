"""By hand: a person says what becomes of a payment, once, and what is paid by it goes on as if it had been matched."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import State, get_client
from shop_builders import (
    Clock,
    buy,
    cancel,
    carry_on,
    change_rules,
    done_outside,
    letters,
    order_document,
    order_of,
    pay,
    payment_of,
    payment_row,
    steps_of,
    take_payments,
)
from sqlalchemy import select, update

from deployments.dispatcher import Dispatcher
from domain.by_hand import ByHandError
from domain.money import Money
from domain.payments import Kind, Outcome
from domain.rules import Policy
from flows.resolve_payment import resolve_payment
from store import balances, decisions, journal, payments, work
from store.audit import audit
from store.tables import JournalRow, PaymentRow, WorkRow
from tasks.decide import Decided, Decision, decide
from tasks.installation import Installation
from tasks.reconcile import match_again
from tasks.revert import begin

WHO, WHY = "jana", "the customer sent a screenshot"


async def said(opened: Installation, payment_id: int, decision: Decision, *to: str, **more: Any) -> Decided:
    """Say what becomes of a payment."""
    given = {"author": WHO, "because": WHY} | more
    return await decide(opened, payment_id, decision, to=to, **given)


async def refusal(opened: Installation, payment_id: int, decision: Decision, *to: str, **more: Any) -> str:
    """Say of a payment what can't be done, and return why; nothing may have changed."""
    before = await everything(opened)
    with pytest.raises(ByHandError) as refused:
        await said(opened, payment_id, decision, *to, **more)
    assert await everything(opened) == before
    return str(refused.value)


async def everything(opened: Installation) -> list[Any]:
    """Return what a decision may change: payments, their work, and how far the journal goes."""
    async with opened.store.read() as connection:
        rows = await payments.listing(connection)
        parts = await payments.allocated(connection, [row["id"] for row in rows])
        due = await connection.execute(select(WorkRow.subject_id, WorkRow.due_at).order_by(WorkRow.id))
        told = await connection.execute(select(JournalRow.id))
        return [rows, parts, [tuple(row) for row in due.all()], len(told.all())]


async def work_off(opened: Installation) -> int:
    """Let what is due go on."""
    return await Dispatcher(opened).work_off()


async def unknown(opened: Installation, amount: str = "378.00", method: str = "card", **fields: Any) -> int:
    """Let a payment come that names no order and is left to a person; return its id."""
    payment_id = await pay(opened, None, amount, method=method, payer_name="Somebody Else", **fields)
    assert (await carry_on(method, payment_id)).name == "Needs a person"
    return payment_id


async def ambiguous(opened: Installation) -> int:
    """Let a payment come that names CZ5001 and CZ5002, each of 378.00, of two customers; return its id."""
    await buy(opened, "CZ5001", "bank_transfer")
    await buy(opened, "CZ5002", "bank_transfer", customer=order_document("x")["customer"] | {"number": "C0901"})
    payment_id = await pay(opened, None, "400.00", method="bank_transfer", text="CZ5001 CZ5002")
    assert (await carry_on("bank_transfer", payment_id)).name == "Needs a person"
    assert (await payment_row(opened, payment_id))["outcome"] == "ambiguous"
    return payment_id


async def breaches(opened: Installation) -> list[str]:
    """Return what the audit finds."""
    async with opened.store.read() as connection:
        return [f"{one.invariant}: {one.said}" for one in await audit(connection, now=opened.clock())]


async def balance_of(opened: Installation, order_id: int) -> str:
    """Return what the customer of an order has."""
    customer = (await order_of(opened, order_id)).customer.id
    async with opened.store.read() as connection:
        return (await balances.balance(connection, customer, "CZK")).amount


async def history(opened: Installation, payment_id: int) -> list[tuple[int | None, str, str, str]]:
    """Return what the journal tells of decisions on a payment, as (order, move, actor, reason)."""
    async with opened.store.read() as connection:
        rows = await connection.execute(
            select(JournalRow.order_id, JournalRow.move, JournalRow.actor, JournalRow.reason)
            .where(JournalRow.payment_id == payment_id, JournalRow.step == "match")
            .order_by(JournalRow.id)
        )
        assert await journal.verify(connection) == []
        return [tuple(row) for row in rows.all()]


async def in_queue(opened: Installation) -> list[int]:
    """Return the payments that wait for a person."""
    async with opened.store.read() as connection:
        return [row["id"] for row in await decisions.waiting(connection)]


# Given to orders


async def test_a_payment_given_to_an_order_carries_it_on_as_if_it_had_been_matched(opened: Installation) -> None:
    matched, given = await buy(opened, "CZ5001"), await buy(opened, "CZ5002")
    paid = await pay(opened, "CZ5001")
    await carry_on("card", paid)
    payment_id = await unknown(opened)
    result = await said(opened, payment_id, Decision.TO, "CZ5002")
    assert result.changed
    assert result.allocations == (("CZ5002", Money(37_800, "CZK"), True),)
    await work_off(opened)
    one = await steps_of(opened, matched, f"payment:{paid}")
    other = await steps_of(opened, given, f"payment:{payment_id}")
    assert {step: row["state"] for step, row in one.items()} == {step: row["state"] for step, row in other.items()}
    assert len(other) == 6
    assert [(await order_of(opened, id_)).status for id_ in (matched, given)] == ["paid", "paid"]
    row = await payment_row(opened, payment_id)
    assert (row["outcome"], row["policy"]) == ("exact", "release")
    assert row["reason"] == f"given to CZ5002 by {WHO}: {WHY}"
    assert await in_queue(opened) == []
    assert await breaches(opened) == []


async def test_the_same_word_twice_does_nothing_twice(opened: Installation) -> None:
    await buy(opened)
    payment_id = await unknown(opened)
    await said(opened, payment_id, Decision.TO, "CZ5001")
    await work_off(opened)
    before, outside = await everything(opened), await done_outside(opened)
    for to in ("CZ5001", "CZ5001=378.00"):
        again = await said(opened, payment_id, Decision.TO, to, author="petr")
        assert (again.changed, again.reason) == (False, f"given to CZ5001 by {WHO}: {WHY}")
    assert await work_off(opened) == 0
    assert (await everything(opened), await done_outside(opened)) == (before, outside)


async def test_who_and_why_stand_in_the_history_of_the_payment_and_of_each_order(opened: Installation) -> None:
    one, two = await buy(opened, "CZ5001"), await buy(opened, "CZ5002")
    payment_id = await unknown(opened, "756.00")
    before = await history(opened, payment_id)
    await said(opened, payment_id, Decision.TO, "CZ5001", "CZ5002")
    reason = f"given to CZ5001 and CZ5002 by {WHO}: {WHY}"
    told = (await history(opened, payment_id))[len(before) :]
    assert told == [(order, "exact", WHO, reason) for order in (None, one, two)]
    for order in (one, two):
        async with opened.store.read() as connection:
            assert [row["actor"] for row in await journal.of_order(connection, order) if row["step"] == "match"] == [
                WHO
            ]


async def test_a_part_goes_the_short_way_while_what_is_complete_goes_on(opened: Installation) -> None:
    one = await buy(opened, "CZ5001", "bank_transfer")
    two = await buy(opened, "CZ5002", "bank_transfer")
    payment_id = await unknown(opened, "478.00", "bank_transfer")
    result = await said(opened, payment_id, Decision.TO, "CZ5002=100.00", "CZ5001")
    assert (result.outcome, result.policy) == (Outcome.SHORT, Policy.WAIT)
    assert result.reason == (f"given to CZ5002 and CZ5001 by {WHO}: {WHY}; 278.00 CZK is still missing of CZ5002")
    await work_off(opened)
    assert (await steps_of(opened, one, f"payment:{payment_id}"))["dispatch"]["state"] == "done"
    assert set(await steps_of(opened, two, f"payment:{payment_id}")) == {"message incomplete"}
    assert any("278" in str(letter.get_body(("plain",))) for letter in letters(opened))
    await carry_on("bank_transfer", await pay(opened, "CZ5002", "278.00", method="bank_transfer"))
    assert (await order_of(opened, two)).to_pay.minor == 0
    assert await breaches(opened) == []


@pytest.mark.parametrize(
    ("rule", "policy", "ending", "credited", "waits"),
    [
        ("operator", "release", "22.00 CZK is too much", "0.00", True),
        ("balance", "release", "22.00 CZK is too much, which is kept on the customer's balance", "22.00", False),
        ("refund", "refund", "22.00 CZK is too much, which is to be sent back", "0.00", True),
    ],
)
async def test_what_is_left_over_goes_where_the_rules_of_the_channel_say(
    opened: Installation, rule: str, policy: str, ending: str, credited: str, waits: bool
) -> None:
    await change_rules(opened, {"outcomes": {"surplus": rule}})
    order = await buy(opened)
    payment_id = await unknown(opened, "400.00")
    result = await said(opened, payment_id, Decision.TO, "CZ5001")
    assert (result.outcome, result.policy, result.surplus.amount) == (Outcome.OVER, policy, "22.00")
    assert result.reason.endswith(ending)
    assert await balance_of(opened, order) == credited
    assert await in_queue(opened) == [payment_id] * waits
    await work_off(opened)
    assert (await order_of(opened, order)).status == "paid"
    assert await breaches(opened) == []


async def test_what_comes_within_tolerance_is_let_pass_by_hand_too(opened: Installation) -> None:
    await change_rules(opened, {"tolerance": {"absolute": "5.00"}})
    order = await buy(opened)
    payment_id = await unknown(opened, "375.00")
    result = await said(opened, payment_id, Decision.TO, "CZ5001")
    assert result.outcome is Outcome.WITHIN_TOLERANCE
    assert (await order_of(opened, order)).to_pay.minor == 0
    assert await breaches(opened) == []


async def test_what_was_given_by_hand_is_taken_back_by_a_revert_and_can_be_given_anew(opened: Installation) -> None:
    one, two = await buy(opened, "CZ5001"), await buy(opened, "CZ5002")
    payment_id = await unknown(opened)
    await said(opened, payment_id, Decision.TO, "CZ5001")
    await work_off(opened)
    begun = await begin(opened, [one], author=WHO, because="it was for the other", force=True)
    assert (await carry_on("revert", *begun)).name == "Done"
    assert (await payment_row(opened, payment_id))["outcome"] == "taken_back"
    await said(opened, payment_id, Decision.TO, "CZ5002")
    await work_off(opened)
    assert [(await order_of(opened, id_)).settled.minor for id_ in (one, two)] == [0, 37_800]
    assert (await steps_of(opened, two))["invoice"]["cause"] == f"payment:{payment_id}#2"
    assert await breaches(opened) == []


async def test_an_account_is_learnt_from_a_person(opened: Installation) -> None:
    await buy(opened, "CZ5001", "bank_transfer")
    payment_id = await unknown(opened, "378.00", "bank_transfer", payer_account="CZ6508000000192000145399")
    await said(opened, payment_id, Decision.TO, "CZ5001")
    await work_off(opened)
    second = await buy(opened, "CZ5002", "bank_transfer")
    paid = await pay(opened, None, method="bank_transfer", payer_name=None, payer_account="CZ6508000000192000145399")
    await carry_on("bank_transfer", paid)
    assert (await payment_row(opened, paid))["outcome"] == "exact"
    assert (await order_of(opened, second)).to_pay.minor == 0


async def test_a_payment_that_waits_for_the_same_order_is_looked_at_again(opened: Installation) -> None:
    between = await ambiguous(opened)
    payment_id = await unknown(opened, "378.00", "bank_transfer")
    await said(opened, payment_id, Decision.TO, "CZ5001")
    async with opened.store.read() as connection:
        due = await connection.execute(
            select(WorkRow.subject_id).where(WorkRow.subject == "payment", WorkRow.due_at.is_not(None))
        )
    assert set(due.scalars().all()) == {between, payment_id}


async def test_a_part_of_a_payment_that_went_back_is_not_given_to_anybody(opened: Installation) -> None:
    order = await buy(opened, "CZ5001", total="378.00")
    payment_id = await pay(opened, None, "478.00", provider_reference="pi_1", payer_name=None)
    (refund,) = await take_payments(opened, payment_of(None, "-100.00", provider_reference="pi_1", kind=Kind.REFUND))
    assert (await carry_on("card", payment_id)).name == "Needs a person"
    result = await said(opened, payment_id, Decision.TO, "CZ5001")
    assert (result.outcome, result.surplus.minor) == (Outcome.EXACT, 0)
    await work_off(opened)
    assert (await payment_row(opened, refund))["policy"] == "ignore"
    assert (await order_of(opened, order)).to_pay.minor == 0
    assert await breaches(opened) == []


async def test_a_payment_that_was_never_looked_at_can_be_given_to_an_order(opened: Installation) -> None:
    order = await buy(opened)
    payment_id = await pay(opened, None)
    await said(opened, payment_id, Decision.TO, "CZ5001")
    await work_off(opened)
    assert (await order_of(opened, order)).status == "paid"
    assert (await payment_row(opened, payment_id))["reason"] == f"given to CZ5001 by {WHO}: {WHY}"


# What is left over of a payment that has settled its order


async def over(opened: Installation) -> tuple[int, int]:
    """Let 400.00 be paid for an order of 378.00, which goes on; return both ids."""
    order = await buy(opened)
    payment_id = await pay(opened, "CZ5001", "400.00")
    assert (await carry_on("card", payment_id)).name == "Needs a person"
    return order, payment_id


async def test_a_surplus_is_kept_on_the_balance_sent_back_or_left_alone_and_that_can_be_said_anew(
    opened: Installation,
) -> None:
    order, payment_id = await over(opened)
    assert await in_queue(opened) == [payment_id]
    kept = await said(opened, payment_id, Decision.BALANCE)
    assert (kept.customer, await balance_of(opened, order), await in_queue(opened)) == ("C0900", "22.00", [])
    assert kept.reason == f"22.00 CZK too much kept on the balance of customer C0900 by {WHO}: {WHY}"
    assert not (await said(opened, payment_id, Decision.BALANCE)).changed
    assert (await carry_on("card", payment_id)).name == "Done"
    await said(opened, payment_id, Decision.REFUND)
    assert (await balance_of(opened, order), await in_queue(opened)) == ("0.00", [payment_id])
    await said(opened, payment_id, Decision.IGNORE, because="sent back at the bank")
    assert await in_queue(opened) == []
    assert (await carry_on("card", payment_id)).name == "Done"
    assert await breaches(opened) == []
    assert [move for _, move, _, _ in await history(opened, payment_id)] == ["over"] * 7


async def test_a_surplus_is_given_to_another_order(opened: Installation) -> None:
    one, two = await buy(opened, "CZ5001"), await buy(opened, "CZ5002")
    payment_id = await pay(opened, "CZ5001", "800.00")
    await carry_on("card", payment_id)
    cause = f"payment:{payment_id}"
    before = await steps_of(opened, one, cause)
    result = await said(opened, payment_id, Decision.TO, "CZ5002")
    assert (result.outcome, result.surplus.amount) == (Outcome.OVER, "44.00")
    await work_off(opened)
    assert [(await order_of(opened, id_)).status for id_ in (one, two)] == ["paid", "paid"]
    assert await steps_of(opened, one, cause) == before
    assert await refusal(opened, payment_id, Decision.TO, "CZ5002=10.00") == (
        f"payment {payment_id} settles CZ5002 already; name another order"
    )
    assert await breaches(opened) == []


async def test_a_revert_takes_a_credited_surplus_off_the_balance(opened: Installation) -> None:
    order, payment_id = await over(opened)
    await said(opened, payment_id, Decision.BALANCE)
    begun = await begin(opened, [order], author=WHO, because="wrong order", force=True)
    await carry_on("revert", *begun)
    assert await balance_of(opened, order) == "0.00"
    assert (await payment_row(opened, payment_id))["outcome"] == "taken_back"
    assert await breaches(opened) == []


# Kept, sent back, left alone, and again


async def test_the_balance_is_that_of_the_one_customer_whose_orders_a_payment_names(opened: Installation) -> None:
    order = await buy(opened)
    await cancel(opened, order)
    payment_id = await pay(opened)
    await carry_on("card", payment_id)
    assert (await payment_row(opened, payment_id))["outcome"] == "late"
    kept = await said(opened, payment_id, Decision.BALANCE)
    assert (kept.outcome, kept.policy, kept.customer) == (Outcome.LATE, Policy.BALANCE, "C0900")
    assert await balance_of(opened, order) == "378.00"
    assert not (await said(opened, payment_id, Decision.BALANCE)).changed
    assert not (await said(opened, payment_id, Decision.BALANCE, customer="C0900")).changed
    assert (await carry_on("card", payment_id)).name == "Done"
    assert await balance_of(opened, order) == "378.00"
    assert await breaches(opened) == []


async def test_a_payment_that_names_orders_of_two_customers_needs_one_to_be_named(opened: Installation) -> None:
    payment_id = await ambiguous(opened)
    assert await refusal(opened, payment_id, Decision.BALANCE) == (
        f"payment {payment_id} names orders of several customers; say whose balance with --customer"
    )
    kept = await said(opened, payment_id, Decision.BALANCE, customer="C0901")
    assert kept.customer == "C0901"
    other = await said(opened, payment_id, Decision.BALANCE, customer="C0900")
    assert (other.changed, other.customer) == (True, "C0900")
    async with opened.store.read() as connection:
        entries = [
            [(entry.amount.amount, entry.reversed) for entry in await balances.of_customer(connection, id_)]
            for number in ("C0901", "C0900")
            for id_, _ in await decisions.customers(connection, number, "cz")
        ]
    assert entries == [[("400.00", True), ("-400.00", False)], [("400.00", False)]]
    assert await breaches(opened) == []


async def test_a_payment_to_be_sent_back_is_listed_until_the_gateway_says_that_it_has_gone(
    opened: Installation,
) -> None:
    payment_id = await unknown(opened, provider_reference="pi_1")
    await said(opened, payment_id, Decision.REFUND)
    assert not (await said(opened, payment_id, Decision.REFUND)).changed
    assert await in_queue(opened) == [payment_id]
    assert (await carry_on("card", payment_id)).name == "Done"
    (refund,) = await take_payments(opened, payment_of(None, "-378.00", provider_reference="pi_1", kind=Kind.REFUND))
    await carry_on("money_back", refund)
    assert await in_queue(opened) == []
    assert await breaches(opened) == []


async def test_a_payment_to_be_sent_back_is_off_the_list_once_a_person_says_that_it_was(opened: Installation) -> None:
    payment_id = await unknown(opened)
    await said(opened, payment_id, Decision.REFUND)
    await said(opened, payment_id, Decision.IGNORE, because="sent back at the bank today")
    assert await in_queue(opened) == []


@pytest.mark.parametrize("decision", [Decision.IGNORE, Decision.REFUND])
async def test_what_a_person_decided_is_not_matched_again_by_itself(opened: Installation, decision: Decision) -> None:
    payment_id = await pay(opened, "CZ5001")
    await carry_on("card", payment_id)
    await said(opened, payment_id, decision)
    assert not (await said(opened, payment_id, decision)).changed
    await buy(opened, "CZ5001")
    await match_again.fn()
    await work_off(opened)
    await carry_on("card", payment_id)
    row = await payment_row(opened, payment_id)
    assert (row["outcome"], row["policy"]) == ("unknown", decision.value)
    assert await breaches(opened) == []


@pytest.mark.parametrize("before", [Decision.BALANCE, Decision.REFUND, Decision.IGNORE])
async def test_again_takes_back_what_was_said_and_the_rules_decide_in_a_new_round(
    opened: Installation, before: Decision
) -> None:
    order = await buy(opened)
    payment_id = await unknown(opened)
    await said(opened, payment_id, before, customer="C0900" if before is Decision.BALANCE else None)
    again = await said(opened, payment_id, Decision.AGAIN, because="the rules are better now")
    assert (again.changed, again.outcome, again.policy) == (True, None, None)
    assert not (await said(opened, payment_id, Decision.AGAIN)).changed
    row = await payment_row(opened, payment_id)
    assert (row["round"], row["reason"]) == (2, f"to be matched again, by {WHO}: the rules are better now")
    await work_off(opened)
    assert ((await payment_row(opened, payment_id))["outcome"], await balance_of(opened, order)) == ("unknown", "0.00")
    assert await breaches(opened) == []


async def test_a_payment_that_is_matched_again_settles_what_it_names_now(opened: Installation) -> None:
    payment_id = await pay(opened, "CZ5001")
    await carry_on("card", payment_id)
    await said(opened, payment_id, Decision.IGNORE)
    order = await buy(opened, "CZ5001")
    await said(opened, payment_id, Decision.AGAIN)
    await work_off(opened)
    assert (await order_of(opened, order)).status == "paid"
    assert (await steps_of(opened, order))["invoice"]["cause"] == f"payment:{payment_id}#2"


async def test_a_refund_that_needs_a_person_is_off_the_list_once_it_was_seen_to(opened: Installation) -> None:
    await buy(opened)
    payment_id = await pay(opened, "CZ5001", provider_reference="pi_1")
    await carry_on("card", payment_id)
    (refund,) = await take_payments(opened, payment_of(None, "-100.00", provider_reference="pi_1", kind=Kind.REFUND))
    assert (await carry_on("money_back", refund)).name == "Needs a person"
    assert await refusal(opened, refund, Decision.AGAIN) == (
        f"payment {refund} is booked to CZ5001; `--ignore` says that it is seen to"
    )
    assert (await said(opened, refund, Decision.IGNORE)).policy is Policy.IGNORE
    assert await in_queue(opened) == []
    assert (await carry_on("money_back", refund)).name == "Done"
    assert await breaches(opened) == []


# What is refused


INSTEAD = "send it back with --refund, or keep it for the customer with --balance"


@pytest.mark.parametrize(
    ("to", "why"),
    [
        (["CZ9999"], "order CZ9999 is not known"),
        (["CZ5001=much"], "order CZ5001: “much” is not an amount; write digits with a dot, such as 450.00"),
        (["CZ5001=0.00"], "order CZ5001: 0.00 CZK is nothing to allocate; write an amount above zero"),
        (["CZ5001=378.01"], "378.01 CZK is more than the 378.00 CZK that is open of order CZ5001"),
        (["CZ5001=300.00", "CZ5002=100.00"], "400.00 CZK in all is more than the 378.00 CZK that there are to give"),
        (["CZ5001", "CZ5001=1.00"], "order CZ5001 is named twice; name it once, with all that it gets"),
        (
            ["CZ5001", "CZ5002"],
            "nothing is left for order CZ5002; say how much each order gets, such as CZ5002=10.00",
        ),
        (["CZ5003"], f"order CZ5003 is cancelled, so it takes no money any more; {INSTEAD}"),
        (["CZ5004"], f"nothing is open of order CZ5004, it is paid already; {INSTEAD}"),
        (["RO5005"], f"order RO5005 is to be paid in RON, not in CZK; {INSTEAD}"),
        ([], "name the orders that it is for, such as CZ1042 or CZ1042=450.00"),
        (["  "], "“” names no order; write its number, such as CZ1042 or CZ1042=450.00"),
    ],
    ids=[
        "an unknown order",
        "no amount",
        "nothing",
        "more than is open",
        "more than there is",
        "twice",
        "nothing left",
        "closed",
        "paid already",
        "another currency",
        "no order",
        "no number",
    ],
)
async def test_an_order_that_can_not_take_the_payment_is_refused(opened: Installation, to: list[str], why: str) -> None:
    for number in ("CZ5001", "CZ5002", "CZ5004"):
        await buy(opened, number)
    await cancel(opened, await buy(opened, "CZ5003"))
    await buy(opened, "RO5005", channel="ro", currency="RON")
    await carry_on("card", await pay(opened, "CZ5004"))
    payment_id = await unknown(opened)
    assert await refusal(opened, payment_id, Decision.TO, *to) == why


async def test_a_payment_that_settles_something_is_to_be_taken_off_first(opened: Installation) -> None:
    await buy(opened, "CZ5001")
    await buy(opened, "CZ5002")
    payment_id = await pay(opened, "CZ5001")
    await carry_on("card", payment_id)
    for decision in Decision:
        to = ["CZ5002"] if decision is Decision.TO else []
        assert await refusal(opened, payment_id, decision, *to) == (
            f"payment {payment_id} settles CZ5001; take it off first with `kvit revert CZ5001`"
        )


async def test_a_payment_that_went_back_has_nothing_to_give(opened: Installation) -> None:
    await buy(opened, "CZ5001")
    payment_id = await pay(opened, None, provider_reference="pi_1")
    await take_payments(opened, payment_of(None, "-378.00", provider_reference="pi_1", kind=Kind.REFUND))
    await carry_on("card", payment_id)
    for decision in (Decision.TO, Decision.BALANCE, Decision.REFUND):
        to = ["CZ5001"] if decision is Decision.TO else []
        assert await refusal(opened, payment_id, decision, *to) == (
            f"all of payment {payment_id} went back already, so there is nothing to give away; "
            "`--ignore` takes it off the list"
        )


@pytest.mark.parametrize(
    ("amount", "kind", "why"),
    [
        ("-378.00", Kind.PAYMENT, "is money that went out, so there is nothing to give away"),
        ("0.00", Kind.PAYMENT, "is of nothing, so there is nothing to give away"),
        ("378.00", Kind.RETURN, "is no customer's payment but a return, so it settles no order"),
    ],
)
async def test_money_that_is_no_customers_payment_settles_no_order(
    opened: Installation, amount: str, kind: Kind, why: str
) -> None:
    await buy(opened)
    (payment_id,) = await take_payments(opened, payment_of(None, amount, kind=kind))
    await carry_on("card", payment_id)
    assert await refusal(opened, payment_id, Decision.TO, "CZ5001") == (
        f"payment {payment_id} {why}; `--ignore` takes it off the list"
    )


async def test_a_gateways_payout_settles_no_order_itself(opened: Installation) -> None:
    await buy(opened)
    payment_id = await unknown(opened)
    async with opened.store.write() as connection:
        payout = {"outcome": Outcome.PAYOUT.value, "policy": Policy.IGNORE.value}
        await connection.execute(update(PaymentRow).where(PaymentRow.id == payment_id).values(**payout))
    for decision in (Decision.TO, Decision.BALANCE, Decision.REFUND):
        to = ["CZ5001"] if decision is Decision.TO else []
        assert await refusal(opened, payment_id, decision, *to) == (
            f"payment {payment_id} is a gateway's payout: the payments in its report settle orders; "
            "`--ignore` takes it off the list"
        )
    assert not (await said(opened, payment_id, Decision.IGNORE)).changed


async def test_an_order_that_is_being_taken_back_takes_nothing_meanwhile(opened: Installation) -> None:
    order = await buy(opened)
    await carry_on("card", await pay(opened, "CZ5001", "100.00"))
    payment_id = await unknown(opened, "278.00")
    await begin(opened, [order], author=WHO, because="wrong", force=True)
    assert await refusal(opened, payment_id, Decision.TO, "CZ5001") == (
        "order CZ5001 is being taken back right now; wait until that has ended"
    )


@pytest.mark.parametrize(
    ("decision", "more", "why"),
    [
        (Decision.REFUND, {"because": " \n"}, "say why, with --because"),
        (Decision.REFUND, {"to": ["CZ5001"]}, "orders are named only where the payment is given to them"),
        (Decision.REFUND, {"customer": "C1"}, "a customer is named only where the payment is kept on a balance"),
        (Decision.BALANCE, {"customer": "C9"}, "customer C9 is not known"),
        (Decision.BALANCE, {"customer": "C0900", "channel": "ro"}, "customer C0900 is not known in channel ro"),
    ],
)
async def test_what_is_not_said_rightly_is_refused(
    opened: Installation, decision: Decision, more: dict[str, Any], why: str
) -> None:
    payment_id = await unknown(opened)
    with pytest.raises(ByHandError) as refused:
        await decide(opened, payment_id, decision, **{"author": WHO, "because": WHY, **more})
    assert str(refused.value) == why


@pytest.mark.parametrize("payment_id", [0, -1, 99, 1 << 63, 1 << 80])
async def test_an_unknown_payment_is_said(opened: Installation, payment_id: int) -> None:
    with pytest.raises(ByHandError) as refused:
        await decide(opened, payment_id, Decision.IGNORE, author=WHO, because=WHY)
    assert str(refused.value) == f"payment {payment_id} is not known; `kvit payments list` shows the numbers"


async def test_a_number_that_two_channels_use_needs_its_channel(opened: Installation) -> None:
    await buy(opened, "CZ5001")
    await buy(opened, "CZ5001", channel="ro", currency="RON")
    payment_id = await unknown(opened)
    assert await refusal(opened, payment_id, Decision.TO, "CZ5001") == "order CZ5001 is in cz, ro; name the channel"
    assert await refusal(opened, payment_id, Decision.BALANCE, customer="C0900") == (
        "customer C0900 is in cz, ro; name the channel"
    )
    assert (await said(opened, payment_id, Decision.TO, "CZ5001", channel="cz")).changed


# Several at once


async def test_of_two_operators_at_the_same_moment_the_second_is_told(opened: Installation) -> None:
    await buy(opened, "CZ5001")
    await buy(opened, "CZ5002")
    payment_id = await unknown(opened)
    came = await asyncio.gather(
        said(opened, payment_id, Decision.TO, "CZ5001"),
        said(opened, payment_id, Decision.REFUND, author="petr"),
        return_exceptions=True,
    )
    (refused,) = [one for one in came if isinstance(one, ByHandError)]
    (done,) = [one for one in came if isinstance(one, Decided)]
    assert str(refused).startswith(f"payment {payment_id} was decided meanwhile (")
    assert str(refused).endswith("; look at it again")
    assert done.changed
    assert await breaches(opened) == []


async def test_a_word_that_comes_twice_at_the_same_moment_is_done_once(opened: Installation) -> None:
    await buy(opened)
    payment_id = await unknown(opened)
    came = await asyncio.gather(*(said(opened, payment_id, Decision.TO, "CZ5001") for _ in range(4)))
    assert sorted(one.changed for one in came) == [False, False, False, True]
    await work_off(opened)
    assert (await done_outside(opened))["labels"] == 1
    assert await breaches(opened) == []


async def test_a_word_that_comes_while_the_payment_is_matched_is_carried_on_afterwards(opened: Installation) -> None:
    order = await buy(opened)
    payment_id = await unknown(opened)
    async with opened.store.write() as connection:
        await work.add(connection, "card", "payment", [payment_id], now=opened.clock())
    came = await asyncio.gather(carry_on("card", payment_id), said(opened, payment_id, Decision.TO, "CZ5001"))
    assert isinstance(came[1], Decided)
    await work_off(opened)
    assert (await order_of(opened, order)).status == "paid"
    assert (await done_outside(opened))["labels"] == 1


# The form in the UI


async def fill_in(*given: Any, **fields: Any) -> State[Any]:
    """Start the deployment as its form is filled in."""
    return await cast("Any", resolve_payment)(*given, **fields, return_state=True)


async def test_the_form_gives_a_payment_to_orders_once_however_often_it_runs(opened: Installation) -> None:
    order = await buy(opened)
    payment_id = await unknown(opened)
    filled: dict[str, Any] = {"what": Decision.TO, "orders": ["CZ5001"], "because": WHY, "author": WHO}
    state = await fill_in(payment_id, **filled)
    told = f"given to CZ5001 by {WHO}: {WHY}"
    assert (state.name, state.message) == ("Done", f"payment {payment_id}: {told}")
    await work_off(opened)
    outside = await done_outside(opened)
    state = await fill_in(payment_id, **filled)
    assert (state.name, state.message) == ("Done", f"payment {payment_id}: it was so already: {told}")
    await work_off(opened)
    assert ((await order_of(opened, order)).status, await done_outside(opened)) == ("paid", outside)


async def test_a_form_that_can_not_be_done_says_why_and_is_named_by_its_payment(opened: Installation) -> None:
    payment_id = await unknown(opened)
    state = await fill_in(payment_id, what=Decision.TO, orders=["CZ9999"], because=WHY)
    assert (state.type.value, state.name, state.message) == ("FAILED", "Refused", "order CZ9999 is not known")
    assert state.state_details.flow_run_id is not None
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
    assert run.name == f"resolve payment · {payment_id}"
    state = await fill_in()
    assert (state.name, state.message) == ("Refused", "say which payment it is")


# The command line


def kvit(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Give a command as an operator does."""
    return subprocess.run(
        [sys.executable, "-m", "deployments", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"KVIT_HOME": str(home), "PATH": "/usr/bin:/bin", "COLUMNS": "400", "HOME": str(home)},
    )


async def test_an_operator_sees_what_waits_and_resolves_it(opened: Installation, clock: Clock) -> None:
    order = await buy(opened)
    clock.forward(days=3)
    payment_id = await unknown(opened, "400.00", text="za čaj")

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(kvit, opened.home, *arguments)

    listed = await run("payments", "list", "--unmatched")
    assert f"kvit resolve {payment_id} --to ORDER, --refund or --ignore" in listed.stdout
    for options, why in (
        ([], "say one of --to, --balance, --refund, --ignore and --again"),
        (["--refund", "--ignore"], "say one of --to, --balance, --refund, --ignore and --again"),
        (["--refund", "--customer", "C1"], "--customer goes with --balance alone"),
        (["--refund"], "say why, with --because"),
        (["--to", "CZ9999", "--because", WHY], "order CZ9999 is not known"),
    ):
        wrong = await run("resolve", str(payment_id), *options)
        assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", f"kvit: {why}\n")
    done = await run("resolve", str(payment_id), "--to", "CZ5001=378.00", "--because", WHY, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], told["surplus"], told["changed"]) == (0, "over", "22.00", True)
    assert told["allocations"] == [{"order": "CZ5001", "amount": "378.00", "currency": "CZK", "completes": True}]
    listed = await run("payments", "list", "--unmatched", "--json")
    (row,) = json.loads(listed.stdout)["payments"]
    assert (row["asked"], row["waits"], row["todo"]) == (
        "surplus",
        "22.00",
        f"kvit resolve {payment_id} --balance, --refund or --ignore",
    )
    kept = await run("resolve", str(payment_id), "--balance", "--because", "she will order again")
    assert kept.stdout.startswith(f"Payment {payment_id}: 22.00 CZK too much kept on the balance of customer C0900 by ")
    clock.now = datetime.now(UTC)  # that of the commands
    await work_off(opened)
    assert ((await order_of(opened, order)).status, await balance_of(opened, order)) == ("paid", "22.00")


async def test_matching_again_is_refused_for_what_was_decided(opened: Installation) -> None:
    payment_id = await unknown(opened)
    await said(opened, payment_id, Decision.IGNORE)
    told = await asyncio.to_thread(kvit, opened.home, "payments", "match", str(payment_id))
    decided = f"payment {payment_id} was decided (left alone by {WHO}: {WHY})"
    why = f"kvit: {decided}; `kvit resolve {payment_id} --again` takes that back\n"
    assert (told.returncode, told.stderr) == (2, why)
