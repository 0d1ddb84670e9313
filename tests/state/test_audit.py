"""The audit: silent while everything agrees, and one sentence for each thing that doesn't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from rules_builders import document
from sqlalchemy import Executable, delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import MINUTE, NOW, WORKER, column, incoming, line, new_order, record_match

from domain.matching import Match, Reference, reconcile, references_of
from domain.orders import Order, Status
from domain.payments import Method
from domain.rules import DocumentKind, EvidenceKind, parse_rules
from store import documents, effects, orders, payments, rules, stock, work
from store.audit import Finding, audit
from store.database import Store, open_store
from store.effects import Claim, EffectState, Ending, Wanted
from store.tables import (
    AllocationRow,
    DocumentRow,
    DocumentSeries,
    EffectRow,
    JournalRow,
    OpenItemRow,
    OrderRow,
    PaymentRow,
    RevertRow,
    RuleVersion,
    ShipmentRow,
    StatusHistory,
    StockItem,
    StockMove,
    WorkRow,
)

INVOICE, CREDIT_NOTE = DocumentKind.INVOICE, DocumentKind.CREDIT_NOTE
DONE, INTENDED, IN_DOUBT = EffectState.DONE, EffectState.INTENDED, EffectState.IN_DOUBT

WRITTEN = "the journal is as it was written"


def naming(number: str) -> frozenset[tuple[EvidenceKind, str]]:
    return frozenset({(EvidenceKind.ORDER_NUMBER, number)})


@dataclass
class Day:
    """A day of a shop, made by the store's own functions in one transaction."""

    connection: AsyncConnection

    async def order(self, number: str, **fields: Any) -> Order:
        new = new_order(number, lines=(line("MUG", 2), line(None)), references=naming(number), **fields)
        order_id = await orders.add(self.connection, new, now=NOW, actor=WORKER)
        assert order_id is not None
        return (await orders.load(self.connection, [order_id]))[order_id]

    async def effect(self, order: Order, step: str, cause: str, state: EffectState = DONE, **said: Any) -> Claim:
        wanted = [Wanted(order.id, cause, 1, said.pop("reverses", None))]
        [claim] = await effects.claim(
            self.connection, step, wanted, owner="one", lease_until=NOW + MINUTE, actor=WORKER, now=NOW
        )
        rows = await effects.lock(self.connection, [claim.effect_id])
        ending = Ending(effect_id=claim.effect_id, state=state, before={}, after={}, **said)
        await effects.end(self.connection, step, [ending], rows, actor=WORKER, now=NOW)
        return claim

    async def payment(self, external_id: str, minor: int, number: str | None) -> tuple[int, Match]:
        """Take in a payment and match it; number is the order it names."""
        given = incoming(external_id, minor, order_reference=number)
        [(id_, _)] = await payments.add(self.connection, [given], now=NOW)
        channels = {"shop": parse_rules(document())}
        named: tuple[Reference, ...] = references_of(given, channels)
        items = await payments.candidates(self.connection, named)
        payment = (await payments.load(self.connection, [id_]))[id_]
        match = reconcile(payment, items.values(), channels)
        await record_match(self.connection, payment, match, named, now=NOW)
        return id_, match

    async def document(self, order: Order, effect: int, kind: DocumentKind, corrects: int | None = None) -> None:
        counter = await documents.next_number(self.connection, "shop", kind, 2026)
        await documents.add(
            self.connection,
            order_id=order.id,
            channel="shop",
            kind=kind,
            number=f"{kind}-{counter}",
            year=2026,
            counter=counter,
            currency="EUR",
            total_minor=order.total.minor,
            issued_on=date(2026, 5, 4),
            content={},
            effect_id=effect,
            corrects_id=corrects,
        )

    async def ship(self, order: Order, effect: int, tracking_number: str, collect: int = 0) -> None:
        values = {"order_id": order.id, "carrier": "labels", "tracking_number": tracking_number, "currency": "EUR"}
        values |= {"collect_minor": collect, "effect_id": effect, "live": True, "created_at": NOW + MINUTE}
        values |= {"settled_minor": order.total.minor - collect}
        await orders.add_shipment(self.connection, values)

    async def paid_order(self, number: str, payment: str) -> tuple[Order, dict[str, int]]:
        """Carry an order all the way: paid, invoiced, deducted, dispatched."""
        order = await self.order(number)
        id_, _ = await self.payment(payment, order.total.minor, number)
        cause = f"payment:{id_}"
        made = {step: (await self.effect(order, step, cause)).effect_id for step in ("status", "invoice", "stock")}
        await orders.set_status(
            self.connection,
            order.id,
            after="paid",
            standard=Status.PAID,
            reason="paid",
            actor=WORKER,
            now=NOW,
            effect_id=made["status"],
        )
        await self.document(order, made["invoice"], INVOICE)
        await stock.reserve(self.connection, order, effect_id=made["stock"], now=NOW)
        await stock.deduct(self.connection, order, effect_id=made["stock"], now=NOW)
        made["dispatch"] = (await self.effect(order, "dispatch", cause, reference=f"RR{number}")).effect_id
        await self.ship(order, made["dispatch"], f"RR{number}")
        await work.add(self.connection, "bank_transfer", "payment", [id_], now=NOW)
        await work.finish(self.connection, "bank_transfer", "payment", [(id_, None, None)], now=NOW)
        return order, made

    async def taken_back(self, number: str, payment: str) -> None:
        """Carry an order all the way and back again."""
        order, made = await self.paid_order(number, payment)
        undo = await self.effect(order, "undo invoice", f"undo:{made['invoice']}", reverses=made["invoice"])
        live = await documents.live(self.connection, order.id, INVOICE)
        shipment = await orders.live_shipment(self.connection, order.id)
        assert live is not None
        assert shipment is not None
        await documents.end(self.connection, live["id"])
        await self.document(order, undo.effect_id, CREDIT_NOTE, corrects=live["id"])
        await stock.give_back(self.connection, order, effect_id=undo.effect_id, now=NOW)
        await orders.cancel_shipment(self.connection, shipment["id"])
        allocations = AllocationRow.order_id == order.id
        await self.connection.execute(update(AllocationRow).where(allocations).values(reversed=True))
        [part] = (await self.connection.execute(AllocationRow.__table__.select().where(allocations))).all()
        back = {"payment_id": part.payment_id, "open_item_id": part.open_item_id, "order_id": order.id}
        back |= {"amount_minor": -part.amount_minor, "write_off_minor": -part.write_off_minor}
        back |= {"evidence": [], "reverses_id": part.id, "reversed": False, "at": NOW + 2 * MINUTE}
        await self.connection.execute(insert(AllocationRow).values(back))


async def _fill(connection: AsyncConnection) -> None:
    day = Day(connection)
    await rules.save(connection, document(), channel="shop", author="eva", reason="begin", now=NOW)
    for sku in ("MUG", "CUP"):
        await stock.count(connection, sku, sku.title(), 20, now=NOW)
    await day.paid_order("1042", "E1")
    await day.taken_back("1043", "E2")
    collected = await day.order("1044", method=Method.CASH_ON_DELIVERY)
    dispatched = await day.effect(collected, "dispatch", f"order:{collected.id}", reference="RR1044")
    await day.ship(collected, dispatched.effect_id, "RR1044", collect=collected.total.minor)
    waits = await day.order("1045")
    reserved = await day.effect(waits, "reservation", f"order:{waits.id}")
    await stock.reserve(connection, waits, effect_id=reserved.effect_id, now=NOW)
    part, _ = await day.payment("E3", 10_000, "1045")
    await work.add(connection, "bank_transfer", "payment", [part], now=NOW)
    await day.effect(waits, "message", f"payment:{part}", INTENDED, due_at=NOW + MINUTE, reason="503")
    await day.effect(waits, "crm", f"payment:{part}", IN_DOUBT, due_at=NOW + MINUTE, reason="no answer")
    await day.payment("E4", 45_000, "no such order")
    await day.payment("E5", -5_000, None)
    await payments.add(connection, [incoming("E6")], now=NOW)
    await effects.claim(
        connection,
        "warehouse",
        [Wanted(waits.id, f"payment:{part}", 1)],
        owner="two",
        lease_until=NOW + 5 * MINUTE,
        actor=WORKER,
        now=NOW,
    )


async def _make_shop(url: str) -> None:
    store = await open_store(url)
    async with store.write() as connection:
        await _fill(connection)
    await store.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shop_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a shop once for each database: no test here leaves a change behind."""
    file = tmp_path_factory.mktemp("shop") / "kvit.db"
    url = f"sqlite:///{file}" if request.param == "sqlite" else request.getfixturevalue("postgres").new()
    asyncio.run(_make_shop(url))
    return url


@pytest.fixture
async def shop(shop_url: str) -> AsyncGenerator[Store]:
    """Open a store with a day's work in it: orders paid, taken back, collected on delivery, and on their way."""
    store = await open_store(shop_url)
    yield store
    await store.close()


async def found_after(shop: Store, *broken: Executable | str) -> list[Finding]:
    """Return what the audit finds once rows were changed behind the store's back."""
    async with shop.write() as connection:
        for statement in broken:
            await connection.execute(text(statement) if isinstance(statement, str) else statement)
        found = await audit(connection, now=NOW + 2 * MINUTE)
        await connection.rollback()
    return found


async def id_of(shop: Store, table: Any, condition: Any) -> int:
    async with shop.read() as connection:
        return (await connection.execute(table.__table__.select().where(condition))).one().id


async def payment_id(shop: Store, external_id: str) -> int:
    return await id_of(shop, PaymentRow, PaymentRow.external_id == external_id)


async def order_id(shop: Store, number: str) -> int:
    return await id_of(shop, OrderRow, OrderRow.number == number)


def of(order: int, step: str) -> Any:
    return update(EffectRow).where(EffectRow.order_id == order, EffectRow.step == step)


async def test_an_empty_store_has_nothing_wrong(store: Store) -> None:
    async with store.read() as connection:
        assert await audit(connection, now=NOW) == []


async def test_a_day_of_work_leaves_nothing_wrong(shop: Store) -> None:
    assert await found_after(shop) == []


async def test_more_allocated_than_came(shop: Store) -> None:
    payment = await payment_id(shop, "E1")
    broken = update(AllocationRow).where(AllocationRow.payment_id == payment).values(amount_minor=30_001)

    assert await found_after(shop, broken) == [
        Finding("allocations within the payment", f"payment {payment}", "of its 300.00 EUR, 300.01 EUR is allocated")
    ]


async def test_money_that_went_out_allocated_as_if_it_had_come(shop: Store) -> None:
    payment = await payment_id(shop, "E1")
    broken = update(PaymentRow).where(PaymentRow.id == payment).values(amount_minor=-30_000)

    assert await found_after(shop, broken) == [
        Finding("allocations within the payment", f"payment {payment}", "of its -300.00 EUR, 300.00 EUR is allocated")
    ]


async def test_money_of_another_currency_allocated(shop: Store) -> None:
    payment, order = await payment_id(shop, "E1"), await order_id(shop, "1042")
    broken = update(OpenItemRow).where(OpenItemRow.order_id == order).values(currency="CZK")

    assert await found_after(shop, broken) == [
        Finding(
            "allocations in the payment's currency",
            f"payment {payment}",
            "it is in EUR, but order 1042, to which it is allocated, is in CZK",
        )
    ]


async def test_a_conversion_that_is_none(shop: Store) -> None:
    payment, order = await payment_id(shop, "E1"), await order_id(shop, "1042")
    abroad = update(OpenItemRow).where(OpenItemRow.order_id == order).values(currency="CZK")
    converted = update(AllocationRow).where(AllocationRow.payment_id == payment)

    assert await found_after(shop, abroad, converted.values(amount_minor=999_999, taken_minor=30_000)) == []
    assert await found_after(shop, abroad, converted.values(amount_minor=999_999, taken_minor=30_001)) == [
        Finding("allocations within the payment", f"payment {payment}", "of its 300.00 EUR, 300.01 EUR is allocated")
    ]
    assert await found_after(shop, converted.values(taken_minor=30_000)) == [
        Finding(
            "allocations in the payment's currency",
            f"payment {payment}",
            "it is in EUR, as is order 1042, yet it is allocated to it as if it were converted",
        )
    ]


async def test_a_surplus_that_is_to_be_sent_back_leaves_the_order_paid(shop: Store) -> None:
    payment = await payment_id(shop, "E1")
    marked = update(PaymentRow).where(PaymentRow.id == payment)

    assert await found_after(shop, marked.values(policy="refund", outcome="over", surplus_minor=1)) == []
    assert await found_after(shop, marked.values(policy="refund")) == [
        Finding(
            "a payment's outcome and its allocations agree",
            f"payment {payment}",
            "its outcome is exact (policy refund), yet it is allocated",
        )
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            update(AllocationRow).where(AllocationRow.reverses_id.is_not(None)).values(amount_minor=-29_999),
            "marked as taken back, and 1 entries take it back",
        ),
        (delete(AllocationRow).where(AllocationRow.reverses_id.is_not(None)), "marked as taken back, and 0 entries"),
        (
            update(AllocationRow).where(AllocationRow.reversed.is_(True)).values(reversed=False),
            "not marked as taken back, and 1 entries",
        ),
        (
            update(AllocationRow).where(AllocationRow.reverses_id.is_not(None)).values(taken_minor=-1),
            "marked as taken back, and 1 entries take it back",
        ),
    ],
)
async def test_an_allocation_taken_back_by_halves(shop: Store, broken: Executable, said: str) -> None:
    [found] = await found_after(shop, broken)

    assert found.invariant == "an allocation is taken back once and whole"
    assert found.subject == f"payment {await payment_id(shop, 'E2')}"
    assert said in found.said


async def test_a_settled_payment_without_an_allocation(shop: Store) -> None:
    payment = await payment_id(shop, "E3")
    broken = delete(AllocationRow).where(AllocationRow.payment_id == payment)

    assert await found_after(shop, broken) == [
        Finding(
            "a payment's outcome and its allocations agree",
            f"payment {payment}",
            "its outcome is short (policy wait), yet it was allocated to nothing",
        )
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"outcome": None, "policy": None}, "its outcome is not decided (policy none), yet it is allocated"),
        ({"policy": "operator"}, "its outcome is short (policy operator), yet it is allocated"),
    ],
)
async def test_an_allocation_of_a_payment_that_nobody_released(shop: Store, values: dict[str, Any], said: str) -> None:
    payment = await payment_id(shop, "E3")
    broken = update(PaymentRow).where(PaymentRow.id == payment).values(values)

    assert await found_after(shop, broken) == [
        Finding("a payment's outcome and its allocations agree", f"payment {payment}", said)
    ]


def dispatch(number: str, said: str) -> list[Finding]:
    return [Finding("nothing leaves before its rules allow it", f"order {number}", f"consignment RR{number} {said}")]


async def test_goods_that_left_before_they_were_paid(shop: Store) -> None:
    order = await order_id(shop, "1042")
    late = update(ShipmentRow).where(ShipmentRow.order_id == order).values(settled_minor=0)

    assert await found_after(shop, late) == dispatch(
        "1042", "was ordered while 300.00 EUR was still to be paid, though dispatch waits for payment"
    )


async def test_goods_that_left_unpaid_because_the_rules_let_them_go(shop: Store) -> None:
    order = await order_id(shop, "1042")
    late = update(ShipmentRow).where(ShipmentRow.order_id == order).values(settled_minor=0)
    trusting = document(scenarios={"bank_transfer": {"dispatch": {"waits_for": []}}})

    assert await found_after(shop, late, update(RuleVersion).values(document=trusting)) == []


async def test_goods_that_left_unpaid_by_nobodys_rules(shop: Store) -> None:
    order = await order_id(shop, "1042")
    late = update(ShipmentRow).where(ShipmentRow.order_id == order).values(settled_minor=0)

    assert await found_after(shop, late, of(order, "dispatch").values(rule_version=None)) == dispatch(
        "1042", "was ordered while 300.00 EUR was still to be paid, but the carrier collects 0.00 EUR"
    )


async def test_goods_on_delivery_for_which_too_little_is_collected(shop: Store) -> None:
    order = await order_id(shop, "1044")
    broken = update(ShipmentRow).where(ShipmentRow.order_id == order).values(collect_minor=29_999)

    assert await found_after(shop, broken) == dispatch(
        "1044", "was ordered while 300.00 EUR was still to be paid, but the carrier collects 299.99 EUR"
    )


async def test_goods_that_were_paid_but_for_their_delivery(shop: Store) -> None:
    order = await order_id(shop, "1042")
    apart = update(OrderRow).where(OrderRow.id == order).values(on_delivery_minor=5000)

    def left(settled: int, collect: int) -> Any:
        of = update(ShipmentRow).where(ShipmentRow.order_id == order)
        return of.values(settled_minor=settled, collect_minor=collect)

    assert await found_after(shop, apart, left(25_000, 5000)) == []
    assert await found_after(shop, apart, left(25_000, 0)) == dispatch(
        "1042", "was ordered while 50.00 EUR was to be paid on delivery, but the carrier collects 0.00 EUR"
    )
    assert await found_after(shop, apart, left(24_000, 5000)) == dispatch(
        "1042", "was ordered while 10.00 EUR was still to be paid, though dispatch waits for payment"
    )


async def test_goods_that_left_without_the_invoice_they_wait_for(shop: Store) -> None:
    careful = document(scenarios={"bank_transfer": {"dispatch": {"waits_for": ["payment", "invoice"]}}})
    another = await order_id(shop, "1045")
    moved = update(DocumentRow).where(DocumentRow.number == "invoice-1").values(order_id=another)

    assert await found_after(shop, update(RuleVersion).values(document=careful)) == []
    assert await found_after(shop, update(RuleVersion).values(document=careful), moved) == dispatch(
        "1042", "was ordered without an invoice, though dispatch waits for it"
    )


async def test_goods_that_left_before_they_were_deducted(shop: Store) -> None:
    careful = document(scenarios={"cash_on_delivery": {"dispatch": {"waits_for": ["stock"]}}})

    assert await found_after(shop, update(RuleVersion).values(document=careful)) == dispatch(
        "1044", "was ordered before its goods were deducted from stock, though dispatch waits for that"
    )


async def test_goods_that_left_by_rules_that_cannot_be_read_any_more(shop: Store) -> None:
    unreadable = update(RuleVersion).values(document={"channel": "shop", "of": "long ago"})
    order = await order_id(shop, "1044")
    broken = update(ShipmentRow).where(ShipmentRow.order_id == order).values(collect_minor=0)

    assert await found_after(shop, unreadable) == []
    assert await found_after(shop, unreadable, broken) == dispatch(
        "1044", "was ordered while 300.00 EUR was still to be paid, but the carrier collects 0.00 EUR"
    )


async def test_two_invoices_in_force(shop: Store) -> None:
    order = await order_id(shop, "1043")
    both = [update(DocumentRow).where(DocumentRow.kind == "invoice").values(order_id=order, live=True)]

    assert await found_after(shop, "DROP INDEX uq_documents_live", *both) == [
        Finding(
            "one document of a kind in force per order",
            "order 1043",
            "2 documents of the kind invoice are in force at once",
        )
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (update(DocumentSeries).where(DocumentSeries.kind == "invoice").values(next_number=5), "missing: 3, 4"),
        (update(DocumentSeries).where(DocumentSeries.kind == "invoice").values(next_number=30), "and 17 more"),
        (
            update(DocumentRow).where(DocumentRow.number == "invoice-1").values(counter=7),
            "missing: 1, 3, 4, 5, 6; used though the series has not come so far: 7",
        ),
        (
            delete(DocumentSeries).where(DocumentSeries.kind == "invoice"),
            "used though the series has not come so far: 1, 2",
        ),
    ],
)
async def test_a_gap_in_the_numbers_of_a_series(shop: Store, broken: Executable, said: str) -> None:
    [found] = await found_after(shop, broken)

    assert found.invariant == "document numbers without gaps or repeats"
    assert found.subject == "shop, invoices of 2026"
    assert found.said.endswith(said)


async def test_a_number_given_twice(shop: Store) -> None:
    # The database refuses this; what it keeps its key in goes first.
    key = "ALTER TABLE documents DROP CONSTRAINT uq_documents_channel_kind_year_counter"
    if shop.is_sqlite:
        key = "ALTER TABLE documents RENAME COLUMN counter TO kept; ALTER TABLE documents ADD COLUMN counter INTEGER"
    twice = update(DocumentRow).where(DocumentRow.kind == "invoice").values(counter=1)
    other_kinds = update(DocumentRow).where(DocumentRow.kind != "invoice").values(counter=1)

    assert await found_after(shop, *key.split("; "), other_kinds, twice) == [
        Finding("document numbers without gaps or repeats", "shop, invoices of 2026", "missing: 2; used twice: 1")
    ]


async def test_goods_deducted_twice_for_a_line(shop: Store) -> None:
    order = await order_id(shop, "1042")
    line_id = await id_of(shop, StockMove, (StockMove.order_id == order) & (StockMove.kind == "deduct"))
    copied = """
        INSERT INTO stock_moves (sku, kind, quantity, order_id, order_line_id, effect_id, live, at)
        SELECT sku, kind, quantity, order_id, order_line_id, effect_id, live, at FROM stock_moves WHERE id =
    """
    less = update(StockItem).where(StockItem.sku == "MUG").values(on_hand=16)

    assert await found_after(shop, "DROP INDEX uq_stock_moves_live", f"{copied} {line_id}", less) == [
        Finding("goods are deducted once per line", "order 1042", "2 × MUG in line 1, but 4 are deducted")
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            update(StockItem).where(StockItem.sku == "MUG").values(on_hand=17),
            "17 on hand and 2 reserved, but its moves come to 18 and 2",
        ),
        (
            update(StockItem).where(StockItem.sku == "MUG").values(reserved=0),
            "18 on hand and 0 reserved, but its moves come to 18 and 2",
        ),
        (
            delete(StockMove).where(StockMove.kind == "restock"),
            "18 on hand and 2 reserved, but its moves come to 16 and 2",
        ),
    ],
)
async def test_stock_that_is_not_the_sum_of_its_moves(shop: Store, broken: Executable, said: str) -> None:
    assert await found_after(shop, broken) == [Finding("stock equals the sum of its moves", "article MUG", said)]


def unfinished(said: str) -> list[Finding]:
    return [Finding("every step that was begun goes on or waits for a person", "order 1045", said)]


@pytest.mark.parametrize("step", ["message", "crm"])
async def test_a_step_whose_worker_is_gone(shop: Store, step: str) -> None:
    gone = of(await order_id(shop, "1045"), step).values(lease_owner="dead", lease_until=NOW)

    assert await found_after(shop, gone) == unfinished(
        f"step {step} was begun by a worker that is gone since 2026-05-04 12:00 UTC"
    )


async def test_steps_that_nothing_due_will_carry_on(shop: Store) -> None:
    payment = await payment_id(shop, "E3")
    finished = update(WorkRow).where(WorkRow.subject_id == payment).values(due_at=None)
    alone = f"and nothing that is due will carry it on (cause payment:{payment})"

    assert await found_after(shop, finished) == [
        *unfinished(f"step message is not done (503), {alone}"),
        *unfinished(f"step crm is not done (no answer), {alone}"),
    ]


async def test_a_step_in_doubt_that_needs_a_person(shop: Store) -> None:
    payment, order = await payment_id(shop, "E3"), await order_id(shop, "1045")
    finished = update(WorkRow).where(WorkRow.subject_id == payment).values(due_at=None)
    done = of(order, "message").values(state="skipped", due_at=None)
    told = update(JournalRow).where(JournalRow.step == "message", JournalRow.move == "to retry").values(move="skipped")

    found = await found_after(shop, finished, done, told, of(order, "crm").values(due_at=None))
    # The journal was changed for this test, and that shows too.
    assert [one for one in found if one.invariant != WRITTEN] == unfinished(
        "step crm needs a person: whether it happened is not known (no answer)"
    )


async def test_a_step_in_doubt_that_its_run_is_about_to_ask_about(shop: Store) -> None:
    order = await order_id(shop, "1045")

    assert await found_after(shop, of(order, "crm").values(due_at=None)) == []


async def test_a_step_whose_state_the_journal_does_not_tell(shop: Store) -> None:
    broken = of(await order_id(shop, "1045"), "reservation").values(state="rejected")
    gone = update(StockMove).where(StockMove.kind == "reserve").values(effect_id=None)
    order = await order_id(shop, "1045")

    assert await found_after(shop, broken, gone) == [
        Finding(
            "the journal tells every step's state",
            "order 1045",
            f"step reservation (cause order:{order}) is rejected, but the journal says last that it is done",
        )
    ]


@pytest.mark.parametrize(
    ("step", "table", "row"),
    [
        ("status", "status_history", StatusHistory),
        ("invoice", "documents", DocumentRow),
        ("stock", "stock_moves", StockMove),
        ("dispatch", "shipments", ShipmentRow),
    ],
)
async def test_a_done_step_that_left_nothing_behind(shop: Store, step: str, table: str, row: Any) -> None:
    order, payment = await order_id(shop, "1042"), await payment_id(shop, "E1")
    gone = update(row).where(row.order_id == order).values(effect_id=None)

    assert await found_after(shop, gone) == [
        Finding(
            "a done step has left what it does",
            "order 1042",
            f"step {step} (cause payment:{payment}) is told to be done, but left nothing in {table}",
        )
    ]


async def test_a_step_that_is_not_done_and_has_left_something_behind(shop: Store) -> None:
    order, payment = await order_id(shop, "1042"), await payment_id(shop, "E1")
    message = (await column(shop, "SELECT id FROM effects WHERE step = 'message' ORDER BY id"))[0]
    broken = update(StatusHistory).where(StatusHistory.order_id == order, StatusHistory.after == "paid")

    assert payment
    assert await found_after(shop, broken.values(effect_id=message)) == [
        Finding(
            "a done step has left what it does",
            "order 1042",
            f"step status (cause payment:{payment}) is told to be done, but left nothing in status_history",
        ),
        Finding(
            "a done step has left what it does",
            "order 1045",
            f"step message (cause payment:{await payment_id(shop, 'E3')}) is intended, "
            "but there is something of it in status_history",
        ),
    ]


async def test_a_revert_that_stopped_half_way(shop: Store) -> None:
    order = await order_id(shop, "1042")
    begun = insert(RevertRow).values(order_id=order, author="eva", reason="wrong order", force=False, created_at=NOW)

    assert await found_after(shop, begun) == [
        Finding(
            "every revert that was begun goes on or ends",
            "order 1042",
            "eva has it taken back, and that has stopped (nothing is due); "
            "settle the step that is in its way with `kvit resolve step`",
        )
    ]


async def test_a_step_of_which_the_journal_knows_nothing(shop: Store) -> None:
    order = await order_id(shop, "1042")
    payment = await payment_id(shop, "E1")
    broken = delete(JournalRow).where(JournalRow.order_id == order, JournalRow.step == "invoice")

    told, chain = await found_after(shop, broken)
    assert told == Finding(
        "the journal tells every step's state",
        "order 1042",
        f"step invoice (cause payment:{payment}) is done, but the journal has nothing about it",
    )
    assert (chain.invariant, chain.subject) == (WRITTEN, "order 1042")
    assert "something was taken out, put in or changed places" in chain.said


async def test_a_status_that_its_history_does_not_tell(shop: Store) -> None:
    order = await order_id(shop, "1042")
    changed = update(OrderRow).where(OrderRow.id == order).values(status="completed")
    forgotten = delete(StatusHistory).where(StatusHistory.order_id == await order_id(shop, "1044"))

    assert await found_after(shop, changed, forgotten) == [
        Finding(
            "an order's status is the last of its history",
            f"order {number}",
            said,
        )
        for number, said in (
            ("1042", "it is completed, but its history ends with paid"),
            ("1044", "it is awaiting_payment, but its history is empty"),
        )
    ]
