"""What is asked on the way of a payment costs the same however many rows there are: no query reads a whole table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import NOW, WORKER, incoming, new_order, record_match

from domain.allocation import split
from domain.matching import Candidate, Evidence, Match, Reference
from domain.money import Money
from domain.payments import Outcome
from domain.rules import DocumentKind, EvidenceKind, Policy
from store import balances, documents, effects, inbox, orders, payments, stock, work
from store.database import open_store
from store.effects import EffectState, Ending, Wanted

NUMBER, ACCOUNT = EvidenceKind.ORDER_NUMBER, EvidenceKind.PAYER_ACCOUNT


async def _take_in(connection: AsyncConnection) -> tuple[int, int]:
    order = new_order(accounts=("CZ1",), group="holding", references=frozenset({(NUMBER, "7")}))
    order_id = await orders.add(connection, order, now=NOW, actor=WORKER)
    assert order_id is not None
    await payments.waiting_for(connection, [(NUMBER, "7")])
    await payments.waiting_for_orders(connection, [order_id])
    letter = await inbox.put(
        connection, source="stripe", external_id="evt_1", kind="paid", body=b"", now=NOW, due_at=NOW
    )
    assert letter is not None
    [(payment_id, _)] = await payments.add(connection, [incoming("E1", payer_account="CZ2")], now=NOW, inbox_id=letter)
    await work.add(connection, "card", "payment", [payment_id], now=NOW)
    await inbox.take(connection, owner="one", now=NOW, lease_until=NOW, limit=3)
    await inbox.handled(connection, [letter], now=NOW)
    await inbox.put_off(connection, letter, due_at=NOW, problem="503")
    await inbox.next_due(connection)
    await inbox.count_due(connection, NOW)
    return order_id, payment_id


async def _match(connection: AsyncConnection, payment_id: int) -> None:
    [taken] = await work.take(connection, owner="one", now=NOW, lease_until=NOW, limit=3)
    payment = (await payments.load(connection, [payment_id]))[payment_id]
    await payments.allocated(connection, [payment_id])
    named = [Reference(kind, "CZ1") for kind in (ACCOUNT, EvidenceKind.GROUP_ACCOUNT, EvidenceKind.PAYER_NAME)]
    (item,) = (await payments.candidates(connection, [Reference(NUMBER, "7"), *named])).values()
    candidates = (Candidate(item, (Evidence(NUMBER, "the order number"),)),)
    part, nothing = split(item.open, item, Money(0, "EUR"))
    for outcome in (Outcome.UNKNOWN, Outcome.LATE, Outcome.EXACT):
        policy, parts = (Policy.RELEASE, (part,)) if outcome is Outcome.EXACT else (Policy.OPERATOR, ())
        match = Match(outcome=outcome, policy=policy, reason="", parts=parts, surplus=nothing, candidates=candidates)
        await record_match(connection, payment, match, [Reference(NUMBER, "7")], now=NOW)
    assert isinstance(item.customer, int)
    assert await payments.teach(connection, payment, item.customer) == []
    owner, money = item.customer, Money(5, "EUR")
    await balances.add(connection, owner, money, payment_id=payment_id, reason="", actor=WORKER, now=NOW)
    await balances.balance(connection, item.customer, "EUR")
    await balances.of_customer(connection, item.customer)
    await balances.keep(connection, [payment_id], 2, reason="", actor=WORKER, now=NOW)
    await payments.unmatched(connection)
    await payments.decided(connection, [payment_id])
    await payments.by_ids(connection, [payment_id])
    await work.renew(connection, "one", [taken.id], NOW)
    await work.quiet_ones(connection, "payment", [payment_id])
    await work.attempts(connection, "card", "payment", [payment_id])
    await work.finish(connection, "card", "payment", [(payment_id, None, None)], now=NOW)
    await work.give_back(connection, "one", [taken.id], due_at=NOW)
    await work.next_due(connection)
    await work.count_due(connection, NOW)


async def _carry_on(connection: AsyncConnection, order_id: int) -> None:
    wanted = [Wanted(order_id, "payment:1", 1)]
    [claim] = await effects.claim(connection, "stock", wanted, owner="one", lease_until=NOW, actor=WORKER, now=NOW)
    effect = claim.effect_id
    await effects.renew(connection, "one", [effect], NOW)
    order = (await orders.load(connection, [order_id]))[order_id]
    await stock.count(connection, "MUG", "Mug", 9, now=NOW)
    for act in (stock.reserve, stock.deduct, stock.give_back):
        await act(connection, order, effect_id=effect, now=NOW)
    await stock.is_deducted(connection, order)
    await documents.next_number(connection, "shop", DocumentKind.INVOICE, 2026)
    await documents.live(connection, order_id, DocumentKind.INVOICE)
    await documents.without_file(connection, [order_id])
    await orders.live_shipment(connection, order_id)
    await orders.add_order_reference(connection, order_id, NUMBER, "8")
    await payments.last_amounts(connection, [order_id])
    rows = await effects.lock(connection, [effect])
    ending = Ending(effect_id=effect, state=EffectState.DONE, before={}, after={})
    await effects.end(connection, "stock", [ending], rows, actor=WORKER, now=NOW)
    await effects.of_causes(connection, ["payment:1"])


async def test_no_query_on_the_way_of_a_payment_reads_a_whole_table(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'kvit.db'}")
    asked: dict[str, Any] = {}

    def note(_connection: object, _cursor: object, sql: str, values: Any, _context: object, many: bool) -> None:
        if sql.startswith(("SELECT", "UPDATE", "DELETE")):
            asked.setdefault(sql, values[0] if many else values)

    async with store.write() as connection:
        plain = connection.sync_connection
        assert plain is not None
        event.listen(plain, "before_cursor_execute", note)
        order_id, payment_id = await _take_in(connection)
        await _match(connection, payment_id)
        await _carry_on(connection, order_id)
        event.remove(plain, "before_cursor_execute", note)
        plans = {
            sql: [str(row.detail) for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            for sql, values in asked.items()
        }
    await store.close()

    assert len(plans) > 40
    # What is given as a list is read whole, of course.
    scans = {sql: [step for step in plan if re.match(r"SCAN (?!json_each)", step)] for sql, plan in plans.items()}
    assert {sql: steps for sql, steps in scans.items() if steps} == {}
