"""Held money: put to its order, taken or let go once, by a person, by the rules or by a status given elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest
from elsewhere import Board, Safe, Stall
from shop_builders import (
    Clock,
    buy,
    cancel,
    carry_on_all,
    change_rules,
    due_now,
    letters,
    order_document,
    order_of,
    pay,
    steps_of,
)

from connectors.roles import Told, WebhookEvent
from domain.changes import StatusChange
from domain.holds import Decision, Hold, HoldState
from domain.order_document import parse_order
from flows.authorization import holds_waiting
from store import inbox, journal, payments, stock
from store.audit import audit
from tasks.by_hand import set_status
from tasks.dispatch import start_dispatch
from tasks.holds import HoldError, decide_hold, rows
from tasks.installation import Installation
from tasks.intake import take_webhook, work_off_inbox
from tasks.step import Batch, Item

HELD = [{"template": "order_held", "moment": "held"}, {"template": "payment_received", "moment": "paid"}]


class Shop:
    """A shop whose card payments are authorized first."""

    def __init__(self, opened: Installation, safe: Safe, clock: Clock) -> None:
        self.opened = opened
        self.safe = safe
        self.clock = clock
        self._told = 0

    async def tells(self, *told: Told, source: str = "safe") -> None:
        """Let a system tell something, and take it in."""
        self._told += 1
        body = str(self._told).encode()
        self.opened.connectors[source].says[body] = list(told)
        await take_webhook(self.opened, source, WebhookEvent(external_id=str(self._told), kind="test"), body)
        await work_off_inbox(self.opened)

    async def authorizes(self, number: str | None = "CZ5001", amount: str = "378.00", hours: float = 168) -> Hold:
        """Let a customer's card be authorized, and the gateway tell it."""
        made = self.safe.holding(f"H-{number}", number, amount, self.clock() + timedelta(hours=hours))
        await self.tells(made)
        return made

    async def due(self) -> list[tuple[str, int]]:
        """Return what is due, as (scenario, subject's id)."""
        return await due_now(self.opened)

    async def works(self) -> list[str]:
        """Carry on all that is due until nothing is; return how the runs ended."""
        return await carry_on_all(self.opened)

    async def parked(self) -> list[str]:
        """Return what of the messages from outside a person must look at."""
        async with self.opened.store.read() as connection:
            return [row["problem"] for row in await inbox.parked(connection)]


@pytest.fixture
async def shop(opened: Installation, clock: Clock) -> AsyncGenerator[Shop]:
    safe = Safe()
    opened.connectors["safe"] = safe
    await change_rules(opened, {"scenarios": {"card": {"messages": HELD}}})
    yield Shop(opened, safe, clock)
    async with opened.store.read() as connection:
        assert await audit(connection, now=clock()) == []


async def reserved(shop: Shop) -> int:
    async with shop.opened.store.read() as connection:
        return sum(level.reserved for level in await stock.levels(connection))


async def status_of(shop: Shop, order_id: int) -> str:
    return (await order_of(shop.opened, order_id)).status


async def test_an_order_whose_money_is_held_goes_on_hold_and_the_customer_is_told(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.works()
    await shop.authorizes()
    assert await shop.works() == ["authorization: Done"]
    order = await order_of(shop.opened, order_id)
    assert (order.status, str(order.to_pay)) == ("on_hold", "378.00 CZK")
    assert [str(letter["Subject"]) for letter in letters(shop.opened)] == ["Objednávka CZ5001 je přijata"]


async def test_a_hold_that_comes_before_its_order_waits_for_it(shop: Shop) -> None:
    await shop.authorizes()
    assert await shop.works() == ["authorization: Needs a person"]
    order_id = await buy(shop.opened)
    assert "authorization: Done" in await shop.works()
    assert await status_of(shop, order_id) == "on_hold"


async def test_a_hold_told_again_changes_nothing(shop: Shop) -> None:
    await buy(shop.opened)
    hold = await shop.authorizes()
    await shop.works()
    await shop.tells(hold)
    assert await shop.works() == []
    assert len(letters(shop.opened)) == 1


@pytest.mark.parametrize(("number", "amount"), [(None, "378.00"), ("CZ9999", "378.00"), ("CZ5001", "100.00")])
async def test_a_hold_that_names_no_order_or_does_not_cover_it_needs_a_person(
    shop: Shop, number: str | None, amount: str
) -> None:
    order_id = await buy(shop.opened)
    await shop.works()
    before = await status_of(shop, order_id)
    await shop.authorizes(number, amount)
    assert await shop.works() == ["authorization: Needs a person"]
    assert await status_of(shop, order_id) == before
    (row,) = await rows(shop.opened)
    assert row.stored.order_id is None


async def decides(shop: Shop, decision: Decision, **said: Any) -> None:
    await decide_hold(shop.opened, "CZ5001", decision, author="Eva", because="looked at it", **said)


async def test_captured_money_carries_the_order_on_as_a_payment_does(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.CAPTURE)
    assert await shop.works() == ["capture: Done", "card: Done"]
    assert shop.safe.acts == [("capture", "H-CZ5001", "378.00 CZK")]
    assert (await order_of(shop.opened, order_id)).to_pay.minor == 0
    assert {"status", "invoice", "message", "stock", "dispatch"} <= (await steps_of(shop.opened, order_id)).keys()
    # The gateway's own word of it, later, is no second payment.
    held, paid = await shop.safe.hold("H-CZ5001")
    await shop.tells(held, *paid)
    async with shop.opened.store.read() as connection:
        assert len(await payments.listing(connection)) == 1
    assert await shop.works() == []


@pytest.mark.parametrize("decision", list(Decision))
async def test_an_answer_that_got_lost_is_asked_about_and_nothing_is_done_twice(
    shop: Shop, decision: Decision, clock: Clock
) -> None:
    await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    shop.safe.lose = 1
    await decides(shop, decision)
    await shop.works()
    clock.forward(minutes=10)
    await shop.works()
    assert [act for act, _, _ in shop.safe.acts] == [decision.value]
    (row,) = await rows(shop.opened, "CZ5001")
    assert row.stored.hold.state.value == f"{decision}d"


async def test_released_money_ends_the_order(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.RELEASE)
    assert await shop.works() == ["release: Done"]
    assert shop.safe.acts == [("release", "H-CZ5001", "378.00 CZK")]
    assert await status_of(shop, order_id) == "cancelled"


async def test_a_released_orders_goods_are_free_again_and_shop_and_crm_are_told(shop: Shop) -> None:
    stall, board = Stall(), Board()
    shop.opened.connectors.update(stall=stall, board=board)
    statuses = {"on_hold": "HELD", "cancelled": "GONE"}
    await change_rules(
        shop.opened,
        {
            "connectors": {"shop": "stall", "crm": "board"},
            "tells": {"stall": statuses, "board": statuses},
            "placed": {"card": {"reserve_stock": True}},
        },
    )
    await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    assert (stall.statuses["CZ5001"], board.cards["CZ5001"]["status"], await reserved(shop)) == ("HELD", "HELD", 2)
    await decides(shop, Decision.RELEASE)
    assert await shop.works() == ["release: Done"]
    assert (stall.statuses["CZ5001"], board.cards["CZ5001"]["status"], await reserved(shop)) == ("GONE", "GONE", 0)


@pytest.mark.parametrize("decision", list(Decision))
async def test_what_was_to_be_told_of_held_money_does_not_get_stuck_when_it_is_decided_about_meanwhile(
    shop: Shop, clock: Clock, decision: Decision
) -> None:
    board = Board()
    shop.opened.connectors["board"] = board
    statuses = {"on_hold": "HELD", "paid": "PAID", "cancelled": "GONE"}
    await change_rules(shop.opened, {"connectors": {"crm": "board"}, "tells": {"board": statuses}})
    await buy(shop.opened)
    await shop.works()
    board.down = True
    await shop.authorizes()
    await shop.works()
    await decides(shop, decision)
    await shop.works()
    board.down = False
    for _ in range(8):
        clock.forward(hours=1)
        await shop.works()
    assert board.cards["CZ5001"]["status"] == ("PAID" if decision is Decision.CAPTURE else "GONE")
    clock.forward(days=2)
    assert await shop.due() == []


async def test_goods_are_free_again_when_an_order_is_cancelled_elsewhere(shop: Shop) -> None:
    shop.opened.connectors["stall"] = Stall()
    await change_rules(
        shop.opened,
        {"follows": {"stall": {"wc-cancelled": "cancelled"}}, "placed": {"card": {"reserve_stock": True}}},
    )
    order_id = await buy(shop.opened)
    await shop.works()
    assert await reserved(shop) == 2
    await shop.tells(StatusChange(status="wc-cancelled", number="CZ5001"), source="stall")
    assert (await status_of(shop, order_id), await reserved(shop)) == ("cancelled", 0)


async def test_who_decided_and_why_stands_in_the_orders_history(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.CAPTURE)
    async with shop.opened.store.read() as connection:
        said = [row for row in await journal.of_order(connection, order_id) if row["step"] == "decide hold"]
    assert [(row["actor"], row["reason"]) for row in said] == [
        ("Eva", "capture 378.00 CZK of 378.00 CZK: looked at it")
    ]


@pytest.mark.parametrize(
    ("number", "said", "why"),
    [
        ("CZ5001", {"because": " "}, "say why"),
        ("CZ4000", {}, "is not known"),
        ("CZ5002", {}, "no money is held"),
        ("CZ5001", {"amount": "400"}, "only 378.00 CZK is held"),
        ("CZ5001", {"amount": "0"}, "nothing to capture"),
        ("CZ5001", {"amount": "many"}, "amount:"),
    ],
)
async def test_what_can_not_be_captured_is_refused_in_a_sentence(
    shop: Shop, number: str, said: dict[str, str], why: str
) -> None:
    await buy(shop.opened)
    await buy(shop.opened, "CZ5002")
    await shop.authorizes()
    await shop.works()
    with pytest.raises(HoldError, match=why):
        await decide_hold(shop.opened, number, Decision.CAPTURE, **{"author": "Eva", "because": "so", **said})
    assert shop.safe.acts == []


async def test_two_people_can_not_decide_about_one_hold(shop: Shop) -> None:
    await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.CAPTURE)
    with pytest.raises(HoldError, match="capture was decided by Eva before"):
        await decides(shop, Decision.RELEASE)
    await shop.works()
    with pytest.raises(HoldError, match="it was captured"):
        await decides(shop, Decision.RELEASE)


# The order is changed while its money is held.


def changed(**fields: Any) -> Any:
    line = {"sku": "TEA-SEN-100", "title": "Sencha, 100 g", "quantity": 1, "unit_price": "189.00"}
    customer = {"number": "C0900", "name": "Božena Pokorná", "email": "bozena.pokorna@example.com"}
    made = order_document("CZ5001", **{"lines": [line], "total": "189.00", "customer": customer, **fields})
    return parse_order(made, where="test")


async def test_an_order_that_shrank_is_captured_for_what_it_costs_now(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await shop.tells(changed())
    assert str((await order_of(shop.opened, order_id)).total) == "189.00 CZK"
    await decides(shop, Decision.CAPTURE)
    await shop.works()
    assert shop.safe.acts == [("capture", "H-CZ5001", "189.00 CZK")]
    order = await order_of(shop.opened, order_id)
    assert (order.to_pay.minor, [line.quantity for line in order.lines]) == (0, [1])
    assert await shop.parked() == []


async def test_an_order_can_not_outgrow_what_is_held_for_it(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    line = {"sku": "TEA-SEN-100", "title": "Sencha, 100 g", "quantity": 3, "unit_price": "189.00"}
    await shop.tells(changed(lines=[line], total="567.00"))
    assert str((await order_of(shop.opened, order_id)).total) == "378.00 CZK"
    # The shop tells of the order again, with each change of it: a person is told once.
    await shop.tells(changed(lines=[line], total="567.00"))
    (said,) = await shop.parked()
    assert said.endswith(
        "the shop changed it to 567.00 CZK, but only 378.00 CZK is held for it; it stays as it is here"
    )


async def test_what_a_shop_has_of_an_order_that_is_closed_here_does_not_matter(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.RELEASE)
    await shop.works()
    await shop.tells(changed())
    assert (str((await order_of(shop.opened, order_id)).total), await shop.parked()) == ("378.00 CZK", [])


async def test_a_paid_order_is_not_changed_any_more(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.CAPTURE)
    await shop.works()
    await shop.tells(changed())
    assert str((await order_of(shop.opened, order_id)).total) == "378.00 CZK"
    (said,) = await shop.parked()
    assert "it stays as it is here" in said


# What the rules decide.


async def test_money_can_be_captured_at_once(shop: Shop) -> None:
    await change_rules(shop.opened, {"holds": {"capture": "at_once"}})
    order_id = await buy(shop.opened)
    await shop.authorizes(amount="400.00")
    await shop.works()
    assert shop.safe.acts == [("capture", "H-CZ5001", "378.00 CZK")]
    assert await status_of(shop, order_id) == "paid"


@pytest.mark.parametrize(
    ("hours", "at_expiry", "name", "acts"),
    [
        (100, "capture", "Done", []),
        (20, "capture", "Needs a person", []),
        (2, "ask", "Needs a person", []),
        (2, "capture", "Done", ["capture"]),
        (2, "release", "Done", ["release"]),
    ],
)
async def test_a_hold_that_expires_is_warned_of_and_then_decided_about_by_the_rules(
    shop: Shop, hours: float, at_expiry: str, name: str, acts: list[str]
) -> None:
    await change_rules(shop.opened, {"holds": {"at_expiry": at_expiry, "warn_hours": 24, "act_hours": 3}})
    await buy(shop.opened)
    await shop.authorizes(hours=hours)
    await shop.works()
    run: Any = holds_waiting
    state = await run(return_state=True)
    assert (state.name, state.is_failed()) == (name, name == "Needs a person")
    await shop.works()
    assert [act for act, _, _ in shop.safe.acts] == acts


async def test_nothing_is_sent_when_the_hold_has_died(shop: Shop) -> None:
    await change_rules(shop.opened, {"scenarios": {"card": {"dispatch": {"waits_for": []}}}})
    order_id = await buy(shop.opened)
    hold = await shop.authorizes()
    await shop.works()
    shop.safe.expire(hold.reference)
    await shop.tells(shop.safe.holds[hold.reference])
    await shop.works()
    batch = Batch((Item(order_id, "CZ5001", "order:1"),))
    (attempt,) = await start_dispatch.carry_out(shop.opened, batch, owner="test")
    assert attempt.reason == "dispatch waits for payment: its hold was expired, and 378.00 CZK is missing"


@pytest.mark.parametrize("end", ["paid anew", "cancelled"])
async def test_a_hold_that_has_died_is_told_of_until_the_order_is_paid_anew_or_cancelled(shop: Shop, end: str) -> None:
    run: Any = holds_waiting
    order_id = await buy(shop.opened)
    hold = await shop.authorizes()
    await shop.works()
    shop.safe.expire(hold.reference)
    await shop.tells(shop.safe.holds[hold.reference])
    await shop.works()
    assert (await run(return_state=True)).name == "Needs a person"
    (row,) = await rows(shop.opened)
    assert (row.stored.number, row.stored.hold.state, row.warned) == ("CZ5001", HoldState.EXPIRED, True)
    if end == "cancelled":
        await cancel(shop.opened, order_id)
    else:
        await pay(shop.opened)
        await shop.works()
    assert (await run(return_state=True)).name == "Done"


async def test_money_that_expired_is_not_captured(shop: Shop) -> None:
    await buy(shop.opened)
    hold = await shop.authorizes()
    await shop.works()
    shop.safe.expire(hold.reference)
    await decides(shop, Decision.CAPTURE)
    assert await shop.works() == ["capture: Needs a person"]
    assert shop.safe.acts == []


async def test_the_hold_of_a_cancelled_order_is_released_and_never_captured(shop: Shop) -> None:
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await cancel(shop.opened, order_id)
    await decides(shop, Decision.CAPTURE)
    assert await shop.works() == ["capture: Needs a person"]
    assert shop.safe.acts == []


@pytest.mark.parametrize(("status", "act"), [("wc-processing", "capture"), ("wc-cancelled", "release")])
async def test_a_status_given_elsewhere_captures_or_releases(shop: Shop, status: str, act: str) -> None:
    shop.opened.connectors["stall"] = Stall()
    follows = {"stall": {"wc-processing": "processing", "wc-cancelled": "cancelled"}}
    holds = {"capture_on": ["processing"], "release_on": ["cancelled"]}
    await change_rules(shop.opened, {"follows": follows, "holds": holds})
    await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await shop.tells(StatusChange(status=status, number="CZ5001"), source="stall")
    await shop.works()
    assert [act_ for act_, _, _ in shop.safe.acts] == [act]


async def test_the_receipt_has_the_lines_of_what_is_captured(shop: Shop) -> None:
    await change_rules(shop.opened, {"holds": {"receipt": True}})
    await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.CAPTURE)
    await shop.works()
    (receipt,) = shop.safe.receipts
    assert receipt is not None
    assert [(line.title, line.quantity, str(line.amount)) for line in receipt.lines] == [
        ("Sencha, 100 g", 2, "189.00 CZK")
    ]


async def hands_over(shop: Shop, status: str) -> None:
    """Let a person say where the goods are."""
    await set_status(shop.opened, "CZ5001", status, channel=None, author="Eva", because="the courier says so")
    await shop.works()


async def prepaid(shop: Shop) -> int:
    """Let an order be paid whose goods count as handed over when they are dispatched."""
    await change_rules(shop.opened, {"holds": {"receipt": True, "second_receipt": "dispatched"}})
    order_id = await buy(shop.opened)
    await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.CAPTURE)
    await shop.works()
    return order_id


async def test_the_second_receipt_follows_the_goods_once_though_its_answer_got_lost(shop: Shop) -> None:
    order_id = await prepaid(shop)
    await hands_over(shop, "ready")
    early = (await steps_of(shop.opened, order_id))["second receipt"]
    assert (early["state"], early["reason"]) == (
        "skipped",
        "the order is ready, and its goods count as handed over once dispatched",
    )
    planned = await set_status(shop.opened, "CZ5001", "dispatched", channel=None, author="Eva", because="", plan=True)
    assert "the second receipt of what was paid through a gateway would be registered" in planned.planned
    shop.safe.lose = 1
    await hands_over(shop, "dispatched")
    done = (await steps_of(shop.opened, order_id))["second receipt"]
    assert (done["state"], done["reference"]) == ("done", "rt-H-CZ5001")
    await hands_over(shop, "completed")
    later = (await steps_of(shop.opened, order_id))["second receipt"]
    assert (later["state"], later["reason"]) == ("skipped", "it was registered before")
    assert shop.safe.acts == [("capture", "H-CZ5001", "378.00 CZK"), ("receipt", "H-CZ5001", "378.00 CZK")]


async def test_of_an_order_that_was_refunded_there_is_no_second_receipt(shop: Shop) -> None:
    order_id = await prepaid(shop)
    shop.safe.refunded.add("H-CZ5001")
    await hands_over(shop, "dispatched")
    left_out = (await steps_of(shop.opened, order_id))["second receipt"]
    assert (left_out["state"], left_out["reason"]) == ("skipped", "all that was paid was refunded")
    assert [act for act, _, _ in shop.safe.acts] == ["capture"]


async def test_a_hold_moves_forward_only(shop: Shop) -> None:
    await buy(shop.opened)
    hold = await shop.authorizes()
    await shop.works()
    await decides(shop, Decision.CAPTURE)
    await shop.works()
    await shop.tells(hold)
    (row,) = await rows(shop.opened, "CZ5001")
    assert row.stored.hold.state is HoldState.CAPTURED
