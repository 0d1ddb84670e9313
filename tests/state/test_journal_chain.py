"""The journal's chain: whatever is changed in the history shows."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from store_builders import NOW, change, place, scalar

from store import journal
from store.database import Store

ACTOR = journal.Actor(name="worker 1", run="run 1")


def row(order_id: int | None, move: str = "done", **told: Any) -> dict[str, Any]:
    """Return a row of the journal about an order."""
    values: dict[str, Any] = {"after": {"Číslo": 1, "b": ["ř", None], "a": {"z": 1, "y": "2"}}, "reason": "naïve ✓"}
    return journal.entry(ACTOR, at=NOW, step="invoice", move=move, order_id=order_id, **(values | told))


async def add(store: Store, *rows: dict[str, Any]) -> None:
    """Add rows to the journal."""
    async with store.write() as connection:
        await journal.append(connection, list(rows))


async def broken(store: Store) -> dict[str, str]:
    """Return what is wrong, by chain."""
    async with store.read() as connection:
        return {one.chain: one.said for one in await journal.verify(connection)}


async def told(store: Store) -> tuple[int, int]:
    """Place two orders and tell of each, of payments and of nothing in particular."""
    one, two = await place(store, "1"), await place(store, "2")
    for move in ("intended", "done", "taken back"):
        await add(store, row(one, move), row(two, move), row(None, move))
    return one, two


async def test_what_was_written_is_found_as_it_was_written(store: Store) -> None:
    await told(store)
    assert await broken(store) == {}


async def test_a_row_carries_the_hash_of_the_one_before_it(store: Store) -> None:
    one, _ = await told(store)
    async with store.read() as connection:
        rows = (
            await connection.execute(
                text("SELECT previous, hash FROM journal WHERE order_id = :id ORDER BY id"), {"id": one}
            )
        ).all()
    assert rows[0].previous == ""
    assert [later.previous for later in rows[1:]] == [earlier.hash for earlier in rows[:-1]]


@pytest.mark.parametrize(
    "what",
    [
        "reason = 'another'",
        "move = 'skipped'",
        "actor = 'nobody'",
        "reference = 'X'",
        "rule_version = 7",
        "step = 'stock'",
        "cause = 'payment:9'",
        "run = NULL",
    ],
)
async def test_a_changed_row_shows(store: Store, what: str) -> None:
    one, _ = await told(store)
    await change(store, f"UPDATE journal SET {what} WHERE order_id = :id AND move = 'done'", id=one)  # noqa: S608
    (said,) = (await broken(store)).values()
    assert said.endswith("was changed")


async def test_a_changed_moment_shows(store: Store) -> None:
    one, _ = await told(store)
    later = NOW + timedelta(seconds=1)
    async with store.write() as connection:
        from sqlalchemy import update

        from store.tables import JournalRow

        await connection.execute(update(JournalRow).where(JournalRow.order_id == one).values(at=later))
    assert list(await broken(store)) == [f"order:{one}"]


@pytest.mark.parametrize("move", ["intended", "done"])
async def test_a_row_that_was_taken_out_shows(store: Store, move: str) -> None:
    one, _ = await told(store)
    await change(store, "DELETE FROM journal WHERE order_id = :id AND move = :move", id=one, move=move)
    assert "taken out" in (await broken(store))[f"order:{one}"]


async def test_a_row_cut_off_the_end_shows(store: Store) -> None:
    one, _ = await told(store)
    await change(store, "DELETE FROM journal WHERE order_id = :id AND move = 'taken back'", id=one)
    assert (await broken(store))[f"order:{one}"].startswith("3 rows were written, 2 are there")


async def test_a_whole_history_that_is_gone_shows(store: Store) -> None:
    one, _ = await told(store)
    await change(store, "DELETE FROM journal WHERE order_id = :id", id=one)
    assert (await broken(store))[f"order:{one}"].startswith("3 rows were written, 0 are there")


async def test_a_row_put_into_another_history_shows(store: Store) -> None:
    one, two = await told(store)
    await change(store, "UPDATE journal SET order_id = :two WHERE order_id = :one AND move = 'done'", one=one, two=two)
    assert f"order:{one}" in await broken(store)


async def test_writers_at_the_same_time_neither_fork_a_chain_nor_wait_for_each_other(
    store: Store, other: Store
) -> None:
    ids = [await place(store, str(number)) for number in range(8)]
    forth, back = [row(id_) for id_ in ids], [row(id_) for id_ in reversed(ids)]
    await asyncio.gather(*(add(writer, *rows) for _ in range(5) for writer, rows in ((store, forth), (other, back))))
    assert await broken(store) == {}
    async with store.read() as connection:
        assert await scalar(connection, "SELECT min(length) FROM journal_heads") == 10


async def test_the_digest_covers_every_chain(store: Store) -> None:
    one, _ = await told(store)
    async with store.read() as connection:
        before = await journal.digest(connection)
        assert await journal.digest(connection) == before
    await add(store, row(one))
    async with store.read() as connection:
        assert await journal.digest(connection) != before
