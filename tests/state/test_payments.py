"""Payments: stored once, found by what they name, allocated once, never forgotten while they wait for an order."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError
from store_builders import MINUTE, NOW, WORKER, column, incoming, load, new_order, place, receive

from domain.allocation import OpenItem, split
from domain.matching import Candidate, Evidence, Match, Reference
from domain.money import Money
from domain.orders import Status
from domain.payments import IncomingPayment, Method, Outcome, Payment
from domain.rules import EvidenceKind, Policy
from store import orders, payments
from store.database import Store
from store.tables import AllocationRow

ORDER_NUMBER, SYMBOL = EvidenceKind.ORDER_NUMBER, EvidenceKind.VARIABLE_SYMBOL
ACCOUNT = EvidenceKind.PAYER_ACCOUNT
NOTHING = Money(0, "EUR")


async def add(store: Store, *given: IncomingPayment) -> list[tuple[int, str]]:
    async with store.write() as connection:
        return await payments.add(connection, given, now=NOW)


async def loaded(store: Store, payment_id: int) -> Payment:
    async with store.write() as connection:
        return (await payments.load(connection, [payment_id]))[payment_id]


async def candidates(store: Store, *references: Reference) -> list[OpenItem]:
    async with store.write() as connection:
        return list((await payments.candidates(connection, references)).values())


async def settle(store: Store, payment_id: int, item: OpenItem, *, outcome: Outcome = Outcome.EXACT) -> None:
    """Record that a payment settles an item, as matching does."""
    payment = await loaded(store, payment_id)
    part, surplus = split(payment.amount, item, NOTHING)
    evidence = (Evidence(ORDER_NUMBER, f"the order number {item.number}"),)
    match = Match(
        outcome=outcome,
        policy=Policy.RELEASE,
        reason="the amount is exact",
        parts=(part,),
        surplus=surplus,
        candidates=(Candidate(item, evidence),),
    )
    async with store.write() as connection:
        await payments.record_match(connection, payment, match, [], now=NOW)


async def leave(store: Store, payment_id: int, outcome: Outcome, *references: Reference) -> None:
    """Record that a payment settles nothing so far."""
    match = Match(outcome=outcome, policy=Policy.OPERATOR, reason="names no order", surplus=NOTHING)
    payment = await loaded(store, payment_id)
    async with store.write() as connection:
        await payments.record_match(connection, payment, match, references, now=NOW)


async def waiting(store: Store, kind: EvidenceKind, value: str) -> list[tuple[int, str]]:
    async with store.write() as connection:
        return await payments.waiting_for(connection, [(kind, value)])


async def test_a_payment_is_read_back_as_its_source_told_it(store: Store) -> None:
    given = incoming(
        "E1",
        -(10**15),
        value_date=date(2026, 5, 5),
        account="CZ6508000000192000145399",
        provider_reference="pi_1",
        end_to_end_id="E2E",
        variable_symbol="1042",
        rf="RF18539007547034",
        order_reference="2026-1042",
        tracking_number="RR1",
        payer_name="Žofie Nová",
        payer_account="CZ99",
        text="platba za objednávku № 1042",
    )

    [(payment_id, method)] = await add(store, given)

    found = await loaded(store, payment_id)
    told = {field: getattr(found, field) for field in IncomingPayment.__dataclass_fields__}
    assert IncomingPayment(**told) == given
    assert (method, found.amount) == (Method.BANK_TRANSFER, Money(-(10**15), "EUR"))


async def test_whatever_length_a_source_gives_its_texts_is_kept(store: Store) -> None:
    given = incoming("E1", account="A" * 300, payer_name="N" * 5_000, text="T" * 50_000)

    [(payment_id, _)] = await add(store, given)

    found = await loaded(store, payment_id)
    assert (found.account, found.payer_name, found.text) == (given.account, given.payer_name, given.text)


async def test_a_payment_is_stored_once_per_source_and_external_id(store: Store) -> None:
    [(first, _)] = await add(store, incoming("E1", 45_000))

    again = await add(store, incoming("E1", 99_000), incoming("E1", source="stripe", method=Method.CARD))

    assert [method for _, method in again] == [Method.CARD]
    assert await add(store, incoming("E1"), incoming("E1")) == []
    assert (await loaded(store, first)).amount == Money(45_000, "EUR")


async def test_payments_of_one_file_are_numbered_in_its_order(store: Store) -> None:
    given = [incoming(f"E{number % 7}-{number}", 100 + number) for number in range(450)]

    added = await add(store, *given)

    assert await column(store, "SELECT amount_minor FROM payments ORDER BY id") == [100 + n for n in range(450)]
    assert [id_ for id_, _ in added] == await column(store, "SELECT id FROM payments ORDER BY id")


async def test_a_payment_that_comes_many_times_at_once_is_stored_and_new_once(store: Store, other: Store) -> None:
    for number in range(8):
        added = await asyncio.gather(
            *(
                add(through, incoming(f"E{number}"), incoming(f"F{number}"))
                for _ in range(5)
                for through in (store, other)
            )
        )
        assert sorted(len(new) for new in added) == [0] * 9 + [2]

    assert await column(store, "SELECT count(*) FROM payments") == [16]


async def test_files_that_overlap_may_be_imported_at_once_in_any_order(store: Store, other: Store) -> None:
    given = [incoming(f"E{number}") for number in range(600)]

    added = await asyncio.gather(add(store, *given), add(other, *reversed(given)), add(store, *given[100:]))

    assert sum(len(new) for new in added) == 600


async def test_references_find_the_open_items_they_name_with_what_is_still_open(store: Store) -> None:
    names = frozenset({(ORDER_NUMBER, "1042"), (SYMBOL, "77")})
    order = await place(store, "1042", references=names)
    await place(store, "1043", references=frozenset({(ORDER_NUMBER, "1043"), (SYMBOL, "78")}))

    [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"), Reference(SYMBOL, "77"), Reference(SYMBOL, "9"))

    assert (item.order_id, item.number, item.channel, item.status) == (order, "1042", "shop", Status.AWAITING_PAYMENT)
    assert (item.amount, item.open) == (Money(45_000, "EUR"), Money(45_000, "EUR"))
    assert item.references == names
    assert await candidates(store, Reference(ORDER_NUMBER, "77")) == []


async def test_a_known_payer_account_means_the_items_of_its_owner(store: Store) -> None:
    order = await place(store, customer_number="7", accounts=("CZ65",))
    another = await place(store, customer_number="7")
    await place(store, customer_number="8", accounts=("CZ66",))

    items = await candidates(store, Reference(ACCOUNT, "CZ65"))

    assert [item.order_id for item in items] == [order, another]
    assert all((ACCOUNT, "CZ65") in item.references for item in items)


async def test_an_account_known_to_two_customers_proves_nothing(store: Store) -> None:
    named = frozenset({(ORDER_NUMBER, "1042")})
    await place(store, "1042", customer_number="7", accounts=("CZ65",), references=named)
    await place(store, "1043", customer_number="8", accounts=("CZ65",))

    [item] = await candidates(store, Reference(ACCOUNT, "CZ65"), Reference(ORDER_NUMBER, "1042"))

    assert item.number == "1042"
    assert item.references == named


async def test_a_match_is_recorded_with_its_allocations_and_evidence(store: Store) -> None:
    order = await place(store, "1042", references=frozenset({(ORDER_NUMBER, "1042")}))
    [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"))
    payment = await receive(store, minor=50_000)

    await settle(store, payment, item, outcome=Outcome.OVER)

    async with store.read() as connection:
        [part] = (await payments.allocated(connection, [payment]))[payment]
        decided = await payments.decided(connection, [payment])
        [listed] = await payments.listing(connection, order_id=order)
        assert await payments.last_amount(connection, order) == 45_000
    assert (part["order_id"], part["number"], part["amount_minor"]) == (order, "1042", 45_000)
    assert (part["write_off_minor"], part["completes"]) == (0, True)
    assert part["evidence"] == ["the order number 1042"]
    assert decided == {payment: (Outcome.OVER, "the amount is exact")}
    assert (listed["outcome"], listed["policy"], listed["surplus_minor"]) == ("over", "release", 5_000)
    assert listed["candidates"][0]["order"] == "1042"
    assert (await load(store, order)).settled == Money(45_000, "EUR")
    [left] = await candidates(store, Reference(ORDER_NUMBER, "1042"))
    assert left.open == NOTHING


async def test_sums_beyond_what_a_double_can_hold_are_exact(store: Store) -> None:
    total = 10**15 + 1
    big = new_order("1042", total=Money(total, "EUR"), references=frozenset({(ORDER_NUMBER, "1042")}))
    async with store.write() as connection:
        order = await orders.add(connection, big, now=NOW, actor=WORKER)
    assert order is not None
    for number, minor in enumerate((total - 1, 1)):
        [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"))
        await settle(store, await receive(store, f"E{number}", minor), item)

    [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"))
    assert item.open == NOTHING
    assert (await load(store, order)).settled == Money(total, "EUR")


async def test_a_payment_is_allocated_to_an_item_once(store: Store) -> None:
    await place(store, "1042", references=frozenset({(ORDER_NUMBER, "1042")}))
    [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"))
    payment = await receive(store)
    await settle(store, payment, item)

    with pytest.raises(IntegrityError):
        await settle(store, payment, item)

    assert await column(store, "SELECT amount_minor FROM allocations") == [45_000]


async def test_an_allocation_taken_back_counts_no_more_and_makes_room_for_another(store: Store) -> None:
    order = await place(store, "1042", references=frozenset({(ORDER_NUMBER, "1042")}))
    [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"))
    payment = await receive(store, minor=40_000)
    await settle(store, payment, item, outcome=Outcome.SHORT)
    async with store.write() as connection:
        [part] = (await payments.allocated(connection, [payment]))[payment]
        await connection.execute(update(AllocationRow).values(reversed=True))
        back = {"payment_id": payment, "open_item_id": item.id, "order_id": order, "amount_minor": -40_000}
        back |= {"write_off_minor": 0, "evidence": [], "reverses_id": part["id"], "reversed": False, "at": NOW}
        await connection.execute(insert(AllocationRow).values(back))

    async with store.read() as connection:
        assert await payments.allocated(connection, [payment]) == {}
        assert await payments.last_amount(connection, order) is None
    [open_again] = await candidates(store, Reference(ORDER_NUMBER, "1042"))
    assert open_again.open == Money(45_000, "EUR")

    await settle(store, payment, open_again, outcome=Outcome.SHORT)
    assert (await load(store, order)).settled == Money(40_000, "EUR")


@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, Outcome.AMBIGUOUS])
async def test_an_unmatched_payment_waits_for_the_order_it_names(store: Store, outcome: Outcome) -> None:
    payment = await receive(store)
    named = [Reference(ORDER_NUMBER, "1042"), Reference(ORDER_NUMBER, "1042", "shop"), Reference(SYMBOL, "77")]
    await leave(store, payment, outcome, *named)
    await leave(store, payment, outcome, *named)

    assert await waiting(store, SYMBOL, "77") == [(payment, Method.BANK_TRANSFER)]
    assert await waiting(store, ORDER_NUMBER, "1042") == [(payment, Method.BANK_TRANSFER)]
    assert await waiting(store, ORDER_NUMBER, "77") == []


async def test_a_payment_that_was_settled_waits_no_more(store: Store) -> None:
    payment = await receive(store)
    await leave(store, payment, Outcome.UNKNOWN, Reference(ORDER_NUMBER, "1042"))
    await place(store, "1042", references=frozenset({(ORDER_NUMBER, "1042")}))
    [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"))

    await settle(store, payment, item)

    assert await waiting(store, ORDER_NUMBER, "1042") == []


async def test_an_order_and_its_payment_that_come_at_the_same_time_find_each_other(store: Store, other: Store) -> None:
    payment_id = await receive(store)
    payment = await loaded(store, payment_id)
    named = Reference(ORDER_NUMBER, "1042")
    unknown = Match(outcome=Outcome.UNKNOWN, policy=Policy.OPERATOR, reason="names no order", surplus=NOTHING)

    async def order_comes() -> list[tuple[int, str]]:
        names = frozenset({(ORDER_NUMBER, "1042")})
        async with other.write() as connection:
            await orders.add(connection, new_order("1042", references=names), now=NOW, actor=WORKER)
            return await payments.waiting_for(connection, names)

    async with store.write() as connection:
        assert await payments.candidates(connection, [named]) == {}
        comes = asyncio.create_task(order_comes())
        await asyncio.wait({comes}, timeout=0.5)  # long enough to pass by, were it not held up
        await payments.record_match(connection, payment, unknown, [named], now=NOW)

    assert await comes == [(payment_id, Method.BANK_TRANSFER)]


async def test_two_payments_for_one_order_that_are_matched_at_once_settle_it_once(store: Store, other: Store) -> None:
    await place(store, "1042", references=frozenset({(ORDER_NUMBER, "1042")}))
    both = [await receive(store, "E1"), await receive(store, "E2")]

    async def match(through: Store, payment_id: int) -> int:
        async with through.write() as connection:
            payment = (await payments.load(connection, [payment_id]))[payment_id]
            [item] = (await payments.candidates(connection, [Reference(ORDER_NUMBER, "1042")])).values()
            if not item.open:
                return 0
            part, surplus = split(payment.amount, item, NOTHING)
            found = Match(outcome=Outcome.EXACT, policy=Policy.RELEASE, reason="exact", parts=(part,), surplus=surplus)
            await payments.record_match(connection, payment, found, [], now=NOW)
            return part.amount.minor

    settled = await asyncio.gather(match(store, both[0]), match(other, both[1]))

    assert sorted(settled) == [0, 45_000]


async def test_payments_are_chosen_by_what_they_turned_out_to_be(store: Store) -> None:
    first, second, third = [await receive(store, f"E{number}") for number in range(3)]
    await leave(store, second, Outcome.UNKNOWN)
    await leave(store, third, Outcome.LATE)

    async with store.read() as connection:
        new = await payments.listing(connection, outcome="new")
        unknown = await payments.listing(connection, outcome="unknown")
        for_a_person = await payments.listing(connection, policy="operator", limit=1)
        one = await payments.listing(connection, payment_id=third)
        by_ids = await payments.by_ids(connection, [third, 999, first])

    assert [row["id"] for row in (*new, *unknown, *for_a_person, *one)] == [first, second, second, third]
    assert [(id_, row["outcome"]) for id_, row in by_ids.items()] == [(third, "late"), (first, None)]
    assert one[0]["matched_at"] == NOW < NOW + MINUTE
