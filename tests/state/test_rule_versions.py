"""Versions of a channel's rules: every change kept with who made it, the newest in force."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from rules_builders import document
from store_builders import MINUTE, NOW, column, receive, record_match

from domain.matching import Match
from domain.money import Money
from domain.payments import Outcome
from domain.rules import Policy
from store import payments, rules
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


async def test_two_who_save_at_once_make_two_versions(store: Store, other: Store) -> None:
    for before in (0, 2):  # of a channel that is new, and of one that is known
        async with store.write() as connection:
            own = document(channel="shop", reservation_days=before + 3)
            saved = rules.save(connection, own, channel="shop", author="eva", reason="asked", now=NOW)
            assert await saved == before + 1
            second = asyncio.create_task(save(other, author="jan", reservation_days=before + 4))
            ended, _ = await asyncio.wait({second}, timeout=0.3)
            assert not ended, "it waits for the first"
        assert await second == before + 2
        assert (await current(store))["shop"].rules.reservation_days == before + 4


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


async def waits(store: Store, external_id: str, account: str | None, outcome: Outcome = Outcome.UNKNOWN) -> int:
    """Store a payment that was matched in vain; return its id."""
    payment_id = await receive(store, external_id, account=account)
    found = Match(outcome=outcome, policy=Policy.OPERATOR, reason="names no order", surplus=Money(0, "EUR"))
    async with store.write() as connection:
        payment = (await payments.load(connection, [payment_id]))[payment_id]
        await record_match(connection, payment, found, [], now=NOW)
    return payment_id


async def due(store: Store) -> list[int]:
    return await column(store, "SELECT subject_id FROM work WHERE due_at IS NOT NULL ORDER BY subject_id")


async def test_new_rules_make_the_unmatched_payments_due_that_they_speak_of(store: Store) -> None:
    await save(store, accounts=["CZ01"])
    await save(store, "outlet", accounts=["CZ02"])
    on_its_account = await waits(store, "E1", "CZ 01")
    of_another = await waits(store, "E2", "CZ02")
    of_nobody = await waits(store, "E3", "CZ03")
    by_card = await waits(store, "E4", None, Outcome.AMBIGUOUS)
    abroad = await waits(store, "E5", "CZ01", Outcome.WRONG_CURRENCY)
    late = await waits(store, "E6", "CZ01", Outcome.LATE)
    new = await receive(store, "E7", account="CZ01")
    assert await due(store) == []

    await save(store, accounts=["CZ01"])
    assert await due(store) == []  # nothing has changed
    await save(store, accounts=["CZ01"], tolerance={"absolute": "1.00"})

    assert await due(store) == [on_its_account, of_nobody, by_card, abroad]
    await save(store, "outlet", accounts=["CZ02"], tolerance={"absolute": "1.00"})
    assert await due(store) == [on_its_account, of_another, of_nobody, by_card, abroad]
    assert not {late, new} & set(await due(store))


async def test_an_account_that_a_channel_gives_up_concerns_what_arrived_there(store: Store) -> None:
    await save(store, accounts=["CZ01"])
    await save(store, "outlet", accounts=["CZ02"])
    payment = await waits(store, "E1", "CZ02")

    await save(store, "outlet", accounts=["CZ04"])

    assert await due(store) == [payment]


async def test_the_first_rules_of_a_channel_find_the_payments_that_came_before_them(store: Store) -> None:
    payment = await waits(store, "E1", "CZ01")

    await save(store, accounts=["CZ01"])

    assert await due(store) == [payment]


async def test_rules_that_come_while_a_payment_is_matched_by_the_old_ones_make_it_due(
    store: Store, other: Store
) -> None:
    payment_id = await receive(store, account="CZ01")
    found = Match(outcome=Outcome.UNKNOWN, policy=Policy.OPERATOR, reason="names no order", surplus=Money(0, "EUR"))
    async with store.write() as connection:
        payment = (await payments.load(connection, [payment_id]))[payment_id]
        await payments.begin_matching(connection)
        saving = asyncio.create_task(save(other, accounts=["CZ01"]))
        await asyncio.wait({saving}, timeout=0.5)  # long enough to pass by, were it not held up
        await record_match(connection, payment, found, [], now=NOW)

    assert await saving == 1
    assert await due(store) == [payment_id]
