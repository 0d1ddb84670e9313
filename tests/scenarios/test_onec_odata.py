"""1C by OData, from the rules of a channel to the documents in 1C and back: each document once, whatever goes wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from shop_builders import (
    Clock,
    begin_and_die,
    buy,
    carry_on,
    carry_on_all,
    change_rules,
    letters,
    order_of,
    pay,
    steps_of,
)

from connectors import load
from deployments.sandbox import onec_odata as onec
from deployments.sandbox.onec_odata import OneCODataStandIn
from deployments.sandbox.standin import Misbehavior
from store.audit import audit
from tasks.compare_orders import compare_accounting
from tasks.installation import Installation
from tasks.intake import poll, work_off_inbox
from tasks.resolve import Said, resolve_step
from tasks.revert import begin

SALES = f"/base/odata/standard.odata/{onec.SALE}"
MAKING, POSTING = 2, 3
"""How many requests go to the sales before one is made, and before it is posted: it is looked for twice."""


def connect(opened: Installation, system: OneCODataStandIn, **otherwise: Any) -> Any:
    """Put 1C's connector into the shop, with settings that are other than usual; return it."""
    of_order: dict[str, Any] = {"number_field": onec.NUMBER, "fields": {"Организация_Key": onec.ORGANIZATION}}
    stanza: dict[str, Any] = {
        "name": "1c",
        "type": "onec_odata",
        "base_url": system.base_url,
        "username": system.username,
        "password": system.password,
        "currency": "CZK",
        "proforma": of_order | {"entity": onec.ORDER, "status_fields": [onec.STATUS]},
        "invoice": of_order | {"entity": onec.SALE},
        "customers": {"by": "number", "field": "НомерНаСайте"},
        "payments": [{"entity": onec.PAYMENT}],
        "limits": {"per_second": 1000},
    }
    opened.connectors["1c"] = connector = load(stanza | otherwise, home=opened.home, where="test")
    return connector


@pytest.fixture
async def base(opened: Installation) -> AsyncGenerator[OneCODataStandIn]:
    """A 1C in which the Czech shop's documents are issued, with its goods and its customer."""
    async with OneCODataStandIn() as system:
        system.goods("Sencha, 100 g", sku="TEA-SEN-100")
        system.customer("Pokorná", number="C0900")
        connector = connect(opened, system)
        await change_rules(opened, {"connectors": {"accounting": "1c"}, "follows": {"1c": {"Отгружен": "dispatched"}}})
        yield system
        await connector.aclose()


@pytest.fixture(autouse=True)
async def audited(base: OneCODataStandIn, opened: Installation) -> AsyncGenerator[None]:
    """Audit the shop when the test has ended."""
    yield
    base.behave()
    async with opened.store.read() as connection:
        assert await audit(connection, now=opened.clock()) == []


async def differences(opened: Installation) -> list[str]:
    """Compare the shop's documents with those in 1C."""
    found = await compare_accounting(opened, opened.clock().date())
    assert not found.failed
    return [f"{one.subject}: {one.what.value}" for one in found.differences]


async def test_an_invoice_is_made_and_posted_once_whatever_becomes_of_the_answers(
    opened: Installation, base: OneCODataStandIn
) -> None:
    wrong = [
        (Misbehavior.CUT_AFTER, MAKING),
        (Misbehavior.STATUS_BEFORE, MAKING),
        (Misbehavior.TWICE, MAKING),
        (Misbehavior.CUT_AFTER, POSTING),
    ]
    for n, (kind, skip) in enumerate(wrong):
        number = f"CZ600{n}"
        order_id = await buy(opened, number)
        base.misbehave(kind, path=SALES, skip=skip, status=503)
        assert (await carry_on("card", await pay(opened, number))).name == "Done"
        step = (await steps_of(opened, order_id))["invoice"]
        (made,) = base.of_order(number, onec.SALE)
        assert (step["state"], step["reference"]) == ("done", f"{made['Number']}/2026"), kind
        assert made["Posted"]
    numbers = [f"CZ600{n}" for n in range(len(wrong))]
    assert sorted(base.done) == sorted((what, number) for number in numbers for what in ("make", "post"))
    assert await differences(opened) == []


async def test_a_transfer_that_1c_books_pays_the_order_and_what_1c_ships_is_dispatched_here(
    opened: Installation, base: OneCODataStandIn
) -> None:
    order_id = await buy(opened, method="bank_transfer")
    await carry_on_all(opened)
    (order,) = base.of_order("CZ5001")
    number = f"{order['Number']}/2026"
    assert (await steps_of(opened, order_id))["proforma"]["reference"] == number
    (letter,) = letters(opened)
    assert number in letter.as_string() or any(
        order["Number"] in str(part.get_filename()) for part in letter.iter_attachments()
    )
    base.pay(
        "378.00",
        date="2026-11-23T08:00:00",
        ДокументОснование=order["Ref_Key"],
        ДокументОснование_Type=f"StandardODATA.{onec.ORDER}",
    )
    assert await poll(opened, ["1c"]) == {"1c": 2}
    await work_off_inbox(opened)
    await carry_on_all(opened)
    assert (await order_of(opened, order_id)).to_pay.minor == 0
    (sale,) = base.of_order("CZ5001", onec.SALE)
    assert (await steps_of(opened, order_id))["invoice"]["reference"] == f"{sale['Number']}/2026"
    base.change(order, **{onec.STATUS: "Отгружен"})
    # The sale is new, and the order was written anew.
    assert await poll(opened, ["1c"]) == {"1c": 2}
    await work_off_inbox(opened)
    assert (await order_of(opened, order_id)).status == "dispatched"
    assert await poll(opened, ["1c"]) == {"1c": 0}
    assert base.done == [(what, "CZ5001") for what in ("make", "post", "make", "post")]
    assert await differences(opened) == []


async def test_what_1c_refuses_is_a_persons_and_goes_on_once_it_is_put_right(
    opened: Installation, base: OneCODataStandIn
) -> None:
    base.won_t_post["CZ5001"] = "Не хватает товара на складе"
    order_id = await buy(opened)
    assert (await carry_on("card", await pay(opened))).name == "Needs a person"
    step = (await steps_of(opened, order_id))["invoice"]
    assert step["state"] == "rejected"
    assert "Не хватает товара на складе" in step["reason"]
    base.won_t_post.clear()
    await resolve_step(opened, order_id, "invoice", Said.AGAIN, author="jana", because="the goods have come")
    await carry_on_all(opened)
    assert (await steps_of(opened, order_id))["invoice"]["state"] == "done"
    assert base.done == [("make", "CZ5001"), ("post", "CZ5001")]


async def test_an_invoice_that_was_taken_back_here_alone_is_a_persons_when_the_order_is_paid_again(
    opened: Installation, base: OneCODataStandIn
) -> None:
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    await carry_on("revert", *await begin(opened, [order_id], author="jana", because="a wrong order", force=True))
    assert "invoice 0000-000001/2026: state" in await differences(opened)
    assert (await carry_on("card", await pay(opened))).name == "Needs a person"
    assert "still stands in 1c: take it back there too" in (await steps_of(opened, order_id))["invoice"]["reason"]
    (sale,) = base.of_order("CZ5001", onec.SALE)
    base.change(sale, DeletionMark=True, Posted=False)
    await resolve_step(opened, order_id, "invoice", Said.AGAIN, author="jana", because="marked for deletion in 1C")
    await carry_on_all(opened)
    assert (await steps_of(opened, order_id))["invoice"]["reference"] == "0000-000002/2026"
    assert base.done == [(what, "CZ5001") for what in ("make", "post", "make", "post")]


async def test_a_document_that_the_rules_leave_out_is_not_in_doubt_when_a_worker_dies_that_had_looked_at_it(
    opened: Installation, base: OneCODataStandIn, clock: Clock
) -> None:
    connector = connect(opened, base, proforma=None)
    await change_rules(opened, {"placed": {"card": {"proforma": False}}})
    order_id = await buy(opened)
    await begin_and_die(opened, order_id, "proforma", f"order:{order_id}")
    clock.forward(minutes=10)
    assert (await carry_on("order_placed", order_id)).name == "Done"
    assert (await steps_of(opened, order_id))["proforma"]["state"] == "skipped"
    await connector.aclose()


async def test_a_document_that_newer_rules_leave_out_is_asked_about_if_a_worker_has_died_by_the_older_ones(
    opened: Installation, base: OneCODataStandIn, clock: Clock
) -> None:
    order_id = await buy(opened, method="bank_transfer")
    await begin_and_die(opened, order_id, "proforma", f"order:{order_id}")
    made = base.enter(onec.ORDER, "CZ5001", "378.00", Posted=True)
    wrong = connect(opened, base, password="another")
    clock.forward(minutes=10)
    await carry_on("order_placed", order_id)
    step = (await steps_of(opened, order_id))["proforma"]
    assert (step["state"], step["reason"].partition(":")[0]) == ("in_doubt", "misconfigured")
    right = connect(opened, base)
    await change_rules(opened, {"placed": {"bank_transfer": {"proforma": False}}})
    clock.forward(hours=2)
    await carry_on("order_placed", order_id)
    step = (await steps_of(opened, order_id))["proforma"]
    assert (step["state"], step["reference"]) == ("done", f"{made['Number']}/2026")
    await wrong.aclose()
    await right.aclose()
