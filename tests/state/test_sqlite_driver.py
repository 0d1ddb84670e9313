"""SQLite's connection with one errand per statement gives what the driver's own gives, and keeps no transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from store import sqlite
from store.database import Store, open_store


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    """Return a store on a file, with a table of 2 500 numbers, more than are fetched at once."""
    opened = await open_store(f"sqlite:///{tmp_path / 'kvit.sqlite'}")
    async with opened.write() as connection:
        await connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO numbers VALUES (:n)"), [{"n": n} for n in range(2_500)])
    yield opened
    await opened.close()


NUMBERS = text("SELECT n FROM numbers ORDER BY n")


async def test_all_rows_come_however_many_there_are(store: Store) -> None:
    async with store.read() as connection:
        assert (await connection.execute(NUMBERS)).scalars().all() == list(range(2_500))
        few = text("SELECT n FROM numbers WHERE n < 1000 ORDER BY n")
        assert (await connection.execute(few)).scalars().all() == list(range(1_000))


async def test_a_stream_gives_them_piece_by_piece(store: Store) -> None:
    async with store.read() as connection:
        async with connection.stream(NUMBERS) as rows:
            assert [len(piece) async for piece in rows.partitions(700)] == [700, 700, 700, 400]
        async with connection.stream(NUMBERS) as rows:
            assert (await rows.fetchone()) == (0,)
        assert (await connection.execute(text("SELECT count(*) FROM numbers"))).scalar_one() == 2_500


async def test_what_a_statement_changed_is_counted_and_returned(store: Store) -> None:
    async with store.write() as connection:
        assert (await connection.execute(text("UPDATE numbers SET n = n + 10000 WHERE n < 7"))).rowcount == 7
        added = await connection.execute(text("INSERT INTO numbers VALUES (77777) RETURNING n"))
        assert added.scalar_one() == 77_777


async def test_a_statement_that_fails_leaves_the_connection_usable_and_nothing_half_written(store: Store) -> None:
    async def write_twice() -> None:
        async with store.write() as connection:
            await connection.execute(text("INSERT INTO numbers VALUES (99999)"))
            await connection.execute(text("INSERT INTO numbers VALUES (1)"))

    with pytest.raises(IntegrityError):
        await write_twice()
    async with store.read() as connection:
        with pytest.raises(OperationalError):
            await connection.execute(text("SELECT nothing FROM nowhere"))
        assert (await connection.execute(text("SELECT count(*) FROM numbers"))).scalar_one() == 2_500


async def test_who_is_cancelled_in_the_middle_of_a_statement_keeps_no_lock(store: Store, tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "kvit.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    async def write() -> None:
        async with store.write() as connection:
            await connection.execute(text("DELETE FROM numbers"))

    waiting = asyncio.create_task(write())
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done  # SQLite waits for the lock
    waiting.cancel()
    holder.execute("COMMIT")
    holder.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    async with store.write() as connection:
        await connection.execute(text("INSERT INTO numbers VALUES (5000)"))
    async with store.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM numbers"))).scalar_one() == 2_501


async def test_a_transaction_that_a_cancelled_errand_may_have_begun_is_rolled_back(tmp_path: Path) -> None:
    connection = sqlite.connect(str(tmp_path / "plain.sqlite"), isolation_level=None)
    await connection
    begins = asyncio.create_task(connection.errand(connection.plain.execute, "BEGIN IMMEDIATE"))
    await asyncio.sleep(0)
    begins.cancel()
    await asyncio.wait({begins})
    await connection.rollback()
    assert not connection.plain.in_transaction
    await connection.close()
