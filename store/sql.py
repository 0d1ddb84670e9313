"""The few statements that differ between databases, and the bounds on a statement's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Insert, Row, Text, TextClause, func, insert, literal, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from store.tables import Table

_T = TypeVar("_T")

# Both databases take about 32 000 parameters in a statement; an IN list stays far below.
_CHUNK = 500
_NEW_ONLY = text("ON CONFLICT DO NOTHING")


def chunks(values: Sequence[_T], size: int = _CHUNK) -> Iterator[Sequence[_T]]:
    """Cut a sequence into pieces that fit into one statement."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def insert_or(table: type[Table], otherwise: TextClause) -> Insert:
    """Return an INSERT that says what becomes of rows which a unique key already holds: ON CONFLICT and so on.

    Let that be a constant, so that the statement is put into words once.
    """
    statement = insert(table)
    # SQLAlchemy's own ON CONFLICT, which each dialect has, is put into words anew at each use, and that takes longer
    # than what it says. Both databases know these words; tests/state/test_query_plans.py sees that they are kept.
    statement._post_values_clause = otherwise  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - there is no public way
    return statement


def insert_new(table: type[Table]) -> Insert:
    """Return an INSERT that passes over rows which a unique key already holds."""
    return insert_or(table, _NEW_ONLY)


async def add_new(connection: AsyncConnection, table: type[Table], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, passing over those that a unique key already holds."""
    if rows:
        await connection.execute(insert_new(table), list(rows))


async def add_new_returning(
    connection: AsyncConnection, table: type[Table], rows: Sequence[dict[str, Any]], *columns: Any
) -> Sequence[Row[Any]]:
    """Insert rows, passing over those that a unique key already holds; return columns of those that were added."""
    if not rows:
        return []
    return (await connection.execute(insert_new(table).returning(*columns), list(rows))).all()


async def take_turns(connection: AsyncConnection, what: str) -> None:
    """Let the transactions that name the same thing here run one after the other; on SQLite all do anyway."""
    await take_turns_at(connection, [what])


async def take_turns_at(connection: AsyncConnection, things: Sequence[str]) -> None:
    """Do that for many things at once, in one order everywhere, so that nobody waits for ever."""
    if connection.dialect.name != "postgresql" or not things:
        return
    named = func.hashtext(func.unnest(literal(sorted(set(things)), postgresql.ARRAY(Text))))
    keys = select(named.label("key")).distinct().order_by("key").subquery()
    await connection.execute(select(func.pg_advisory_xact_lock(keys.c.key)))
