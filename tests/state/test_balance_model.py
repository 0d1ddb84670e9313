"""Balances against a model: top-ups, orders, refunds, reverts and releases, many at the same moment, on PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from shop_builders import NOW, Clock, buy, change_rules, payment_of, shop, stock_up, take_payments
from sqlalchemy import select, text

from domain.money import Money
from domain.payments import Kind, Method
from store import reverts, work
from store.audit import audit
from store.journal import Actor
from store.tables import WorkRow
from tasks.balance import SCENARIO, balance_of, change_by_hand, release_waiting
from tasks.installation import Installation
from tasks.match import match_payments
from tasks.money_back import match_money_back
from tasks.open_invoice import confirm, issue

LIMIT, MOST, PRICE = 5_000, 3, 10_000
_serial = itertools.count(1)

# Enough for all that wait, for three of them, for one, for none.
TOP_UPS = st.sampled_from([70_000, 31_000, 12_000, 1])
# What happens in one moment, to one customer: each with its amount, or its place among what it can happen to.
MOMENTS = st.lists(
    st.lists(
        st.one_of(
            st.tuples(st.just("order"), st.sampled_from([24_000, 9_000, 2_000])),
            st.tuples(st.just("by hand"), TOP_UPS),
            st.tuples(st.just("invoice"), TOP_UPS),
            st.tuples(st.just("refund"), st.integers(0, 9)),
            st.tuples(st.just("revert"), st.integers(0, 9)),
        ),
        min_size=1,
        max_size=5,
    ),
    min_size=2,
    max_size=6,
)


@dataclass
class Customer:
    """A customer as the model sees him: what he brought and got back, and what he ordered."""

    number: str
    orders: dict[int, int] = field(default_factory=dict[int, int])
    brought: int = 0
    refunded: int = 0
    cards: list[str] = field(default_factory=list[str])


class Model:
    """Carries out what happens, and says what must be so after it."""

    def __init__(self, opened: Installation) -> None:
        self._opened = opened
        self.customer = Customer(f"M{next(_serial)}")

    def does(self, what: str, value: int) -> Coroutine[Any, Any, None]:
        """Return what one thing that happens comes to."""
        return {
            "order": self._order,
            "by hand": self._by_hand,
            "invoice": self._invoice,
            "refund": self._refund,
            "revert": self._revert,
        }[what](value)

    async def begin(self) -> None:
        """Place more orders than a top-up may let go, none of which the customer's credit covers."""
        for _ in range(2 * MOST):
            await self._order(PRICE)

    async def _order(self, minor: int) -> None:
        price = Money(minor, "CZK").amount
        serial = next(_serial)
        order_id = await buy(
            self._opened,
            f"CZ{100_000 + serial}",
            "bank_transfer",
            total=price,
            customer={"number": self.customer.number, "name": "Model"},
            lines=[{"title": "Tea", "quantity": 1, "unit_price": price}],
            placed_at=(NOW - timedelta(days=1, seconds=-serial)).isoformat(),
        )
        self.customer.orders[order_id] = minor

    async def _by_hand(self, minor: int) -> None:
        await change_by_hand(
            self._opened,
            self.customer.number,
            Money(minor, "CZK").amount,
            reference=f"R{next(_serial)}",
            channel=None,
            author="Eva",
            because="cash",
        )
        self.customer.brought += minor

    async def _invoice(self, minor: int) -> None:
        amount, reference = Money(minor, "CZK").amount, f"card {next(_serial)}"
        issued = await issue(
            self._opened,
            self.customer.number,
            amount,
            title=reference,
            channel=None,
            author="Eva",
            because="asked for",
        )
        paid = payment_of(issued.number, amount, provider_reference=reference)
        ids = await take_payments(self._opened, paid)
        await asyncio.gather(match_payments.fn(ids), match_payments.fn(ids))
        self.customer.brought += minor
        self.customer.cards.append(f"{reference}={minor}")

    async def _refund(self, place: int) -> None:
        if not self.customer.cards:
            return
        reference, _, minor = self.customer.cards.pop(place % len(self.customer.cards)).partition("=")
        back = payment_of(
            None,
            Money(-int(minor), "CZK").amount,
            kind=Kind.REFUND,
            method=Method.CARD.value,
            provider_reference=reference,
        )
        await match_money_back.fn(await take_payments(self._opened, back))
        self.customer.refunded += int(minor)

    async def _revert(self, place: int) -> None:
        order_id = sorted(self.customer.orders)[place % len(self.customer.orders)]
        actor = Actor(name="Eva")
        async with self._opened.store.write() as connection:
            (plan,) = await reverts.plan(connection, [order_id])
            if plan.refused:
                return
            wish_id = await reverts.begin(
                connection, order_id, author="Eva", reason="a mistake", force=False, now=self._opened.clock()
            )
        async with self._opened.store.write() as connection:
            wish = (await reverts.wishes(connection, [wish_id]))[wish_id]
            assert await reverts.release(connection, wish, actor=actor, now=self._opened.clock()) is None

    async def release(self) -> None:
        """Let two workers at once carry out every top-up that lets orders go."""
        async with self._opened.store.read() as connection:
            rows = await connection.execute(
                select(WorkRow.subject_id).where(WorkRow.scenario == SCENARIO, WorkRow.due_at.is_not(None))
            )
            due = list(rows.scalars().all())
        await asyncio.gather(*(release_waiting.fn([id_]) for id_ in due * 2))
        async with self._opened.store.write() as connection:
            await work.finish(
                connection, SCENARIO, "entry", [(id_, None, None) for id_ in due], now=self._opened.clock()
            )

    async def check(self) -> None:
        """Hold the store against the model."""
        entries = await self._rows(
            """SELECT e.amount_minor, e.reason, p.source FROM balance_entries e JOIN customers c ON c.id = e.customer_id
            LEFT JOIN payments p ON p.id = e.payment_id WHERE c.number = :number ORDER BY e.id"""
        )
        paid = await self._rows(
            """SELECT o.id, a.amount_minor FROM allocations a JOIN orders o ON o.id = a.order_id
            JOIN customers c ON c.id = o.customer_id WHERE c.number = :number
            AND a.reverses_id IS NULL AND NOT a.reversed"""
        )
        model = self.customer
        assert Counter(order_id for order_id, _ in paid).total() == len({order_id for order_id, _ in paid})
        assert {order_id: model.orders[order_id] for order_id, _ in paid} == dict(paid)
        spent = sum(minor for _, minor in paid)
        assert sum(minor for minor, _, _ in entries) == model.brought - model.refunded - spent
        there, let_go = 0, Counter[str]()
        for minor, reason, source in entries:
            there += minor
            if source == "balance" and minor < 0:
                assert there >= -LIMIT, "an order was paid beyond the credit limit"
                let_go.update(re.findall(r"released by top-up (\d+)", reason))
        assert all(times <= MOST for times in let_go.values())

    async def _rows(self, query: str) -> Sequence[tuple[Any, ...]]:
        async with self._opened.store.read() as connection:
            rows = await connection.execute(text(query), {"number": self.customer.number})
            return [tuple(row) for row in rows.all()]


def test_whatever_happens_at_once_nothing_is_released_twice_or_overdrawn_and_balances_are_their_entries(
    postgres: Any, tmp_path: Path
) -> None:
    url = postgres.new()
    loop = asyncio.new_event_loop()

    async def opening() -> tuple[Any, Installation]:
        context = shop(tmp_path / "shop", url=url, clock=Clock())
        opened = await context.__aenter__()
        await stock_up(opened)
        rules = {"use": True, "release": "all", "release_most": MOST, "credit_limit": str(LIMIT // 100)}
        await change_rules(opened, {"balance": rules})
        return context, opened

    async def play(opened: Installation, moments: list[list[tuple[str, int]]]) -> None:
        model = Model(opened)
        await model.begin()
        for moment in moments:
            await asyncio.gather(*(model.does(what, value) for what, value in moment), model.release())
            await model.check()
        await model.release()
        await model.check()
        async with opened.store.read() as connection:
            assert await audit(connection, now=opened.clock()) == []

    context, opened = loop.run_until_complete(opening())

    @settings(deadline=None, max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(MOMENTS)
    @example([[("by hand", 31_000)], [("order", 24_000), ("order", 24_000)]])
    @example([[("by hand", 70_000), ("by hand", 70_000)], [("order", 24_000)], [("revert", 0), ("revert", 6)]])
    def examples(moments: list[list[tuple[str, int]]]) -> None:
        loop.run_until_complete(play(opened, moments))

    try:
        examples()
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))
        loop.close()


async def test_two_people_who_confirm_an_invoice_at_once_book_its_money_once(url: str, tmp_path: Path) -> None:
    async with shop(tmp_path / "shop", url=url, clock=Clock()) as opened:
        await stock_up(opened)
        await buy(opened, "CZ5001", "bank_transfer")
        for place in range(6):
            told: dict[str, Any] = {"channel": None, "author": "Eva", "because": "at the till"}
            issued = await issue(opened, "C0900", "50.00", title=f"Top-up {place}", **told)
            done = await asyncio.gather(
                *(confirm(opened, issued.number, reference=f"cash {one}", **told) for one in "ab")
            )
            assert sorted(changed for changed, _ in done) == [False, True]
        assert str((await balance_of(opened, "C0900", channel=None)).balance) == "300.00 CZK"
