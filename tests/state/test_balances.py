"""Balances: money of customers that settles no order, each payment's once, and nothing edited away."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.exc import IntegrityError
from store_builders import MINUTE, NOW, WORKER, change, column, place, receive

from domain.money import Money
from domain.payments import Kind
from domain.rules import Policy
from store import balances, payments
from store.audit import audit
from store.balances import Entry
from store.database import Store
from store.journal import verify


async def customer(store: Store, number: str = "7") -> int:
    await place(store, customer_number=number)
    [id_] = await column(store, "SELECT id FROM customers WHERE number = :number", number=number)
    return id_


async def credit(
    store: Store, customer_id: int, minor: int, payment_id: int | None = None, currency: str = "EUR"
) -> int:
    async with store.write() as connection:
        return await balances.add(
            connection,
            customer_id,
            Money(minor, currency),
            payment_id=payment_id,
            reason="paid twice",
            actor=WORKER,
            now=NOW,
        )


async def reverse(store: Store, entry_id: int) -> bool:
    async with store.write() as connection:
        return await balances.reverse(connection, entry_id, reason="a mistake", actor=WORKER, now=NOW + MINUTE)


async def keep(store: Store, minor: int, *payment_ids: int, reason: str = "it went back") -> list[Entry]:
    async with store.write() as connection:
        return await balances.keep(connection, payment_ids, minor, reason=reason, actor=WORKER, now=NOW)


async def balance(store: Store, customer_id: int, currency: str = "EUR") -> int:
    async with store.read() as connection:
        return (await balances.balance(connection, customer_id, currency)).minor


async def mark(store: Store, payment_id: int, policy: Policy, surplus: int = 0) -> None:
    await change(
        store,
        "UPDATE payments SET policy = :policy, outcome = 'duplicate', reason = 'why', surplus_minor = :surplus"
        " WHERE id = :id",
        policy=policy.value,
        surplus=surplus,
        id=payment_id,
    )


async def test_a_balance_is_the_sum_of_its_entries_in_each_currency(store: Store) -> None:
    mine, hers = await customer(store, "7"), await customer(store, "8")
    await credit(store, mine, 10_000)
    await credit(store, mine, -2_500)
    await credit(store, mine, 777, currency="CZK")
    await credit(store, hers, 10**15)
    await credit(store, hers, 1)

    assert await balance(store, mine) == 7_500
    assert await balance(store, mine, "CZK") == 777
    assert await balance(store, mine, "RON") == 0
    assert await balance(store, hers) == 10**15 + 1


async def test_an_entry_tells_whose_money_it_is_of_which_payment_and_why(store: Store) -> None:
    mine, payment = await customer(store), await receive(store)
    entry_id = await credit(store, mine, 45_000, payment)

    async with store.read() as connection:
        entry = await balances.of_payment(connection, payment)
        assert await balances.of_customer(connection, mine) == [entry]
        assert await verify(connection) == []
    assert entry == Entry(
        id=entry_id,
        customer_id=mine,
        amount=Money(45_000, "EUR"),
        payment_id=payment,
        reverses_id=None,
        reversed=False,
        reason="paid twice",
        actor="worker 1",
        at=NOW,
    )
    assert await column(store, "SELECT move FROM journal WHERE payment_id = :id", id=payment) == ["credited"]


async def test_nothing_is_no_entry(store: Store) -> None:
    mine = await customer(store)
    with pytest.raises(ValueError, match="an entry of nothing"):
        await credit(store, mine, 0)


async def test_a_payment_is_credited_once_however_often_that_is_asked(store: Store, other: Store) -> None:
    mine, payment = await customer(store), await receive(store)

    came = await asyncio.gather(
        *(credit(through, mine, 45_000, payment) for through in (store, other, store)), return_exceptions=True
    )

    assert sorted(type(one).__name__ for one in came) == [IntegrityError.__name__] * 2 + ["int"]
    assert await balance(store, mine) == 45_000


async def test_an_entry_is_taken_back_by_one_of_its_own_and_once(store: Store, other: Store) -> None:
    mine, payment = await customer(store), await receive(store)
    entry = await credit(store, mine, 45_000, payment)

    assert sorted(await asyncio.gather(*(reverse(through, entry) for through in (store, other, store)))) == [
        False,
        False,
        True,
    ]

    assert await balance(store, mine) == 0
    async with store.read() as connection:
        first, back = await balances.of_customer(connection, mine)
        assert await balances.of_payment(connection, payment) is None
    assert (first.id, first.amount.minor, first.reversed) == (entry, 45_000, True)
    assert (back.reverses_id, back.amount.minor, back.payment_id, back.reversed) == (entry, -45_000, payment, False)
    assert await reverse(store, back.id) is False  # what takes back is not taken back itself
    assert await column(store, "SELECT move FROM journal WHERE payment_id = :id ORDER BY id", id=payment) == [
        "credited",
        "taken back",
    ]

    await credit(store, mine, 40_000, payment)  # a payment set free may be credited again
    assert await balance(store, mine) == 40_000


async def test_what_went_back_of_payments_is_taken_off_the_last_credit_first(store: Store) -> None:
    mine = await customer(store)
    first, second = await receive(store, "E1"), await receive(store, "E2")
    await credit(store, mine, 10_000, first)
    await credit(store, mine, 5_000, second)

    assert await keep(store, 15_000, first, second) == []
    taken = await keep(store, 12_000, first, second)

    assert [(one.payment_id, one.amount.minor) for one in taken] == [(second, -5_000)]
    assert await balance(store, mine) == 12_000
    # Told again, it takes nothing more and says the same.
    assert await keep(store, 12_000, first, second) == taken
    assert await keep(store, -1, first, second, reason="the rest too") != []
    assert await balance(store, mine) == 0
    async with store.read() as connection:
        assert await balances.of_payments(connection, [first, second]) == {}


async def test_a_surplus_on_a_balance_is_no_longer_for_a_person_to_decide(store: Store) -> None:
    mine = await customer(store)
    left, on_balance, sent_back = [await receive(store, f"E{number}") for number in range(3)]
    for payment, policy in ((left, Policy.RELEASE), (on_balance, Policy.RELEASE), (sent_back, Policy.REFUND)):
        await mark(store, payment, policy, surplus=500)
    await credit(store, mine, 500, on_balance)

    async with store.read() as connection:
        by_id = await payments.by_ids(connection, [left, on_balance, sent_back])
        listed = {row["id"]: row for row in await payments.listing(connection)}

    assert [by_id[id_]["surplus_minor"] for id_ in (left, on_balance, sent_back)] == [500, 500, 500]
    assert [by_id[id_]["surplus_left_minor"] for id_ in (left, on_balance, sent_back)] == [500, 0, 0]
    assert [listed[id_]["surplus_left_minor"] for id_ in (left, on_balance, sent_back)] == [500, 0, 0]


async def test_what_is_to_be_sent_back_stays_listed_until_it_has_gone(store: Store) -> None:
    twice = await receive(store, "E1", 45_000, source="stripe", provider_reference="pi_1")
    kept = await receive(store, "E2", 45_000, source="stripe", provider_reference="pi_2")
    await mark(store, twice, Policy.REFUND)
    await mark(store, kept, Policy.BALANCE)

    async def to_send_back() -> list[tuple[int, int, str, str]]:
        async with store.read() as connection:
            rows = await payments.to_send_back(connection)
        return [(row["id"], row["amount_minor"], row["currency"], row["reason"]) for row in rows]

    assert await to_send_back() == [(twice, 45_000, "EUR", "why")]
    gone = {"source": "stripe", "provider_reference": "pi_1", "kind": Kind.REFUND}
    await receive(store, "R1", -20_000, **gone)
    assert await to_send_back() == [(twice, 25_000, "EUR", "why")]
    await receive(store, "R2", -25_000, **gone)
    assert await to_send_back() == []


async def test_the_audit_is_silent_about_what_is_credited_and_taken_back_rightly(store: Store) -> None:
    mine, payment = await customer(store), await receive(store)
    await credit(store, mine, 45_000, payment)
    await mark(store, payment, Policy.BALANCE)
    assert await findings(store) == []
    await keep(store, 20_000, payment)
    assert await findings(store) == []
    await keep(store, 0, payment, reason="the rest too")
    assert await findings(store) == []


async def findings(store: Store) -> list[tuple[str, str]]:
    async with store.read() as connection:
        return [(found.invariant, found.said) for found in await audit(connection, now=NOW)]


@pytest.mark.parametrize(
    ("broken", "invariant", "said"),
    [
        (
            "UPDATE balance_entries SET amount_minor = 45001",
            "what is on a balance came with its payment",
            "of its 450.00 EUR, 0.00 EUR is allocated and 450.01 EUR is on a balance",
        ),
        (
            "UPDATE balance_entries SET currency = 'CZK'",
            "what is on a balance came with its payment",
            "of its 450.00 EUR, 0.00 EUR is allocated and 450.00 CZK is on a balance",
        ),
        (
            "UPDATE balance_entries SET reversed = true",
            "an entry of a balance is taken back once and whole",
            "is marked as taken back, and 0 entries take it back, not one of its very amount",
        ),
        (
            "UPDATE payments SET policy = 'operator'",
            "a payment's outcome and its balance agree",
            "its outcome is duplicate (policy operator), yet it is on a balance",
        ),
        (
            "DELETE FROM balance_entries",
            "a payment's outcome and its balance agree",
            "its outcome is duplicate (policy balance), yet it was never put on a balance",
        ),
    ],
)
async def test_the_audit_tells_what_is_wrong_with_a_balance(
    store: Store, broken: str, invariant: str, said: str
) -> None:
    mine, payment = await customer(store), await receive(store)
    await credit(store, mine, 45_000, payment)
    await mark(store, payment, Policy.BALANCE)
    await change(store, broken)

    found = await findings(store)

    assert any(one == invariant and said in words for one, words in found), found


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE balance_entries SET amount_minor = -1 WHERE reverses_id IS NOT NULL",
        "UPDATE balance_entries SET currency = 'CZK' WHERE reverses_id IS NOT NULL",
        "UPDATE balance_entries SET reversed = false",
        "DELETE FROM balance_entries WHERE reverses_id IS NOT NULL",
    ],
)
async def test_the_audit_tells_of_an_entry_taken_back_by_halves(store: Store, broken: str) -> None:
    entry = await credit(store, await customer(store), 45_000)
    await reverse(store, entry)
    assert await findings(store) == []
    await change(store, broken)

    assert [invariant for invariant, _ in await findings(store)] == [
        "an entry of a balance is taken back once and whole"
    ]
