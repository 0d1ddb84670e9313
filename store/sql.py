"""The few statements that differ between databases, and the bounds on a statement's size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Dialect,
    Insert,
    Integer,
    Row,
    Select,
    Text,
    TextClause,
    TypeDecorator,
    bindparam,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from store.tables import Table

_T = TypeVar("_T")

# Both databases take about 32 000 parameters in a statement; an IN list stays far below.
_CHUNK = 500
_NEW_ONLY = text("ON CONFLICT DO NOTHING")


def chunks(values: Sequence[_T], size: int = _CHUNK) -> Iterator[Sequence[_T]]:
    """Cut a sequence into pieces that fit into one statement."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


class _Many(TypeDecorator[Sequence[Any]]):
    """Numbers or texts that are one parameter: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def __init__(self, *, numbers: bool) -> None:
        super().__init__()
        self.numbers = numbers

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type that the database knows."""
        if dialect.name != "postgresql":
            return Text()
        return postgresql.ARRAY(BigInteger()) if self.numbers else postgresql.ARRAY(Text())

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> Any:
        """Return what the driver is given."""
        if value is None:
            return None
        # PostgreSQL refuses all of them for a text with a NUL in it, and SQLite would look for what stands before it.
        sound = [one for one in value if self.numbers or "\0" not in one]
        return sound if dialect.name == "postgresql" else json.dumps(sound)


class _Among(FunctionElement[bool]):
    """Whether a column is one of many values."""

    inherit_cache = True
    type = Boolean()
    # Else SQLAlchemy compares it with 1 on SQLite, which then finds it by no index.
    _is_implicitly_boolean = True


@compiles(_Among, "postgresql")
def _among_in_postgresql(among: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(one, **options) for one in among.clauses)
    return f"{column} = ANY ({values})"


@compiles(_Among, "sqlite")
def _among_in_sqlite(among: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(one, **options) for one in among.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - both are the compiler's own words


def among(column: Any, name: str) -> _Among:
    """Say that a column of numbers or texts is one of those that the parameter of this name holds.

    SQLAlchemy's own `in_` makes a parameter of each value: the statement has other words for each count of them, is put
    into words each time, and PostgreSQL plans each anew. This one is a constant.
    """
    return _Among(column, bindparam(name, type_=_Many(numbers=isinstance(column.type, Integer))))


@cache
def insert_or(table: type[Table], otherwise: TextClause) -> Insert:
    """Return an INSERT that says what becomes of rows which a unique key already holds: ON CONFLICT and so on.

    Let that be a constant: the statement is made and put into words once.
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
    return (await connection.execute(_insert_new_returning(table, *columns), list(rows))).all()


@cache
def _insert_new_returning(table: type[Table], *columns: Any) -> Any:
    return insert_new(table).returning(*columns)


def _turns() -> Select[Any]:
    named = func.hashtext(func.unnest(bindparam("things", type_=postgresql.ARRAY(Text))))
    keys = select(named.label("key")).distinct().order_by("key").subquery()
    return select(func.pg_advisory_xact_lock(keys.c.key))


_TURNS = _turns()


async def take_turns(connection: AsyncConnection, what: str) -> None:
    """Let the transactions that name the same thing here run one after the other; on SQLite all do anyway."""
    await take_turns_at(connection, [what])


async def take_turns_at(connection: AsyncConnection, things: Sequence[str]) -> None:
    """Do that for many things at once, in one order everywhere, so that nobody waits for ever."""
    if connection.dialect.name != "postgresql" or not things:
        return
    await connection.execute(_TURNS, {"things": sorted(set(things))})
