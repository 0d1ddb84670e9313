"""Payments: stored once, found by what they name, allocated once, never forgotten while they wait for an order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError
from store_builders import MINUTE, NOW, WORKER, change, column, incoming, load, new_order, place, receive, record_match

from domain.allocation import OpenItem, Part, split
from domain.matching import Candidate, Evidence, Match, Reference, exact_sets
from domain.money import Money
from domain.orders import Status
from domain.payments import IncomingPayment, Kind, Method, Outcome, Payment
from domain.references import payer_reference
from domain.rules import EvidenceKind, Policy
from store import orders, payments
from store.audit import audit
from store.database import Store
from store.tables import AllocationRow, OrderRow

ORDER_NUMBER, SYMBOL = EvidenceKind.ORDER_NUMBER, EvidenceKind.VARIABLE_SYMBOL
ACCOUNT, GROUP_ACCOUNT, NAME = EvidenceKind.PAYER_ACCOUNT, EvidenceKind.GROUP_ACCOUNT, EvidenceKind.PAYER_NAME
NOTHING = Money(0, "EUR")


def payer(name: str = "Jan Novák", minor: int = 45_000) -> tuple[EvidenceKind, str]:
    """Return the name of an order's customer with its total, as every order is called beside its own references."""
    reference = payer_reference(name, Money(minor, "EUR"))
    assert reference is not None
    return NAME, reference


async def add(store: Store, *given: IncomingPayment) -> list[tuple[int, str]]:
    async with store.write() as connection:
        return await payments.add(connection, given, now=NOW)


async def loaded(store: Store, payment_id: int) -> Payment:
    async with store.write() as connection:
        return (await payments.load(connection, [payment_id]))[payment_id]


async def candidates(
    store: Store, *references: Reference, paying: Sequence[payments.Group] = (("shop", "holding"), ("shop", ""))
) -> list[OpenItem]:
    async with store.write() as connection:
        return list((await payments.candidates(connection, references, paying)).values())


async def only(store: Store, number: str) -> OpenItem:
    """Return the one item that an order number means, of a customer with no other."""
    [item] = await candidates(store, Reference(ORDER_NUMBER, number))
    return item


async def settle(
    store: Store, payment_id: int, item: OpenItem, *, outcome: Outcome = Outcome.EXACT
) -> list[tuple[int, str]]:
    """Record that a payment settles an item, as matching does; return the payments to be tried again."""
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
        return await record_match(connection, payment, match, [], now=NOW)


async def leave(store: Store, payment_id: int, outcome: Outcome, *references: Reference) -> None:
    """Record that a payment settles nothing so far."""
    match = Match(outcome=outcome, policy=Policy.OPERATOR, reason="names no order", surplus=NOTHING)
    payment = await loaded(store, payment_id)
    async with store.write() as connection:
        await record_match(connection, payment, match, references, now=NOW)


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
    await place(store, "1043", customer_number="8", references=frozenset({(ORDER_NUMBER, "1043"), (SYMBOL, "78")}))

    [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"), Reference(SYMBOL, "77"), Reference(SYMBOL, "9"))

    assert (item.order_id, item.number, item.channel, item.status) == (order, "1042", "shop", Status.AWAITING_PAYMENT)
    assert (item.amount, item.open) == (Money(45_000, "EUR"), Money(45_000, "EUR"))
    assert item.references == names | {payer()}
    assert (item.customer_name, item.customer_number, item.group) == ("Jan Novák", "7", None)
    assert [item.customer] == await column(store, "SELECT customer_id FROM orders WHERE id = :id", id=order)
    assert await candidates(store, Reference(ORDER_NUMBER, "77")) == []


async def test_a_known_payer_account_means_the_items_of_its_owner(store: Store) -> None:
    order = await place(store, customer_number="7", accounts=("CZ65",))
    another = await place(store, customer_number="7")
    await place(store, customer_number="8", accounts=("CZ66",))

    items = await candidates(store, Reference(ACCOUNT, "CZ65"))

    assert [item.order_id for item in items] == [order, another]
    assert all((ACCOUNT, "CZ65") in item.references for item in items)


async def _place_for(store: Store, customer: str, count: int) -> list[int]:
    """Store orders of one customer in one transaction."""
    async with store.write() as connection:
        made = [
            await orders.add(connection, new_order(customer_number=customer, accounts=("CZ65",)), now=NOW, actor=WORKER)
            for _ in range(count)
        ]
    return [order_id for order_id in made if order_id is not None]


async def test_an_old_order_that_is_open_is_seen_behind_hundreds_of_newer_ones_that_are_not(store: Store) -> None:
    [old, *closed] = await _place_for(store, "7", 251)
    async with store.write() as connection:
        await connection.execute(update(OrderRow).where(OrderRow.id.in_(closed)).values(standard_status="cancelled"))

    [item] = await candidates(store, Reference(ACCOUNT, "CZ65"))

    assert item.order_id == old
    assert not item.crowded


async def test_of_a_customer_with_too_many_open_orders_no_sum_is_taken_for_the_only_one(store: Store) -> None:
    await _place_for(store, "7", 200)
    assert not any(item.crowded for item in await candidates(store, Reference(ACCOUNT, "CZ65")))
    await _place_for(store, "7", 1)

    items = await candidates(store, Reference(ACCOUNT, "CZ65"))

    assert len(items) == 200
    assert all(item.crowded for item in items)
    assert exact_sets(items[0].open.minor, items[:1]) == []


async def test_of_a_group_with_too_many_open_orders_no_sum_is_taken_for_the_only_one(store: Store) -> None:
    await place(store, customer_number="1", group="holding", accounts=("CZ66",))
    for customer in range(2, 202):
        await place(store, customer_number=str(customer), group="holding")

    items = await candidates(store, Reference(GROUP_ACCOUNT, "CZ66"), paying=[("shop", "holding")])

    assert all(item.crowded for item in items)


async def test_an_account_known_to_two_customers_proves_nothing(store: Store) -> None:
    named = frozenset({(ORDER_NUMBER, "1042")})
    await place(store, "1042", customer_number="7", accounts=("CZ65",), references=named)
    await place(store, "1043", customer_number="8", accounts=("CZ65",))

    [item] = await candidates(store, Reference(ACCOUNT, "CZ65"), Reference(ORDER_NUMBER, "1042"))

    assert item.number == "1042"
    assert item.references == named | {payer()}


def numbers(items: list[OpenItem]) -> list[str]:
    return [item.number for item in items]


async def test_the_open_items_of_whoever_owes_what_is_named_come_with_it(store: Store) -> None:
    for number in ("1042", "1043", "1044", "1045"):
        await place(store, number, customer_number="7", references=frozenset({(ORDER_NUMBER, number)}))
    await place(store, "1046", customer_number="8")
    [paid] = [each for each in await candidates(store, Reference(ORDER_NUMBER, "1043")) if each.number == "1043"]
    await settle(store, await receive(store), paid)
    await change(store, "UPDATE orders SET standard_status = 'cancelled' WHERE number = '1044'")

    named = await candidates(store, Reference(ORDER_NUMBER, "1042"))
    settled = await candidates(store, Reference(ORDER_NUMBER, "1043"))

    assert numbers(named) == ["1042", "1045"]
    assert len({item.customer for item in named}) == 1
    # What is named is there whatever its state: that it is paid is what has to be told.
    assert numbers(settled) == ["1042", "1043", "1045"]


async def test_a_name_and_amount_find_the_items_they_fit_and_no_others_of_these_customers(store: Store) -> None:
    await place(store, "1042", customer_number="7")
    await place(store, "1043", customer_number="7", total=Money(45_001, "EUR"))
    await place(store, "1044", customer_number="8", customer_name="NOVAK JAN")
    await place(store, "1045", customer_number="9", customer_name="Eva Nová")

    assert numbers(await candidates(store, Reference(*payer("Novák, Jan")))) == ["1042", "1044"]


async def test_the_account_of_a_company_means_the_items_of_its_group_as_such(store: Store) -> None:
    await place(store, "1042", customer_number="7", group="holding", accounts=("CZ65",))
    await place(store, "1043", customer_number="8", group="holding")
    await place(store, "1044", customer_number="9", group="other")
    await place(store, "1045", customer_number="10")
    await place(store, "1046", channel="outlet", customer_number="8", group="holding")

    items = await candidates(store, Reference(ACCOUNT, "CZ65"), Reference(GROUP_ACCOUNT, "CZ65"))

    assert {item.number: item.references - {payer()} for item in items} == {
        "1042": {(ACCOUNT, "CZ65")},
        "1043": {(GROUP_ACCOUNT, "CZ65")},
    }
    assert {item.group for item in items} == {"holding"}


async def test_a_group_that_is_no_paying_one_says_nothing_about_who_pays(store: Store) -> None:
    await place(store, "1042", customer_number="7", group="retail", accounts=("CZ65",))
    await place(store, "1043", customer_number="8", group="retail")

    items = await candidates(store, Reference(ACCOUNT, "CZ65"), Reference(GROUP_ACCOUNT, "CZ65"))

    assert numbers(items) == ["1042"]


async def test_customers_without_a_group_are_no_group(store: Store) -> None:
    for customer, group in (("7", None), ("8", None), ("9", ""), ("10", "")):
        await place(store, f"104{customer}", customer_number=customer, group=group, accounts=(f"CZ{customer}",))

    for customer in ("7", "9"):
        items = await candidates(store, Reference(ACCOUNT, f"CZ{customer}"), Reference(GROUP_ACCOUNT, f"CZ{customer}"))
        assert numbers(items) == [f"104{customer}"]


@pytest.mark.parametrize("kind", [ACCOUNT, ORDER_NUMBER, NAME])
async def test_of_a_customer_with_very_many_items_the_newest_are_looked_at(store: Store, kind: EvidenceKind) -> None:
    async with store.write() as connection:
        for number in range(210):
            names = frozenset({(ORDER_NUMBER, str(number))})
            order = new_order(str(number), accounts=("CZ65",), references=names)
            assert await orders.add(connection, order, now=NOW, actor=WORKER)
    named = {ACCOUNT: "CZ65", ORDER_NUMBER: "3", NAME: payer()[1]}

    items = await candidates(store, Reference(kind, named[kind]))

    newest = [str(number) for number in range(10, 210)]
    assert numbers(items) == (["3", *newest] if kind is ORDER_NUMBER else newest)


async def test_what_was_stored_first_or_last_changes_no_candidate(store: Store) -> None:
    names = [Reference(ORDER_NUMBER, "1"), Reference(SYMBOL, "2"), Reference(ACCOUNT, "CZ65"), Reference(*payer())]
    await place(store, "A", customer_number="7", references=frozenset({(ORDER_NUMBER, "1")}), accounts=("CZ65",))
    await place(store, "B", customer_number="8", references=frozenset({(SYMBOL, "2")}))
    await place(store, "C", customer_number="7", total=Money(5, "EUR"))

    expected = await candidates(store, *names)

    assert numbers(expected) == ["A", "B", "C"]
    assert [await candidates(store, *names[place_:], *names[:place_]) for place_ in range(4)] == [expected] * 4


async def test_a_match_is_recorded_with_its_allocations_and_evidence(store: Store) -> None:
    order = await place(store, "1042", references=frozenset({(ORDER_NUMBER, "1042")}))
    [item] = await candidates(store, Reference(ORDER_NUMBER, "1042"))
    payment = await receive(store, minor=50_000)

    await settle(store, payment, item, outcome=Outcome.OVER)

    async with store.read() as connection:
        [part] = (await payments.allocated(connection, [payment]))[payment]
        decided = await payments.decided(connection, [payment])
        [listed] = await payments.listing(connection, order_id=order)
        assert await payments.last_amounts(connection, [order]) == {order: 45_000}
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
        assert await payments.last_amounts(connection, [order]) == {}
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


async def test_an_order_wakes_the_payments_that_name_it_or_come_from_its_customer_or_of_his_group(store: Store) -> None:
    await place(store, "1000", customer_number="8", group="holding", accounts=("CZ66",))
    await place(store, "1001", customer_number="9", accounts=("CZ67",))
    named = {
        "by its number": Reference(ORDER_NUMBER, "1042"),
        "by its customer's name": Reference(*payer()),
        "by his account": Reference(ACCOUNT, "CZ65"),
        "by an account of his group": Reference(GROUP_ACCOUNT, "CZ66"),
        "by another's account": Reference(ACCOUNT, "CZ67"),
        "by another name": Reference(*payer("Eva Nová")),
    }
    ids: dict[str, int] = {}
    for external_id, reference in named.items():
        ids[external_id] = await receive(store, external_id)
        await leave(store, ids[external_id], Outcome.UNKNOWN, reference)
    names = frozenset({(ORDER_NUMBER, "1042")})
    order = await place(store, "1042", group="holding", accounts=("CZ65",), references=names)

    async with store.write() as connection:
        found = await payments.waiting_for_orders(connection, [order])

    assert [id_ for id_, _ in found] == [ids[external_id] for external_id in list(named)[:4]]


async def test_customers_of_one_group_who_order_at_once_are_others_of_the_group_to_each_other(store: Store) -> None:
    ids: list[int] = []
    for account in ("CZ65", "CZ66"):
        ids.append(await receive(store, account))
        await leave(store, ids[-1], Outcome.UNKNOWN, Reference(GROUP_ACCOUNT, account))
    one = await place(store, customer_number="8", group="holding", accounts=("CZ65",))
    other = await place(store, customer_number="9", group="holding", accounts=("CZ66",))

    async with store.write() as connection:
        found = [await payments.waiting_for_orders(connection, orders_) for orders_ in ([one, other], [one], [other])]

    assert [[id_ for id_, _ in some] for some in found] == [ids, [ids[1]], [ids[0]]]


async def test_a_payment_that_was_decided_waits_for_nothing(store: Store) -> None:
    unknown, ambiguous, abroad, late = [await receive(store, f"E{number}") for number in range(4)]
    for payment, outcome in (
        (unknown, Outcome.UNKNOWN),
        (ambiguous, Outcome.AMBIGUOUS),
        (abroad, Outcome.WRONG_CURRENCY),
        (late, Outcome.LATE),
    ):
        await leave(store, payment, outcome, Reference(ORDER_NUMBER, "1042"))

    async def unmatched() -> list[int]:
        async with store.read() as connection:
            return [one.id for one in await payments.unmatched(connection)]

    assert await unmatched() == [unknown, ambiguous, abroad]
    assert await waiting(store, ORDER_NUMBER, "1042") == [(id_, "bank_transfer") for id_ in (unknown, ambiguous)]
    async with store.write() as connection:
        await payments.waits_no_more(connection, unknown)
    assert await unmatched() == [ambiguous, abroad]
    assert await waiting(store, ORDER_NUMBER, "1042") == [(ambiguous, "bank_transfer")]


async def test_a_payment_between_two_items_is_worth_another_try_when_one_is_settled(store: Store) -> None:
    for number in ("1042", "1043", "1044"):
        await place(store, number, customer_number=number, references=frozenset({(ORDER_NUMBER, number)}))
    first, second, third = [await only(store, number) for number in ("1042", "1043", "1044")]
    between = await receive(store, "E1")
    evidence = (Evidence(ORDER_NUMBER, "the order number"),)
    undecided = Match(
        outcome=Outcome.AMBIGUOUS,
        policy=Policy.OPERATOR,
        reason="it could be for two",
        surplus=NOTHING,
        candidates=(Candidate(first, evidence), Candidate(second, evidence)),
    )
    payment = await loaded(store, between)
    async with store.write() as connection:
        assert await record_match(connection, payment, undecided, [], now=NOW) == []

    assert await settle(store, await receive(store, "E2"), third) == []
    assert await settle(store, await receive(store, "E3"), second) == [(between, "bank_transfer")]


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
        await record_match(connection, payment, unknown, [named], now=NOW)

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
            await record_match(connection, payment, found, [], now=NOW)
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


# Another currency than the order's.


async def converted(store: Store, number: str = "1042") -> tuple[int, int, OpenItem]:
    """Settle an order over 450.00 EUR with a payment of 11 200.00 CZK; return the order, the payment and the item."""
    order = await place(store, number, references=frozenset({(ORDER_NUMBER, number)}))
    item = await only(store, number)
    payment_id = await receive(store, f"E{number}", 1_120_000, currency="CZK", provider_reference="pi_1")
    part = Part(item, Money(44_800, "EUR"), Money(200, "EUR"), completes=True, taken=Money(1_120_000, "CZK"))
    evidence = (Evidence(ORDER_NUMBER, f"the order number {number}"),)
    match = Match(
        outcome=Outcome.WITHIN_TOLERANCE,
        policy=Policy.RELEASE,
        reason="converted",
        parts=(part,),
        surplus=Money(0, "CZK"),
        candidates=(Candidate(item, evidence),),
    )
    async with store.write() as connection:
        payment = (await payments.load(connection, [payment_id]))[payment_id]
        await record_match(connection, payment, match, [], now=NOW)
    return order, payment_id, item


async def test_what_a_converted_payment_takes_of_itself_is_kept_beside_what_that_is_worth(store: Store) -> None:
    order, payment, _ = await converted(store)

    async with store.read() as connection:
        [part] = (await payments.allocated(connection, [payment]))[payment]
        assert await audit(connection, now=NOW) == []
    assert (part["amount_minor"], part["write_off_minor"], part["currency"]) == (44_800, 200, "EUR")
    assert part["taken_minor"] == 1_120_000
    assert (await load(store, order)).settled == Money(45_000, "EUR")
    assert (await only(store, "1042")).open == NOTHING


async def test_what_went_back_of_a_converted_payment_is_never_taken_for_the_orders_currency(store: Store) -> None:
    _, payment, _ = await converted(store)
    movement = incoming("R1", -1_000, currency="CZK", provider_reference="pi_1", kind=Kind.REFUND)
    [(back, _)] = await add(store, movement)

    async with store.write() as connection:
        origin = await payments.origin_of(connection, (await payments.load(connection, [back]))[back])

    assert origin is not None
    assert (origin.ids, origin.unapplied, origin.kept) == ((payment,), Money(0, "CZK"), ())
    assert origin.converted == ("1042",)
