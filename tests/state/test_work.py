"""What is due: taken by one worker at a time, never forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from store_builders import MINUTE, NOW, column

from store import work
from store.database import Store
from store.work import Due

LEASE = MINUTE


async def add(store: Store, ids: Sequence[int], *, now: datetime = NOW, **how: Any) -> None:
    async with store.write() as connection:
        await work.add(connection, "card", "payment", ids, now=now, **how)


async def take(store: Store, *, owner: str = "one", now: datetime = NOW, limit: int = 100) -> list[Due]:
    async with store.write() as connection:
        return await work.take(connection, owner=owner, now=now, lease_until=now + LEASE, limit=limit)


async def finish(store: Store, id_: int, due_at: datetime | None = None, note: str | None = None) -> None:
    async with store.write() as connection:
        await work.finish(connection, "card", "payment", [(id_, due_at, note)], now=NOW)


async def give_back(store: Store, due: Sequence[Due], *, owner: str = "one", due_at: datetime | None = None) -> None:
    async with store.write() as connection:
        await work.give_back(connection, owner, [row.id for row in due], due_at=due_at)


def subjects(due: Sequence[Due]) -> list[int]:
    return [row.subject_id for row in due]


async def test_what_is_due_is_taken_the_longest_due_first_up_to_the_limit(store: Store) -> None:
    await add(store, [1], now=NOW)
    await add(store, [2, 3], now=NOW - MINUTE)
    await add(store, [4], now=NOW + MINUTE)

    assert subjects(await take(store, limit=2)) == [2, 3]
    assert subjects(await take(store)) == [1]
    assert subjects(await take(store)) == []


async def test_a_subject_is_once_in_each_scenario(store: Store) -> None:
    async with store.write() as connection:
        await work.add(connection, "card", "payment", [1, 1], now=NOW)
        await work.add(connection, "card", "order", [1], now=NOW)
        await work.add(connection, "bank_transfer", "payment", [1], now=NOW)

    taken = await take(store)

    assert {(due.scenario, due.subject) for due in taken} == {
        ("card", "payment"),
        ("card", "order"),
        ("bank_transfer", "payment"),
    }
    assert len(taken) == 3


async def test_workers_that_take_at_once_never_get_the_same(store: Store, other: Store) -> None:
    await add(store, range(1, 401))

    async def take_all(through: Store, owner: str) -> list[int]:
        taken: list[int] = []
        while some := await take(through, owner=owner, limit=7):
            taken += subjects(some)
        return taken

    by_worker = await asyncio.gather(*(take_all(s, f"{s}{n}") for n in range(3) for s in (store, other)))

    assert sorted(id_ for taken in by_worker for id_ in taken) == list(range(1, 401))


async def test_on_postgresql_nobody_waits_for_rows_that_another_is_taking(store: Store, other: Store) -> None:
    if store.is_sqlite:
        return
    await add(store, [1, 2, 3])

    async with store.write() as connection, asyncio.timeout(60):
        mine = await work.take(connection, owner="one", now=NOW, lease_until=NOW + LEASE, limit=2)
        theirs = await take(other, owner="two")

    assert (subjects(mine), subjects(theirs)) == ([1, 2], [3])


async def test_what_a_dead_worker_held_is_taken_when_its_lease_has_ended(store: Store) -> None:
    await add(store, [1])
    await take(store, owner="dead")

    assert await take(store, owner="two", now=NOW + LEASE - LEASE / 60) == []
    assert subjects(await take(store, owner="two", now=NOW + LEASE)) == [1]
    async with store.read() as connection:
        assert await work.attempts(connection, "card", "payment", [1]) == {1: 2}
        assert await work.holders(connection, NOW + LEASE) == {"two"}
        assert await work.holders(connection, NOW + 2 * LEASE) == set()


async def test_only_its_holder_renews_a_lease(store: Store) -> None:
    await add(store, [1])
    [held] = await take(store, owner="one")
    async with store.write() as connection:
        await work.renew(connection, "two", [held.id], NOW + 9 * LEASE)
    assert subjects(await take(store, owner="two", now=NOW + LEASE)) == [1]

    async with store.write() as connection:
        await work.renew(connection, "two", [held.id], NOW + 9 * LEASE)
    assert await take(store, owner="three", now=NOW + 8 * LEASE) == []


async def test_what_is_finished_is_not_taken_again_until_it_is_made_due(store: Store) -> None:
    await add(store, [1])
    held = await take(store)
    await finish(store, 1, note="exact")
    await give_back(store, held)
    assert await take(store, now=NOW + 10 * LEASE) == []
    assert await column(store, "SELECT note FROM work") == ["exact"]

    await add(store, [1], now=NOW + 20 * LEASE)

    assert await column(store, "SELECT finished_at FROM work") == [None]
    assert subjects(await take(store, now=NOW + 20 * LEASE)) == [1]


async def test_what_goes_on_later_is_taken_then(store: Store) -> None:
    await add(store, [1])
    held = await take(store)
    await finish(store, 1, due_at=NOW + 5 * MINUTE)
    await give_back(store, held)

    assert await take(store, now=NOW + 4 * MINUTE) == []
    assert subjects(await take(store, now=NOW + 5 * MINUTE)) == [1]


async def test_a_run_that_failed_gives_back_what_it_did_not_finish(store: Store) -> None:
    await add(store, [1, 2])
    held = await take(store)
    await finish(store, 1)

    await give_back(store, held, due_at=NOW + MINUTE / 2)

    assert await take(store, now=NOW) == []
    assert subjects(await take(store, now=NOW + MINUTE / 2)) == [2]


async def test_only_its_holder_gives_a_row_back(store: Store) -> None:
    await add(store, [1])
    held = await take(store, owner="one")

    await give_back(store, held, owner="two")

    assert await take(store, owner="two") == []


async def test_what_is_made_due_while_it_is_worked_on_is_taken_once_more(store: Store) -> None:
    await add(store, [1])
    held = await take(store)
    await add(store, [1], now=NOW)  # a new order names the payment that is being matched
    await finish(store, 1, note="unknown")
    await give_back(store, held)

    [again] = await take(store)
    await finish(store, 1, note="exact")
    await give_back(store, [again])

    assert again.subject_id == 1
    assert await take(store, now=NOW + 10 * LEASE) == []


async def test_what_is_made_due_while_it_is_worked_on_does_not_wait_for_a_later_attempt(store: Store) -> None:
    await add(store, [1])
    held = await take(store)
    await add(store, [1], now=NOW)
    await finish(store, 1, due_at=NOW + 60 * MINUTE)
    await give_back(store, held)

    assert subjects(await take(store)) == [1]


async def test_a_run_by_hand_finishes_what_nobody_holds(store: Store) -> None:
    await add(store, [1])

    await finish(store, 1)

    assert await take(store) == []


async def test_quiet_work_stays_quiet_until_somebody_says_otherwise(store: Store) -> None:
    await add(store, [1, 2])
    await add(store, [2, 3], quiet=True)
    await add(store, [3])

    async with store.read() as connection:
        assert await work.quiet_ones(connection, "payment", [1, 2, 3]) == {2, 3}
        assert await work.quiet_ones(connection, "order", [1, 2, 3]) == set()

    await add(store, [3], quiet=False)
    async with store.read() as connection:
        assert await work.quiet_ones(connection, "payment", [1, 2, 3]) == {2}


async def test_how_much_is_due_and_when_the_next_falls_due(store: Store) -> None:
    async with store.read() as connection:
        assert await work.next_due(connection) is None
    await add(store, [1], now=NOW + MINUTE)
    await add(store, [2, 3], now=NOW)

    async with store.read() as connection:
        assert await work.count_due(connection, NOW) == 2
        assert await work.count_due(connection, NOW + MINUTE) == 3
        assert await work.next_due(connection) == NOW
