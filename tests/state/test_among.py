"""One parameter for many values: what it finds, and that its statement is put into words once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import CacheStats

from store import inbox
from store.database import Store
from store.sql import among
from store.tables import InboxRow

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
NAMES = ["plain", "it's", 'with "quotes"', "back\\slash", "příliš žluťoučký", "emoji 🍵", "", "[1]", "null", "12"]

BY_NAME = select(InboxRow.external_id).where(among(InboxRow.external_id, "names")).order_by(InboxRow.id)
BY_ID = select(InboxRow.id).where(among(InboxRow.id, "ids")).order_by(InboxRow.id)
NOT_BY_ID = select(InboxRow.id).where(~among(InboxRow.id, "ids")).order_by(InboxRow.id)


@pytest.fixture
async def ids(store: Store) -> list[int]:
    """Store a row with each name; return their ids."""
    made: list[int] = []
    async with store.write() as connection:
        for name in NAMES:
            row = await inbox.put(connection, source="a", external_id=name, kind="k", body=b"", now=NOW, due_at=None)
            assert row is not None
            made.append(row)
    return made


async def found(store: Store, statement: Any, **values: Sequence[Any]) -> list[Any]:
    """Return what a statement finds."""
    async with store.read() as connection:
        return list((await connection.execute(statement, values)).scalars())


async def test_rows_are_found_by_any_text_that_a_name_may_hold(store: Store, ids: list[int]) -> None:
    assert len(ids) == len(NAMES)
    assert await found(store, BY_NAME, names=NAMES) == NAMES
    for name in NAMES:
        assert await found(store, BY_NAME, names=[name, "unknown"]) == [name]


async def test_a_text_that_no_row_can_have_is_not_found_and_keeps_no_other_from_it(
    store: Store, ids: list[int]
) -> None:
    assert len(ids) == len(NAMES)
    assert await found(store, BY_NAME, names=["plain\0", "plain\0 and more", "\0", "[1]"]) == ["[1]"]


async def test_rows_are_found_by_their_ids_however_many_are_asked_for(store: Store, ids: list[int]) -> None:
    assert await found(store, BY_ID, ids=ids[:1]) == ids[:1]
    assert await found(store, BY_ID, ids=tuple(ids)) == ids
    assert await found(store, BY_ID, ids=range(ids[0], 2**31)[:40_000]) == ids
    assert await found(store, BY_ID, ids=[2**40]) == []


async def test_of_no_values_none_is_found_and_all_are_other(store: Store, ids: list[int]) -> None:
    assert await found(store, BY_ID, ids=[]) == []
    assert await found(store, NOT_BY_ID, ids=[]) == ids
    assert await found(store, NOT_BY_ID, ids=ids[2:]) == ids[:2]


def test_it_is_a_condition_as_it_stands_and_so_is_found_by_an_index() -> None:
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        found_, other = (str(one.compile(dialect=dialect)) for one in (BY_ID, NOT_BY_ID))
        assert " = 1" not in found_
        assert " = 0" not in other
        assert "NOT " in other


async def test_a_statement_is_put_into_words_once_for_any_count_of_values(store: Store, ids: list[int]) -> None:
    said: set[str] = set()
    made: list[CacheStats] = []

    def note(_connection: object, _cursor: object, sql: str, _values: Any, context: Any, _many: bool) -> None:
        if "inbox" in sql:
            said.add(sql)
            made.append(context.cache_hit)

    async with store.read() as connection:
        engine = connection.engine.sync_engine
        event.listen(engine, "before_cursor_execute", note)
        for count in (1, 2, 7):
            await connection.execute(BY_ID, {"ids": ids[:count]})
        event.remove(engine, "before_cursor_execute", note)
    assert len(said) == 1
    assert made[1:] == [CacheStats.CACHE_HIT, CacheStats.CACHE_HIT]
