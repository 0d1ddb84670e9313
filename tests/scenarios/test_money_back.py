"""Money that went back: what a refund or a chargeback undoes, and what it leaves alone."""

from __future__ import annotations

from typing import Any

from prefect import State
from shop_builders import (
    Clock,
    buy,
    carry_on,
    change_rules,
    order_label_and_die,
    order_of,
    pay,
    payment_of,
    payment_row,
    steps_of,
    take_payments,
)

from domain.payments import Kind
from store import documents, orders, stock, work
from store.audit import audit
from tasks.installation import Installation
from tasks.match import match_payments

PAID = "378.00"


async def paid(opened: Installation, number: str = "CZ5001", intent: str = "pi_1") -> tuple[int, int]:
    """Let an order be paid by card and carried on; return its id and its payment's."""
    order_id = await buy(opened, number)
    payment_id = await pay(opened, number, provider_reference=intent)
    assert (await carry_on("card", payment_id)).name == "Done"
    return order_id, payment_id


async def went_back(
    opened: Installation, kind: Kind = Kind.REFUND, amount: str = f"-{PAID}", intent: str = "pi_1"
) -> tuple[int, State[Any]]:
    """Let money move at the gateway; return the movement's id and the state in which its run ended."""
    movement = payment_of(None, amount, provider_reference=intent, kind=kind)
    (id_,) = await take_payments(opened, movement)
    return id_, await carry_on("money_back", id_)


async def done_by(opened: Installation, order_id: int, payment_id: int) -> dict[str, str]:
    """Return what each step came to that a movement caused."""
    return {name: row["state"] for name, row in (await steps_of(opened, order_id, f"payment:{payment_id}")).items()}


async def on_hand(opened: Installation) -> dict[str, int]:
    """Return the stock of every article."""
    async with opened.store.read() as connection:
        return {level.sku: level.on_hand - level.reserved for level in await stock.levels(connection)}


async def kinds_of(opened: Installation, order_id: int) -> list[tuple[str, bool]]:
    """Return an order's documents as (kind, in force)."""
    async with opened.store.read() as connection:
        return [(row["kind"], row["live"]) for row in await documents.of_order(connection, order_id)]


async def breaches(opened: Installation) -> list[str]:
    """Return what the audit finds."""
    async with opened.store.read() as connection:
        return [f"{one.invariant}: {one.subject}: {one.said}" for one in await audit(connection, now=opened.clock())]


async def test_a_refund_takes_back_what_was_done_once_however_often_it_is_told(opened: Installation) -> None:
    before = await on_hand(opened)
    order_id, _ = await paid(opened)
    assert await on_hand(opened) != before
    refund, state = await went_back(opened)
    assert state.name == "Done"
    assert await done_by(opened, order_id, refund) == {
        "cancel dispatch": "done",
        "restock": "done",
        "credit note": "done",
        "status back": "skipped",
    }
    await carry_on("money_back", refund)
    assert await on_hand(opened) == before
    assert await kinds_of(opened, order_id) == [("invoice", False), ("credit_note", False)]
    assert await breaches(opened) == []


async def test_a_refund_frees_the_goods_of_an_order_that_were_only_reserved(opened: Installation) -> None:
    await change_rules(
        opened, {"placed": {"card": {"reserve_stock": True}}, "scenarios": {"card": {"stock": "ignore"}}}
    )
    before = await on_hand(opened)
    order_id = await buy(opened, "CZ5001")
    await carry_on("order_placed", order_id)
    assert await on_hand(opened) != before
    payment_id = await pay(opened, "CZ5001", provider_reference="pi_1")
    await carry_on("card", payment_id)
    refund, _ = await went_back(opened)
    assert (await done_by(opened, order_id, refund))["restock"] == "done"
    assert await on_hand(opened) == before
    assert await breaches(opened) == []


async def test_a_refunded_order_asks_for_no_money_any_more(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    await went_back(opened)
    assert (await order_of(opened, order_id)).to_pay.minor == 0
    again = await pay(opened, "CZ5001")
    await carry_on("card", again)
    assert (await payment_row(opened, again))["outcome"] == "duplicate"


async def test_what_a_chargeback_took_is_owed_and_told_to_the_operator(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    chargeback, state = await went_back(opened, Kind.CHARGEBACK)
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert await done_by(opened, order_id, chargeback) == {
        "cancel dispatch": "done",
        "restock": "skipped",
        "credit note": "skipped",
        "status back": "skipped",
    }
    assert (await order_of(opened, order_id)).to_pay.minor == 37_800
    assert await kinds_of(opened, order_id) == [("invoice", True)]
    assert await breaches(opened) == []


async def test_a_won_dispute_brings_the_money_back_and_carries_nothing_on_by_itself(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    await went_back(opened, Kind.CHARGEBACK)
    won, state = await went_back(opened, Kind.REINSTATED, PAID)
    assert state.name == "Needs a person"
    assert await done_by(opened, order_id, won) == {}
    assert (await order_of(opened, order_id)).to_pay.minor == 0
    assert await breaches(opened) == []


async def test_a_refund_of_a_part_undoes_nothing_and_is_told_to_the_operator(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    refund, state = await went_back(opened, amount="-100.00")
    assert state.name == "Needs a person"
    assert await done_by(opened, order_id, refund) == {}
    assert await kinds_of(opened, order_id) == [("invoice", True)]
    rest, _ = await went_back(opened, amount="-278.00")
    assert (await done_by(opened, order_id, rest))["credit note"] == "done"
    assert await breaches(opened) == []


async def test_more_than_came_can_not_go_back(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    refund, state = await went_back(opened, amount="-378.01")
    assert state.name == "Needs a person"
    assert (await payment_row(opened, refund))["reason"] == "more went back than the payment had brought"
    assert (await order_of(opened, order_id)).settled.minor == 37_800
    assert await breaches(opened) == []


async def test_what_was_paid_too_much_goes_back_first(opened: Installation) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened, amount="400.00", provider_reference="pi_1")
    await carry_on("card", payment_id)
    refund, state = await went_back(opened, amount="-22.00")
    assert state.name == "Done"
    assert await done_by(opened, order_id, refund) == {}
    assert (await payment_row(opened, payment_id))["surplus_minor"] == 0
    assert await breaches(opened) == []


async def test_a_refund_that_comes_before_its_payment_keeps_the_order_unpaid(opened: Installation) -> None:
    order_id = await buy(opened)
    refund, state = await went_back(opened)
    assert (state.name, (await payment_row(opened, refund))["outcome"]) == ("Needs a person", "unknown")
    payment_id = await pay(opened, provider_reference="pi_1")
    await carry_on("card", payment_id)
    assert (await payment_row(opened, payment_id))["outcome"] == "refund"
    assert await steps_of(opened, order_id, f"payment:{payment_id}") == {}
    await carry_on("money_back", refund)
    assert (await payment_row(opened, refund))["policy"] == "ignore"
    assert await breaches(opened) == []


async def test_the_refund_of_a_second_charge_leaves_the_order_paid(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    second = await pay(opened, provider_reference="pi_2")
    await carry_on("card", second)
    refund, _ = await went_back(opened, intent="pi_2")
    assert await done_by(opened, order_id, refund) == {}
    assert await kinds_of(opened, order_id) == [("invoice", True)]
    assert (await order_of(opened, order_id)).to_pay.minor == 0


async def test_when_one_of_two_payments_goes_back_nothing_is_undone_and_nothing_stays_due(opened: Installation) -> None:
    order_id = await buy(opened)
    await carry_on("order_placed", order_id)
    for half, intent in (("100.00", "pi_1"), ("278.00", "pi_2")):
        await carry_on("card", await pay(opened, amount=half, provider_reference=intent))
    chargeback, state = await went_back(opened, Kind.CHARGEBACK, "-100.00")
    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert await done_by(opened, order_id, chargeback) == {}
    assert await kinds_of(opened, order_id) == [("invoice", True)]
    async with opened.store.read() as connection:
        assert await work.next_due(connection) is None


async def test_steps_that_had_not_happened_do_not_happen_after_a_refund(opened: Installation) -> None:
    order_id = await buy(opened, number="CZ5001")
    payment_id = await pay(opened, provider_reference="pi_1")
    await match_payments.fn([payment_id])
    await went_back(opened)
    await carry_on("card", payment_id)
    steps = await steps_of(opened, order_id, f"payment:{payment_id}")
    assert {row["state"] for row in steps.values()} == {"skipped"}
    assert {row["reason"] for row in steps.values()} == {"the order's money went back (refund)"}
    assert await kinds_of(opened, order_id) == []


async def test_the_rules_say_what_a_refund_takes_back(opened: Installation) -> None:
    await change_rules(
        opened,
        {
            "money_back": {
                "refund": {"restock": False, "credit_note": False, "status": "cancelled", "tell_operator": True}
            }
        },
    )
    order_id, _ = await paid(opened)
    refund, state = await went_back(opened)
    assert state.name == "Needs a person"
    assert await done_by(opened, order_id, refund) == {
        "cancel dispatch": "done",
        "restock": "skipped",
        "credit note": "skipped",
        "status back": "done",
    }
    assert (await order_of(opened, order_id)).status == "cancelled"


async def test_a_label_that_a_dead_worker_may_have_ordered_is_cancelled_when_that_is_known(
    opened: Installation, clock: Clock
) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened, provider_reference="pi_1")
    await match_payments.fn([payment_id])
    await order_label_and_die(opened, order_id, f"payment:{payment_id}")
    clock.forward(minutes=10)
    refund, state = await went_back(opened)
    assert state.name == "Will go on"
    assert (await done_by(opened, order_id, refund))["cancel dispatch"] == "intended"
    await carry_on("card", payment_id)
    clock.forward(minutes=10)
    assert (await carry_on("money_back", refund)).name == "Done"
    assert (await done_by(opened, order_id, refund))["cancel dispatch"] == "done"
    async with opened.store.read() as connection:
        assert await orders.live_shipment(connection, order_id) is None
    assert await breaches(opened) == []
