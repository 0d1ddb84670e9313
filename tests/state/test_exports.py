"""Exports: an order is given until the system says that it took it, again when it has changed, and never unasked."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from store_builders import NOW, WORKER, column, place

from domain.orders import Status
from store import exports, journal, orders
from store.database import Store
from store.exports import Candidate

STATUSES = ("paid", "dispatched")


async def paid(store: Store, number: str, **fields: Any) -> int:
    return await place(store, number, status="paid", standard_status=Status.PAID, **fields)


async def happens(store: Store, order_id: int) -> None:
    async with store.write() as connection:
        entry = journal.entry(WORKER, at=NOW, step="revise", move="done", order_id=order_id)
        await journal.append(connection, [entry])


async def candidates(store: Store, system: str = "onec", **choice: Any) -> list[Candidate]:
    since = NOW - timedelta(days=1)
    values: dict[str, Any] = {"channels": ["shop"], "statuses": STATUSES, "since": since, "after": 0, "limit": 100}
    async with store.read() as connection:
        return await exports.candidates(connection, system, **(values | choice))


async def query(store: Store, session: str, said: str = "hash", *, system: str = "onec") -> list[int]:
    """Give a session what is to be exported, and return which orders that is."""
    found = await candidates(store, system)
    async with store.write() as connection:
        await exports.begin(connection, system, session)
        await exports.seen(connection, system, [one for one in found if one.exported == said])
        changed = [one for one in found if one.exported != said]
        await exports.offer(connection, system, session, [(one, said) for one in changed])
    return [one.order_id for one in changed]


async def confirm(store: Store, session: str, *, system: str = "onec") -> int:
    async with store.write() as connection:
        return await exports.confirm(connection, system, session, now=NOW)


async def test_an_order_is_given_until_the_system_says_that_it_took_it(store: Store) -> None:
    order_id = await paid(store, "1")

    assert await query(store, "a") == [order_id]
    assert await query(store, "a") == [order_id]
    assert await query(store, "b") == [order_id]
    assert await confirm(store, "b") == 1
    assert await query(store, "c") == []


async def test_exactly_what_the_session_was_given_last_counts_as_taken(store: Store) -> None:
    await paid(store, "1")
    await query(store, "a")
    later = await paid(store, "2")

    assert await confirm(store, "a") == 1
    assert await query(store, "b") == [later]


async def test_a_session_that_was_given_nothing_confirms_nothing(store: Store) -> None:
    order_id = await paid(store, "1")
    await query(store, "a")

    assert await confirm(store, "b") == 0
    assert await query(store, "b") == [order_id]


async def test_what_another_session_was_given_since_is_confirmed_by_that_one_alone(store: Store) -> None:
    order_id = await paid(store, "1")
    await query(store, "a")
    await query(store, "b")

    assert await confirm(store, "a") == 0
    assert await query(store, "c") == [order_id]
    assert await confirm(store, "c") == 1


async def test_a_confirmation_that_is_repeated_changes_nothing(store: Store) -> None:
    await paid(store, "1")
    await query(store, "a")

    assert [await confirm(store, "a"), await confirm(store, "a")] == [1, 0]


async def test_an_order_is_given_again_when_it_has_changed_and_only_then(store: Store) -> None:
    order_id = await paid(store, "1")
    await query(store, "a")
    await confirm(store, "a")

    await happens(store, order_id)
    assert await query(store, "b", "hash") == []
    assert await candidates(store) == []

    await happens(store, order_id)
    assert await query(store, "c", "another hash") == [order_id]


async def test_what_changes_between_the_query_and_the_confirmation_is_given_again(store: Store) -> None:
    order_id = await paid(store, "1")
    await query(store, "a", "before")
    await happens(store, order_id)
    await confirm(store, "a")

    assert await query(store, "b", "after") == [order_id]


async def test_an_order_that_was_taken_is_told_on_whatever_its_status_becomes(store: Store) -> None:
    taken = await paid(store, "1")
    await query(store, "a")
    await confirm(store, "a")
    never_taken = await paid(store, "2")
    for order_id in (taken, never_taken):
        async with store.write() as connection:
            await orders.set_status(
                connection,
                order_id,
                after="cancelled",
                standard=Status.CANCELLED,
                reason="test",
                actor=WORKER,
                now=NOW,
            )
        await happens(store, order_id)

    assert await query(store, "b", "cancelled") == [taken]


@pytest.mark.parametrize(
    "fields",
    [{"status": "new", "standard_status": Status.NEW}, {"channel": "other"}, {"placed_at": NOW - timedelta(days=2)}],
    ids=["in another status", "of another channel", "long ago"],
)
async def test_other_orders_are_not_given(store: Store, fields: dict[str, Any]) -> None:
    await place(store, "1", **({"status": "paid", "standard_status": Status.PAID} | fields))

    assert await candidates(store) == []


async def test_a_standard_status_stands_for_the_channels_own_that_mean_it(store: Store) -> None:
    order_id = await place(store, "1", status="sent_off", standard_status=Status.DISPATCHED)

    assert [one.order_id for one in await candidates(store)] == [order_id]
    assert [one.order_id for one in await candidates(store, statuses=["sent_off"])] == [order_id]


async def test_each_system_takes_orders_for_itself(store: Store) -> None:
    order_id = await paid(store, "1")
    await query(store, "a")
    await confirm(store, "a")

    assert await query(store, "a", system="another") == [order_id]


async def test_many_orders_are_chosen_piece_by_piece(store: Store) -> None:
    ids = [await paid(store, str(number)) for number in range(1, 6)]

    first = await candidates(store, limit=2)
    rest = await candidates(store, after=first[-1].order_id)

    assert [one.order_id for one in (*first, *rest)] == ids


async def test_an_export_stands_in_the_orders_journal(store: Store) -> None:
    order_id = await paid(store, "1")
    await query(store, "a")
    await confirm(store, "a")

    async with store.read() as connection:
        (row,) = await journal.of_order(connection, order_id)
    assert (row["step"], row["move"], row["actor"], row["reason"]) == ("export", "done", "onec", "onec took it")


async def test_ten_confirmations_at_once_are_one(store: Store, other: Store) -> None:
    await paid(store, "1")
    await query(store, "a")

    counted = await asyncio.gather(*(confirm(through, "a") for _ in range(5) for through in (store, other)))

    assert sorted(counted) == [0] * 9 + [1]
    assert await column(store, "SELECT count(*) FROM journal") == [1]
