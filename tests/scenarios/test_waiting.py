"""Orders that wait for their money: reminded, called, put off, ended by the rules; and those that go before it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import date, timedelta
from typing import Any

import pytest
from elsewhere import Stall
from shop_builders import Clock, buy, carry_on_all, change_rules, letters, order_of, pay, steps_of

from domain.documents import document_from_json
from domain.holds import Hold, HoldState
from domain.money import Money
from domain.orders import Order
from domain.rules import DocumentKind
from store import effects, holds, payments, stock
from store.audit import audit
from store.documents import live, of_order
from tasks.installation import Installation
from tasks.waiting import ExtendError, extend

MESSAGES = [
    {"template": "proforma", "moment": "placed"},
    {"template": "payment_reminder", "moment": "reminder"},
    {"template": "payment_reminder", "moment": "overdue"},
    {"template": "payment_received", "moment": "paid"},
    {"template": "dispatch_prepared", "moment": "dispatch"},
]
REMINDED = "Objednávka CZ5001 čeká na platbu"


@pytest.fixture
async def opened(opened: Installation, clock: Clock) -> AsyncGenerator[Installation]:
    await change_rules(
        opened, {"scenarios": {"bank_transfer": {"messages": MESSAGES}}, "reservation_days": 3, "grace_days": 2}
    )
    yield opened
    async with opened.store.read() as connection:
        assert await audit(connection, now=clock()) == []


async def waits(opened: Installation, **fields: Any) -> int:
    """Place an order by bank transfer, carry its beginning on, and return its id."""
    order_id = await buy(opened, method="bank_transfer", **fields)
    assert await carry_on_all(opened) == ["order_placed: Done"]
    return order_id


def reminders(opened: Installation) -> int:
    return [str(letter["Subject"]) for letter in letters(opened)].count(REMINDED)


async def reserved(opened: Installation) -> int:
    async with opened.store.read() as connection:
        return sum(level.reserved for level in await stock.levels(connection))


async def test_goods_are_kept_until_the_end_of_the_last_day(opened: Installation) -> None:
    order = await order_of(opened, await waits(opened))
    assert order.reserved_until is not None
    assert f"{order.reserved_until:%Y-%m-%d %H:%M}" == "2026-11-27 00:00"  # placed on the 23rd, three days
    assert await reserved(opened) == 2


async def test_the_customer_is_reminded_once_before_the_last_day(opened: Installation, clock: Clock) -> None:
    await waits(opened)
    clock.forward(days=1)
    assert await carry_on_all(opened) == []
    clock.forward(days=1)
    assert await carry_on_all(opened) == ["remind: Done"]
    assert (reminders(opened), await carry_on_all(opened)) == (1, [])


async def test_on_the_last_day_a_person_is_told_to_call(opened: Installation, clock: Clock) -> None:
    order_id = await waits(opened)
    clock.forward(days=3)
    assert await carry_on_all(opened) == ["remind: Done", "last_day: Needs a person"]
    (step,) = [s for name, s in (await steps_of(opened, order_id)).items() if name == "call customer"]
    assert step["reason"].startswith("378.00 CZK is missing, and the last day is 2026-11-26; call the customer")


async def test_a_person_puts_the_day_off_by_one_action_and_all_begins_anew(opened: Installation, clock: Clock) -> None:
    order_id = await waits(opened)
    clock.forward(days=3)
    await carry_on_all(opened)
    day = await extend(opened, "CZ5001", 3, channel=None, author="Eva", because="she pays on Friday")
    assert day == date(2026, 11, 29)
    assert (await steps_of(opened, order_id))["call customer"]["state"] == "skipped"
    assert await carry_on_all(opened) == []
    clock.forward(days=3)
    assert await carry_on_all(opened) == ["remind: Done", "last_day: Needs a person"]
    assert reminders(opened) == 2
    assert await reserved(opened) == 2


@pytest.mark.parametrize(
    ("at_expiry", "status", "kept"), [("ask", None, 2), ("release", None, 0), ("cancel", "expired", 0)]
)
async def test_after_the_banks_lag_the_rules_decide(
    opened: Installation, clock: Clock, at_expiry: str, status: str | None, kept: int
) -> None:
    await change_rules(opened, {"placed": {"bank_transfer": {"at_expiry": at_expiry}}})
    order_id = await waits(opened)
    before = (await order_of(opened, order_id)).status
    clock.forward(days=5, hours=12)
    assert not [run for run in await carry_on_all(opened) if run.startswith("expire")]
    clock.forward(days=1)
    assert await carry_on_all(opened) == ["expire: Done"]
    assert (await order_of(opened, order_id)).status == (status or before)
    assert await reserved(opened) == kept


async def test_who_has_paid_is_neither_reminded_nor_called_nor_ended(opened: Installation, clock: Clock) -> None:
    await change_rules(opened, {"placed": {"bank_transfer": {"at_expiry": "cancel"}}})
    order_id = await waits(opened)
    await pay(opened, method="bank_transfer")
    await carry_on_all(opened)
    status = (await order_of(opened, order_id)).status
    clock.forward(days=10)
    assert await carry_on_all(opened) == ["remind: Done", "last_day: Done", "expire: Done"]
    assert reminders(opened) == 0
    assert (await order_of(opened, order_id)).status == status


async def test_a_customer_who_paid_on_the_last_day_need_not_be_called(opened: Installation, clock: Clock) -> None:
    order_id = await waits(opened)
    clock.forward(days=3)
    await carry_on_all(opened)
    await pay(opened, method="bank_transfer")
    await carry_on_all(opened)
    assert (await steps_of(opened, order_id))["call customer"]["state"] == "skipped"


async def test_an_order_that_is_partly_paid_is_not_ended_by_itself(opened: Installation, clock: Clock) -> None:
    await change_rules(opened, {"placed": {"bank_transfer": {"at_expiry": "cancel"}}})
    order_id = await waits(opened)
    await pay(opened, amount="100.00", method="bank_transfer")
    await carry_on_all(opened)
    clock.forward(days=10)
    await carry_on_all(opened)
    assert (await order_of(opened, order_id)).status != "expired"
    assert (await steps_of(opened, order_id))["expire"]["reason"] == "100.00 CZK of it was paid; a person decides"


async def test_money_for_an_expired_order_is_late_and_not_lost(opened: Installation, clock: Clock) -> None:
    await change_rules(opened, {"placed": {"bank_transfer": {"at_expiry": "cancel"}}})
    await waits(opened)
    clock.forward(days=10)
    await carry_on_all(opened)
    await pay(opened, method="bank_transfer")
    assert await carry_on_all(opened) == ["bank_transfer: Needs a person"]


@pytest.mark.parametrize(
    ("number", "days", "because", "why"),
    [
        ("CZ4000", 3, "so", "not known"),
        ("CZ5001", 0, "so", "can't be meant"),
        ("CZ5001", 3, " ", "say why"),
        ("CZ5002", 3, "so", "no last day"),
        ("CZ5003", 3, "so", "paid"),
    ],
)
async def test_what_can_not_be_put_off_is_refused_in_a_sentence(
    opened: Installation, number: str, days: int, because: str, why: str
) -> None:
    await waits(opened)
    await buy(opened, "CZ5002")
    await buy(opened, "CZ5003", method="bank_transfer")
    await pay(opened, "CZ5003", method="bank_transfer")
    await carry_on_all(opened)
    with pytest.raises(ExtendError, match=why):
        await extend(opened, number, days, channel=None, author="Eva", because=because)


# An order to be paid by card, and nobody pays.


async def a_card_that_nobody_pays(opened: Installation, at_expiry: str) -> int:
    """Place an order that waits 24 hours for its money and takes all the tea that there is; return its id."""
    await change_rules(
        opened, {"placed": {"card": {"reserve_stock": True, "reserve_hours": 24, "at_expiry": at_expiry}}}
    )
    async with opened.store.write() as connection:
        await stock.count(connection, "TEA-SEN-100", "Sencha", 2, now=opened.clock())
    order_id = await buy(opened)
    assert await carry_on_all(opened) == ["order_placed: Done"]
    assert await reserved(opened) == 2
    return order_id


@pytest.mark.parametrize(
    ("at_expiry", "status", "why"),
    [("cancel", "expired", "but is expired"), ("release", "new", "article TEA-SEN-100: 2 needed, 0 free")],
)
async def test_a_card_order_that_nobody_pays_gives_its_goods_back_once_and_late_money_sells_none_twice(
    opened: Installation, clock: Clock, at_expiry: str, status: str, why: str
) -> None:
    order_id = await a_card_that_nobody_pays(opened, at_expiry)
    clock.forward(hours=23)
    assert await carry_on_all(opened) == []
    clock.forward(hours=1)
    assert await carry_on_all(opened) == ["expire: Done"]
    assert ((await order_of(opened, order_id)).standard_status, await reserved(opened)) == (status, 0)
    await buy(opened, "CZ5002")
    await carry_on_all(opened)
    assert await reserved(opened) == 2

    await pay(opened)
    assert await carry_on_all(opened) == ["card: Needs a person"]
    steps = await steps_of(opened, order_id)
    assert steps.get("dispatch", {"state": "none"})["state"] != "done"
    async with opened.store.read() as connection:
        (tea,) = [one for one in await stock.levels(connection) if one.sku == "TEA-SEN-100"]
        (paid,) = await payments.listing(connection)
    assert (tea.on_hand, tea.reserved) == (2, 2)
    assert why in (steps["stock"]["reason"] if at_expiry == "release" else paid["reason"])


async def test_a_card_order_keeps_its_goods_while_money_is_held_for_it(opened: Installation, clock: Clock) -> None:
    order_id = await a_card_that_nobody_pays(opened, "cancel")
    held = Hold(
        source="test",
        reference="h1",
        amount=Money(37_800, "CZK"),
        captured=Money(0, "CZK"),
        state=HoldState.HELD,
        order_reference="CZ5001",
    )
    async with opened.store.write() as connection:
        hold_id, _ = await holds.put(connection, held, connector="test", now=clock())
        await holds.attach(connection, hold_id, order_id, "", now=clock())
    clock.forward(hours=24)
    assert await carry_on_all(opened) == ["expire: Done"]
    assert (await steps_of(opened, order_id))["expire"]["reason"] == "money is held for it; the rules for that decide"
    assert await reserved(opened) == 2


# The goods first, the money later.

CREDIT: dict[str, Any] = {
    "placed": {"bank_transfer": {"deferral_days": 14, "credit_limit": "800.00", "remind_days": 2, "overdue_days": 3}}
}


async def on_credit(opened: Installation, number: str = "CZ5001", **fields: Any) -> Order:
    await change_rules(opened, CREDIT)
    return await order_of(opened, await buy(opened, number, method="bank_transfer", **fields))


async def test_on_credit_assembling_starts_at_once_and_the_invoice_says_when_it_is_due(opened: Installation) -> None:
    order = await on_credit(opened)
    assert order.due_on == date(2026, 12, 7)
    assert await carry_on_all(opened) == ["deferred: Done"]
    steps = await steps_of(opened, order.id)
    done = {name for name, effect in steps.items() if effect["state"] == "done"}
    assert {"invoice", "message placed", "placed status", "stock", "dispatch"} <= done
    async with opened.store.read() as connection:
        document = await live(connection, order.id, DocumentKind.INVOICE)
    assert document is not None
    assert document_from_json(document["content"]).due_on == date(2026, 12, 7)
    assert (await order_of(opened, order.id)).standard_status == "processing"


async def test_the_money_that_comes_later_settles_the_order_and_nothing_is_done_twice(
    opened: Installation, clock: Clock
) -> None:
    stall = opened.connectors["stall"] = Stall()
    noted = {"bank_transfer": {"dispatch": {"start": True, "note": True}}}
    await change_rules(opened, {"connectors": {"shop": "stall"}, "scenarios": noted})
    order = await on_credit(opened)
    await carry_on_all(opened)
    clock.forward(days=10)
    await pay(opened, method="bank_transfer")
    await carry_on_all(opened)
    assert (await order_of(opened, order.id)).to_pay.minor == 0
    assert len(stall.notes) == 1
    subjects = [str(letter["Subject"]) for letter in letters(opened)]
    assert subjects.count("Objednávka CZ5001 je připravena k odeslání") == 1
    async with opened.store.read() as connection:
        assert len(await of_order(connection, order.id)) == 1
        done = [e["step"] for e in await effects.of_order(connection, order.id) if e["state"] == "done"]
    assert [done.count(step) for step in ("invoice", "stock", "dispatch")] == [1, 1, 1]
    clock.forward(days=10)
    await carry_on_all(opened)
    assert reminders(opened) == 0


async def test_who_owes_is_reminded_before_and_after_the_due_date_and_then_called(
    opened: Installation, clock: Clock
) -> None:
    await on_credit(opened)
    await carry_on_all(opened)
    clock.forward(days=12, hours=16)
    assert (await carry_on_all(opened), reminders(opened)) == (["remind: Done"], 1)
    clock.forward(days=5)
    assert await carry_on_all(opened) == ["overdue: Done", "last_day: Needs a person"]
    assert reminders(opened) == 2


async def test_beyond_the_credit_limit_an_order_waits_for_its_money(opened: Installation) -> None:
    first = await on_credit(opened)
    second = await on_credit(opened, "CZ5002")
    third = await on_credit(opened, "CZ5003")
    assert [one.due_on is not None for one in (first, second, third)] == [True, True, False]
    assert sorted(await carry_on_all(opened)) == ["deferred: Done", "deferred: Done", "order_placed: Done"]
    assert "dispatch" not in await steps_of(opened, third.id)


async def test_the_limit_is_free_again_when_what_was_owed_is_paid(opened: Installation) -> None:
    for number in ("CZ5001", "CZ5002"):
        await on_credit(opened, number)
    await carry_on_all(opened)
    await pay(opened, method="bank_transfer")
    await carry_on_all(opened)
    assert (await on_credit(opened, "CZ5003")).due_on is not None


async def test_credit_can_be_given_to_one_customer_alone(opened: Installation) -> None:
    await change_rules(opened, {"customers": {"C0900": CREDIT}})
    mine = await order_of(opened, await buy(opened, method="bank_transfer"))
    other = {"number": "C0901", "name": "Jiný", "email": "jiny@example.com"}
    theirs = await order_of(opened, await buy(opened, "CZ5002", method="bank_transfer", customer=other))
    assert (mine.due_on is not None, theirs.due_on) == (True, None)


async def test_a_due_date_that_the_shop_gives_counts(opened: Installation) -> None:
    day = date(2026, 12, 24)
    order = await order_of(opened, await buy(opened, method="bank_transfer", due_on=day.isoformat()))
    assert order.due_on == day
    assert await carry_on_all(opened) == ["deferred: Done"]


async def test_the_due_date_of_an_order_on_credit_can_be_put_off(opened: Installation, clock: Clock) -> None:
    await on_credit(opened)
    await carry_on_all(opened)
    clock.forward(days=1)
    day = await extend(opened, "CZ5001", 7, channel=None, author="Eva", because="agreed by phone")
    assert day == date(2026, 12, 7) + timedelta(days=7)
