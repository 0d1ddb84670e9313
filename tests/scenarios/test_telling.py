"""The shop and the CRM are told how orders stand, and what people do there is followed here, each once and no echo."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from elsewhere import Board, Stall
from shop_builders import (
    Clock,
    buy,
    carry_on,
    carry_on_all,
    change_rules,
    order_of,
    pay,
    payment_of,
    steps_of,
    take_payments,
)
from sqlalchemy import Engine, event

from connectors.errors import Rejected
from connectors.roles import Income, Told, WebhookEvent
from domain.changes import StatusChange
from domain.orders import Order
from domain.payments import Kind
from store import inbox, orders
from store.audit import audit
from tasks.installation import Installation
from tasks.intake import take_webhook, work_off_inbox
from tasks.resolve_message import MessageError, settle
from tasks.tell import Standings

BOARD = {"paid": "C1:PAID", "processing": "C1:WORK", "cancelled": "C1:LOST", "awaiting_payment": "C1:NEW"}
STALL = {"paid": "processing", "cancelled": "cancelled", "completed": "completed"}
RULES: dict[str, Any] = {
    "connectors": {"shop": "stall", "crm": "board"},
    "tells": {"board": BOARD, "stall": STALL},
    "follows": {
        "board": {"C1:WORK": "processing", "C1:LOST": "cancelled", "C1:NEW": "new"},
        "stall": {"completed": "completed", "processing": "processing"},
        "labels": {"DELIVERED": "completed"},
    },
}


class Place:
    """A shop with a CRM and a shop system beside it."""

    def __init__(self, opened: Installation) -> None:
        self.opened = opened
        self.board = Board()
        self.stall = Stall()
        opened.connectors["board"] = self.board
        opened.connectors["stall"] = self.stall
        self._told = 0

    async def hears(self, source: str, *told: Told) -> None:
        """Let a system tell something, take it in, and carry on what is due by it."""
        self._told += 1
        saying = {"board": self.board, "stall": self.stall}.get(source) or self.board
        saying.says[str(self._told).encode()] = list(told)
        if source == "labels":
            self.opened.connectors["labels"].truth = saying.truth
            self.opened.connectors["labels"].verify = saying.verify
        event = WebhookEvent(external_id=str(self._told), kind="test")
        await take_webhook(self.opened, source, event, str(self._told).encode())
        await work_off_inbox(self.opened)
        await self.works()

    async def works(self) -> list[str]:
        """Carry on all that is due until nothing is; return how the runs ended."""
        return await carry_on_all(self.opened)

    async def parked(self) -> list[str]:
        """Return what of the messages from outside a person must look at."""
        async with self.opened.store.read() as connection:
            return [row["problem"] for row in await inbox.parked(connection)]


@pytest.fixture
async def place(opened: Installation, clock: Clock) -> AsyncGenerator[Place]:
    await change_rules(opened, RULES)
    yield Place(opened)
    async with opened.store.read() as connection:
        assert await audit(connection, now=clock()) == []


def card(place: Place, number: str = "CZ5001") -> dict[str, Any]:
    return place.board.cards[number]


async def status_of(place: Place, order_id: int) -> str:
    return (await order_of(place.opened, order_id)).status


# Telling.


async def test_a_placed_order_has_a_card_and_a_paid_one_says_so_everywhere(place: Place) -> None:
    await buy(place.opened)
    await place.works()
    assert card(place) == {"to_pay": "378.00 CZK", "paid": "0.00 CZK"}
    await pay(place.opened)
    await place.works()
    assert card(place) == {"to_pay": "0.00 CZK", "paid": "378.00 CZK", "status": "C1:PAID"}
    assert place.stall.statuses == {"CZ5001": "processing"}
    assert [(number, amount) for number, _, amount in place.board.incomes] == [("CZ5001", "378.00 CZK")]


async def test_part_payments_add_up_on_the_card_and_each_is_noted_once(place: Place) -> None:
    await buy(place.opened)
    await place.works()
    for amount, paid, left in (
        ("100.00", "100.00", "278.00"),
        ("200.00", "300.00", "78.00"),
        ("78.00", "378.00", "0.00"),
    ):
        await pay(place.opened, amount=amount)
        await place.works()
        assert (card(place)["paid"], card(place)["to_pay"]) == (f"{paid} CZK", f"{left} CZK")
        assert ("status" in card(place)) == (left == "0.00")
    assert [amount for _, _, amount in place.board.incomes] == ["100.00 CZK", "200.00 CZK", "78.00 CZK"]
    assert "CZ5001" in place.stall.statuses


async def test_a_channel_without_shop_and_crm_has_no_trace_of_them(opened: Installation, clock: Clock) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)
    assert (await carry_on("card", payment_id)).name == "Done"
    assert not {"shop", "crm", "shop note"} & (await steps_of(opened, order_id)).keys()
    async with opened.store.read() as connection:
        assert await audit(connection, now=clock()) == []


async def test_a_crm_that_is_down_holds_up_nothing_and_is_told_when_it_is_back(place: Place, clock: Clock) -> None:
    order_id = await buy(place.opened)
    await place.works()
    place.board.down = True
    await pay(place.opened)
    await place.works()
    steps = await steps_of(place.opened, order_id)
    assert {name: steps[name]["state"] for name in ("status", "invoice", "dispatch", "shop")} == dict.fromkeys(
        ("status", "invoice", "dispatch", "shop"), "done"
    )
    assert card(place)["paid"] == "0.00 CZK"
    place.board.down = False
    clock.forward(hours=2)
    await place.works()
    assert card(place)["paid"] == "378.00 CZK"


async def test_an_answer_of_the_crm_that_got_lost_notes_no_income_twice(place: Place, clock: Clock) -> None:
    await buy(place.opened)
    await place.works()
    place.board.lose = 2
    await pay(place.opened)
    await place.works()
    clock.forward(hours=1)
    await place.works()
    assert len(place.board.incomes) == 1
    assert card(place)["status"] == "C1:PAID"


async def test_a_card_comes_to_its_status_though_the_income_can_not_be_noted(place: Place) -> None:
    async def refused(order: Order, income: Income, key: str) -> str:
        raise Rejected(f"board: no incomes are taken ({order.number} {income.reference} {len(key)})")

    await buy(place.opened)
    await place.works()
    place.board.add_income = refused
    await pay(place.opened)
    assert (await place.works())[-1] == "card: Needs a person"
    assert card(place) == {"to_pay": "0.00 CZK", "paid": "378.00 CZK", "status": "C1:PAID"}


async def test_what_goes_back_is_noted_on_the_card_a_part_of_it_too(place: Place) -> None:
    await buy(place.opened)
    await pay(place.opened, provider_reference="pi_1")
    await place.works()
    for back, left in (("-100.00", "278.00"), ("-278.00", "0.00")):
        refund = payment_of(None, back, provider_reference="pi_1", kind=Kind.REFUND)
        await take_payments(place.opened, refund)
        await place.works()
        assert card(place)["paid"] == f"{left} CZK"
    amounts = [amount for _, _, amount in place.board.incomes]
    assert amounts == ["378.00 CZK", "-100.00 CZK", "-278.00 CZK"]


async def test_the_tracking_number_goes_to_the_customer_as_a_note_in_the_shop(place: Place) -> None:
    await change_rules(place.opened, {"scenarios": {"card": {"dispatch": {"start": True, "note": True}}}})
    order_id = await buy(place.opened)
    await pay(place.opened)
    await place.works()
    async with place.opened.store.read() as connection:
        shipment = await orders.live_shipment(connection, order_id)
    assert shipment is not None
    assert list(place.stall.notes.values()) == [("CZ5001", f"Číslo zásilky: {shipment['tracking_number']}", True)]


# Following.


async def test_a_stage_that_a_person_sets_becomes_the_orders_status_and_the_shop_is_told(place: Place) -> None:
    order_id = await buy(place.opened)
    await pay(place.opened)
    await place.works()
    await place.hears("board", StatusChange(status="C1:WORK", number="CZ5001"))
    assert await status_of(place, order_id) == "processing"
    assert card(place)["status"] == "C1:WORK"
    async with place.opened.store.read() as connection:
        (*_, last) = await orders.status_history(connection, order_id)
    assert (last["after"], last["actor"], last["reason"]) == ("processing", "board", "made so in board")


async def test_what_we_told_ourselves_and_hear_again_changes_nothing(place: Place) -> None:
    order_id = await buy(place.opened)
    await pay(place.opened)
    await place.works()
    told = place.board.told
    await place.hears("board", StatusChange(status="C1:PAID", number="CZ5001"))
    await place.hears("stall", StatusChange(status="processing", number="CZ5001"))
    assert await status_of(place, order_id) == "paid"
    assert place.board.told == told


async def test_nobody_can_send_an_unpaid_order_to_work(place: Place) -> None:
    order_id = await buy(place.opened, method="bank_transfer")
    await place.works()
    before = await status_of(place, order_id)
    card(place)["status"] = "C1:WORK"
    await place.hears("board", StatusChange(status="C1:WORK", number="CZ5001"))
    assert await status_of(place, order_id) == before
    assert card(place)["status"] == "C1:NEW"  # the card is put back, so that nobody begins by it
    assert await place.parked() == [
        "CZ5001: board made it “processing”, but 378.00 CZK is missing; it stays awaiting_payment here"
    ]


async def test_a_card_is_put_back_as_often_as_somebody_tries(place: Place) -> None:
    await buy(place.opened, method="bank_transfer")
    await place.works()
    for _ in range(3):
        card(place)["status"] = "C1:WORK"
        await place.hears("board", StatusChange(status="C1:WORK", number="CZ5001"))
        assert (card(place)["status"], len(await place.parked())) == ("C1:NEW", 1)


async def test_nor_one_that_is_to_be_paid_on_delivery_where_the_rules_let_it_wait_for_its_money(place: Place) -> None:
    await change_rules(place.opened, {"placed": {"cash_on_delivery": {"status": "awaiting_payment"}}})
    order_id = await buy(place.opened, method="cash_on_delivery")
    await place.works()
    await place.hears("board", StatusChange(status="C1:WORK", number="CZ5001"))
    assert (await status_of(place, order_id), card(place)["status"]) == ("awaiting_payment", "C1:NEW")


async def test_what_was_left_to_a_person_is_asked_about_again_or_done_with(place: Place) -> None:
    order_id = await buy(place.opened, method="bank_transfer")
    await place.works()
    await place.hears("board", StatusChange(status="C1:WORK", number="CZ5001"))
    async with place.opened.store.read() as connection:
        (waiting,) = await inbox.parked(connection)
    await pay(place.opened, method="bank_transfer")
    await settle(place.opened, waiting["id"], again=True, author="Eva", because="it is paid now")
    await work_off_inbox(place.opened)
    assert (await status_of(place, order_id), await place.parked()) == ("awaiting_payment", [waiting["problem"]])
    await place.works()
    await settle(place.opened, waiting["id"], again=False, author="Eva", because="nothing to do")
    assert await place.parked() == []
    for number, because, why in ((waiting["id"], "so", "no message"), (0, "so", "no message"), (1, " ", "say why")):
        with pytest.raises(MessageError, match=why):
            await settle(place.opened, number, again=True, author="Eva", because=because)


async def test_a_card_set_back_is_told_how_the_order_really_stands(place: Place) -> None:
    order_id = await buy(place.opened)
    await pay(place.opened)
    await place.works()
    card(place)["status"] = "C1:NEW"
    await place.hears("board", StatusChange(status="C1:NEW", number="CZ5001"))
    assert (await status_of(place, order_id), card(place)["status"]) == ("paid", "C1:PAID")
    assert await place.parked() == []


async def test_an_order_cancelled_elsewhere_is_cancelled_here_and_in_the_shop(place: Place) -> None:
    order_id = await buy(place.opened, method="bank_transfer")
    await place.works()
    await place.hears("board", StatusChange(status="C1:LOST", number="CZ5001"))
    assert await status_of(place, order_id) == "cancelled"
    assert place.stall.statuses["CZ5001"] == "cancelled"


async def test_a_closed_order_that_is_to_go_on_needs_a_person(place: Place) -> None:
    order_id = await buy(place.opened, method="bank_transfer")
    await place.works()
    await place.hears("board", StatusChange(status="C1:LOST", number="CZ5001"))
    await place.hears("board", StatusChange(status="C1:WORK", number="CZ5001"))
    assert await status_of(place, order_id) == "cancelled"
    (said,) = await place.parked()
    assert said == "CZ5001: board made it “processing”, but an order that is cancelled can't become that"


@pytest.mark.parametrize("change", [{"number": "CZ4000"}, {"external_id": "77"}, {"tracking_number": "X1"}])
async def test_what_names_no_order_of_ours_or_an_unknown_status_changes_nothing(
    place: Place, change: dict[str, Any]
) -> None:
    order_id = await buy(place.opened)
    await place.works()
    await place.hears("board", StatusChange(status="C1:LOST", **change))
    await place.hears("board", StatusChange(status="C9:ELSE", number="CZ5001"))
    assert await status_of(place, order_id) != "cancelled"
    assert await place.parked() == []


async def test_an_order_is_known_by_the_shops_own_id(place: Place) -> None:
    order_id = await buy(place.opened, external_id="871")
    await pay(place.opened)
    await place.works()
    assert place.stall.statuses == {"871": "processing"}
    await place.hears("stall", StatusChange(status="completed", external_id="871", number="other"))
    assert await status_of(place, order_id) == "completed"


async def test_a_parcel_that_the_carrier_delivered_completes_its_order(place: Place) -> None:
    order_id = await buy(place.opened)
    await pay(place.opened)
    await place.works()
    async with place.opened.store.read() as connection:
        shipment = await orders.live_shipment(connection, order_id)
    assert shipment is not None
    await place.hears("labels", StatusChange(status="DELIVERED", tracking_number=shipment["tracking_number"]))
    assert await status_of(place, order_id) == "completed"
    assert place.stall.statuses["CZ5001"] == "completed"


# Batches.


@contextmanager
def asked() -> Generator[list[str]]:
    """Collect the statements that are sent to the database."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        said.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize(("fresh_s", "status"), [(3600.0, "new"), (0.0, "paid")])
async def test_a_batch_is_told_as_its_orders_stand_and_what_is_stale_is_read_anew(
    opened: Installation, fresh_s: float, status: str
) -> None:
    ids = [await buy(opened, number) for number in ("CZ5001", "CZ5002")]
    standings = Standings(opened, ids, fresh_s=fresh_s)
    before = (await standings.of(ids[0])).order.status
    await carry_on("card", await pay(opened, "CZ5002"))
    assert [before, (await standings.of(ids[1])).order.status] == ["new", status]


async def test_what_is_stale_of_a_batch_is_read_for_all_that_are_to_come_at_once(opened: Installation) -> None:
    ids = [await buy(opened, f"CZ{5001 + place}") for place in range(6)]
    standings = Standings(opened, ids, fresh_s=3600)
    with asked() as alone:
        await Standings(opened, []).of(ids[0])
    with asked() as together:
        for id_ in ids:
            await standings.of(id_)
    assert len(together) == len(alone)
