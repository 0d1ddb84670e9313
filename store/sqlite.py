"""SQLite's driver as SQLAlchemy uses it, with one errand to a connection's thread for each statement instead of four.

The driver keeps each connection in a thread of its own. To make a cursor, to execute, to fetch and to close are an
errand each, and the errands cost more than the statements that a payment needs.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import aiosqlite

_AT_ONCE = 1_000
"""Rows that are fetched in the errand of their statement; what has more of them is fetched as it is asked for."""
_ITER_CHUNK = 64


class _Cursor:
    """One statement's result."""

    def __init__(self, connection: OneErrand) -> None:
        self._connection = connection
        self._open: sqlite3.Cursor | None = None
        self._rows: deque[Any] = deque()
        self.description: Any = None
        self.lastrowid: int | None = None
        self.rowcount = -1

    def _look(self, cursor: sqlite3.Cursor) -> None:
        self.description, self.lastrowid, self.rowcount = cursor.description, cursor.lastrowid, cursor.rowcount

    def _execute(self, statement: str, parameters: Iterable[Any]) -> None:
        cursor = self._connection.plain.cursor()
        try:
            cursor.execute(statement, parameters)  # pyright: ignore[reportArgumentType] - SQLAlchemy gives a tuple
            rows = cursor.fetchmany(_AT_ONCE) if cursor.description else []
            self._look(cursor)
        except BaseException:
            cursor.close()
            raise
        self._rows = deque(rows)
        if len(rows) == _AT_ONCE:
            self._open = cursor
        else:
            cursor.close()

    def _executemany(self, statement: str, parameters: Iterable[Any]) -> None:
        cursor = self._connection.plain.cursor()
        try:
            cursor.executemany(statement, parameters)
            self._look(cursor)
        finally:
            cursor.close()

    async def execute(self, statement: str, parameters: Iterable[Any] = ()) -> None:
        """Execute a statement, and fetch what it gives at first."""
        await self._connection.errand(self._execute, statement, parameters)

    async def executemany(self, statement: str, parameters: Iterable[Any]) -> None:
        """Execute a statement for each of the parameters."""
        await self._connection.errand(self._executemany, statement, parameters)

    async def fetchmany(self, size: int) -> list[Any]:
        """Return the next rows, at most so many."""
        missing = size - len(self._rows)
        if self._open is not None and missing > 0:
            self._rows += await self._connection.errand(self._open.fetchmany, missing)
        return [self._rows.popleft() for _ in range(min(size, len(self._rows)))]

    async def fetchone(self) -> Any | None:
        """Return the next row, or None after the last one."""
        return next(iter(await self.fetchmany(1)), None)

    async def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        if self._open is not None:
            self._rows += await self._connection.errand(self._open.fetchall)
        rows = list(self._rows)
        self._rows.clear()
        return rows

    async def close(self) -> None:
        """Give back what the statement holds."""
        if self._open is not None:
            await self._connection.errand(self._open.close)
            self._open = None


class OneErrand(aiosqlite.Connection):
    """A connection whose thread is asked once for each statement."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, _ITER_CHUNK)
        # A connection that nobody closed must not keep a process that ends.
        self._thread.daemon = True
        self._is_at_rest = True

    @property
    def plain(self) -> sqlite3.Connection:
        """The connection as its own thread uses it."""
        return self._conn

    async def errand(self, act: Callable[..., Any], *told: Any) -> Any:
        """Do something in the connection's own thread."""
        self._is_at_rest = False
        try:
            done: Any = await self._execute(act, *told)  # pyright: ignore[reportUnknownMemberType]
        except Exception:
            self._is_at_rest = True
            raise
        # Who is cancelled does not get here: the thread may still be at it.
        self._is_at_rest = True
        return done

    def _has_nothing_to_end(self) -> bool:
        return self._is_at_rest and not self._conn.in_transaction

    async def cursor(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a cursor, for SQLAlchemy alone; it costs nothing until it is given a statement."""
        return _Cursor(self)

    async def commit(self) -> None:
        """Commit, if anything was begun."""
        if not self._has_nothing_to_end():
            await super().commit()

    async def rollback(self) -> None:
        """Roll back, if anything was begun; each connection that goes back to the pool is asked to."""
        if not self._has_nothing_to_end():
            await super().rollback()


def connect(database: str, **options: Any) -> OneErrand:
    """Return a connection that opens when it is awaited, as SQLAlchemy's `async_creator_fn` wants it."""
    return OneErrand(lambda: sqlite3.connect(database, **options))
