"""The tables that migrations make are those that the code speaks of, on a new database and on one in use."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection
from store_builders import change, column, place

from store.database import NEWEST, Store, StoreError, open_store
from store.migrating import config
from store.tables import Table

_POSTGRES_CATALOG = """
SELECT 'column ' || concat_ws(' ', table_name, column_name, data_type, character_maximum_length, is_nullable,
       column_default, is_identity) FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""


async def _catalog(connection: AsyncConnection) -> set[str]:
    """Return all that the database itself knows of our tables, one line per column, index and constraint."""
    if connection.dialect.name == "postgresql":
        lines: set[str] = set((await connection.execute(text(_POSTGRES_CATALOG))).scalars().all())
    else:
        made = await connection.execute(text("SELECT tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        lines = {f"{table}: {part.strip(', ')}" for table, sql in made.all() for part in re.split(r"\s*\n\s*", sql)}
    return {line for line in lines if "alembic_version" not in line}


def _make_without_migrations(connection: Connection) -> None:
    Table.metadata.drop_all(connection)
    Table.metadata.create_all(connection)


async def test_opening_a_new_database_makes_every_table(empty_url: str) -> None:
    store = await open_store(empty_url)
    async with store.read() as connection:
        names = await connection.run_sync(lambda plain: inspect(plain).get_table_names())
    await store.close()

    assert set(names) == {*Table.metadata.tables, "alembic_version"}


async def test_migrations_make_to_the_letter_what_the_tables_say(empty_url: str) -> None:
    store = await open_store(empty_url)
    async with store.write() as connection:
        migrated = await _catalog(connection)
        await connection.run_sync(_make_without_migrations)
        declared = await _catalog(connection)
    await store.close()

    assert migrated == declared
    assert any("uq_stock_moves_live" in line and "WHERE" in line for line in migrated)
    assert any("ck_effects_state" in line for line in migrated)


async def test_there_is_nothing_left_to_migrate(store: Store) -> None:
    async with store.read() as connection:
        differences = await connection.run_sync(
            lambda plain: compare_metadata(
                MigrationContext.configure(plain, opts={"compare_type": True, "compare_server_default": True}),
                Table.metadata,
            )
        )

    assert differences == []


def test_the_newest_revision_is_the_one_that_opening_a_database_looks_for() -> None:
    assert ScriptDirectory.from_config(config()).get_heads() == [NEWEST]


async def test_opening_again_keeps_what_is_there(url: str) -> None:
    first = await open_store(url)
    await place(first, "1042")
    await first.close()

    second = await open_store(url)

    assert await column(second, "SELECT number FROM orders") == ["1042"]
    await second.close()


async def test_processes_that_start_together_on_a_new_database_do_not_clash(empty_url: str) -> None:
    stores = await asyncio.gather(*(open_store(empty_url) for _ in range(4)))

    for store in stores:
        assert await column(store, "SELECT count(*) FROM alembic_version") == [1]
        await store.close()


async def test_a_database_of_a_newer_kvit_is_refused_in_a_sentence(empty_url: str) -> None:
    store = await open_store(empty_url)
    await change(store, "UPDATE alembic_version SET version_num = '9999'")
    await store.close()

    with pytest.raises(StoreError, match="newer Kvit"):
        await open_store(empty_url)


async def test_sqlite_is_set_to_lose_nothing(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'kvit.db'}")

    assert await column(store, "PRAGMA journal_mode") == ["wal"]
    assert await column(store, "PRAGMA synchronous") == [2]
    assert await column(store, "PRAGMA foreign_keys") == [1]
    assert await column(store, "PRAGMA busy_timeout") == [30_000]
    await store.close()
