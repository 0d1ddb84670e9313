"""The history of statuses, read as each order's ways from one status to the next."""

from __future__ import annotations

from datetime import datetime, timedelta

from store_builders import NOW, WORKER, place, place_many

from domain.orders import Status
from domain.payments import Method
from domain.transitions import Transition
from store import orders
from store.database import Store
from store.transitions import transitions

HOUR = timedelta(hours=1)


async def move(store: Store, order_id: int, after: str, at: datetime, standard: Status = Status.PROCESSING) -> None:
    async with store.write() as connection:
        await orders.set_status(
            connection, order_id, after=after, standard=standard, reason="test", actor=WORKER, now=at
        )


async def found(
    store: Store, since: datetime = NOW, until: datetime = NOW + timedelta(days=9), channel: str | None = None
) -> list[Transition]:
    async with store.read() as connection:
        pieces = transitions(connection, since=since, until=until, channel=channel)
        return sorted([one async for piece in pieces for one in piece], key=lambda way: way.ended)


async def test_each_status_is_followed_by_the_next_with_both_times(store: Store) -> None:
    order_id = await place(store, "A1", method=Method.CARD)
    await move(store, order_id, "paid", NOW + HOUR, Status.PAID)
    await move(store, order_id, "balime", NOW + 3 * HOUR)
    first, second = await found(store)
    assert (first.number, first.method, first.before, first.after) == ("A1", Method.CARD, "awaiting_payment", "paid")
    assert (first.began, first.ended) == (NOW, NOW + HOUR)
    assert (second.before, second.after, second.seconds) == ("paid", "balime", 7200)


async def test_orders_do_not_follow_each_other(store: Store) -> None:
    one, other = await place(store, "A1"), await place(store, "A2")
    await move(store, other, "paid", NOW + HOUR)
    await move(store, one, "paid", NOW + 2 * HOUR)
    assert {(way.number, way.seconds) for way in await found(store)} == {("A1", 7200), ("A2", 3600)}


async def test_an_order_that_has_only_come_in_has_no_way_yet(store: Store) -> None:
    await place(store)
    assert await found(store) == []


async def test_a_status_written_again_is_no_way_and_shortens_none(store: Store) -> None:
    order_id = await place(store)
    await move(store, order_id, "awaiting_payment", NOW + HOUR)
    await move(store, order_id, "paid", NOW + 2 * HOUR)
    (way,) = await found(store)
    assert (way.before, way.after, way.seconds) == ("awaiting_payment", "paid", 7200)


async def test_a_way_back_is_a_way_too(store: Store) -> None:
    order_id = await place(store)
    await move(store, order_id, "paid", NOW + HOUR)
    await move(store, order_id, "awaiting_payment", NOW + 2 * HOUR)
    assert [(way.before, way.after) for way in await found(store)] == [
        ("awaiting_payment", "paid"),
        ("paid", "awaiting_payment"),
    ]


async def test_only_what_ended_within_the_time_is_read_however_long_ago_it_began(store: Store) -> None:
    order_id = await place(store)
    for hour, status in enumerate(("paid", "balime", "ready", "dispatched"), start=1):
        await move(store, order_id, status, NOW + hour * HOUR)
    ways = await found(store, since=NOW + 2 * HOUR, until=NOW + 4 * HOUR)
    assert [(way.before, way.after, way.seconds) for way in ways] == [
        ("paid", "balime", 3600),
        ("balime", "ready", 3600),
    ]


async def test_one_channel_can_be_asked_for(store: Store) -> None:
    for channel in ("shop", "market"):
        await move(store, await place(store, "A1", channel=channel), "paid", NOW + HOUR)
    assert [way.channel for way in await found(store, channel="market")] == ["market"]
    assert len(await found(store)) == 2


async def test_they_are_read_in_pieces_and_none_is_left_out(store: Store) -> None:
    for order_id in await place_many(store, 5):
        await move(store, order_id, "paid", NOW + HOUR)
    async with store.read() as connection:
        read = transitions(connection, since=NOW, until=NOW + 2 * HOUR, piece=2)
        pieces = [piece async for piece in read]
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert len({way.number for piece in pieces for way in piece}) == 5
