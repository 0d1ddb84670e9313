"""By hand: an order is held out of automation with a name and a reason, and goes on once it is put back."""

from __future__ import annotations

from typing import Any, cast

import pytest
from prefect import flow
from shop_builders import (
    Clock,
    buy,
    carry_on,
    carry_on_all,
    due_now,
    letters,
    order_label_and_die,
    order_of,
    pay,
    steps_of,
)

from deployments.dispatcher import Dispatcher
from domain.by_hand import ByHandError
from flows.by_hand import hold_order_out, run_one, set_order_status, skip_step
from store import effects, journal, orders, work
from store.audit import audit
from tasks.by_hand import hold_out, set_status
from tasks.installation import Installation
from tasks.match import match_payments
from tasks.repeat import Repeated, repeat
from tasks.revert import begin
from tasks.run_scenario import run_scenario
from tasks.skip import skip

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
        await Dispatcher(opened).work_off()
        clock.forward(hours=3)
    assert (await order_of(opened, order_id)).to_pay.minor == 0, "its payment is matched"
    found = await steps_of(opened, order_id, f"payment:{held}")
    assert {row["state"] for row in found.values()} == {"intended"}
    assert {row["reason"] for row in found.values()} == {f"held out of automation by {WHO}: {WHY}"}
    assert {row["state"] for row in (await steps_of(opened, other_id, f"payment:{other}")).values()} == {"done"}
    async with opened.store.read() as connection:
        assert [row["number"] for row in await orders.listing(connection, held_out=True)] == ["CZ5001"]

    await hold(opened, back=True)
    await Dispatcher(opened).work_off()
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


async def test_a_name_and_a_reason_are_written_down_on_one_line_and_without_what_nobody_sees(
    opened: Installation,
) -> None:
    order_id = await buy(opened)
    await hold_out(opened, " CZ5001\x00", channel=None, author="jana\x1b[31m\n", because="she wants\x00\r\nother tea")
    await set_status(opened, "CZ5001", "cancelled", channel=None, author="", because="\tno\u202e tea\n")
    with pytest.raises(ByHandError, match="say why"):
        await set_status(opened, "CZ5001", "processing", channel=None, author=WHO, because="\x00\n")
    async with opened.store.read() as connection:
        history = await journal.of_order(connection, order_id)
        assert (await orders.listing(connection, held_out=True))[0]["held_out"] == "jana [31m: she wants other tea"
    assert [(row["actor"], row["reason"]) for row in history if row["step"] in ("automation", "set status")] == [
        ("jana [31m", "she wants other tea"),
        ("an operator", "no tea"),
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
    assert await said("processing", plan_only=True) == (
        "Plan",
        f"order CZ5001: {stays} → processing; against it: 378.00 CZK is missing",
    )
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


async def again(opened: Installation, step: str, because: str = WHY, *, gone: bool = False) -> Repeated:
    """Have a step of the first order repeated."""
    return await repeat(opened, "CZ5001", step, channel=None, author=WHO, because=because, gone=gone)


async def test_a_step_is_repeated_once_for_each_time_that_somebody_wants_it_and_a_revert_takes_that_back_too(
    opened: Installation,
) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)
    await carry_on_all(opened)
    before = len(letters(opened))
    asked = [await again(opened, "message"), await again(opened, "message"), await again(opened, "message", "and her")]
    assert [one.changed for one in asked] == [True, False, True]
    assert asked[0].cause == asked[1].cause
    assert (await again(opened, "message dispatch")).changed, "of a parcel that she was told of before"
    assert await carry_on_all(opened) == ["by_hand: Done"] * 3
    assert len(letters(opened)) - before == 3
    pdf = next((opened.home / "documents").rglob("*invoice*.pdf"))
    pdf.unlink()
    await again(opened, "print")
    await carry_on_all(opened)
    assert pdf.exists()
    told = (await steps_of(opened, order_id, asked[0].cause))["message"]
    assert (told["state"], told["cause"]) == ("done", asked[0].cause)

    with pytest.raises(ByHandError, match=r"consignment .* of order CZ5001 stands, and there is one at a time"):
        await again(opened, "dispatch")
    first = (await steps_of(opened, order_id, f"payment:{payment_id}"))["dispatch"]["reference"]
    label = await again(opened, "dispatch", gone=True)
    await carry_on_all(opened)
    second = (await steps_of(opened, order_id, label.cause))["dispatch"]["reference"]
    assert second != first

    async with opened.store.read() as connection:
        history = [row for row in await journal.of_order(connection, order_id) if row["move"] == "to repeat"]
        assert await audit(connection, now=opened.clock()) == []
    assert [(row["step"], row["actor"], row["reason"]) for row in history] == [
        ("message", WHO, WHY),
        ("message", WHO, "and her"),
        ("message dispatch", WHO, WHY),
        ("print", WHO, WHY),
        ("dispatch", WHO, WHY),
    ]
    await again(opened, "message", "asked for just before somebody takes it back")
    await carry_on("revert", *await begin(opened, [order_id], author=WHO, because=WHY, force=True))
    async with opened.store.read() as connection:
        assert await orders.live_shipment(connection, order_id) is None
        assert await audit(connection, now=opened.clock()) == []
    sent = len(letters(opened))
    await carry_on_all(opened)
    assert len(letters(opened)) == sent, "its payment is taken off the order"
    with pytest.raises(ByHandError, match="the payment that it was done for was taken off it, so step message is not"):
        await again(opened, "message", "once more")


async def test_a_step_is_left_out_before_it_begins_and_what_may_have_happened_by_force_alone(
    opened: Installation, clock: Clock
) -> None:
    order_id = await buy(opened)
    with pytest.raises(ByHandError, match="nothing that carries order CZ5001 on now has a step dispatch; what its"):
        await skip(opened, "CZ5001", "dispatch", channel=None, author=WHO, because=WHY)
    payment_id = await pay(opened)
    await hold(opened)
    await carry_on("card", payment_id)  # it is matched, and the steps that could begin wait
    await order_label_and_die(opened, order_id, f"payment:{payment_id}")
    clock.forward(hours=1)

    async def left_out(step: str, **form: Any) -> tuple[str | None, str]:
        state = await cast("Any", skip_step)(
            order="CZ5001", step=step, because=WHY, author=WHO, **form, return_state=True
        )
        return state.name, state.message or ""

    so = f"is left out for payment:{payment_id}; message"
    missing = "message dispatch will have no invoice with it, unless there is one from before"
    assert await left_out("invoice") == ("Done", f"order CZ5001: step invoice {so}, {missing}")
    assert await left_out("invoice") == ("Done", "order CZ5001: step invoice is left out already")
    name, said = await left_out("dispatch")
    assert name == "Refused"
    assert "whether step dispatch happened is not known" in said
    missing = "dispatch will have no parcel to tell of"
    assert await left_out("dispatch", force=True) == ("Done", f"order CZ5001: step dispatch {so} {missing}")
    await hold(opened, back=True)
    await carry_on_all(opened)
    found = await steps_of(opened, order_id, f"payment:{payment_id}")
    assert {step: row["state"] for step, row in found.items()} == {
        "status": "done",
        "invoice": "skipped",
        "stock": "done",
        "message": "done",
        "dispatch": "skipped",
        "message dispatch": "skipped",
    }
    assert found["invoice"]["reason"] == f"left out by {WHO}: {WHY}"
    with pytest.raises(ByHandError, match="step stock of order CZ5001 is done already, so it can't be left out"):
        await skip(opened, "CZ5001", "stock", channel=None, author=WHO, because=WHY)
    async with opened.store.read() as connection:
        history = await journal.of_order(connection, order_id)
        assert await audit(connection, now=opened.clock()) == []
    assert [row["step"] for row in history if row["actor"] == WHO and row["move"] == "skipped"] == [
        "invoice",
        "dispatch",
    ]


async def test_a_scenario_is_planned_and_then_run_on_one_order_and_what_is_done_is_not_done_again(
    opened: Installation,
) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)

    @flow(name="match only")
    async def match_only() -> None:
        await match_payments([payment_id])

    await match_only()
    async with opened.store.write() as connection:  # as an earlier version left it, which knew no steps
        await work.finish(connection, "card", "payment", [(payment_id, None, None)], now=opened.clock())
    await skip(opened, "CZ5001", "invoice", channel=None, author=WHO, because=WHY)
    before = len(letters(opened))

    async def said(**form: Any) -> tuple[str | None, str]:
        filled = {"order": "CZ5001", "scenario": "card", "because": WHY, "author": WHO, **form}
        state = await cast("Any", run_one)(**filled, return_state=True)
        return state.name, state.message or ""

    ran = await run_scenario(opened, "CZ5001", "card", channel=None, author=WHO, because="", plan=True)
    assert {line.step: line.would for line in ran.lines} == {
        "status": "would be done",
        "invoice": "left out before",
        "message": "would be done",
        "stock": "would be done",
        "dispatch": "would be done",
        "message dispatch": "would be done",
    }
    assert await said() == ("Plan", "order CZ5001: 5 of 6 steps have not ended; nothing was done")
    assert ("card", payment_id) not in await due_now(opened)
    assert await said(plan_only=False) == ("Done", "order CZ5001: 5 of 6 steps have not ended; it is due now")
    await carry_on_all(opened)
    assert len(letters(opened)) - before == 2
    nothing = "order CZ5001: 0 of 6 steps have not ended, so there is nothing to do"
    assert await said(plan_only=False) == ("Done", nothing)
    for scenario, told in (
        ("deferred", "no scenario deferred carries order CZ5001 on; there is order placed and card"),
        ("capture", "scenario capture is not run by hand: held money is taken with `kvit hold capture CZ5001`"),
        ("cadr", "no scenario cadr is known, so none carries order CZ5001 on; there is order placed and card"),
    ):
        assert await said(scenario=scenario) == ("Refused", told)
    async with opened.store.read() as connection:
        history = [row for row in await journal.of_order(connection, order_id) if row["step"] == "run"]
    assert [(row["reference"], row["actor"], row["reason"]) for row in history] == [("card", WHO, WHY)]


async def test_a_letter_whose_pdf_is_gone_is_not_sent_and_goes_out_once_it_is_printed_again(
    opened: Installation, clock: Clock
) -> None:
    order_id = await buy(opened)
    in_the_way = opened.home / "maildir"
    in_the_way.write_text("a file where the folder should be", encoding="utf-8")
    await carry_on("card", await pay(opened))
    in_the_way.unlink()
    (pdf,) = (opened.home / "documents").rglob("*.pdf")
    pdf.unlink()
    clock.forward(hours=1)
    await Dispatcher(opened).work_off()
    message = (await steps_of(opened, order_id))["message"]
    assert (message["state"], letters(opened)) == ("intended", []), "nothing was sent, so nothing is in doubt"
    assert "have it printed again with `kvit orders repeat CZ5001 print`" in message["reason"]
    await repeat(opened, "CZ5001", "print", channel=None, author=WHO, because="the file is gone")
    for _ in range(2):
        await Dispatcher(opened).work_off()
        clock.forward(hours=1)
    assert pdf.exists()
    assert (await steps_of(opened, order_id))["message"]["state"] == "done"
    attached = [part for letter in letters(opened) for part in letter.iter_attachments()]
    assert pdf.name in [part.get_filename() for part in attached]
