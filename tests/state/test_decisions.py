"""Decisions: what a person says of a payment is done once and whole, on either database, whoever else is at it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from rules_builders import document
from sqlalchemy import text, update
from store_builders import NOW, column, load, place, receive

from connectors.templates import Templates
from domain.by_hand import ByHandError
from domain.payments import Kind, Outcome
from domain.rules import EvidenceKind, Policy
from store import balances, decisions, payments, rules, work
from store.audit import audit
from store.database import Store
from store.tables import PaymentRow
from tasks.decide import Decided, Decision, decide
from tasks.installation import Installation
from tasks.match import match_payments
from tasks.unmatched import Ask, queue_rows

WHO, WHY = "jana", "the customer phoned"


@pytest.fixture
async def shop(store: Store, tmp_path: Path) -> Installation:
    """Return an installation on each database in turn, with the rules of one channel."""
    return await installed(store, tmp_path)


@pytest.fixture
async def neighbor(shop: Installation, other: Store, tmp_path: Path) -> Installation:
    """Return the same installation as another process has it."""
    del shop
    return Installation(home=tmp_path, store=other, connectors={}, templates=Templates([]), clock=lambda: NOW)


async def installed(store: Store, home: Path) -> Installation:
    async with store.write() as connection:
        await rules.save(connection, document(), channel="shop", author=WHO, reason="opening", now=NOW)
    return Installation(home=home, store=store, connectors={}, templates=Templates([]), clock=lambda: NOW)


async def left(shop: Installation, external_id: str = "E1", minor: int = 45_000, **told: Any) -> int:
    """Store a payment that the rules have left to a person."""
    payment_id = await receive(shop.store, external_id, minor, **told)
    await become(shop.store, payment_id, outcome="unknown", policy="operator", reason="names no order")
    return payment_id


async def become(store: Store, payment_id: int, **values: Any) -> None:
    """Write into a payment's row what matching would."""
    async with store.write() as connection:
        await connection.execute(update(PaymentRow).where(PaymentRow.id == payment_id).values(**values))


async def said(shop: Installation, payment_id: int, decision: Decision, *to: str, **more: Any) -> Decided:
    return await decide(shop, payment_id, decision, to=to, **({"author": WHO, "because": WHY} | more))


async def breaches(store: Store) -> list[str]:
    async with store.read() as connection:
        return [f"{one.invariant}: {one.said}" for one in await audit(connection, now=NOW)]


async def due(store: Store) -> list[int]:
    return await column(store, "SELECT subject_id FROM work WHERE due_at IS NOT NULL ORDER BY subject_id")


async def test_money_is_given_to_orders_and_falls_due(shop: Installation) -> None:
    one, two = await place(shop.store, "E1"), await place(shop.store, "E2")
    payment_id = await left(shop, minor=60_000)
    result = await said(shop, payment_id, Decision.TO, "E1", "E2=150.00")
    assert (result.outcome, result.policy) == (Outcome.SHORT, Policy.WAIT)
    assert [(await load(shop.store, id_)).to_pay.minor for id_ in (one, two)] == [0, 30_000]
    assert await due(shop.store) == [payment_id]
    assert await column(shop.store, "SELECT order_id FROM journal WHERE move = 'short' ORDER BY id") == [None, one, two]
    assert await breaches(shop.store) == []


async def test_what_a_customer_may_be_short_of_is_let_pass_by_hand_too(shop: Installation) -> None:
    own = {"customers": {"8": {"tolerance": {"absolute": "5.00"}}}}
    async with shop.store.write() as connection:
        await rules.save(connection, document(**own), channel="shop", author=WHO, reason="agreed", now=NOW)
    for number, customer, outcome in (("E1", "7", Outcome.SHORT), ("E2", "8", Outcome.WITHIN_TOLERANCE)):
        await place(shop.store, number, customer_number=customer)
        assert (await said(shop, await left(shop, number, 44_800), Decision.TO, number)).outcome is outcome


async def test_every_word_can_be_said_anew_and_the_balance_is_the_sum_of_what_was_said(shop: Installation) -> None:
    order = await load(shop.store, await place(shop.store, "E1"))
    payment_id = await left(shop)
    for decision, credited in (
        (Decision.BALANCE, 45_000),
        (Decision.REFUND, 0),
        (Decision.BALANCE, 45_000),
        (Decision.IGNORE, 0),
        (Decision.BALANCE, 45_000),
        (Decision.AGAIN, 0),
        (Decision.BALANCE, 45_000),
        (Decision.TO, 0),
    ):
        more = {"customer": "7"} if decision is Decision.BALANCE else {}
        to = ["E1"] if decision is Decision.TO else []
        assert (await said(shop, payment_id, decision, *to, **more)).changed
        async with shop.store.read() as connection:
            assert (await balances.balance(connection, order.customer.id, "EUR")).minor == credited
        assert await breaches(shop.store) == []
    assert (await load(shop.store, order.id)).to_pay.minor == 0


async def test_what_a_person_decided_no_order_finds_any_more(shop: Installation) -> None:
    payment_id = await left(shop)
    async with shop.store.write() as connection:
        named = {"payment_id": payment_id, "kind": "order_number", "value": "E1"}
        await connection.execute(
            text("INSERT INTO payment_references (payment_id, kind, value) VALUES (:payment_id, :kind, :value)"), named
        )
        await work.add(connection, "bank_transfer", "payment", [payment_id], now=NOW)
    await said(shop, payment_id, Decision.IGNORE)
    async with shop.store.write() as connection:
        assert await payments.waiting_for(connection, [(EvidenceKind.ORDER_NUMBER, "E1")]) == []
        assert await decisions.settled(connection, [payment_id]) == {payment_id}
    assert await due(shop.store) == []


async def test_what_is_refused_leaves_nothing_behind(shop: Installation) -> None:
    await place(shop.store, "E1")
    payment_id = await left(shop)
    with pytest.raises(ByHandError, match="order E9 is not known"):
        await said(shop, payment_id, Decision.TO, "E1=100.00", "E9")
    with pytest.raises(ByHandError, match=r"500\.00 EUR is more than the 450\.00 EUR that is open of order E1"):
        await said(shop, payment_id, Decision.TO, "E1=500.00")
    assert await column(shop.store, "SELECT count(*) FROM allocations") == [0]
    assert await column(shop.store, "SELECT count(*) FROM journal WHERE payment_id IS NOT NULL") == [0]


async def test_of_two_people_at_the_same_payment_one_decides_and_the_other_is_told(
    shop: Installation, neighbor: Installation
) -> None:
    told: list[str] = []
    for number in range(6):
        await place(shop.store, f"A{number}")
        await place(shop.store, f"B{number}")
        payment_id = await left(shop, f"E{number}")
        came = await asyncio.gather(
            said(shop, payment_id, Decision.TO, f"A{number}"),
            said(neighbor, payment_id, Decision.TO, f"B{number}", author="petr"),
            return_exceptions=True,
        )
        assert sorted(type(one).__name__ for one in came) == ["ByHandError", "Decided"]
        told += [str(one) for one in came if isinstance(one, ByHandError)]
    assert all("was decided meanwhile" in one or "take it off first" in one for one in told), told
    assert any("was decided meanwhile (exact: given to " in one for one in told), told
    assert await column(shop.store, "SELECT count(*) FROM allocations") == [6]
    assert await breaches(shop.store) == []


async def test_of_two_payments_for_the_same_order_one_settles_it(shop: Installation, neighbor: Installation) -> None:
    for number in range(6):
        order_id = await place(shop.store, f"A{number}")
        one, two = await left(shop, f"E{number}"), await left(shop, f"F{number}")
        came = await asyncio.gather(
            said(shop, one, Decision.TO, f"A{number}"),
            said(neighbor, two, Decision.TO, f"A{number}"),
            return_exceptions=True,
        )
        (refused,) = [str(each) for each in came if isinstance(each, ByHandError)]
        assert refused.startswith(f"nothing is open of order A{number}, it is paid already")
        assert (await load(shop.store, order_id)).to_pay.minor == 0
    assert await breaches(shop.store) == []


async def test_the_same_word_from_two_processes_is_done_once(shop: Installation, neighbor: Installation) -> None:
    await place(shop.store, "E1")
    for decision, more in (
        (Decision.BALANCE, {"customer": "7"}),
        (Decision.REFUND, {}),
        (Decision.IGNORE, {}),
        (Decision.AGAIN, {}),
    ):
        payment_id = await left(shop, f"E {decision}")
        came = await asyncio.gather(*(said(each, payment_id, decision, **more) for each in (shop, neighbor) * 2))
        assert sorted(one.changed for one in came) == [False, False, False, True]
    assert await column(shop.store, "SELECT count(*) FROM balance_entries") == [1]
    assert await breaches(shop.store) == []


async def test_a_payment_that_is_matched_while_somebody_decides_is_settled_once(
    shop: Installation, neighbor: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import installation

    monkeypatch.setattr(installation, "_current", [neighbor])  # what its tasks work on
    for number in range(4):
        order_id = await place(
            shop.store, f"A{number}", references=frozenset({(EvidenceKind.ORDER_NUMBER, f"A{number}")})
        )
        payment_id = await left(shop, f"E{number}", order_reference=f"A{number}")
        came = await asyncio.gather(
            match_payments.fn([payment_id]),
            said(shop, payment_id, Decision.REFUND),
            return_exceptions=True,
        )
        row = (await column(shop.store, "SELECT policy FROM payments WHERE id = :id", id=payment_id))[0]
        settled = (await load(shop.store, order_id)).settled.minor
        assert (row, settled) in [("refund", 0), ("release", 45_000)], came
    assert await breaches(shop.store) == []


async def test_the_queue_is_ranked_and_says_how_each_order_stands_now(shop: Installation) -> None:
    store = shop.store
    for number in ("E1", "E2", "E3"):
        await place(store, number)
    names: list[tuple[str, int, list[str]]] = [
        ("one", 10_000, ["E1"]),
        ("two", 90_000, ["E1", "E2"]),
        ("gone", 80_000, ["E3"]),
        ("none", 70_000, []),
    ]
    ids: list[int] = []
    for name, minor, named in names:
        ids.append(await left(shop, name, minor))
        shown = [{"order": n, "channel": "shop", "open": "450.00 EUR", "evidence": [f"the number {n}"]} for n in named]
        await become(store, ids[-1], candidates=shown)
    back = await left(shop, "back", 5_000)
    await said(shop, back, Decision.REFUND)
    await said(shop, await left(shop, "paid"), Decision.TO, "E3")
    async with store.read() as connection:
        rows = await queue_rows(connection, NOW)
    assert [row.payment["id"] for row in rows if row.payment] == [*ids, back]
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    assert [row.todo for row in rows] == [
        f"kvit resolve {ids[0]} --to E1",
        f"kvit resolve {ids[1]} --to E1 or --to E2",
        f"kvit resolve {ids[2]} --refund, --balance or --ignore",
        f"kvit resolve {ids[3]} --to ORDER, --refund or --ignore",
        f"send it back, then kvit resolve {back} --ignore",
    ]
    assert [one.said for one in rows[1].candidates] == ["450.00 EUR open", "450.00 EUR open"]
    assert [one.said for one in rows[2].candidates] == ["paid"]
    assert [row.ask for row in rows] == [Ask.DECIDE] * 4 + [Ask.SEND_BACK]


async def test_a_refund_by_the_gateway_takes_a_payment_to_be_sent_back_off_the_list(shop: Installation) -> None:
    payment_id = await left(shop, provider_reference="pi_1")
    await said(shop, payment_id, Decision.REFUND)
    await receive(shop.store, "R1", -20_000, kind=Kind.REFUND, provider_reference="pi_1")
    async with shop.store.read() as connection:
        (row,) = await decisions.waiting(connection)
    assert row["waits_minor"] == 25_000
    await receive(shop.store, "R2", -25_000, kind=Kind.REFUND, provider_reference="pi_1")
    async with shop.store.read() as connection:
        assert await decisions.waiting(connection) == []


async def test_a_customer_is_found_by_number_and_channel(shop: Installation) -> None:
    await place(shop.store, "E1")
    await place(shop.store, "E2", channel="other")
    async with shop.store.read() as connection:
        assert [channel for _, channel in await decisions.customers(connection, "7", None)] == ["shop", "other"]
        assert [channel for _, channel in await decisions.customers(connection, "7", "other")] == ["other"]
        assert await decisions.customers(connection, "8", None) == []
