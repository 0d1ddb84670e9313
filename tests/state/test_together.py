"""What is handed in at the same time shares a transaction, and nobody suffers from what another hands in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import NOW, column

from store import inbox
from store.database import Store
from store.inbox import NewLetter
from store.together import Together

BAD = "bad"


class Desk:
    """Stores messages by name; keeps the connections of the transactions in which it wrote."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.transactions: list[AsyncConnection] = []
        self._together = Together(self._write)

    async def put(self, name: str) -> int | None:
        """Hand a message in."""
        return await self._together.put(self.store, name)

    async def _write(self, connection: AsyncConnection, names: Sequence[str]) -> list[int | None]:
        self.transactions.append(connection)
        if BAD in names:
            await connection.execute(text("INSERT INTO inbox (id) VALUES (NULL)"))
        if "away" in names:
            raise OperationalError(None, None, OSError("the line is cut"))
        return await inbox.put_all(
            connection, [NewLetter("desk", name, "paid", b"{}", received_at=NOW, due_at=NOW) for name in names]
        )


async def stored(store: Store) -> list[str]:
    return sorted(await column(store, "SELECT external_id FROM inbox"))


async def test_what_comes_together_is_committed_together_and_each_hears_of_its_own(store: Store) -> None:
    desk = Desk(store)
    first = await desk.put("0")
    assert len(desk.transactions) == 1
    results = await asyncio.gather(*(desk.put(str(place)) for place in range(250)))
    assert results[0] is None  # it was there before
    assert first not in results
    assert len({result for result in results if result}) == 249
    assert len(await stored(store)) == 250
    assert len(desk.transactions) == 1 + 3  # of a hundred at most


async def test_what_can_not_be_written_fails_alone(store: Store) -> None:
    desk = Desk(store)
    names = ("a", "b", BAD, "c")
    results = await asyncio.gather(*(desk.put(name) for name in names), return_exceptions=True)
    assert [isinstance(result, int) for result in results] == [True, True, False, True]
    assert isinstance(results[2], DBAPIError)
    assert await stored(store) == ["a", "b", "c"]


async def test_nothing_is_written_while_the_database_is_away_and_all_are_told(store: Store) -> None:
    desk = Desk(store)
    results = await asyncio.gather(*(desk.put(name) for name in ("a", "away", "b")), return_exceptions=True)
    assert [type(result) for result in results] == [OperationalError] * 3
    assert await stored(store) == []
    assert await desk.put("a") is not None


async def test_who_goes_away_meanwhile_takes_nothing_from_the_others(store: Store) -> None:
    desk = Desk(store)
    waiting = [asyncio.ensure_future(desk.put(name)) for name in ("a", "b", "c")]
    async with store.write():  # on SQLite they wait for this
        await asyncio.sleep(0)
        waiting[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    assert await waiting[0] is not None
    assert await waiting[2] is not None
    assert {"a", "c"} <= set(await stored(store))
