"""Outages in the database: called down once, probed by one worker at a time, and what waited is due when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from store_builders import MINUTE, NOW, WORKER, place_many

from store import effects, outages, work
from store.database import Store
from store.effects import EffectState, Ending, Wanted
from store.outages import Outage
from store.tables import EffectRow, WorkRow

DAY = timedelta(days=1)
LATER = NOW + 5 * MINUTE
FAR = NOW + timedelta(hours=6)


async def note(store: Store, *order_ids: int, now: datetime = NOW, **how: Any) -> Outage:
    """Note that the dove failed with some orders; with three of them it is down, to be probed after a minute each."""
    values: dict[str, Any] = {"since": now, "reason": "no connection", "enough": 3, **how}
    async with store.write() as connection:
        return await outages.note(connection, "dove", order_ids, wait=lambda count: count * MINUTE, now=now, **values)


async def known(store: Store) -> Outage | None:
    async with store.read() as connection:
        return (await outages.of_systems(connection, ["dove", "other"])).get("dove")


async def take(store: Store, *, now: datetime, held: datetime | None = None, until: datetime | None = None) -> bool:
    async with store.write() as connection:
        return await outages.take_probe(connection, "dove", until=until or now + MINUTE, now=now, held=held)


async def up(store: Store, *, now: datetime = NOW) -> int:
    async with store.write() as connection:
        return await outages.is_up(connection, "dove", now=now)


async def put_off(store: Store, *, now: datetime = NOW, patience: timedelta = DAY) -> None:
    async with store.write() as connection:
        await outages.put_off(
            connection, "dove", reason="the dove is down", rest_after=2 * MINUTE, patience=patience, now=now
        )


async def waiting(
    store: Store,
    order_ids: Sequence[int],
    *,
    step: str = "dispatch",
    system: str | None = "dove",
    state: EffectState = EffectState.INTENDED,
    due_at: datetime | None = LATER,
    now: datetime = NOW,
    subject: str = "order",
) -> list[int]:
    """Leave effects of orders as a step does that will try again; return their ids."""
    wanted = [Wanted(id_, f"{subject}:{id_}", None, None, system) for id_ in order_ids]
    async with store.write() as connection:
        claims = await effects.claim(
            connection, step, wanted, owner="one", lease_until=now + MINUTE, actor=WORKER, now=now
        )
        ids = [claim.effect_id for claim in claims]
        rows = await effects.lock(connection, ids)
        endings = [Ending(effect_id=id_, state=state, reason="why", before={}, after={}, due_at=due_at) for id_ in ids]
        await effects.end(connection, step, endings, rows, actor=WORKER, now=now)
    return ids


async def asleep(store: Store, order_ids: Sequence[int], *, due_at: datetime | None = LATER) -> None:
    """Leave the orders' work as a run does that ended."""
    async with store.write() as connection:
        await work.add(connection, "order_placed", "order", order_ids, now=NOW)
        await work.finish(connection, "order_placed", "order", [(id_, due_at, None) for id_ in order_ids], now=NOW)


async def dues(store: Store, ids: Sequence[int]) -> list[datetime | None]:
    """Return when effects are due, in the order of their ids."""
    async with store.read() as connection:
        rows = await connection.execute(select(EffectRow.due_at).where(EffectRow.id.in_(ids)).order_by(EffectRow.id))
        return list(rows.scalars().all())


async def work_dues(store: Store, order_ids: Sequence[int]) -> list[datetime | None]:
    async with store.read() as connection:
        rows = await connection.execute(
            select(WorkRow.due_at).where(WorkRow.subject_id.in_(order_ids)).order_by(WorkRow.subject_id)
        )
        return list(rows.scalars().all())


# When a system is called down.


async def test_a_system_is_down_when_it_failed_with_enough_different_orders(store: Store) -> None:
    assert (await note(store, 1)).probe_at is None
    assert (await note(store, 1, 2, now=NOW + MINUTE)).probe_at is None
    noted = await note(store, 7, now=NOW + 2 * MINUTE, reason="answered 503")
    assert noted == Outage("dove", NOW, "answered 503", (1, 2, 7), 1, NOW + 3 * MINUTE)
    assert await known(store) == noted


async def test_one_order_never_is_enough(store: Store) -> None:
    for _ in range(10):
        await note(store, 1)
    assert (await note(store, 1)).probe_at is None


async def test_what_failed_before_an_answer_does_not_count(store: Store) -> None:
    await note(store, 1, 2)
    noted = await note(store, 3, now=LATER, afresh=True)
    assert (noted.failed, noted.since, noted.probe_at) == ((3,), LATER, None)


async def test_failures_that_two_workers_note_at_once_all_count(store: Store, other: Store) -> None:
    await asyncio.gather(*(note(one, order) for order, one in enumerate((store, other, store, other))))
    outage = await known(store)
    assert outage is not None
    assert (outage.attempts, outage.probe_at, len(outage.failed)) == (1, NOW + MINUTE, 3)


async def test_only_a_probe_in_vain_puts_the_next_one_off(store: Store) -> None:
    await note(store, 1, 2, 3)
    assert (await note(store, 4, now=LATER)).probe_at == NOW + MINUTE
    noted = await note(store, 5, now=LATER, probed=True)
    assert (noted.attempts, noted.probe_at, noted.since) == (2, LATER + 2 * MINUTE, NOW)


# The probe.


async def test_the_probe_is_for_one_worker_when_its_time_has_come(store: Store, other: Store) -> None:
    assert not await take(store, now=NOW)
    await note(store, 1, 2)
    assert not await take(store, now=LATER)
    await note(store, 3)
    assert not await take(store, now=NOW + MINUTE / 2)
    taken = await asyncio.gather(*(take(one, now=NOW + MINUTE) for one in (store, other) * 4))
    assert taken.count(True) == 1


async def test_a_probe_that_nobody_ended_may_be_taken_over_when_it_has_lapsed(store: Store) -> None:
    await note(store, 1, 2, 3)
    assert await take(store, now=NOW + MINUTE)
    assert not await take(store, now=NOW + 1.9 * MINUTE)
    assert await take(store, now=NOW + 2 * MINUTE)


async def test_who_has_the_probe_keeps_it_and_nobody_else_does(store: Store) -> None:
    await note(store, 1, 2, 3)
    until = NOW + 2 * MINUTE
    assert await take(store, now=NOW + MINUTE, until=until)
    assert not await take(store, now=NOW + MINUTE, held=until - MINUTE / 60)
    assert await take(store, now=NOW + 1.5 * MINUTE, held=until)
    assert not await take(store, now=NOW + 2 * MINUTE)


# Up again.


async def test_what_waited_is_due_when_the_system_is_up_and_so_is_its_work(store: Store) -> None:
    order_ids = await place_many(store, 1200)
    ids = await waiting(store, order_ids)
    await asleep(store, order_ids)
    await note(store, *order_ids[:3])
    now = NOW + 2 * MINUTE
    assert await up(store, now=now) == 1200
    assert set(await dues(store, ids)) == set(await work_dues(store, order_ids)) == {now}
    assert await known(store) is None
    async with store.write() as connection:
        taken = await work.take(connection, owner="one", now=now, lease_until=now + MINUTE, limit=5000)
    assert len(taken) == 1200


async def test_nothing_else_is_made_due(store: Store) -> None:
    a, b, c, d, e = await place_many(store, 5)
    before = await waiting(store, [a], now=NOW - MINUTE, due_at=FAR)
    of_other = await waiting(store, [b], system="owl", due_at=FAR)
    of_none = await waiting(store, [c], system=None, due_at=FAR)
    for_person = await waiting(store, [d], state=EffectState.IN_DOUBT, due_at=None)
    done = await waiting(store, [e], state=EffectState.DONE, due_at=None)
    await asleep(store, [a, b, c], due_at=FAR)
    await asleep(store, [d, e], due_at=None)
    await note(store, 1, 2, 3)
    assert await up(store) == 0
    assert await dues(store, [*before, *of_other, *of_none, *for_person, *done]) == [FAR, FAR, FAR, None, None]
    assert await work_dues(store, [a, b, c, d, e]) == [FAR, FAR, FAR, None, None]


async def test_what_a_worker_holds_is_left_to_it(store: Store) -> None:
    (order_id,) = await place_many(store, 1)
    (effect_id,) = await waiting(store, [order_id])
    await note(store, 1, 2, 3)
    async with store.write() as connection:
        await connection.execute(update(EffectRow).values(lease_owner="two", lease_until=FAR))
    assert await up(store) == 0
    assert await dues(store, [effect_id]) == [LATER]


async def test_a_run_that_is_under_way_is_followed_by_another(store: Store) -> None:
    order_ids = await place_many(store, 1)
    await waiting(store, order_ids)
    await asleep(store, order_ids)
    async with store.write() as connection:
        await work.take(connection, owner="two", now=LATER, lease_until=FAR, limit=1)
        await connection.execute(update(WorkRow).values(due_at=FAR))
    await note(store, 1, 2, 3)
    await up(store)
    # It had looked before, and says when it believes that this goes on.
    async with store.write() as connection:
        await work.finish(connection, "order_placed", "order", [(order_ids[0], FAR, None)], now=NOW)
    assert await work_dues(store, order_ids) == [NOW]


async def test_an_answer_after_few_failures_makes_nothing_due(store: Store) -> None:
    order_ids = await place_many(store, 2)
    ids = await waiting(store, order_ids)
    await note(store, *order_ids)
    assert await up(store) == 0
    assert await known(store) is None
    assert await dues(store, ids) == [LATER, LATER]


# Waiting on.


async def test_one_goes_ahead_and_the_rest_waits_until_after_the_probe(store: Store) -> None:
    order_ids = await place_many(store, 4)
    ids = await waiting(store, order_ids)
    await waiting(store, order_ids[:1], now=LATER)  # tried once more than the others
    await asleep(store, order_ids)
    probe_at = (await note(store, *order_ids)).probe_at
    assert probe_at == NOW + MINUTE
    rest = LATER  # it was to wait for longer already
    await put_off(store)
    assert await dues(store, ids) == [rest, probe_at, rest, rest]
    assert await work_dues(store, order_ids) == [rest, probe_at, rest, rest]
    await note(store, 9, now=LATER, probed=True)
    await put_off(store, now=LATER)
    assert await dues(store, ids) == [LATER + 4 * MINUTE, LATER + 2 * MINUTE, LATER + 4 * MINUTE, LATER + 4 * MINUTE]


async def test_what_can_not_have_happened_says_why_it_waits_and_what_is_in_doubt_keeps_its_reason(
    store: Store,
) -> None:
    a, b = await place_many(store, 2)
    ids = await waiting(store, [a]) + await waiting(store, [b], state=EffectState.IN_DOUBT)
    await note(store, 1, 2, 3)
    await put_off(store)
    async with store.read() as connection:
        rows = await connection.execute(select(EffectRow.reason).where(EffectRow.id.in_(ids)).order_by(EffectRow.id))
    assert list(rows.scalars().all()) == ["the dove is down", "why"]


async def test_nothing_sleeps_past_the_moment_at_which_a_person_is_to_see_it(store: Store) -> None:
    order_ids = await place_many(store, 3)
    ids = await waiting(store, order_ids)
    await asleep(store, order_ids)
    await note(store, *order_ids)
    await put_off(store, patience=2 * MINUTE)
    assert await dues(store, ids) == [NOW + MINUTE, NOW + 2 * MINUTE, NOW + 2 * MINUTE]
    assert await work_dues(store, order_ids) == [NOW + MINUTE, NOW + 2 * MINUTE, NOW + 2 * MINUTE]
    # Once it was shown, it waits like the others.
    await put_off(store, now=NOW + 2 * MINUTE, patience=2 * MINUTE)
    assert await dues(store, ids) == [NOW + MINUTE, NOW + 3 * MINUTE, NOW + 3 * MINUTE]


async def test_work_that_has_more_to_do_does_not_wait_for_the_system(store: Store) -> None:
    (order_id,) = await place_many(store, 1)
    await waiting(store, [order_id])
    await waiting(store, [order_id], step="message", system="post", due_at=NOW + MINUTE / 2)
    await asleep(store, [order_id])
    await note(store, 1, 2, 3)
    await put_off(store)
    assert await work_dues(store, [order_id]) == [NOW + MINUTE / 2]


async def test_work_that_is_due_or_under_way_is_left_as_it_is(store: Store) -> None:
    due, held = await place_many(store, 2)
    await waiting(store, [due, held])
    await asleep(store, [due], due_at=NOW)
    await asleep(store, [held])
    async with store.write() as connection:
        await connection.execute(
            update(WorkRow).where(WorkRow.subject_id == held).values(lease_owner="two", lease_until=FAR)
        )
    await note(store, 1, 2, 3)
    await put_off(store)
    assert await work_dues(store, [due, held]) == [NOW, LATER]


async def test_where_the_system_came_up_meanwhile_nothing_is_put_off(store: Store) -> None:
    ids = await waiting(store, await place_many(store, 2))
    await note(store, 1, 2, 3)
    await up(store)
    await put_off(store)
    assert await dues(store, ids) == [NOW, NOW]


# What people are told.


async def test_systems_that_are_down_are_listed_while_something_waits_for_them(store: Store) -> None:
    async def listed() -> list[tuple[str, datetime, int]]:
        async with store.read() as connection:
            return [(one.system, one.since, one.waiting) for one in await outages.listing(connection)]

    await note(store, 1, 2)
    order_ids = await place_many(store, 2)
    await waiting(store, order_ids)
    assert await listed() == []
    await note(store, 3)
    assert await listed() == [("dove", NOW, 2)]
    await waiting(store, order_ids[:1], state=EffectState.IN_DOUBT, due_at=None, now=LATER)  # left to a person
    assert await listed() == [("dove", NOW, 1)]
    await waiting(store, order_ids, state=EffectState.SKIPPED, due_at=None, now=LATER)
    assert await listed() == []


async def test_workers_that_end_runs_record_and_release_at_once_all_come_through(store: Store, other: Store) -> None:
    order_ids = await place_many(store, 60)
    await waiting(store, order_ids)
    await asleep(store, order_ids)

    async def outage(one: Store) -> None:
        for _ in range(10):
            await note(one, 1, 2, 3)
            await put_off(one)
            await up(one)

    async def ending(one: Store) -> None:
        for _ in range(10):
            async with one.write() as connection:
                ends: list[tuple[int, datetime | None, str | None]] = [(id_, LATER, None) for id_ in order_ids]
                await work.finish(connection, "order_placed", "order", ends, now=NOW)
            await waiting(one, order_ids[::-1], now=FAR)

    await asyncio.gather(outage(store), outage(other), ending(store))
