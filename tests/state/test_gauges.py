"""Gauges and the bell: what stands in the database is counted right, and who carries on is told of what came."""

from __future__ import annotations

import asyncio

from store_builders import MINUTE, NOW, WORKER, change, place_many, receive

from store import effects, gauges, inbox, work
from store.bell import Bell, hear
from store.database import Store
from store.effects import EffectState, Wanted
from store.gauges import Way


async def test_what_is_due_held_and_open_is_counted_and_what_has_ended_is_not(store: Store) -> None:
    payments = [await receive(store, f"E{number}") for number in range(4)]
    order_ids = await place_many(store, 4)
    async with store.write() as connection:
        await work.add(connection, "card", "payment", payments[:2], now=NOW - 2 * MINUTE)
        await work.add(connection, "card", "payment", payments[2:3], now=NOW - MINUTE)
        await work.add(connection, "card", "payment", payments[3:], now=NOW, due_at=NOW + MINUTE)
        await work.take(connection, owner="one", now=NOW, lease_until=NOW + MINUTE, limit=1)
        await inbox.put(
            connection, source="stripe", external_id="1", kind="k", body=b"", now=NOW, due_at=NOW - 3 * MINUTE
        )
        wanted = [Wanted(order_id, f"order:{order_id}", None, None, "stripe") for order_id in order_ids]
        await effects.claim(connection, "invoice", wanted, owner="one", lease_until=NOW + MINUTE, actor=WORKER, now=NOW)
    for state, order_id in zip(("done", "in_doubt", "rejected"), order_ids, strict=False):
        await change(store, "UPDATE effects SET state = :state WHERE order_id = :id", state=state, id=order_id)
    async with store.read() as connection:
        found = await gauges.standing(connection, NOW)
    assert found.due == {"work": 3, "webhook": 1}
    assert found.oldest == {"work": NOW - 2 * MINUTE, "webhook": NOW - 3 * MINUTE}
    assert found.in_flight == {"work": 1, "webhook": 0}
    assert found.effects == {EffectState.INTENDED: 1, EffectState.IN_DOUBT: 1, EffectState.REJECTED: 1}
    assert found.in_doubt == {"stripe": 1}


async def test_the_way_of_a_payment_is_told_unless_its_customer_is_left_in_peace(store: Store) -> None:
    payments = [await receive(store, f"E{number}") for number in range(2)]
    async with store.write() as connection:
        await work.add(connection, "card", "payment", payments[:1], now=NOW)
        await work.add(connection, "card", "payment", payments[1:], now=NOW, quiet=True)
        due = await work.take(connection, owner="one", now=NOW, lease_until=NOW + MINUTE, limit=9)
        await work.finish(connection, "card", "payment", [(payments[0], None, None)], now=NOW + MINUTE)
    async with store.read() as connection:
        (way,) = await gauges.ways(connection, [one.id for one in due])
    assert way == Way("bank_transfer", None, NOW, None, NOW + MINUTE)


async def test_on_postgresql_a_process_hears_what_another_one_rings_for(store: Store, other: Store) -> None:
    heard = asyncio.Event()
    listening = asyncio.create_task(hear(store, heard.set))
    bell = Bell(other)
    ringing = asyncio.create_task(bell.run())
    if store.is_sqlite:
        await asyncio.wait_for(asyncio.gather(listening, ringing), 60)  # there is nobody to hear it
        return
    try:
        for _ in range(2):  # once because it has begun to listen, once because it was rung for
            await asyncio.wait_for(heard.wait(), 60)
            heard.clear()
            bell.ring()
        await asyncio.wait_for(heard.wait(), 60)
    finally:
        for task in (listening, ringing):
            task.cancel()
        await asyncio.wait({listening, ringing})
