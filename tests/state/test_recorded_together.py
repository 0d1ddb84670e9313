"""Payments of a batch are recorded together, and it comes to what recording them one after the other does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import NOW, incoming, new_order
from store_builders import WORKER as ACTOR

from domain.allocation import OpenItem, split
from domain.matching import Candidate, Evidence, Match, Reference
from domain.money import Money
from domain.payments import Outcome, Payment
from domain.rules import EvidenceKind, Policy
from store import orders, payments
from store.database import Store
from store.payments import Decided
from store.tables import AllocationRow, PayerAccount, PaymentReference, PaymentRow

_ITEMS, _PAYMENTS, _ACCOUNTS = 3, 5, 2
NUMBER, ACCOUNT = EvidenceKind.ORDER_NUMBER, EvidenceKind.PAYER_ACCOUNT
NOTHING = Money(0, "EUR")
_worlds = itertools.count()


@dataclass(frozen=True)
class Said:
    """What is decided about a payment: it settles an item, or waits between items, or for who owns its account."""

    payment: int
    settles: int | None = None
    between: tuple[int, ...] = ()
    wants_owner: bool = False


def _said(number: int) -> st.SearchStrategy[Said]:
    def waits(between: list[int], wants_owner: bool) -> Said:
        return Said(number, between=tuple(between), wants_owner=wants_owner)

    def settles(item: int) -> Said:
        return Said(number, settles=item)

    items = st.integers(0, _ITEMS - 1)
    return st.one_of(
        st.builds(settles, items),
        st.builds(waits, st.lists(items, max_size=2, unique=True), st.booleans()),
    )


_batches = st.permutations(range(_PAYMENTS)).flatmap(lambda order: st.tuples(*(_said(number) for number in order)))
_earlier = st.lists(st.sampled_from(range(_PAYMENTS)), unique=True, max_size=3).flatmap(
    lambda some: st.tuples(*(_said(number).filter(lambda said: said.settles is None) for number in some))
)


@dataclass
class World:
    """Orders of two customers, and payments from two accounts, that no other world knows."""

    items: list[OpenItem] = field(default_factory=list[OpenItem])
    payments: list[Payment] = field(default_factory=list[Payment])

    def decided(self, said: Said) -> Decided:
        payment = self.payments[said.payment]
        mine = [self.items[item] for item in ((said.settles,) if said.settles is not None else said.between)]
        candidates = tuple(Candidate(item, (Evidence(NUMBER, f"the order number {item.number}"),)) for item in mine)
        if said.settles is not None:
            part, surplus = split(payment.amount, mine[0], NOTHING)
            found = Match(
                outcome=Outcome.EXACT,
                policy=Policy.RELEASE,
                reason="exact",
                surplus=surplus,
                parts=(part,),
                candidates=candidates,
            )
            return Decided(payment, found)
        account = payment.payer_account or ""
        found = Match(
            outcome=Outcome.AMBIGUOUS if mine else Outcome.UNKNOWN,
            policy=Policy.OPERATOR,
            reason="who knows",
            surplus=NOTHING,
            candidates=candidates,
        )
        return Decided(payment, found, [Reference(ACCOUNT, account)] if said.wants_owner else [])

    def places(self, again: Any) -> list[int]:
        ids = [payment.id for payment in self.payments]
        return sorted(ids.index(id_) for id_, _ in again)


async def _world(connection: AsyncConnection) -> World:
    name, made = next(_worlds), World()
    numbers = [f"W{name}-{item}" for item in range(_ITEMS)]
    for item, number in enumerate(numbers):
        named = frozenset({(NUMBER, number)})
        order = new_order(number, customer_number=f"W{name}-{item % 2}", references=named)
        assert await orders.add(connection, order, now=NOW, actor=ACTOR)
        found = await payments.candidates(connection, [Reference(NUMBER, number)])
        made.items += [one for one in found.values() if one.number == number]
    told = [
        incoming(f"W{name}-{number}", payer_account=f"W{name}ACCOUNT{number % _ACCOUNTS}")
        for number in range(_PAYMENTS)
    ]
    ids = [id_ for id_, _ in await payments.add(connection, told, now=NOW)]
    made.payments = list((await payments.load(connection, ids)).values())
    return made


async def _told(connection: AsyncConnection, world: World) -> dict[str, Any]:
    """Return all that is stored of a world's payments, by their places and not by their ids."""
    place = {payment.id: number for number, payment in enumerate(world.payments)}
    item = {one.id: number for number, one in enumerate(world.items)}
    outcomes = await connection.execute(
        select(PaymentRow.id, PaymentRow.outcome, PaymentRow.policy, PaymentRow.reason, PaymentRow.surplus_minor)
        .where(PaymentRow.id.in_(place))
        .order_by(PaymentRow.id)
    )
    parts = await connection.execute(
        select(AllocationRow.payment_id, AllocationRow.open_item_id, AllocationRow.amount_minor, AllocationRow.evidence)
        .where(AllocationRow.payment_id.in_(place))
        .order_by(AllocationRow.id)
    )
    waiting = await connection.execute(
        select(PaymentReference.payment_id, PaymentReference.kind).where(PaymentReference.payment_id.in_(place))
    )
    taught = await connection.execute(
        select(PayerAccount.account, PayerAccount.payment_id).where(PayerAccount.payment_id.in_(place))
    )
    return {
        "outcomes": [(place[id_], *rest) for id_, *rest in outcomes.all()],
        "allocations": [(place[id_], item[of], minor, len(evidence)) for id_, of, minor, evidence in parts.all()],
        "waiting": sorted((place[id_], kind) for id_, kind in waiting.all()),
        "taught": sorted((account[-1], place[id_]) for account, id_ in taught.all()),
    }


@example(earlier=(), batch=(Said(0, between=(0, 1)), Said(1, settles=0), Said(2), Said(3), Said(4)))
@example(earlier=(), batch=(Said(1, settles=0), Said(0, between=(0, 1)), Said(2), Said(3), Said(4)))
@example(earlier=(Said(0, between=(0, 1)),), batch=(Said(1, settles=0), Said(0, settles=1), Said(2), Said(3), Said(4)))
@example(earlier=(), batch=(Said(0, wants_owner=True), Said(2, settles=0), Said(4), Said(1), Said(3)))
@example(earlier=(), batch=(Said(2, settles=0), Said(0, wants_owner=True), Said(4, settles=0), Said(1), Said(3)))
@given(earlier=_earlier, batch=_batches)
async def test_a_batch_recorded_together_comes_to_what_it_comes_to_one_after_the_other(
    store: Store, earlier: tuple[Said, ...], batch: tuple[Said, ...]
) -> None:
    async with store.write() as connection:
        apart, together = await _world(connection), await _world(connection)
        for world in (apart, together):
            await payments.record_matches(connection, [world.decided(said) for said in earlier], now=NOW)

        again: set[tuple[int, str]] = set()
        for said in batch:
            one = apart.decided(said)
            again.update(await payments.record_matches(connection, [one], now=NOW))
            again = {(id_, scenario) for id_, scenario in again if id_ != one.payment.id}
        at_once = await payments.record_matches(connection, [together.decided(said) for said in batch], now=NOW)

        assert together.places(at_once) == apart.places(again)
        assert await _told(connection, together) == await _told(connection, apart)


async def test_what_a_payment_taught_before_it_was_taken_off_is_news_when_it_settles_something_again(
    store: Store,
) -> None:
    async with store.write() as connection:
        world = await _world(connection)
        settles, waits = Said(0, settles=0), Said(2, wants_owner=True)
        await payments.record_matches(connection, [world.decided(settles)], now=NOW)
        taken_off = delete(AllocationRow).where(AllocationRow.payment_id == world.payments[0].id)
        await connection.execute(taken_off)
        await payments.record_matches(connection, [world.decided(waits)], now=NOW)

        again = await payments.record_matches(connection, [world.decided(settles)], now=NOW)

    assert world.places(again) == [2]
