"""A store on each database: SQLite in a file of its own, and a real PostgreSQL, started once and emptied each time."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from postgres_server import postgres_server
from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from store.database import Store, open_store
from store.tables import Table

# What is judged is what a property finds, not how fast the database of a busy machine answers. Each example makes its
# own orders, so examples may share a database; the same examples are tried in every run.
settings.register_profile(
    "state",
    deadline=None,
    max_examples=15,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("state")

DATABASES = ["sqlite", "postgresql"]


class Postgres:
    """A running server with a database that has Kvit's tables in it, and others on demand."""

    def __init__(self, socket_folder: str) -> None:
        self._folder = socket_folder
        self._names = (f"test_{number}" for number in itertools.count(1))

    def url(self, database: str) -> str:
        """Return the address of a database as an operator would write it."""
        url = URL.create("postgresql", username="postgres", database=database, query={"host": self._folder})
        return url.render_as_string(hide_password=False)

    async def run(self, database: str, *statements: str) -> None:
        """Run statements outside of any transaction."""
        engine = create_async_engine(make_url(self.url(database)).set(drivername="postgresql+asyncpg"))
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await engine.dispose()

    def new(self) -> str:
        """Make a database without tables and return its address."""
        name = next(self._names)
        asyncio.run(self.run("postgres", f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy"))
        return self.url(name)

    def empty(self) -> None:
        """Delete every row of Kvit's tables, which takes a tenth of the time of making the tables anew."""
        tables = [str(table.delete()) for table in Table.metadata.sorted_tables]
        asyncio.run(self.run("kvit", "SET lock_timeout = 5000", "SET session_replication_role = replica", *tables))


async def _make_tables(url: str) -> None:
    await (await open_store(url)).close()


@pytest.fixture(scope="session")
def postgres() -> Generator[Postgres]:
    """Start a PostgreSQL for this session, in a folder of its own."""
    with postgres_server() as server:
        started = Postgres(str(server.get_postmaster_info().socket_dir))
        # Nothing here is about power failures, and tests wait for the disk otherwise.
        hurry = ("ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()")
        asyncio.run(started.run("postgres", *hurry, "CREATE DATABASE kvit"))
        asyncio.run(_make_tables(started.url("kvit")))
        yield started


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tables in a SQLite file once, to be copied."""
    file = tmp_path_factory.mktemp("template") / "kvit.db"
    asyncio.run(_make_tables(f"sqlite:///{file}"))
    return file


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a database without any tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kvit.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new()


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """Return the address of a database with Kvit's tables and nothing in them."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "kvit.db")
        yield f"sqlite:///{tmp_path / 'kvit.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    yield server.url("kvit")
    server.empty()


@pytest.fixture
async def store(url: str) -> AsyncGenerator[Store]:
    """Open a store on each database in turn."""
    opened = await open_store(url)
    yield opened
    await opened.close()


@pytest.fixture
async def other(url: str) -> AsyncGenerator[Store]:
    """Open the same database once more, as another process does."""
    opened = await open_store(url)
    yield opened
    await opened.close()
