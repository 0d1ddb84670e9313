"""The database: SQLite for one machine, PostgreSQL beyond it; opened, migrated, and spoken to in transactions.

The order of locks, so that on PostgreSQL no two transactions wait for each other: rows of one table by their ids, and
effects before their orders, as a step is claimed and as it is recorded. Two begin with the order instead:

- A step in our own database alone, since it may change the order: it waits for its effect then. So nobody may lock the
  effect of such a step and then want the order.
- Whoever decides about an order: takes it back, puts it back into automation, settles a step of it, puts its last day
  off. That waits for no effect of any other step (`effects.lock(wait=False)`), but says that it is being tried.

tests/state/test_lock_order.py holds them against a worker.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, String, column, event, inspect, select, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from store import sqlite

NEWEST = "0001"
"""The last migration's revision."""
_SQLITE_WAIT_MS = 30_000
_NOT_ALLOWED = "42501"
"""PostgreSQL's code for what a user has no right to."""


class StoreError(Exception):
    """The database can't be used as it is given; its text says why."""


class _Writers:
    """Lets one writer in at a time: in the order in which they come, but the urgent ones first, every other turn."""

    def __init__(self) -> None:
        self._busy = False
        self._was_urgent = False
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}

    @asynccontextmanager
    async def turn(self, *, urgent: bool) -> AsyncGenerator[None]:
        """Wait for one's turn, and have it until the block ends."""
        if self._busy:
            await self._wait(self._waiting[urgent])
        self._busy = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, queue: deque[asyncio.Future[None]]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._pass_on()  # it was one's turn already
            raise

    def _pass_on(self) -> None:
        for urgent in (not self._was_urgent, self._was_urgent):
            while self._waiting[urgent]:
                turn = self._waiting[urgent].popleft()
                if not turn.done():  # else whoever waited has gone
                    self._was_urgent = urgent
                    turn.set_result(None)
                    return
        self._busy = False


class Store:
    """One database. `read` and `write` give a transaction each; what a `write` did is there or isn't, never half."""

    def __init__(self, engine: AsyncEngine, driver_errors: tuple[type[Exception], ...] = ()) -> None:
        """driver_errors are what the driver raises while connecting, which SQLAlchemy does not translate."""
        self._engine = engine
        self._driver_errors = driver_errors
        self.is_sqlite = engine.dialect.name == "sqlite"
        # SQLite has one writer; waiting here is fair and cheap, waiting in SQLite is neither.
        self._writers = _Writers()

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Raise what the driver raises as what SQLAlchemy raises, so that nobody has to know of both."""
        try:
            yield
        except self._driver_errors as error:
            raise OperationalError(None, None, error) from error

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that only reads, and sees one state of the database."""
        with self._translated():
            async with self._reading() as connection:
                yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncConnection]:
        async with self._engine.connect() as connection:
            if not self.is_sqlite:
                # PostgreSQL's default lets each statement see what was committed before it.
                await connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @asynccontextmanager
    async def write(self, *, urgent: bool = False) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that commits when the block ends, and rolls back when it raises.

        An urgent one goes ahead of others that wait, where there is one writer at a time.
        """
        with self._translated():
            async with self._writing(urgent=urgent) as connection:
                yield connection

    @asynccontextmanager
    async def _writing(self, *, urgent: bool) -> AsyncGenerator[AsyncConnection]:
        if not self.is_sqlite:
            async with self._engine.begin() as connection:
                yield connection
            return
        async with self._writers.turn(urgent=urgent), self._engine.connect() as plain:
            connection = await plain.execution_options(kvit_write=True)
            async with connection.begin():
                yield connection

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()


async def _sqlite_prepare(connection: Any) -> None:
    await connection.execute_fetchall(f"PRAGMA busy_timeout={_SQLITE_WAIT_MS}")
    deadline = time.monotonic() + _SQLITE_WAIT_MS / 1000
    while True:
        try:
            await connection.execute_fetchall("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Processes that open a new file together all ask for this, and it is the one lock SQLite doesn't wait for.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.01)
    await connection.execute_fetchall("PRAGMA synchronous=FULL")
    await connection.execute_fetchall("PRAGMA foreign_keys=ON")


def _sqlite_begin(connection: Connection) -> None:
    # A transaction that will write takes the lock at once: one that upgrades later can fail however long it waits.
    writes = connection.get_execution_options().get("kvit_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _driver_errors(engine: AsyncEngine) -> tuple[type[Exception], ...]:
    if engine.dialect.name == "sqlite":
        return ()
    from asyncpg import InterfaceError, PostgresError  # pyright: ignore[reportMissingTypeStubs]

    return InterfaceError, PostgresError


def _engine(url: str) -> AsyncEngine:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreError("KVIT_DATABASE_URL is not a database URL; write such as postgresql://user@host/kvit") from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+asyncpg"):
        # The driver has another name for what every provider's URL calls sslmode.
        query = {"ssl" if option == "sslmode" else option: value for option, value in parsed.query.items()}
        # A payment asks more different statements than the driver's own 100; behind some poolers it has to be 0.
        query.setdefault("prepared_statement_cache_size", "500")
        parsed = parsed.set(drivername="postgresql+asyncpg", query=query)
        return create_async_engine(parsed, pool_size=10, max_overflow=10, hide_parameters=True)
    if parsed.drivername in ("sqlite", "sqlite+aiosqlite"):
        folder = Path(parsed.database or "").parent
        if not folder.is_dir():
            raise StoreError(f"the folder {folder} of KVIT_DATABASE_URL does not exist; make it first")
        engine = create_async_engine(
            parsed.set(drivername="sqlite+aiosqlite"),
            connect_args={"async_creator_fn": sqlite.connect},
            hide_parameters=True,
        )
        event.listen(engine.sync_engine, "connect", _sqlite_connect)
        event.listen(engine.sync_engine, "begin", _sqlite_begin)
        return engine
    raise StoreError(f"{parsed.drivername} is not a database Kvit can use; use postgresql:// or sqlite:///")


def _sqlite_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _sqlite_begin, not guessed by the driver
    connection.run_async(_sqlite_prepare)


_REVISION = select(column("version_num", String)).select_from(table("alembic_version"))


def _migrate(connection: Connection) -> None:
    if inspect(connection).has_table("alembic_version") and connection.scalars(_REVISION).all() == [NEWEST]:
        return  # so that a database user who may change no table can open it, and no command waits for alembic to load
    from alembic.util import CommandError

    from store.migrating import upgrade

    try:
        upgrade(connection)
    except CommandError as error:
        said = f"the database was changed by a newer Kvit ({error}); run that version, or restore a backup from before"
        raise StoreError(said) from error


async def open_store(url: str) -> Store:
    """Open a database and bring its tables up to date.

    Raises StoreError for a URL that is none or of another database, for a database that can't be reached or written
    to, for one that a newer Kvit has already changed, and for a user who may not do what is to be done.
    """
    engine = _engine(url)
    store = Store(engine, _driver_errors(engine))
    try:
        async with store.write() as connection:
            await connection.run_sync(_migrate)
    except BaseException as error:
        await store.close()
        if said := _refusal(error):
            raise StoreError(said) from error
        raise
    return store


def _refusal(error: BaseException) -> str | None:
    """Return what is wrong with the database, in a sentence, or None for what is a defect of ours."""
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _NOT_ALLOWED:
        return (
            "the tables are not up to date, or the database user of KVIT_DATABASE_URL has no rights on them "
            f"({str(error.orig).rpartition(': ')[2]}); run `kvit check` with the URL of their owner, "
            "then give this user what `kvit database rights` prints"
        )
    if isinstance(error, DBAPIError | OSError):
        said = error.orig if isinstance(error, DBAPIError) else error
        return f"the database of KVIT_DATABASE_URL can't be opened: {said}"
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        return f"KVIT_DATABASE_URL has an option after “?” that is not known: {str(error).rpartition(' ')[2]}"
    return None
