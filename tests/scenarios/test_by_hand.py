"""By hand: an order is held out of automation with a name and a reason, and goes on once it is put back."""

from __future__ import annotations

from typing import Any, cast

import pytest
from shop_builders import Clock, buy, carry_on, letters, order_of, pay, steps_of

from deployments.dispatcher import Dispatcher
from domain.by_hand import ByHandError
from flows.by_hand import hold_order_out, set_order_status
from store import effects, journal, orders
from store.audit import audit
from tasks.by_hand import hold_out
from tasks.installation import Installation
from tasks.revert import begin

WHO, WHY = "jana", "she wants other tea"


async def hold(opened: Installation, *, back: bool = False) -> None:
    """Hold the first order out, or put it back."""
    await hold_out(opened, "CZ5001", channel=None, author=WHO, because=WHY, back=back)


async def test_nothing_begins_for_an_order_that_is_held_out_and_all_of_it_goes_on_at_once_when_it_is_put_back(
    opened: Installation, clock: Clock
) -> None:
    order_id = await buy(opened)
    other_id = await buy(opened, "CZ5002")
    await hold(opened)
    before = len(letters(opened))
    held, other = await pay(opened), await pay(opened, "CZ5002")
    for _ in range(3):  # it goes on being tried, later each time
        await Dispatcher(opened, spacing=0).work_off()
        clock.forward(hours=3)
    assert (await order_of(opened, order_id)).to_pay.minor == 0, "its payment is matched"
    found = await steps_of(opened, order_id, f"payment:{held}")
    assert {row["state"] for row in found.values()} == {"intended"}
    assert {row["reason"] for row in found.values()} == {f"held out of automation by {WHO}: {WHY}"}
    assert {row["state"] for row in (await steps_of(opened, other_id, f"payment:{other}")).values()} == {"done"}
    async with opened.store.read() as connection:
        assert [row["number"] for row in await orders.listing(connection, held_out=True)] == ["CZ5001"]

    await hold(opened, back=True)
    await Dispatcher(opened, spacing=0).work_off()
    found = await steps_of(opened, order_id, f"payment:{held}")
    assert {row["state"] for row in found.values()} == {"done"}
    assert {"invoice", "dispatch", "stock"} <= set(found)
    assert len(letters(opened)) - before == 4, "two letters for each order"
    async with opened.store.read() as connection:
        history = [row for row in await journal.of_order(connection, order_id) if row["step"] == "automation"]
        assert await audit(connection, now=opened.clock()) == []
    assert [(row["move"], row["actor"], row["reason"]) for row in history] == [
        ("held out", WHO, WHY),
        ("put back", WHO, WHY),
    ]


async def test_an_order_that_is_held_out_can_still_be_reverted(opened: Installation) -> None:
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    await hold(opened)
    await carry_on("revert", *await begin(opened, [order_id], author=WHO, because=WHY, force=True))
    assert (await order_of(opened, order_id)).settled.minor == 0


async def test_an_order_is_not_put_back_while_a_worker_is_at_one_of_its_steps(
    opened: Installation, clock: Clock
) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)
    async with opened.store.write() as connection:
        await effects.claim(
            connection,
            "invoice",
            [effects.Wanted(order_id, f"payment:{payment_id}", 1)],
            owner="another worker",
            lease_until=clock().replace(minute=30),
            actor=journal.Actor(name="another worker"),
            now=clock(),
        )
    await hold(opened)
    with pytest.raises(ByHandError, match="a worker is at step invoice of order CZ5001 right now"):
        await hold(opened, back=True)
    async with opened.store.read() as connection:
        assert [row["number"] for row in await orders.listing(connection, held_out=True)] == ["CZ5001"]


async def test_the_form_holds_an_order_out_once_and_refuses_in_a_sentence(opened: Installation) -> None:
    await buy(opened)
    said = [
        (state.name, state.message)
        for form in (
            {"order": "CZ5001", "because": ""},
            {"order": "CZ9", "because": WHY},
            {"order": "CZ5001", "because": WHY},
            {"order": "CZ5001", "because": "again"},
            {"order": "CZ5001", "because": "done", "what": "put back"},
        )
        for state in [await cast("Any", hold_order_out)(**form, author=WHO, return_state=True)]
    ]
    assert said == [
        ("Refused", "say why; it stands in the order's history"),
        ("Refused", "order CZ9 is not known"),
        ("Done", f"order CZ5001: held out of automation by {WHO}: {WHY}"),
        ("Done", f"order CZ5001: it was so already: held out of automation by {WHO}: {WHY}"),
        ("Done", "order CZ5001: in automation; what waited is due now"),
    ]


async def test_a_status_that_something_speaks_against_is_set_by_force_alone(opened: Installation) -> None:
    order_id = await buy(opened)
    stays = (await order_of(opened, order_id)).status

    async def said(status: str, **more: Any) -> tuple[str | None, str | None]:
        form = {"order": "CZ5001", "status": status, "because": WHY, "author": WHO, **more}
        state = await cast("Any", set_order_status)(**form, return_state=True)
        return state.name, state.message

    assert await said("processing") == (
        "Refused",
        f"order CZ5001 stays {stays}: 378.00 CZK is missing. Force sets it all the same",
    )
    name, message = await said("lost")
    assert name == "Refused"
    assert (message or "").startswith("order CZ5001: channel cz has no status “lost”; it has ")
    assert (await order_of(opened, order_id)).status == stays
    assert await said("processing", force=True) == ("Done", f"order CZ5001: {stays} → processing")
    assert await said("processing") == ("Done", "order CZ5001 is processing already")
    assert await said("cancelled") == ("Done", "order CZ5001: processing → cancelled")
    async with opened.store.read() as connection:
        changed = [row for row in await journal.of_order(connection, order_id) if row["step"] == "set status"]
        told = await orders.status_history(connection, order_id)
    assert [(row["reference"], row["actor"], row["reason"]) for row in changed] == [
        (f"{stays} → processing", WHO, WHY),
        ("processing → cancelled", WHO, WHY),
    ]
    assert changed[0]["after"]["against"] == ["378.00 CZK is missing"]
    assert [row["after"] for row in told][-2:] == ["processing", "cancelled"]
