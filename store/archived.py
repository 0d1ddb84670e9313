"""What was moved out of the growing tables: whole orders, packed with everything of theirs, and how they are named.

An archive is one order, or several that one payment settled, with every row of theirs in every table: packed JSON with
a checksum. Beside it stand the names by which something that comes late finds it: its numbers, its payments' ids, the
messages that told of it. The heads of the journal's chains stay where they are, so its digest is the same as before.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import Any, NamedTuple, cast

from sqlalchemy import Column, Date, Integer, LargeBinary, Select, and_, bindparam, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.sql import among, chunks
from store.tables import ArchivedName, ArchiveRow, Table, UtcDateTime

Rows = dict[str, list[dict[str, Any]]]
"""Rows by the name of their table."""

LARGEST = 128 << 20
"""Bytes that are unpacked of one archive, at most: what is more than is ever packed was put there by somebody else."""
LARGEST_LETTER = 1 << 18
"""Bytes of a message that is packed, at most; larger ones stay, such as a bank's statement of a whole year."""
_FORMAT = 1
_PAGE = 100


class ArchiveError(Exception):
    """An archive can't be read; its text says why."""


class Name(NamedTuple):
    """By what an archive is found: what kind of name it is, whose (a channel, a source, a carrier), and the name."""

    kind: str
    scope: str
    value: str


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive as it is stored."""

    body: bytes
    checksum: str


def pack(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], *, stock: Mapping[str, int], taught: Mapping[int, int]
) -> Packed:
    """Pack rows by table. stock is what they moved of each article, taught says which payment taught which account."""
    tables: dict[str, Any] = {}
    for name, some in sorted(rows.items()):
        if some:
            columns = list(Table.metadata.tables[name].columns.keys())
            tables[name] = {"columns": columns, "rows": [[_plain(row[column]) for column in columns] for row in some]}
    whole = {
        "format": _FORMAT,
        "tables": tables,
        "stock": dict(sorted(stock.items())),
        "taught": sorted(taught.items()),
    }
    content = json.dumps(whole, separators=(",", ":")).encode()
    return Packed(zlib.compress(content, 6), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an archive holds."""

    rows: Rows
    stock: dict[str, int]
    taught: dict[int, int]


def unpack(body: bytes, checksum: str) -> Unpacked:
    """Return what an archive holds. Raises ArchiveError for one that is not as it was written."""
    try:
        content = zlib.decompressobj().decompress(body, LARGEST)
    except zlib.error:
        raise ArchiveError("it is damaged") from None
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ArchiveError("it was changed")
    whole = json.loads(content)
    if whole["format"] != _FORMAT:
        raise ArchiveError(f"it was written by another version (format {whole['format']})")
    rows: Rows = {}
    for name, told in whole["tables"].items():
        table = Table.metadata.tables.get(name)
        if table is None or not set(told["columns"]) <= set(table.columns.keys()):
            raise ArchiveError(f"it was written by another version ({name})")
        reads = [_read_as(cast("Column[Any]", table.columns[column])) for column in told["columns"]]
        rows[name] = [
            {
                column: None if value is None else read(value)
                for column, read, value in zip(told["columns"], reads, row, strict=True)
            }
            for row in told["rows"]
        ]
    return Unpacked(rows, whole["stock"], dict(whole["taught"]))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | datetime) else value


def _read_as(column: Column[Any]) -> Callable[[Any], Any]:
    """Return how what stands in JSON is made into a column's value."""
    if isinstance(column.type, UtcDateTime):
        return datetime.fromisoformat
    if isinstance(column.type, Date):
        return date.fromisoformat
    return base64.b64decode if isinstance(column.type, LargeBinary) else _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


@cache
def _names(pieces: int) -> Select[Any]:
    """Make the query for names in so many pieces, each of one kind and scope; it is asked on the way of everything."""
    which = (
        and_(
            ArchivedName.kind == bindparam(f"kind_{place}"),
            ArchivedName.scope == bindparam(f"scope_{place}"),
            among(ArchivedName.value, f"values_{place}"),
        )
        for place in range(pieces)
    )
    return select(ArchivedName.kind, ArchivedName.scope, ArchivedName.value, ArchivedName.archive_id).where(or_(*which))


async def find(connection: AsyncConnection, names: Iterable[Name]) -> dict[Name, int]:
    """Return the archives that names are of, by name; most are of none."""
    values: dict[tuple[str, str], set[str]] = {}
    for name in names:
        values.setdefault((name.kind, name.scope), set()).add(name.value)
    found: dict[Name, int] = {}
    pieces = [(kind, scope, some) for (kind, scope), all_ in sorted(values.items()) for some in chunks(sorted(all_))]
    for several in chunks(pieces, 20):
        asked: dict[str, Any] = {}
        for place, (kind, scope, some) in enumerate(several):
            asked |= {f"kind_{place}": kind, f"scope_{place}": scope, f"values_{place}": some}
        rows = await connection.execute(_names(len(several)), asked)
        found.update({Name(row.kind, row.scope, row.value): row.archive_id for row in rows.all()})
    return found


_PACKED = select(ArchiveRow.body, ArchiveRow.checksum).where(among(ArchiveRow.id, "archives")).order_by(ArchiveRow.id)


async def named(connection: AsyncConnection, names: Iterable[Name]) -> list[Unpacked]:
    """Return what the archives hold that names are of. Raises ArchiveError."""
    found: list[Unpacked] = []
    for ids in chunks(sorted(set((await find(connection, names)).values()))):
        rows = await connection.execute(_PACKED, {"archives": ids})
        found += [unpack(row.body, row.checksum) for row in rows.all()]
    return found


async def of_number(connection: AsyncConnection, number: str, channel: str | None = None) -> list[tuple[int, str]]:
    """Return the archives of orders with a number, each as (archive, channel)."""
    query = select(ArchivedName.archive_id, ArchivedName.scope).where(
        ArchivedName.kind == "order", ArchivedName.value == number
    )
    if channel:
        query = query.where(ArchivedName.scope == channel)
    rows = await connection.execute(query.order_by(ArchivedName.archive_id))
    return [(row.archive_id, row.scope) for row in rows.all()]


async def counters(connection: AsyncConnection) -> dict[tuple[str, str, int], list[int]]:
    """Return the numbers of documents that went into archives, by channel, kind and year."""
    rows = await connection.execute(
        select(ArchivedName.scope, ArchivedName.value).where(ArchivedName.kind == "counter")
    )
    found: dict[tuple[str, str, int], list[int]] = {}
    for scope, value in rows.all():
        channel, kind, year = json.loads(scope)
        found.setdefault((channel, kind, year), []).append(int(value))
    return found


def series(channel: str, kind: str, year: int) -> str:
    """Return how a series of documents is named among the names."""
    return json.dumps([channel, kind, year])


@dataclass(frozen=True, slots=True)
class History:
    """The journal's rows in one archive, or in words why they can't be read."""

    archive_id: int
    rows: list[dict[str, Any]]
    problem: str | None = None


_NEXT = (
    select(ArchiveRow.id, ArchiveRow.body, ArchiveRow.checksum)
    .where(ArchiveRow.id > bindparam("last"), ArchiveRow.returned.is_(False))
    .order_by(ArchiveRow.id)
    .limit(bindparam("most", type_=Integer))
)


async def histories(connection: AsyncConnection) -> AsyncGenerator[History]:
    """Give the journal's rows of every archive, one archive after the other."""
    last = 0
    while True:
        rows = (await connection.execute(_NEXT, {"last": last, "most": _PAGE})).all()
        if not rows:
            return
        last = rows[-1].id
        for row in rows:
            try:
                held = unpack(row.body, row.checksum).rows.get("journal", [])
            except ArchiveError as error:
                yield History(row.id, [], str(error))
            else:
                yield History(row.id, held)
