"""Memory: a match teaches whose account it was paid from; taken back it has taught nothing, and two owners neither."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from store_builders import NOW, WORKER, column, new_order, place, receive, record_match

from domain.allocation import OpenItem, split
from domain.matching import Candidate, Evidence, Match, Reference
from domain.money import Money
from domain.payments import Kind, Method, Outcome
from domain.rules import EvidenceKind, Policy
from store import orders, payments, reverts
from store.database import Store

NUMBER, ACCOUNT, NAME = EvidenceKind.ORDER_NUMBER, EvidenceKind.PAYER_ACCOUNT, EvidenceKind.PAYER_NAME
GROUP_ACCOUNT = EvidenceKind.GROUP_ACCOUNT
NOTHING = Money(0, "EUR")
IBAN = "CZ6508000000192000145399"


async def ordered(store: Store, number: str, customer: str = "7", **fields: Any) -> OpenItem:
    """Store an order of a customer and return its item."""
    await place(store, number, customer_number=customer, references=frozenset({(NUMBER, number)}), **fields)
    async with store.write() as connection:
        items = await payments.candidates(connection, [Reference(NUMBER, number)])
    [item] = [item for item in items.values() if item.number == number]
    return item


async def match(
    store: Store,
    *items: OpenItem,
    outcome: Outcome = Outcome.EXACT,
    evidence: Sequence[Evidence] = (Evidence(NUMBER, "the order number"),),
    **told: Any,
) -> tuple[int, list[tuple[int, str]]]:
    """Let a payment from an account settle items; return it, and the payments to be tried again."""
    number = len(await column(store, "SELECT id FROM payments"))
    told = {"payer_account": IBAN, **told}
    minor = sum(item.open.minor for item in items)
    payment_id = await receive(store, f"E{number}", minor, **told)
    found = Match(
        outcome=outcome,
        policy=Policy.RELEASE,
        reason="exact",
        parts=tuple(split(item.open, item, NOTHING)[0] for item in items),
        surplus=NOTHING,
        candidates=tuple(Candidate(item, tuple(evidence)) for item in items),
    )
    async with store.write() as connection:
        payment = (await payments.load(connection, [payment_id]))[payment_id]
        return payment_id, await record_match(connection, payment, found, [], now=NOW)


async def known_for(store: Store, account: str = IBAN) -> list[str]:
    """Return the numbers of the open items that an account alone means."""
    async with store.write() as connection:
        items = await payments.candidates(connection, [Reference(ACCOUNT, account)])
    assert all((ACCOUNT, account) in item.references for item in items.values())
    return sorted(item.number for item in items.values())


async def take_back(store: Store, item: OpenItem) -> None:
    """Take the payments off an item's order."""
    assert item.order_id is not None
    async with store.write() as connection:
        id_ = await reverts.begin(connection, item.order_id, author="eva", reason="wrong", force=True, now=NOW)
        wish = (await reverts.wishes(connection, [id_]))[id_]
        assert await reverts.release(connection, wish, actor=WORKER, now=NOW) is None


async def test_a_match_teaches_from_which_account_the_customer_pays(store: Store) -> None:
    first = await ordered(store, "1")
    await ordered(store, "2")
    await ordered(store, "3", "8")

    await match(store, first)

    assert await known_for(store) == ["2"]


@pytest.mark.parametrize("outcome", [Outcome.SHORT, Outcome.OVER])
async def test_an_amount_that_does_not_confirm_it_teaches_nothing(store: Store, outcome: Outcome) -> None:
    await match(store, await ordered(store, "1"), outcome=outcome)
    await ordered(store, "2")

    assert await known_for(store) == []


@pytest.mark.parametrize(
    "evidence",
    [
        (),
        (Evidence(ACCOUNT, "the payer's known account"),),
        (Evidence(GROUP_ACCOUNT, "the account of a company of its group"),),
        (Evidence(NAME, "the payer's name"),),
        (Evidence(NUMBER, "the order number, if the text is read so", sure=False),),
    ],
)
async def test_what_was_not_named_for_sure_teaches_nothing(store: Store, evidence: tuple[Evidence, ...]) -> None:
    await match(store, await ordered(store, "1"), evidence=evidence)
    await ordered(store, "2")

    assert await known_for(store) == []


@pytest.mark.parametrize(
    "told",
    [
        {"method": Method.CARD},
        {"method": Method.CASH_ON_DELIVERY},
        {"payer_account": "19-2000145399"},
        {"payer_account": "X" * 65},
        {"payer_account": None},
        {"kind": Kind.RETURN},
    ],
)
async def test_an_account_that_is_no_customers_own_is_never_learnt(store: Store, told: dict[str, Any]) -> None:
    await match(store, await ordered(store, "1"), **told)

    assert await column(store, "SELECT account FROM payer_accounts") == []


async def test_who_pays_for_two_customers_at_once_is_neither(store: Store) -> None:
    await match(store, await ordered(store, "1", "7"), await ordered(store, "2", "8"))

    assert await column(store, "SELECT account FROM payer_accounts") == []


async def test_an_account_seen_with_two_customers_proves_nothing_of_either(store: Store) -> None:
    mine, hers = await ordered(store, "1", "7"), await ordered(store, "2", "8")
    await ordered(store, "3", "7")
    await ordered(store, "4", "8")

    await match(store, mine)
    assert await known_for(store) == ["3"]
    await match(store, hers)
    assert await known_for(store) == []

    # Once one of the two was a mistake, it is known again whose it is.
    await take_back(store, hers)
    assert await known_for(store) == ["3"]


async def test_a_customer_of_one_channel_is_not_known_in_another(store: Store) -> None:
    await match(store, await ordered(store, "1", "7"))
    await ordered(store, "2", "7", channel="outlet")
    await ordered(store, "3", "7")

    assert await known_for(store) == ["3"]


async def test_a_payment_that_is_taken_back_has_taught_nothing(store: Store) -> None:
    item = await ordered(store, "1")
    await ordered(store, "2")
    await match(store, item)
    assert await known_for(store) == ["2"]

    await take_back(store, item)
    assert await known_for(store) == []

    later, _ = await match(store, item)
    assert await known_for(store) == ["2"]
    assert await column(store, "SELECT payment_id FROM payer_accounts") == [later]


async def test_what_was_taught_again_keeps_its_first_teacher(store: Store) -> None:
    first, _ = await match(store, await ordered(store, "1"))
    await match(store, await ordered(store, "2"))

    assert await column(store, "SELECT payment_id FROM payer_accounts") == [first]


async def test_what_the_shop_tells_counts_whatever_becomes_of_the_payment_that_taught_it_too(store: Store) -> None:
    item = await ordered(store, "1")
    await match(store, item)
    await ordered(store, "2", accounts=(IBAN,))
    await take_back(store, item)

    assert await known_for(store) == ["1", "2"]
    assert await column(store, "SELECT payment_id FROM payer_accounts") == [None]


async def test_what_is_learnt_wakes_the_payments_from_that_account(store: Store) -> None:
    waits = await receive(store, "W", 45_000, payer_account=IBAN)
    unknown = Match(outcome=Outcome.UNKNOWN, policy=Policy.OPERATOR, reason="names no order", surplus=NOTHING)
    async with store.write() as connection:
        payment = (await payments.load(connection, [waits]))[waits]
        await record_match(connection, payment, unknown, [Reference(ACCOUNT, IBAN)], now=NOW)

    _, again = await match(store, await ordered(store, "1"))
    assert again == [(waits, "bank_transfer")]
    _, again = await match(store, await ordered(store, "2"))
    assert again == []  # nothing new was learnt


async def test_two_matchings_at_once_do_not_miss_what_the_other_learns(store: Store, other: Store) -> None:
    item = await ordered(store, "1")
    taught, waits = (await receive(store, "T", payer_account=IBAN), await receive(store, "W", payer_account=IBAN))
    exact = Match(
        outcome=Outcome.EXACT,
        policy=Policy.RELEASE,
        reason="exact",
        parts=(split(item.open, item, NOTHING)[0],),
        surplus=NOTHING,
        candidates=(Candidate(item, (Evidence(NUMBER, "the order number"),)),),
    )
    unknown = Match(outcome=Outcome.UNKNOWN, policy=Policy.OPERATOR, reason="names no order", surplus=NOTHING)
    from_account = Reference(ACCOUNT, IBAN)

    async def teaches() -> list[tuple[int, str]]:
        async with other.write() as connection:
            payment = (await payments.load(connection, [taught]))[taught]
            await payments.candidates(connection, [Reference(NUMBER, "1"), from_account])
            return await record_match(connection, payment, exact, [from_account], now=NOW)

    async with store.write() as connection:
        payment = (await payments.load(connection, [waits]))[waits]
        assert await payments.candidates(connection, [from_account]) == {}
        teaching = asyncio.create_task(teaches())
        await asyncio.wait({teaching}, timeout=0.5)  # long enough to pass by, were it not held up
        await record_match(connection, payment, unknown, [from_account], now=NOW)

    assert await teaching == [(waits, "bank_transfer")]


async def test_a_person_teaches_by_what_he_decides(store: Store) -> None:
    item = await ordered(store, "1")
    await ordered(store, "2")
    payment_id, _ = await match(store, item, evidence=())
    assert await known_for(store) == []

    async with store.write() as connection:
        payment = (await payments.load(connection, [payment_id]))[payment_id]
        assert isinstance(item.customer, int)
        assert await payments.teach(connection, payment, item.customer) == []

    assert await known_for(store) == ["2"]


async def test_an_order_that_tells_an_account_wakes_the_payments_from_it(store: Store) -> None:
    waits = await receive(store, "W", payer_account=IBAN)
    unknown = Match(outcome=Outcome.UNKNOWN, policy=Policy.OPERATOR, reason="names no order", surplus=NOTHING)
    async with store.write() as connection:
        payment = (await payments.load(connection, [waits]))[waits]
        await record_match(connection, payment, unknown, [Reference(ACCOUNT, IBAN)], now=NOW)

        order_id = await orders.add(connection, new_order("9", accounts=(IBAN,)), now=NOW, actor=WORKER)
        assert order_id is not None
        assert await payments.waiting_for_orders(connection, [order_id]) == [(waits, "bank_transfer")]
