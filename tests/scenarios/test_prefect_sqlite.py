"""Prefect's log on SQLite: who writes at the same time as others waits for a turn, and is not refused."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import PREFECT_API_URL
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.prefect_sqlite import OneWriter
from deployments.temporary_prefect import TemporaryServer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "prefect.db"
    connection = sqlite3.connect(made)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE runs (name TEXT)")
    connection.close()
    return made


@pytest.fixture
def other(file: Path) -> Generator[sqlite3.Connection]:
    """Give another's connection, which does not wait for anything."""
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    yield connection
    connection.close()


@asynccontextmanager
async def session(config: AioSqliteConfiguration) -> AsyncGenerator[AsyncSession]:
    engine = await config.engine()
    async with await config.session(engine) as opened:
        yield opened
    await engine.dispose()


async def read_and_write(config: AioSqliteConfiguration, other: sqlite3.Connection) -> bool:
    """Read, then write in one transaction; say whether another could write in between."""
    async with session(config) as opened, config.begin_transaction(opened):
        await opened.scalar(text("SELECT count(*) FROM runs"))
        try:
            other.execute("INSERT INTO runs VALUES ('of another')")
            could = True
        except sqlite3.OperationalError:
            could = False
        await opened.execute(text("INSERT INTO runs VALUES ('ours')"))
    return could


async def test_nobody_writes_between_what_a_transaction_reads_and_what_it_writes(
    file: Path, other: sqlite3.Connection
) -> None:
    could = await read_and_write(OneWriter(connection_url=f"sqlite+aiosqlite:///{file}"), other)
    assert not could
    assert other.execute("SELECT name FROM runs").fetchall() == [("ours",)]


async def test_as_prefect_begins_it_such_a_transaction_is_refused(file: Path, other: sqlite3.Connection) -> None:
    with pytest.raises(OperationalError, match="database is locked"):  # else deployments/prefect_sqlite.py can go
        await read_and_write(AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{file}"), other)


async def test_what_is_read_beside_a_transaction_does_not_wait_for_it(file: Path) -> None:
    config = OneWriter(connection_url=f"sqlite+aiosqlite:///{file}")
    async with session(config) as opened, config.begin_transaction(opened):
        await opened.execute(text("INSERT INTO runs VALUES ('ours')"))
        async with await config.session(await config.engine()) as reader:
            await reader.execute(text("PRAGMA busy_timeout = 0"))
            assert await reader.scalar(text("SELECT count(*) FROM runs")) == 0


def test_the_server_that_prefect_starts_for_a_command_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SubprocessASGIServer, "_instances", {})
    ours = TemporaryServer()
    assert SubprocessASGIServer() is ours


async def test_it_takes_runs_that_are_made_at_once_at_the_first_try() -> None:
    async with httpx.AsyncClient(base_url=str(PREFECT_API_URL.value()), timeout=60) as client:
        made = await client.post("/flows/", json={"name": "made at once"})
        run = {"flow_id": made.json()["id"], "state": {"type": "SCHEDULED"}}
        answers = await asyncio.gather(*(client.post("/flow_runs/", json=run) for _ in range(40)))
    assert [answer.status_code for answer in answers] == [201] * 40
