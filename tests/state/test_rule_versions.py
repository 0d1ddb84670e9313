"""Versions of a channel's rules: every change kept with who made it, the newest in force."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rules_builders import document
from store_builders import MINUTE, NOW

from store import rules
from store.database import Store


async def save(
    store: Store, channel: str = "shop", *, author: str = "eva", now: datetime = NOW, **fields: Any
) -> int | None:
    async with store.write() as connection:
        return await rules.save(
            connection, document(channel=channel, **fields), channel=channel, author=author, reason="asked", now=now
        )


async def current(store: Store) -> dict[str, rules.Versioned]:
    async with store.read() as connection:
        return await rules.current(connection)


async def test_a_change_is_a_new_version_and_in_force_at_once(store: Store) -> None:
    assert await current(store) == {}
    assert await save(store, reservation_days=3) == 1
    assert (await current(store))["shop"].rules.reservation_days == 3

    assert await save(store, reservation_days=5) == 2

    in_force = (await current(store))["shop"]
    assert (in_force.version, in_force.rules.reservation_days) == (2, 5)


async def test_another_process_sees_a_change_at_once(store: Store, other: Store) -> None:
    await save(store, reservation_days=3)
    await current(other)

    await save(store, reservation_days=5)

    assert (await current(other))["shop"].rules.reservation_days == 5


async def test_nothing_is_saved_when_nothing_changed(store: Store) -> None:
    await save(store, reservation_days=3)

    assert await save(store, reservation_days=3, author="jan") is None
    async with store.read() as connection:
        assert len(await rules.history(connection, "shop")) == 1


async def test_going_back_to_an_earlier_document_is_a_version_of_its_own(store: Store) -> None:
    assert [await save(store, reservation_days=days) for days in (3, 5, 3)] == [1, 2, 3]


async def test_channels_have_versions_of_their_own(store: Store) -> None:
    await save(store, "shop")
    await save(store, "shop", title="The shop")
    await save(store, "market")

    found = await current(store)

    assert [(channel, versioned.version) for channel, versioned in found.items()] == [("market", 1), ("shop", 2)]


async def test_the_history_says_who_changed_what_and_when(store: Store) -> None:
    await save(store, author="eva", reservation_days=3)
    await save(store, author="jan", now=NOW + MINUTE, reservation_days=5)

    async with store.read() as connection:
        newest, first = await rules.history(connection, "shop")
        in_force = await rules.document(connection, "shop")
        assert await rules.document(connection, "market") is None

    assert (newest.version, newest.author, newest.reason, newest.created_at) == (2, "jan", "asked", NOW + MINUTE)
    assert (first.version, first.author, first.created_at) == (1, "eva", NOW)
    assert in_force == document(reservation_days=5)


async def test_what_was_tried_and_rolled_back_is_never_in_force(store: Store) -> None:
    await save(store, reservation_days=3)
    async with store.write() as connection:
        tried = document(reservation_days=30)
        await rules.save(connection, tried, channel="shop", author="eva", reason="try", now=NOW)
        assert (await rules.current(connection))["shop"].rules.reservation_days == 30
        await connection.rollback()
    assert (await current(store))["shop"].rules.reservation_days == 3

    await save(store, reservation_days=5, now=NOW + MINUTE)

    assert (await current(store))["shop"].rules.reservation_days == 5
