"""Orders of a set are taken in together, and it comes to what taking them in one after the other does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rules_builders import document
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import NOW, column, incoming
from store_builders import WORKER as ACTOR

from connectors.templates import Templates
from domain.holds import Hold, HoldState
from domain.matching import Match, Reference
from domain.money import Money
from domain.order_document import OrderDocument, OrderError, parse_order
from domain.payments import Outcome
from domain.references import payer_reference
from domain.rules import EvidenceKind, Policy
from store import balances, holds, memory, payments, rules
from store.database import Store
from store.payments import Decided
from store.tables import CustomerRow, OrderRow, WorkRow
from tasks.installation import Installation
from tasks.order_intake import take_order, take_orders

_worlds = itertools.count()
GROUPS = (None, "credit", "balance", "credit")
"""The groups of the customers, who are known by their places here."""
RULES: dict[str, Any] = {
    "placed": {"bank_transfer": {"reserve_stock": True}, "card": {"reserve_hours": 24, "at_expiry": "cancel"}},
    "groups": {
        "credit": {"placed": {"bank_transfer": {"deferral_days": 14, "credit_limit": "60.00"}}},
        "balance": {"balance": {"use": True, "credit_limit": "5.00"}},
    },
}


@dataclass(frozen=True)
class Said:
    """What an order says; its number and its customer are known by their places."""

    number: int
    customer: int = 0
    name: str = "Jan"
    account: int | None = None
    price: int = 20
    lines: int = 1
    method: str = "bank_transfer"
    status: str = "new"
    currency: str = "EUR"
    channel: str | None = None
    due_on: date | None = None


_orders = st.builds(
    Said,
    number=st.integers(0, 5),
    customer=st.integers(0, len(GROUPS) - 1),
    name=st.sampled_from(["Jan", "Jan Novák"]),
    account=st.none() | st.integers(0, 2),
    price=st.sampled_from([10, 20, 40]),
    lines=st.integers(1, 2),
    method=st.sampled_from(["bank_transfer", "bank_transfer", "card", "cash_on_delivery"]),
    status=st.sampled_from([*["new"] * 6, "awaiting_payment", "paid", "lost"]),
    currency=st.sampled_from([*["EUR"] * 9, "CZK"]),
    channel=st.sampled_from([*[None] * 9, "moon"]),
    due_on=st.sampled_from([None, None, date(2026, 6, 1)]),
)


@dataclass
class World:
    """A channel with its customers; payments and a hold that came before their orders wait in it."""

    name: str
    opened: Installation
    told: list[int] = field(default_factory=list[int])

    def document(self, said: Said) -> OrderDocument:
        customer = {
            "number": self.customer(said.customer),
            "name": said.name,
            "email": f"{said.name[-1]}@example.com",
            "group": GROUPS[said.customer],
            "accounts": [] if said.account is None else [self.account(said.account)],
        }
        line = {"sku": "TEA", "title": "Tea", "quantity": 1, "unit_price": f"{said.price}.00"}
        written = {
            "number": self.number(said.number),
            "channel": said.channel or self.name,
            "method": said.method,
            "status": said.status,
            "placed_at": (NOW - timedelta(days=1)).isoformat(),
            "currency": said.currency,
            "total": f"{said.price * said.lines}.00",
            "due_on": said.due_on,
            "customer": customer,
            "lines": [line] * said.lines,
        }
        return parse_order(written, where="test")

    def number(self, place: int) -> str:
        return f"{self.name}N{place}"

    def customer(self, place: int) -> str:
        return f"{self.name}C{place}"

    def account(self, place: int) -> str:
        return f"{self.name}ACCOUNT{place}".upper()

    def came(self, taken: Sequence[int | OrderError | None]) -> list[str]:
        """Return what came of each order: new, known, or why it was refused."""
        said = ("known" if one is None else "new" if isinstance(one, int) else str(one) for one in taken)
        return [one.partition("; there is ")[0].replace(self.name, "") for one in said]


async def _world(connection: AsyncConnection, tmp_path: Path, store: Store) -> World:
    name = f"w{next(_worlds)}x"
    opened = Installation(home=tmp_path, store=store, connectors={}, templates=Templates([]), clock=lambda: NOW)
    made = World(name, opened)
    written = document(channel=name, **RULES)
    await rules.save(connection, written, channel=name, author="jana", reason="opening", now=NOW)
    # Two customers are known: one owes something, and his account is known; the other has something on the balance.
    for said in (Said(11, customer=1, account=1), Said(12, customer=2)):
        assert await take_order(connection, opened, made.document(said), actor=ACTOR)
    of = select(CustomerRow.id).where(CustomerRow.channel == name)
    owes, has = (await connection.execute(of.order_by(CustomerRow.id))).scalars().all()
    await balances.add(connection, has, Money(6_000, "EUR"), reason="top-up", actor=ACTOR, now=NOW)
    by_account = (EvidenceKind.PAYER_ACCOUNT, EvidenceKind.GROUP_ACCOUNT)
    named = [
        *([Reference(EvidenceKind.ORDER_NUMBER, made.number(place).upper())] for place in range(2)),
        *([Reference(kind, made.account(place)) for kind in by_account] for place in range(3)),
        [Reference(EvidenceKind.PAYER_NAME, payer_reference("Jan Novák", Money(4_000, "EUR")) or "")],
    ]
    told = [incoming(f"{name}{place}", 4_000) for place in range(len(named))]
    made.told = [id_ for id_, _ in await payments.add(connection, told, now=NOW)]
    unknown = Match(
        outcome=Outcome.UNKNOWN, policy=Policy.OPERATOR, reason="who knows", surplus=Money(0, "EUR"), parts=()
    )
    stored = await payments.load(connection, made.told)
    decided = [Decided(stored[id_], unknown, names) for id_, names in zip(made.told, named, strict=True)]
    await payments.record_matches(connection, decided, now=NOW)
    await memory.teach(connection, made.account(2), owes, made.told[0])
    held = Hold(
        source="gate",
        reference=name,
        amount=Money(4_000, "EUR"),
        captured=Money(0, "EUR"),
        state=HoldState.HELD,
        order_reference=made.number(2),
    )
    await holds.put(connection, held, connector="gate", now=NOW)
    return made


_OF_ORDERS = {
    "orders": "SELECT o.number, c.number, o.method, o.status, o.standard_status, o.total_minor, o.due_on, "
    "o.reserved_until, o.extended, o.created_at FROM orders o JOIN customers c ON c.id = o.customer_id "
    "WHERE o.channel = :name ORDER BY o.id",
    "customers": "SELECT number, name, email, language, address FROM customers WHERE channel = :name ORDER BY id",
    "lines": "SELECT o.number, l.position, l.sku, l.quantity, l.unit_price_minor FROM order_lines l "
    "JOIN orders o ON o.id = l.order_id WHERE o.channel = :name ORDER BY o.number, l.position",
    "items": "SELECT o.number, c.number, i.amount_minor FROM open_items i JOIN orders o ON o.id = i.order_id "
    "JOIN customers c ON c.id = i.customer_id WHERE i.channel = :name ORDER BY i.id",
    "references": "SELECT o.number, r.kind, r.value FROM item_references r JOIN open_items i ON i.id = r.open_item_id "
    "JOIN orders o ON o.id = i.order_id WHERE o.channel = :name ORDER BY o.number, r.kind, r.value",
    "history": "SELECT o.number, h.before, h.after, h.reason, h.actor, h.at FROM status_history h "
    "JOIN orders o ON o.id = h.order_id WHERE o.channel = :name ORDER BY o.number, h.id",
    "accounts": "SELECT c.number, a.account, a.payment_id IS NULL FROM payer_accounts a "
    "JOIN customers c ON c.id = a.customer_id WHERE c.channel = :name ORDER BY c.number, a.account",
    "settled": "SELECT o.number, a.amount_minor, p.amount_minor, p.reason FROM allocations a "
    "JOIN orders o ON o.id = a.order_id JOIN payments p ON p.id = a.payment_id WHERE o.channel = :name ORDER BY a.id",
    "balances": "SELECT c.number, b.amount_minor, b.reason FROM balance_entries b "
    "JOIN customers c ON c.id = b.customer_id WHERE c.channel = :name ORDER BY b.id",
    "journal": "SELECT o.number, j.step, j.move, j.reason FROM journal j JOIN orders o ON o.id = j.order_id "
    "WHERE o.channel = :name ORDER BY o.number, j.id",
    "work": "SELECT o.number, w.scenario, w.due_at, w.quiet, w.note FROM work w JOIN orders o ON o.id = w.subject_id "
    "WHERE w.subject = 'order' AND o.channel = :name ORDER BY o.number, w.id",
    "carried on": "SELECT o.number, w.scenario, w.due_at FROM work w JOIN allocations a ON a.payment_id = w.subject_id "
    "JOIN orders o ON o.id = a.order_id WHERE w.subject = 'payment' AND o.channel = :name ORDER BY a.id",
    "held": "SELECT h.order_reference, w.scenario, w.due_at FROM work w JOIN holds h ON h.id = w.subject_id "
    "WHERE w.subject = 'hold' AND h.reference = :name",
}


async def _stored(connection: AsyncConnection, world: World) -> dict[str, list[str]]:
    """Return all that is stored of a world, by what it is called and not by its ids."""
    found: dict[str, list[str]] = {}
    for what, query in _OF_ORDERS.items():
        rows = await connection.execute(text(query), {"name": world.name})
        found[what] = [str(tuple(row)).replace(world.name, "").replace(world.name.upper(), "") for row in rows.all()]
    due = await connection.execute(
        select(WorkRow.subject_id).where(
            WorkRow.subject == "payment", WorkRow.subject_id.in_(world.told), WorkRow.due_at.is_not(None)
        )
    )
    found["made due"] = [str(place) for place in sorted(world.told.index(id_) for id_ in due.scalars().all())]
    return found


_NEW, _PAID, _ON_CREDIT = Said(0), Said(1, customer=2), Said(2, customer=1, price=40)


@example(batch=(_NEW, _NEW, Said(0, customer=3)))
@example(batch=(Said(0, customer=3, name="Jan Novák", account=0), Said(1, customer=3, name="Jan", account=2)))
@example(batch=(Said(0, currency="CZK"), _NEW, Said(0, status="lost"), Said(3, channel="moon")))
@example(batch=(_PAID, Said(3, customer=2, price=40), Said(4, customer=2), Said(5, customer=2, price=10)))
@example(batch=(Said(0, customer=1), _ON_CREDIT, Said(4, customer=1), Said(5, customer=3, due_on=date(2026, 6, 1))))
@example(batch=(_ON_CREDIT, Said(3, customer=1, method="card", due_on=date(2026, 6, 1)), Said(4, customer=1)))
@example(batch=(Said(3, customer=1, account=1), Said(4, customer=3, account=2), Said(5, customer=3, price=40)))
@example(batch=(Said(2), Said(11, customer=1, name="Jan Novák"), Said(1, name="Jan Novák", price=40)))
@given(batch=st.lists(_orders, min_size=1, max_size=8).map(tuple))
async def test_a_set_taken_in_together_comes_to_what_it_comes_to_one_after_the_other(
    store: Store, tmp_path: Path, batch: tuple[Said, ...]
) -> None:
    async with store.write() as connection:
        apart, together = [await _world(connection, tmp_path, store) for _ in range(2)]
        await connection.execute(update(WorkRow).values(due_at=None))

        one_by_one: list[int | OrderError | None] = []
        for said in batch:
            one_by_one += await take_orders(connection, apart.opened, [apart.document(said)], actor=ACTOR)
        documents = [together.document(said) for said in batch]
        at_once = await take_orders(connection, together.opened, documents, actor=ACTOR)

        assert together.came(at_once) == apart.came(one_by_one)
        assert await _stored(connection, together) == await _stored(connection, apart)


@pytest.fixture
async def worlds(store: Store, other: Store, tmp_path: Path) -> list[World]:
    """Make a world, as two processes have it."""
    async with store.write() as connection:
        world = await _world(connection, tmp_path, store)
        await connection.execute(update(WorkRow).values(due_at=None))
    opened = Installation(home=tmp_path, store=other, connectors={}, templates=Templates([]), clock=lambda: NOW)
    return [world, World(world.name, opened, world.told)]


async def _take(world: World, batch: Sequence[Said]) -> list[str]:
    async with world.opened.store.write() as connection:
        documents = [world.document(said) for said in batch]
        return world.came(await take_orders(connection, world.opened, documents, actor=ACTOR))


async def test_sets_that_overlap_in_another_order_and_single_orders_at_once_store_each_order_once(
    store: Store, worlds: list[World]
) -> None:
    one, two = worlds
    batch = [Said(20 + place, customer=place % 4) for place in range(40)]
    sets = [(one, batch), (two, batch[::-1]), (one, batch[10:30][::-1]), (two, batch[5:15])]
    singles = [(worlds[place % 2], [said]) for place, said in enumerate(batch[::5])]

    came = await asyncio.gather(*(_take(world, some) for world, some in sets + singles))

    said = [answer for answers in came for answer in answers]
    assert (said.count("new"), said.count("known")) == (40, 40 + 20 + 10 + 8)
    count = select(func.count()).select_from(OrderRow).where(OrderRow.channel == one.name)
    assert await column(store, str(count.compile(compile_kwargs={"literal_binds": True}))) == [42]
