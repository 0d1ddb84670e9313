"""The inbox: every message once, worked off by one worker at a time, never dropped."""

from __future__ import annotations

import asyncio
from datetime import datetime

from store_builders import MINUTE, NOW, column

from store import inbox
from store.database import Store
from store.inbox import Letter, NewLetter


async def put(
    store: Store, external_id: str, *, source: str = "stripe", body: bytes = b"{}", due_at: datetime | None = NOW
) -> int | None:
    async with store.write() as connection:
        return await inbox.put(
            connection, source=source, external_id=external_id, kind="paid", body=body, now=NOW, due_at=due_at
        )


async def take(store: Store, *, owner: str = "one", now: datetime = NOW, limit: int = 100) -> list[Letter]:
    async with store.write() as connection:
        return await inbox.take(connection, owner=owner, now=now, lease_until=now + MINUTE, limit=limit)


async def test_a_message_is_stored_once_per_source_and_external_id(store: Store) -> None:
    first = await put(store, "evt_1", body=b"first")

    assert first is not None
    assert await put(store, "evt_1", body=b"again") is None
    assert await put(store, "evt_1", source="paypal") is not None
    assert await put(store, "evt_2") is not None
    assert [letter.body for letter in await take(store) if letter.id == first] == [b"first"]


async def test_a_message_that_comes_many_times_at_once_is_stored_once(store: Store, other: Store) -> None:
    for number in range(10):
        stored = await asyncio.gather(*(put(through, f"evt_{number}") for _ in range(5) for through in (store, other)))

        assert len([id_ for id_ in stored if id_ is not None]) == 1
    assert await column(store, "SELECT count(*) FROM inbox") == [10]


async def test_messages_that_are_stored_together_are_each_new_or_known(store: Store) -> None:
    known = await put(store, "evt_1")
    told = ["evt_3", "evt_1", "evt_2", "evt_3", "evt_" + "0" * 300 + "1", "evt_" + "0" * 300 + "2"]
    letters = [NewLetter("stripe", one, "paid", f"{at}".encode(), NOW, NOW) for at, one in enumerate(told)]
    letters.append(NewLetter("paypal", "evt_1", "paid", b"of another source", NOW, NOW))
    async with store.write() as connection:
        ids = await inbox.put_all(connection, letters)
        again = await inbox.put_all(connection, letters)

    assert again == [None] * len(letters)
    assert [id_ is None for id_ in ids] == [False, True, False, True, False, False, False]
    assert known not in ids
    stored = {letter.id: letter.body for letter in await take(store)}
    assert stored == {known: b"{}"} | {id_: letters[at].body for at, id_ in enumerate(ids) if id_}


async def test_processes_that_are_told_the_same_in_another_order_both_go_on(store: Store, other: Store) -> None:
    letters = [NewLetter("stripe", f"evt_{number:03}", "paid", b"{}", NOW, NOW) for number in range(200)]

    async def put_all(through: Store, told: list[NewLetter]) -> list[int | None]:
        async with through.write() as connection:
            return await inbox.put_all(connection, told)

    one, two = await asyncio.gather(put_all(store, letters), put_all(other, letters[::-1]))

    assert [(a is None) != (b is None) for a, b in zip(one, two[::-1], strict=True)] == [True] * len(letters)


async def test_messages_whose_long_ids_differ_at_the_end_are_both_kept(store: Store) -> None:
    assert await put(store, "evt_" + "0" * 300 + "1") is not None
    assert await put(store, "evt_" + "0" * 300 + "2") is not None
    assert await put(store, "evt_" + "0" * 300 + "2") is None


async def test_what_is_worked_off_in_the_same_transaction_is_never_due(store: Store) -> None:
    await put(store, "sha256:abc", due_at=None)

    assert await take(store) == []
    async with store.read() as connection:
        assert await inbox.parked(connection) == []


async def test_workers_that_take_at_once_never_get_the_same(store: Store, other: Store) -> None:
    for number in range(60):
        await put(store, f"evt_{number}")

    async def take_all(through: Store, owner: str) -> list[str]:
        taken: list[str] = []
        while some := await take(through, owner=owner, limit=4):
            taken += [letter.external_id for letter in some]
        return taken

    by_worker = await asyncio.gather(*(take_all(s, f"{s}{n}") for n in range(2) for s in (store, other)))

    assert sorted(id_ for taken in by_worker for id_ in taken) == sorted(f"evt_{number}" for number in range(60))


async def test_what_was_handled_is_not_taken_again(store: Store) -> None:
    await put(store, "evt_1")
    [letter] = await take(store)

    async with store.write() as connection:
        await inbox.handled(connection, [letter.id], now=NOW)

    assert await take(store, now=NOW + 10 * MINUTE) == []
    async with store.read() as connection:
        assert await inbox.next_due(connection) is None


async def test_what_a_dead_worker_took_is_taken_again(store: Store) -> None:
    await put(store, "evt_1")
    [first] = await take(store, owner="dead")

    [again] = await take(store, owner="two", now=NOW + MINUTE)

    assert (first.attempts, again.attempts) == (1, 2)


async def test_a_message_is_put_off_and_then_parked_with_what_is_wrong(store: Store) -> None:
    await put(store, "evt_1")
    [letter] = await take(store)
    async with store.write() as connection:
        await inbox.put_off(connection, letter.id, due_at=NOW + 5 * MINUTE, problem="503")
    assert await take(store, now=NOW + 4 * MINUTE) == []
    assert len(await take(store, now=NOW + 5 * MINUTE)) == 1

    async with store.write() as connection:
        await inbox.put_off(connection, letter.id, due_at=None, problem="no such charge")

    assert await take(store, now=NOW + 99 * MINUTE) == []
    async with store.read() as connection:
        [parked] = await inbox.parked(connection)
    assert (parked["external_id"], parked["problem"]) == ("evt_1", "no such charge")


async def test_a_worker_that_was_too_slow_does_not_bring_back_what_another_has_handled(store: Store) -> None:
    await put(store, "evt_1")
    [letter] = await take(store, owner="slow")
    await take(store, owner="quick", now=NOW + MINUTE)
    async with store.write() as connection:
        await inbox.handled(connection, [letter.id], now=NOW)

    async with store.write() as connection:
        await inbox.put_off(connection, letter.id, due_at=NOW + 5 * MINUTE, problem="503")

    assert await take(store, now=NOW + 10 * MINUTE) == []


async def test_polling_goes_on_where_it_stopped(store: Store) -> None:
    async with store.read() as connection:
        assert await inbox.cursor(connection, "stripe") is None
    for place in ("evt_1", "evt_2"):
        async with store.write() as connection:
            await inbox.move_cursor(connection, "stripe", place, now=NOW)

    async with store.read() as connection:
        assert await inbox.cursor(connection, "stripe") == "evt_2"
        assert await inbox.cursor(connection, "paypal") is None


async def test_two_processes_may_poll_a_source_for_the_first_time_at_once(store: Store, other: Store) -> None:
    async def poll(through: Store, connector: str) -> None:
        async with through.write() as connection:
            await inbox.move_cursor(connection, connector, "evt_1", now=NOW)

    for number in range(10):
        await asyncio.gather(*(poll(through, f"source {number}") for through in (store, other, store)))

    assert await column(store, "SELECT count(*) FROM connector_state") == [10]
