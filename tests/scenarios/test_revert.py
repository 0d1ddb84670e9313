"""Revert: an order goes back to before its payment, by a plan that is shown first, and once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prefect import State
from shop_builders import (
    Clock,
    buy,
    carry_on,
    letters,
    order_label_and_die,
    order_of,
    pay,
    payment_row,
    steps_of,
)

from deployments.dispatcher import Dispatcher
from domain.orders import Status
from store import documents, effects, journal, orders, stock
from store.audit import audit
from store.effects import Wanted
from tasks.installation import Installation
from tasks.invoice import issue_invoice
from tasks.match import match_payments
from tasks.revert import RevertError, begin, plan
from tasks.status import set_status
from tasks.step import Step
from tasks.stock import deduct_stock

WHO, WHY = "jana", "paid for another order"


async def paid(opened: Installation, number: str = "CZ5001", method: str = "card", **fields: Any) -> tuple[int, int]:
    """Let an order be paid and carried on; return its id and its payment's."""
    order_id = await buy(opened, number, method, **fields)
    payment_id = await pay(opened, number, method=method)
    assert (await carry_on(method, payment_id)).name == "Done"
    return order_id, payment_id


async def revert(opened: Installation, *order_ids: int, force: bool = True, with_others: bool = False) -> State[Any]:
    """Take orders back and return the state in which the run ended."""
    begun = await begin(opened, order_ids, author=WHO, because=WHY, force=force, with_others=with_others)
    return await carry_on("revert", *begun)


async def planned(opened: Installation, order_id: int) -> dict[str, str]:
    """Return how each step of an order would be taken back."""
    (one,) = await plan(opened, [order_id])
    return {line.step: line.way.value for line in one.lines}


async def on_hand(opened: Installation) -> dict[str, int]:
    """Return what is free of every article."""
    async with opened.store.read() as connection:
        return {level.sku: level.on_hand - level.reserved for level in await stock.levels(connection)}


async def documents_of(opened: Installation, order_id: int) -> list[tuple[str, bool]]:
    """Return an order's documents as (kind, in force)."""
    async with opened.store.read() as connection:
        return [(row["kind"], row["live"]) for row in await documents.of_order(connection, order_id)]


async def breaches(opened: Installation) -> list[str]:
    """Return what the audit finds."""
    async with opened.store.read() as connection:
        return [f"{one.invariant}: {one.subject}: {one.said}" for one in await audit(connection, now=opened.clock())]


async def moves_of(opened: Installation, order_id: int) -> list[tuple[str, str]]:
    """Return an order's journal as (step, move)."""
    async with opened.store.read() as connection:
        return [(row["step"], row["move"]) for row in await journal.of_order(connection, order_id)]


async def test_the_plan_says_how_each_effect_is_taken_back_newest_first(opened: Installation) -> None:
    order_id, payment_id = await paid(opened)
    (one,) = await plan(opened, [order_id])
    assert one.payments == (payment_id,)
    assert {line.step: line.way.value for line in one.lines} == {
        "message dispatch": "irreversible",
        "message": "irreversible",
        "dispatch": "compensable",
        "stock": "compensable",
        "invoice": "compensable",
        "status": "reversible",
    }
    ids = [line.effect_id for line in one.lines]
    assert ids == sorted(ids, reverse=True)


async def test_a_plan_changes_nothing(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    before = await moves_of(opened, order_id)
    await plan(opened, [order_id])
    assert await moves_of(opened, order_id) == before


async def test_an_order_goes_back_to_before_its_payment(opened: Installation) -> None:
    before = await on_hand(opened)
    order_id, payment_id = await paid(opened)
    state = await revert(opened, order_id)
    assert (state.name, state.message) == ("Done", "1 orders are back to before their payment")
    order = await order_of(opened, order_id)
    assert (order.status, order.settled.minor) == ("new", 0)
    assert await on_hand(opened) == before
    assert await documents_of(opened, order_id) == [("invoice", False), ("credit_note", False)]
    row = await payment_row(opened, payment_id)
    assert (row["outcome"], row["policy"]) == ("taken_back", "operator")
    assert row["reason"] == f"taken off order CZ5001 by {WHO}: {WHY}"
    assert await breaches(opened) == []


async def test_effects_are_undone_newest_first_and_nothing_is_edited_away(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    before = await moves_of(opened, order_id)
    await revert(opened, order_id)
    after = await moves_of(opened, order_id)
    assert after[: len(before)] == before
    begun = [step for step, move in before if move == "intended" and not step.startswith("message")]
    done = [step for step in begun if (step, "done") in before]
    undone = [step.removeprefix("undo ") for step, move in after[len(before) :] if move == "done" and step != "revert"]
    assert undone == done[::-1]


async def test_reverting_twice_does_nothing_twice(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    begun = await begin(opened, [order_id], author=WHO, because=WHY, force=True)
    assert await begin(opened, [order_id], author="petr", because="the same", force=True) == begun
    await carry_on("revert", *begun)
    moves = await moves_of(opened, order_id)
    stocked = await on_hand(opened)
    assert (await carry_on("revert", *begun)).name == "Done"
    assert (await moves_of(opened, order_id), await on_hand(opened)) == (moves, stocked)
    with pytest.raises(RevertError, match="no payment is allocated to it, so there is nothing to take back"):
        await revert(opened, order_id)


async def test_what_can_not_be_taken_back_needs_force_and_is_named(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    with pytest.raises(
        RevertError, match=r"order CZ5001: the message was sent \(dispatch prepared .*and 1 more; .*--force"
    ):
        await revert(opened, order_id, force=False)
    assert (await order_of(opened, order_id)).status == "paid"
    sent = len(letters(opened))
    await revert(opened, order_id, force=True)
    assert len(letters(opened)) == sent  # a message stays sent, and nobody gets another


async def test_a_reverted_payment_is_matched_again_when_that_is_asked_for_and_not_by_itself(
    opened: Installation,
) -> None:
    order_id, payment_id = await paid(opened)
    await revert(opened, order_id)
    await Dispatcher(opened).work_off()
    assert (await payment_row(opened, payment_id))["outcome"] == "taken_back"
    await carry_on("card", payment_id)
    order = await order_of(opened, order_id)
    assert (order.status, order.to_pay.minor) == ("paid", 0)
    assert await documents_of(opened, order_id) == [("invoice", False), ("credit_note", False), ("invoice", True)]
    assert await breaches(opened) == []


async def test_an_order_can_be_reverted_and_paid_again_and_again(opened: Installation) -> None:
    order_id, payment_id = await paid(opened)
    for _ in range(2):
        await revert(opened, order_id)
        await carry_on("card", payment_id)
    await revert(opened, order_id)
    kinds = [kind for kind, _ in await documents_of(opened, order_id)]
    assert kinds == ["invoice", "credit_note"] * 3
    assert await breaches(opened) == []


async def test_orders_that_one_payment_settled_are_listed_and_go_back_together(opened: Installation) -> None:
    one, two = await buy(opened, "CZ5001", "bank_transfer"), await buy(opened, "CZ5002", "bank_transfer")
    payment_id = await pay(opened, None, "756.00", method="bank_transfer", text="CZ5001 CZ5002")
    await carry_on("bank_transfer", payment_id)
    plans = await plan(opened, [one])
    assert [each.number for each in plans] == ["CZ5001", "CZ5002"]
    with pytest.raises(RevertError, match=r"the same payment settled CZ5002 too; .*--with-others"):
        await revert(opened, one)
    assert (await revert(opened, one, with_others=True)).name == "Done"
    assert [(await order_of(opened, id_)).settled.minor for id_ in (one, two)] == [0, 0]
    assert (await payment_row(opened, payment_id))["outcome"] == "taken_back"
    assert await breaches(opened) == []


async def test_a_step_in_doubt_is_in_the_way_until_it_is_settled(opened: Installation) -> None:
    order_id, payment_id = await paid(opened)
    async with opened.store.write() as connection:
        (claim,) = await effects.claim(
            connection,
            "letter",
            [Wanted(order_id, f"payment:{payment_id}", 1)],
            owner="gone",
            lease_until=opened.clock() - timedelta(seconds=1),
            actor=journal.Actor(name="gone"),
            now=opened.clock(),
        )
        rows = await effects.lock(connection, [claim.effect_id])
        ending = effects.Ending(
            effect_id=claim.effect_id, state=effects.EffectState.IN_DOUBT, reason="timed out", before={}, after={}
        )
        await effects.end(connection, "letter", [ending], rows, actor=journal.Actor(name="gone"), now=opened.clock())
    with pytest.raises(RevertError, match="step letter is in the way: whether it happened is not known"):
        await revert(opened, order_id)


async def test_what_a_dead_worker_may_have_done_is_in_the_way_until_it_was_asked_about(
    opened: Installation, clock: Clock
) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)
    await match_payments.fn([payment_id])
    tracking_number = await order_label_and_die(opened, order_id, f"payment:{payment_id}")
    clock.forward(minutes=10)
    with pytest.raises(
        RevertError, match="step dispatch is in the way: it is being carried out right now, or was by a"
    ):
        await revert(opened, order_id)
    await carry_on("card", payment_id)
    assert (await steps_of(opened, order_id, f"payment:{payment_id}"))["dispatch"]["reference"] == tracking_number
    assert (await revert(opened, order_id)).name == "Done"
    async with opened.store.read() as connection:
        assert await orders.live_shipment(connection, order_id) is None
    assert await breaches(opened) == []


async def test_nothing_more_is_done_for_an_order_while_it_is_taken_back(opened: Installation) -> None:
    order_id = await buy(opened)
    other_id, other = await paid(opened, "CZ5002")
    payment_id = await pay(opened)
    await match_payments.fn([payment_id])
    begun = await begin(opened, [order_id], author=WHO, because=WHY)
    await carry_on("card", payment_id, other)
    assert (await carry_on("revert", *begun)).name == "Done"
    await carry_on("card", payment_id)
    assert {row["state"] for row in (await steps_of(opened, order_id, f"payment:{payment_id}")).values()} == {"skipped"}
    assert (await order_of(opened, other_id)).status == "paid"
    assert await breaches(opened) == []


@pytest.mark.parametrize("at", [deduct_stock, issue_invoice, set_status], ids=lambda step: step.name)
async def test_a_revert_that_was_cut_short_is_carried_on_by_the_dispatcher(
    opened: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch, at: Step
) -> None:
    before = await on_hand(opened)
    order_id, _ = await paid(opened)
    begun = await begin(opened, [order_id], author=WHO, because=WHY, force=True)

    class Killed(BaseException):
        """Ends the run as a killed process would: nothing of it is handled."""

    async def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(at, "_undo", die)
        with pytest.raises(Killed):
            await carry_on("revert", *begun)
    assert (await order_of(opened, order_id)).settled.minor > 0
    clock.forward(minutes=5)
    await Dispatcher(opened).work_off()
    order = await order_of(opened, order_id)
    assert (order.status, order.settled.minor, await on_hand(opened)) == ("new", 0, before)
    kinds = [kind for kind, _ in await documents_of(opened, order_id)]
    assert kinds == ["invoice", "credit_note"]
    assert await breaches(opened) == []


async def test_a_status_that_a_person_changed_since_stays(opened: Installation) -> None:

    order_id, _ = await paid(opened)
    async with opened.store.write() as connection:
        await orders.set_status(
            connection,
            order_id,
            after="in_production",
            standard=Status.IN_PRODUCTION,
            reason="by hand",
            actor=journal.Actor(name="jana"),
            now=opened.clock(),
        )
    assert (await revert(opened, order_id)).name == "Done"
    assert (await order_of(opened, order_id)).status == "in_production"


async def test_a_parcel_that_was_handed_over_needs_force_and_stays_where_it_is(opened: Installation) -> None:

    order_id, _ = await paid(opened)
    async with opened.store.write() as connection:
        await orders.set_status(
            connection,
            order_id,
            after="dispatched",
            standard=Status.DISPATCHED,
            reason="collected",
            actor=journal.Actor(name="jana"),
            now=opened.clock(),
        )
    assert (await planned(opened, order_id))["dispatch"] == "irreversible"
    await revert(opened, order_id)
    async with opened.store.read() as connection:
        assert await orders.live_shipment(connection, order_id) is not None


async def test_a_revert_says_who_and_why_or_does_not_begin(opened: Installation) -> None:
    order_id, _ = await paid(opened)
    with pytest.raises(RevertError, match="say why the order is taken back, with --because"):
        await begin(opened, [order_id], author=WHO, because=" ", force=True)
