"""The store's side of reconciliation: all that it should have is found, in pieces, and what is old since when."""

from __future__ import annotations

from collections.abc import AsyncIterable
from datetime import date, timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import MINUTE, NOW, WORKER, change, incoming, place, place_many, receive

from domain.money import Money
from domain.orders import PaymentState, Status
from domain.payments import Kind, Method, Outcome
from domain.reconciliation import OrderFacts, What, compare_order
from domain.rules import DocumentKind, parse_rules
from store import documents, effects, inbox, orders, payments, reconciliation, work
from store.database import Store
from store.effects import EffectState, Ending, Wanted
from store.reconciliation import Buyer
from store.tables import AllocationRow, OpenItemRow, RevertRow

_T = TypeVar("_T")
DAY = NOW.date()
SINCE = NOW - timedelta(days=30)
RULES = parse_rules({"channel": "shop", "title": "Shop", "currency": "EUR", "seller": {"name": "Seller Ltd."}})


async def everything(pieces: AsyncIterable[list[_T]]) -> list[_T]:
    return [one async for piece in pieces for one in piece]


async def facts_of(store: Store, number: str) -> tuple[OrderFacts, Buyer]:
    """Return what reconciliation sees of an order."""
    async with store.read() as connection:
        found = await everything(reconciliation.orders(connection, since=SINCE))
    (one,) = [(facts, buyer) for facts, buyer in found if facts.number == number]
    return one


async def allocate(store: Store, payment_id: int, order_id: int, minor: int, **told: Any) -> None:
    """Let a payment settle an order, as matching writes it down."""
    async with store.write() as connection:
        item = (await connection.execute(OpenItemRow.__table__.select().where(OpenItemRow.order_id == order_id))).one()
        row = {"payment_id": payment_id, "open_item_id": item.id, "order_id": order_id, "amount_minor": minor}
        row |= {"write_off_minor": 0, "completes": True, "evidence": [], "reversed": False, "at": NOW}
        await connection.execute(insert(AllocationRow).values(row | told))


async def effect(store: Store, order_id: int, step: str, state: EffectState | None, cause: str = "payment:1") -> int:
    """Let a worker begin a step of an order, and end it unless state is None."""
    async with store.write() as connection:
        (claim,) = await effects.claim(
            connection,
            step,
            [Wanted(order_id, cause, 1)],
            owner="one",
            lease_until=NOW + MINUTE,
            actor=WORKER,
            now=NOW,
        )
        if state is not None:
            rows = await effects.lock(connection, [claim.effect_id])
            ending = Ending(effect_id=claim.effect_id, state=state, before={}, after={})
            await effects.end(connection, step, [ending], rows, actor=WORKER, now=NOW)
    return claim.effect_id


async def issue(connection: AsyncConnection, order_id: int, effect_id: int, kind: DocumentKind, minor: int) -> str:
    """Issue a document with the next number of its series."""
    counter = await documents.next_number(connection, "shop", kind, 2026)
    number = f"{kind.value}-{counter}"
    await documents.add(
        connection,
        order_id=order_id,
        channel="shop",
        kind=kind,
        number=number,
        year=2026,
        counter=counter,
        currency="EUR",
        total_minor=minor,
        issued_on=DAY,
        content={},
        effect_id=effect_id,
    )
    return number


async def invoice(store: Store, order_id: int, minor: int = 45_000, step: str = "invoice") -> str:
    effect_id = await effect(store, order_id, step, EffectState.DONE)
    async with store.write() as connection:
        return await issue(connection, order_id, effect_id, DocumentKind.INVOICE, minor)


# Payments


async def test_payments_are_found_by_the_ids_of_their_source(store: Store) -> None:
    first = await receive(store, "A")
    await receive(store, "B", source="another")
    async with store.read() as connection:
        found = await reconciliation.stored(connection, "statement", ["A", "B", "C"])
    assert set(found) == {"A"}
    assert (found["A"].id, found["A"].kind, found["A"].amount) == (first, Kind.PAYMENT, Money(45_000, "EUR"))


async def test_what_a_source_should_list_is_what_was_booked_since_a_day_and_was_here_before_it_was_asked(
    store: Store,
) -> None:
    for id_, booked_on in (("old", DAY - timedelta(days=1)), ("new", DAY)):
        await receive(store, id_, booked_on=booked_on)
    await receive(store, "another", source="another")
    async with store.read() as connection:
        ids = await reconciliation.stored_ids(connection, "statement", since=DAY, before=NOW + MINUTE)
        before = await reconciliation.stored_ids(connection, "statement", since=DAY, before=NOW)
    assert (ids, before) == ({"new"}, set())


async def test_many_payments_are_looked_up_in_pieces(store: Store) -> None:
    ids = [f"E{n}" for n in range(1_200)]
    async with store.write() as connection:
        await payments.add(connection, [incoming(id_) for id_ in ids], now=NOW)
    async with store.read() as connection:
        assert set(await reconciliation.stored(connection, "statement", ids)) == set(ids)


async def test_payments_are_counted_and_summed_by_day_and_outcome(store: Store) -> None:
    for id_, minor, booked_on in (("A", 100, DAY), ("B", 200, DAY), ("C", -50, DAY), ("D", 9, DAY - timedelta(days=9))):
        await receive(store, id_, minor, booked_on=booked_on)
    await change(store, "UPDATE payments SET outcome = 'exact' WHERE amount_minor > 0")
    async with store.read() as connection:
        rows = await reconciliation.by_day(connection, since=DAY - timedelta(days=2), until=DAY)
    assert set(rows) == {(DAY, Outcome.EXACT, "EUR", 2, 300), (DAY, None, "EUR", 1, -50)}


async def test_it_is_known_since_when_a_payment_is_here(store: Store) -> None:
    payment_id = await receive(store, booked_on=DAY - timedelta(days=90))
    async with store.read() as connection:
        assert await reconciliation.known_since(connection, [payment_id]) == {payment_id: NOW}


# Files


async def test_files_are_listed_without_what_is_in_them(store: Store) -> None:
    async with store.write() as connection:
        for source, id_, at in (
            ("statement", "1", NOW),
            ("remittance", "2", NOW),
            ("stripe", "3", NOW),
            ("statement", "4", SINCE - MINUTE),
        ):
            await inbox.put(
                connection, source=source, external_id=id_, kind="csv", body=id_.encode(), now=at, due_at=None
            )
    async with store.read() as connection:
        files = await reconciliation.files(connection, ("statement", "remittance"), since=SINCE)
        assert [(file.source, file.format) for file in files] == [("statement", "csv"), ("remittance", "csv")]
        assert [await reconciliation.body(connection, file.id) for file in files] == [b"1", b"2"]
        assert await reconciliation.has_letter(connection, "stripe", "3")
        assert not await reconciliation.has_letter(connection, "stripe", "4")


# Orders


async def test_an_order_is_seen_with_its_money_its_invoice_and_how_it_came_here(store: Store) -> None:
    order_id = await place(store, "A1", method=Method.CARD)
    await allocate(store, await receive(store), order_id, 44_950, write_off_minor=50)
    number = await invoice(store, order_id)
    facts, buyer = await facts_of(store, "A1")
    assert facts.moves == ((Kind.PAYMENT, Money(44_950, "EUR"), Money(50, "EUR")),)
    assert (facts.method, facts.status, facts.total) == (Method.CARD, Status.AWAITING_PAYMENT, Money(45_000, "EUR"))
    assert (facts.invoice, facts.invoice_total, facts.invoice_on) == (number, Money(45_000, "EUR"), DAY)
    assert (facts.under_way, facts.no_invoice, facts.since) == (False, False, DAY)
    assert buyer.taken_in_as == "awaiting_payment"
    assert [one.what for one in compare_order(facts, RULES)] == [What.PAID_BUT_WAITS]


async def test_money_that_was_taken_off_again_is_not_seen(store: Store) -> None:
    order_id = await place(store, "A1")
    payment_id = await receive(store)
    await allocate(store, payment_id, order_id, 45_000, reversed=True)
    async with store.read() as connection:
        (first,) = (await connection.execute(AllocationRow.__table__.select())).all()
    await allocate(store, payment_id, order_id, -45_000, reverses_id=first.id)
    facts, _ = await facts_of(store, "A1")
    assert facts.moves == ()


@pytest.mark.parametrize(
    ("state", "under_way"),
    [
        (None, True),
        (EffectState.INTENDED, True),
        (EffectState.IN_DOUBT, True),
        (EffectState.REJECTED, False),
        (EffectState.DONE, False),
    ],
)
async def test_an_order_with_an_open_step_is_under_way(
    store: Store, state: EffectState | None, under_way: bool
) -> None:
    await effect(store, await place(store, "A1"), "status", state)
    assert (await facts_of(store, "A1"))[0].under_way is under_way


async def test_an_order_is_under_way_while_it_or_its_payment_is_due_or_it_is_taken_back(store: Store) -> None:
    by_order, by_payment, by_revert, rests = [await place(store, f"A{n}") for n in range(1, 5)]
    payment_id, resting = await receive(store, "E1"), await receive(store, "E2")
    await allocate(store, payment_id, by_payment, 45_000)
    await allocate(store, resting, rests, 45_000)
    async with store.write() as connection:
        await work.add(connection, "order_placed", "order", [by_order, rests], now=NOW)
        await work.finish(connection, "order_placed", "order", [(rests, None, None)], now=NOW)
        await work.add(connection, "bank_transfer", "payment", [payment_id], now=NOW)
        revert = {"order_id": by_revert, "author": "me", "reason": "because", "force": False, "created_at": NOW}
        await connection.execute(insert(RevertRow).values(revert))
    going = {number: (await facts_of(store, number))[0].under_way for number in ("A1", "A2", "A3", "A4")}
    assert going == {"A1": True, "A2": True, "A3": True, "A4": False}


async def test_an_invoice_that_the_rules_left_out_is_not_missing(store: Store) -> None:
    await effect(store, await place(store, "A1"), "invoice", EffectState.SKIPPED)
    await effect(store, await place(store, "A2"), "message", EffectState.SKIPPED)
    assert [(await facts_of(store, number))[0].no_invoice for number in ("A1", "A2")] == [True, False]


async def test_orders_are_those_placed_paid_or_invoiced_since_and_come_in_pieces(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "PIECE", 3)
    long_ago = SINCE - timedelta(days=300)
    ids = await place_many(store, 7)
    paid, invoiced, _ = [await place(store, number, placed_at=long_ago) for number in ("paid", "invoiced", "neither")]
    await allocate(store, await receive(store), paid, 1)
    await invoice(store, invoiced)
    async with store.read() as connection:
        sizes = [len(piece) async for piece in reconciliation.orders(connection, since=SINCE)]
        found = await everything(reconciliation.orders(connection, since=SINCE))
    assert sizes == [3, 3, 3]
    assert len(found) == len(ids) + 2
    assert {"paid", "invoiced"} < {facts.number for facts, _ in found}
    assert "neither" not in {facts.number for facts, _ in found}


async def test_orders_are_found_as_a_shop_names_them(store: Store) -> None:
    paid = await place(store, "A1")
    await place(store, "A2")
    await place(store, "A1", channel="other")
    await allocate(store, await receive(store), paid, 45_000)
    async with store.read() as connection:
        found = await reconciliation.stored_orders(connection, {("shop", "A1"), ("shop", "A9")})
        placed = [
            key async for piece in reconciliation.orders_placed(connection, {"shop"}, since=SINCE) for key in piece
        ]
    assert {key: one.state for key, one in found.items()} == {("shop", "A1"): PaymentState.PAID}
    assert placed == [("shop", "A1"), ("shop", "A2")]


# Documents


async def test_a_series_is_told_only_where_numbers_are_missing_or_used_twice(store: Store) -> None:
    ids = [await place(store, f"A{n}") for n in range(1, 4)]
    for order_id in ids:
        await invoice(store, order_id)
    async with store.read() as connection:
        assert await reconciliation.series_out_of_order(connection) == []
    await change(store, "DELETE FROM documents WHERE counter = 2")
    async with store.read() as connection:
        found = await reconciliation.series_out_of_order(connection)
    assert found == [("shop, invoices of 2026", [1, 3], 3)]


async def test_documents_are_listed_with_their_files_and_as_an_accounting_system_has_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "PIECE", 1)
    numbers = [await invoice(store, await place(store, f"A{n}")) for n in range(1, 4)]
    await change(store, "UPDATE documents SET file = 'one.pdf' WHERE counter = 1")
    await change(store, "UPDATE documents SET live = false WHERE counter = 2")
    async with store.read() as connection:
        issued = await everything(reconciliation.documents(connection, since=DAY, channels=["shop"]))
        none = await everything(reconciliation.documents(connection, since=DAY, channels=["other"]))
        later = await everything(reconciliation.documents(connection, since=DAY + timedelta(days=1), channels=["shop"]))
        listed = await reconciliation.stored_documents(connection, ["shop"], since=DAY)
    assert [(one.number, one.file) for one in issued] == [
        (numbers[0], "one.pdf"),
        (numbers[1], None),
        (numbers[2], None),
    ]
    assert none == later == []
    assert [listed[f"invoice {number}"].cancelled for number in numbers] == [False, True, False]
    assert listed[f"invoice {numbers[0]}"].total == Money(45_000, "EUR")


# What is old


async def test_steps_are_old_once_they_are_open_or_refused_for_long(store: Store) -> None:
    states = (EffectState.INTENDED, EffectState.IN_DOUBT, EffectState.REJECTED, EffectState.DONE, EffectState.SKIPPED)
    for state in states:
        await effect(store, await place(store, state.value), "dispatch", state)
    async with store.read() as connection:
        old = await reconciliation.old_steps(connection, before=NOW, limit=10)
        young = await reconciliation.old_steps(connection, before=NOW - MINUTE, limit=10)
        cut = await reconciliation.old_steps(connection, before=NOW, limit=2)
    assert [row.number for row in old] == ["intended", "in_doubt", "rejected"]
    assert (young, len(cut)) == ([], 2)


async def test_orders_that_wait_for_money_are_counted_with_the_oldest_of_them(store: Store) -> None:
    waits = [await place(store, number) for number in ("A1", "A2", "A3")]
    await place(store, "COD", method=Method.CASH_ON_DELIVERY)
    await place(store, "other", channel="other")
    cancelled = await place(store, "cancelled")
    async with store.write() as connection:
        await orders.set_status(
            connection,
            cancelled,
            after="cancelled",
            standard=Status.CANCELLED,
            reason="test",
            actor=WORKER,
            now=NOW,
        )
    await allocate(store, await receive(store, "E1"), waits[0], 45_000)
    await allocate(store, await receive(store, "E2"), waits[1], 100)
    async with store.read() as connection:
        found = await reconciliation.awaiting(connection, "shop", before=NOW)
        assert await reconciliation.awaiting(connection, "shop", before=NOW - MINUTE) is None
    assert found is not None
    assert (found.count, found.oldest, found.since) == (2, "A2", NOW)


async def test_payments_that_nobody_has_looked_at_are_counted_with_the_oldest_of_them(store: Store) -> None:
    first, *_ = [await receive(store, id_) for id_ in ("A", "B", "C")]
    await change(store, "UPDATE payments SET outcome = 'exact' WHERE external_id = 'B'")
    async with store.read() as connection:
        found = await reconciliation.unseen(connection, before=NOW)
        assert await reconciliation.unseen(connection, before=NOW - MINUTE) is None
    assert found == reconciliation.Unseen(2, first, NOW)


async def test_it_is_known_when_a_source_was_polled(store: Store) -> None:
    async with store.write() as connection:
        await inbox.move_cursor(connection, "stripe", "1:evt_1", now=NOW)
    async with store.read() as connection:
        assert await reconciliation.polled(connection) == {"stripe": NOW}


async def test_looking_changes_nothing(store: Store) -> None:
    """Every query here is given a transaction that only reads; on PostgreSQL one that may not write."""
    order_id = await place(store, "A1")
    await allocate(store, await receive(store), order_id, 45_000)
    await invoice(store, order_id)
    async with store.read() as connection:
        if not store.is_sqlite:
            await connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        await everything(reconciliation.orders(connection, since=SINCE))
        await reconciliation.series_out_of_order(connection)
        await reconciliation.old_steps(connection, before=NOW, limit=1)
        await reconciliation.awaiting(connection, "shop", before=NOW)
        await reconciliation.by_day(connection, since=date(2026, 1, 1), until=DAY)
