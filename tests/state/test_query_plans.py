"""What is asked on the way of a payment costs the same however many rows there are: no query reads a whole table.

Nothing is listed by hand: the hot path runs on a store as it is after years, every statement is noted, and the
database is asked how it would carry each out.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from shop_builders import NOW, SHOPKEEPER, buy, order_document, payment_of, shop, stock_up, take_payments
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import CacheStats
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from store_builders import record_match

from connectors.roles import WebhookEvent
from domain.allocation import split
from domain.changes import StatusChange
from domain.holds import Hold, HoldState
from domain.matching import Candidate, Evidence, Match, Reference
from domain.money import Money
from domain.order_document import parse_order
from domain.payments import Kind, Outcome
from domain.rules import DocumentKind, EvidenceKind, Policy
from store import (
    backfills,
    balances,
    bars,
    decisions,
    documents,
    effects,
    exports,
    holds,
    inbox,
    journal,
    orders,
    outages,
    payments,
    payouts,
    reverts,
    spending,
    stock,
    work,
)
from store.database import Store
from store.effects import EffectState
from store.tables import (
    ConnectorState,
    DocumentSeries,
    OutageRow,
    RuleVersion,
    StockItem,
    Table,
)
from tasks.dispatch import start_dispatch
from tasks.installation import Installation
from tasks.intake import take_webhook, work_off_inbox
from tasks.invoice import issue_invoice, print_documents
from tasks.match import match_payments
from tasks.notify import notify_customer, notify_status
from tasks.order_intake import take_orders
from tasks.status import set_status
from tasks.step import unneeded
from tasks.stock import deduct_stock, reserve_stock

SMALL: tuple[type[Table], ...] = (RuleVersion, DocumentSeries, OutageRow, ConnectorState, StockItem)
"""What grows with a shop's settings and its range of goods, not with its orders: reading all of that is fine."""
GROWING = frozenset(Table.metadata.tables) - {table.__tablename__ for table in SMALL}
ROWS = 10_000
"""So many that to read all of a table is never worth it for what belongs to a few payments."""
LONG_AGO = NOW - timedelta(days=2_000)
FEW = {
    index.name
    for table in Table.metadata.tables.values()
    for index in table.indexes
    if index.dialect_options["postgresql"]["where"] is not None and not index.unique
}
"""Indexes of what waits, is held or was taken back: few rows, however many there are in all."""

Of = Callable[[sa.ColumnElement[int]], Any]


def one_in(many: int, value: object) -> Of:
    """Give every so-manieth row a value, and the others none."""
    return lambda i: sa.case((i % many == 0, sa.literal(value)), else_=sa.null())


def text_of(start: str) -> Of:
    """Give each row a text of its own."""
    return lambda i: sa.literal(start) + sa.cast(i, sa.String)


def _own(i: sa.ColumnElement[int]) -> Any:
    return i


def _state(i: sa.ColumnElement[int]) -> Any:
    return sa.case((i % 100 == 0, "in_doubt"), else_="done")


# What most rows of an old store have; what is not said here follows from the column's type.
SAID: dict[str, Any] = {
    "allocations.completes": True,
    "allocations.reverses_id": None,
    "backfill_items.result": "done",
    "backfills.finished_at": NOW,
    "balance_entries.open_item_id": None,
    "balance_entries.reverses_id": None,
    "customers.group": None,
    "documents.corrects_id": None,
    "documents.counter": _own,
    "documents.kind": "invoice",
    "documents.open_item_id": None,
    "effects.cause": text_of("payment:"),
    "effects.due_at": one_in(100, NOW + timedelta(days=1)),
    "effects.lease_owner": None,
    "effects.lease_until": None,
    "effects.reverses_id": None,
    "effects.state": _state,
    "exports.offered": None,
    "exports.session": None,
    "holds.captured_minor": 0,
    "holds.decision": None,
    "holds.state": "captured",
    "inbox.due_at": one_in(100, NOW + timedelta(days=1)),
    "inbox.handled_at": NOW,
    "inbox.lease_owner": None,
    "inbox.lease_until": None,
    "item_references.kind": "order_number",
    "journal.chain": text_of("order:"),
    "journal_heads.chain": text_of("order:"),
    "messages.message_id": text_of("message "),
    "orders.currency": "CZK",
    "orders.held_out": None,
    "orders.standard_status": "completed",
    "payments.kind": "payment",
    "payments.method": "card",
    "payments.outcome": "exact",
    "payments.policy": "release",
    "payments.source": "test",
    "payout_lines.kind": "payment",
    "reverts.finished_at": NOW,
    "shipments.live": True,
    "stock_moves.kind": "deduct",
    "stock_moves.live": True,
    "stock_moves.sku": "TEA-SEN-100",
    "work.due_at": one_in(100, NOW + timedelta(days=1)),
    "work.finished_at": NOW,
    "work.lease_owner": None,
    "work.lease_until": None,
    "work.scenario": "card",
    "work.subject": "payment",
    "work.subject_id": _own,
}


def _value(column: sa.Column[Any], i: sa.ColumnElement[int]) -> Any:
    said = SAID.get(f"{column.table.name}.{column.name}", ...)
    if said is not ...:
        return said(i) if callable(said) else sa.literal(said, column.type)
    if column.primary_key or column.foreign_keys:
        return sa.cast(i, column.type)
    if isinstance(column.type, sa.JSON):
        return sa.literal([] if column.name in ("evidence", "candidates") else {}, column.type)
    if column.name == "channel":
        return sa.literal("cz")
    if isinstance(column.type, sa.String):
        if column.type.length and column.type.length < 6:
            return sa.literal("CZK"[: column.type.length])
        return text_of("v" if column.type.length else f"{column.name} ")(i)
    if isinstance(column.type, sa.Boolean):
        return sa.false()
    if isinstance(column.type, sa.Integer):
        return sa.cast(1, column.type)
    if isinstance(column.type, sa.LargeBinary):
        return sa.literal(b"", column.type)
    if isinstance(column.type, sa.Date):
        return sa.literal(LONG_AGO.date(), column.type)
    return sa.null() if column.nullable else sa.literal(LONG_AGO, column.type)


async def _grow(connection: AsyncConnection) -> None:
    """Fill every growing table with thousands of rows."""
    await connection.execute(sa.insert(StockItem).values(sku="TEA-SEN-100", title="", on_hand=0, reserved=0))
    numbers = sa.select(sa.literal(1).label("i")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.i + 1).where(numbers.c.i < ROWS))
    for table in Table.metadata.sorted_tables:
        if table.name not in GROWING:
            continue
        values = {column.name: _value(column, numbers.c.i) for column in table.columns}
        await connection.execute(sa.insert(table).from_select(list(values), sa.select(*values.values())))
        if connection.dialect.name == "postgresql" and table.autoincrement_column is not None:
            await connection.execute(sa.select(sa.func.setval(sa.func.pg_get_serial_sequence(table.name, "id"), ROWS)))


async def _settled(store: Store) -> None:
    """Let the database learn how many rows there are, and tidy up behind them, as it does by itself sooner or later."""
    async with store.write() as connection:
        await connection.execute(sa.text("ANALYZE"))
    if not store.is_sqlite:
        async with store.read() as connection:
            url = connection.engine.url
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(sa.text("VACUUM"))
        await engine.dispose()


@dataclass
class Asked:
    """Statements that were carried out, each once, with the values that it had first; and those put in words anew."""

    statements: dict[str, Any] = field(default_factory=dict[str, Any])
    reworded: set[str] = field(default_factory=set[str])

    def note(self, _connection: object, _cursor: object, sql: str, values: Any, context: Any, many: bool) -> None:
        """Keep a statement that reads, and one whose words can't be kept for the next time."""
        kept = context.cache_hit is not CacheStats.NO_CACHE_KEY or "SAVEPOINT" in sql
        if context.compiled is not None and not kept:
            self.reworded.add(sql)
        if re.match(r"\s*(SELECT|UPDATE|DELETE|WITH|INSERT.*\sSELECT\s)", sql, re.DOTALL):
            self.statements.setdefault(sql, values[0] if many else values)


@contextmanager
def noted() -> Generator[Asked]:
    """Note what is asked of any database meanwhile."""
    asked = Asked()
    event.listen(sa.Engine, "before_cursor_execute", asked.note)
    try:
        yield asked
    finally:
        event.remove(sa.Engine, "before_cursor_execute", asked.note)


def _nodes(plan: Mapping[str, Any]) -> Generator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _read_whole(node: Mapping[str, Any]) -> bool:
    # An index that is read from end to end grows as its table does, unless it is one of few rows.
    kind = str(node["Node Type"])
    if kind == "Seq Scan":
        return True
    return kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node and node["Index Name"] not in FEW


async def scanned(connection: AsyncConnection, sql: str, values: Any) -> list[str]:
    """Return the growing tables, or their indexes, that the database would read from end to end for a statement."""
    if connection.dialect.name == "postgresql":
        (told,) = (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", values)).scalars()
        plan = cast("list[Any]", json.loads(told) if isinstance(told, str) else told)[0]["Plan"]
        return [
            f"{node['Node Type']} on {node['Relation Name']}"
            for node in _nodes(plan)
            if node.get("Relation Name") in GROWING and _read_whole(node)
        ]
    few = re.compile(rf"INDEX ({'|'.join(filter(None, FEW))})\b")
    steps = [str(row.detail) for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
    names = {
        step: re.sub(r"_\d+$", "", step.split()[1])
        for step in steps
        if step.startswith("SCAN ") and not few.search(step)
    }
    return [step for step, name in names.items() if name in GROWING]


async def scans_of(store: Store, asked: Asked) -> list[str]:
    """Return what would read a growing table from end to end, and the statement that does."""
    found: list[str] = []
    async with store.read() as connection:
        for sql, values in asked.statements.items():
            found += [f"{scan}: {' '.join(sql.split())}" for scan in await scanned(connection, sql, values)]
    return found


@pytest.fixture
async def grown(url: str, tmp_path: Path) -> AsyncGenerator[Installation]:
    """Open an installation whose store has thousands of rows in every table that grows."""
    async with shop(tmp_path / "shop", url=url) as opened:
        async with opened.store.write() as connection:
            await _grow(connection)
        await _settled(opened.store)
        await stock_up(opened)
        yield opened


async def _take_in(opened: Installation) -> tuple[list[int], list[int]]:
    """Take in orders, webhooks and payments, as an import, a gateway and a bank do."""
    order_ids = [await buy(opened, f"CZ{5001 + place}") for place in range(3)]
    customer = {"number": "C1", "name": "Jan", "group": "wholesale", "accounts": ["CZ5599100000190000004712"]}
    together = [parse_order(order_document(f"CZ{5003 + place}", customer=customer), where="test") for place in range(3)]
    async with opened.store.write() as connection:
        taken = await take_orders(connection, opened, together, actor=SHOPKEEPER)
        assert [isinstance(one, int) for one in taken] == [False, True, True]
    event_ = WebhookEvent(external_id="evt_1", kind="paid")
    assert await take_webhook(opened, "nobody", event_, b"{}")
    assert await work_off_inbox(opened) == 1
    paid = [payment_of(f"CZ{5001 + place}", provider_reference=f"pi_{place}") for place in range(3)]
    payment_ids = await take_payments(opened, *paid)
    now = opened.clock()
    async with opened.store.write() as connection:
        letter_id = await inbox.put(
            connection, source="bank", external_id="a file", kind="camt", body=b"", now=now, due_at=None
        )
        assert letter_id is not None
        await inbox.handled(connection, [letter_id], now=now)
        await inbox.put_off(connection, letter_id, due_at=now, problem="503")
        await inbox.is_parked(connection, "bank", "503")
        await inbox.next_due(connection)
        await inbox.count_due(connection, now)
        await inbox.move_cursor(connection, "bank", "2", now=now)
        await payouts.not_told(connection, paid)
        await payouts.link_new(connection, payment_ids)
        hold = Hold(
            source="test",
            reference="h1",
            amount=Money(37_800, "CZK"),
            captured=Money.zero("CZK"),
            state=HoldState.HELD,
            order_reference="CZ5001",
        )
        hold_id, _ = await holds.put(connection, hold, connector="test", now=now)
        await holds.put(connection, hold, connector="test", now=now)
        await holds.load(connection, [hold_id], lock=True)
        await holds.attach(connection, hold_id, order_ids[0], "", now=now)
        await holds.of_orders(connection, order_ids)
        await holds.waiting_for_orders(connection, ["CZ5009"])
        for change in (
            StatusChange(status="sent", number="CZ5001"),
            StatusChange(status="sent", external_id="77"),
            StatusChange(status="sent", tracking_number="RR1"),
        ):
            await orders.of_change(connection, change, ["cz"], carrier="carrier" if change.tracking_number else None)
    return order_ids, payment_ids


async def _match(opened: Installation, payment_ids: Sequence[int]) -> None:
    """Match payments as the scenarios do, and what else is decided about them."""
    matched = await match_payments.fn(payment_ids)
    assert len(matched.paid) == len(payment_ids)
    now = opened.clock()
    refund = payment_of(None, "-100.00", kind=Kind.REFUND, provider_reference="pi_0")
    unknown = payment_of("CZ9999", method="bank_transfer", variable_symbol="9999")
    refund_id, unknown_id = await take_payments(opened, refund, unknown)
    await match_payments.fn([unknown_id])
    async with opened.store.write() as connection:
        found = await payments.load(connection, [refund_id, unknown_id])
        await payments.gone_back(connection, list(found.values()))
        origin = await payments.origin_of(connection, found[refund_id])
        assert origin is not None
        order_id = (await payments.allocated(connection, payment_ids))[payment_ids[0]][0]["order_id"]
        await payments.waiting_for_orders(connection, [order_id])
        await payments.last_amounts(connection, [order_id])
        await payments.incomes(connection, order_id)
        await bars.gone_back(connection, [order_id])
        customer_id = await orders.customer_of(connection, order_id)
        account = Reference(EvidenceKind.PAYER_ACCOUNT, "CZ5599100000190000004711")
        kinds = (EvidenceKind.PAYER_NAME, EvidenceKind.GROUP_ACCOUNT)
        items = await payments.candidates(
            connection,
            [account, Reference(EvidenceKind.ORDER_NUMBER, "CZ5001"), *(Reference(kind, "CZ5001") for kind in kinds)],
            [("cz", "wholesale")],
        )
        item = next(iter(items.values()))
        part, nothing = split(Money(100, "CZK"), item, Money.zero("CZK"))
        candidates = (Candidate(item, (Evidence(EvidenceKind.ORDER_NUMBER, "the order number"),)),)
        match = Match(
            outcome=Outcome.AMBIGUOUS,
            policy=Policy.OPERATOR,
            reason="",
            parts=(part,),
            surplus=nothing,
            candidates=candidates,
        )
        await record_match(connection, found[unknown_id], match, [account], now=now)
        await payments.teach(connection, found[unknown_id], customer_id)
        await payments.by_ids(connection, payment_ids)
        await payments.unmatched(connection)
        await decisions.settled(connection, payment_ids)
        await decisions.standing(connection, payment_ids[0])
        await balances.add(
            connection, customer_id, Money(5, "CZK"), payment_id=unknown_id, reason="", actor=SHOPKEEPER, now=now
        )
        await balances.balance(connection, customer_id, "CZK")
        await balances.of_customer(connection, customer_id)
        await spending.count_waiting(connection, customer_id, "CZK")
        await spending.hold(connection, customer_id, "CZK")
        await orders.owed_on_credit(connection, customer_id, "CZK")


async def _carry_on(opened: Installation, order_ids: Sequence[int], payment_ids: Sequence[int]) -> None:
    """Take what is due, carry each order on through its steps, and say how that ended, as a scenario's run does."""
    now = opened.clock()
    async with opened.store.read() as connection:
        assert await work.count_due(connection, now)
        await work.holders(connection, now)
        await work.next_due(connection)
    async with opened.store.write() as connection:
        due = await work.take(connection, owner="one", now=now, lease_until=now, limit=200)
        await work.renew(connection, "one", [one.id for one in due], now)
        await work.wake(connection, "payment", payment_ids, now=now)
        await work.attempts(connection, "card", "payment", payment_ids)
    batch = (await match_payments.fn(payment_ids)).paid
    for step in (
        *(reserve_stock, issue_invoice, set_status, deduct_stock, start_dispatch),
        *notify_customer.steps,
        *notify_status.steps,
    ):
        for attempt in await step.carry_out(opened, batch, owner="one"):
            assert attempt.state in (EffectState.DONE, EffectState.SKIPPED), attempt.reason
        await step.carry_out(opened, batch, owner="one")
    await print_documents(opened, order_ids)
    await print_documents(opened)
    causes = [item.cause for item in batch.items]
    async with opened.store.write() as connection:
        standings = await effects.of_causes(connection, causes)
        await unneeded(connection, [(one.order_id, one.cause) for one in standings])
        await effects.rounds(connection, "status", order_ids)
        await effects.versions_begun(connection, "status", causes, apart=["call"], changed_for="misconfigured: ")
        await effects.to_settle(connection, order_ids[0], "status")
        await orders.last_history_id(connection, order_ids[0])
        await documents.live(connection, order_ids[0], DocumentKind.INVOICE)
        await orders.live_shipment(connection, order_ids[0])
        order = (await orders.load(connection, order_ids))[order_ids[0]]
        await stock.is_deducted(connection, order)
        await stock.give_back(connection, order, effect_id=1, now=now)
        await orders.add_order_reference(connection, order_ids[0], EvidenceKind.ORDER_NUMBER, "another")
        ends = [(id_, None, None) for id_ in payment_ids]
        await work.finish(connection, "card", "payment", ends, now=now)
        await work.give_back(connection, "one", [one.id for one in due], due_at=now)
        rows = await effects.lock(connection, [1])
        assert rows[1].state == EffectState.DONE
        await effects.renew(connection, "one", [1], now)
        await journal.append(
            connection, [journal.entry(SHOPKEEPER, at=now, step="test", move="seen", order_id=order_ids[0])]
        )


async def _around(opened: Installation, order_ids: Sequence[int]) -> None:
    """Do what goes on beside the way of a payment: an outage, a backfill, a revert, a shop that fetches orders."""
    now = opened.clock()
    day = timedelta(days=1)
    async with opened.store.write() as connection:
        await outages.note(
            connection, "documents", order_ids, since=now, reason="503", enough=1, wait=lambda _: day, now=now
        )
        await outages.put_off(connection, "documents", reason="", rest_after=day, patience=day, now=now)
        await outages.listing(connection)
        await outages.is_up(connection, "documents", now=now)
        chosen = await work.of_orders(connection, numbers=["CZ5001", "CZ5002"])
        assert chosen
        cut = [[(due.id, order_id) for due, _, _, order_id in chosen]]
        backfill_id = await backfills.begin(connection, cut, selection={}, notify=False, author="", reason="", now=now)
        await work.hold_for(connection, [due.id for due, *_ in chosen], until=now, quiet=True, note="")
        assert await backfills.open_chunks(connection, backfill_id) == [1]
        parts = await backfills.parts(connection, backfill_id, 1)
        await backfills.moved(connection, parts, mark=ROWS)
        ends = [(part, "done", "") for part in parts]
        await backfills.end(connection, backfill_id, ends, actor=SHOPKEEPER, now=now)
        await backfills.totals(connection, backfill_id)
        await reverts.begin(connection, order_ids[0], author="", reason="", force=False, now=now)
        together = await reverts.paid_together(connection, [order_ids[0]])
        await reverts.plan(connection, together)
        await exports.begin(connection, "1c", "a session")
        fetched = await exports.candidates(
            connection, "1c", channels=["cz"], statuses=["paid"], since=now - 2 * day, after=ROWS, limit=100
        )
        await exports.offer(connection, "1c", "a session", [(one, "hash") for one in fetched])
        await exports.confirm(connection, "1c", "a session", now=now)


async def test_no_query_on_the_way_of_a_payment_reads_a_whole_table(grown: Installation) -> None:
    with noted() as asked:
        order_ids, payment_ids = await _take_in(grown)
        await _match(grown, payment_ids)
        await _carry_on(grown, order_ids, payment_ids)
        await _around(grown, order_ids)
    assert len(asked.statements) > 120
    await _settled(grown.store)
    scans = await scans_of(grown.store, asked)
    assert not scans, "\n".join(scans)
    # To put a statement into words takes longer than to carry it out, so that is done once.
    assert not asked.reworded, "\n".join(asked.reworded)


async def test_a_query_over_what_has_no_index_would_be_found(grown: Installation) -> None:
    with noted() as asked:
        async with grown.store.read() as connection:
            await connection.execute(sa.text("SELECT id FROM payments WHERE payer_name = 'v7'"))
            await connection.execute(sa.text("SELECT id FROM payments WHERE id = 7"))
            new = sqlite.insert if grown.store.is_sqlite else postgresql.insert
            await connection.execute(new(StockItem).values(sku="TEA-SEN-100", on_hand=0).on_conflict_do_nothing())
    (scan,) = await scans_of(grown.store, asked)
    assert "payments" in scan
    assert "payer_name" in scan
    (sql,) = asked.reworded
    assert "INSERT INTO stock" in sql
