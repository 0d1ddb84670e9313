"""Saving a channel's rules: checked first, and an earlier version can be put into force again."""

from __future__ import annotations

from typing import Any

import pytest
from rules_builders import document
from store_builders import NOW

from domain.rules import RulesError
from store import rules
from store.database import Store
from tasks.rules import Saved, go_back, save_rules


async def save(store: Store, **fields: Any) -> Saved:
    async with store.write() as connection:
        return await save_rules(
            connection, document(channel="shop", **fields), author="eva", reason="asked", now=NOW, run="run-1"
        )


async def back(store: Store, version: int) -> Saved:
    async with store.write() as connection:
        return await go_back(connection, "shop", version, author="jan", reason="a mistake", now=NOW)


async def test_going_back_is_a_new_version_with_the_old_content(store: Store) -> None:
    await save(store, reservation_days=3)
    await save(store, reservation_days=5)

    assert await back(store, 1) == ("shop", 3, True)

    async with store.read() as connection:
        in_force = (await rules.current(connection))["shop"]
        assert await rules.document_of(connection, "shop", 3) == await rules.document_of(connection, "shop", 1)
        newest, *older = await rules.history(connection, "shop")
    assert (in_force.version, in_force.rules.reservation_days) == (3, 3)
    assert (newest.author, newest.reason) == ("jan", "back to version 1: a mistake")
    assert [one.version for one in older] == [2, 1]


async def test_going_back_to_what_is_in_force_changes_nothing(store: Store) -> None:
    await save(store, reservation_days=3)

    assert await back(store, 1) == ("shop", 1, False)


async def test_a_version_that_never_was_is_refused(store: Store) -> None:
    await save(store)

    with pytest.raises(RulesError, match="channel shop has no version 7; its versions are 1 to 1"):
        await back(store, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reservation_days": 400},
        {"scenarios": {"card": {"messages": [{"template": "status_changed", "moment": "status"}]}}},
        {"accounts": ["CZ6508000000192000145398"]},
        {"templates": {"payment_received": {"cs": {"subject": "{{ order.nummber }}"}}}},
    ],
)
async def test_a_document_that_is_wrong_is_not_stored(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(RulesError):
        await save(store, **wrong)

    async with store.read() as connection:
        assert await rules.history(connection, "shop") == []
