"""Documents and messages: what was issued and sent, and the numbers of the series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.rules import DocumentKind
from store.sql import add_new, among, chunks
from store.tables import DocumentRow, DocumentSeries, MessageRow

_TAKEN = (
    update(DocumentSeries)
    .where(
        DocumentSeries.channel == bindparam("of_channel"),
        DocumentSeries.kind == bindparam("of_kind"),
        DocumentSeries.year == bindparam("of_year"),
    )
    .values(next_number=DocumentSeries.next_number + 1)
    .returning(DocumentSeries.next_number)
)


async def next_number(connection: AsyncConnection, channel: str, kind: DocumentKind, year: int) -> int:
    """Take the next number of a series. It is used up only if the transaction commits, so there are no gaps."""
    series = {"channel": channel, "kind": kind.value, "year": year}
    which = {f"of_{name}": value for name, value in series.items()}
    following = await connection.scalar(_TAKEN, which)
    if following is None:  # the first of its series
        await add_new(connection, DocumentSeries, [series | {"next_number": 1}])
        following = await connection.scalar(_TAKEN, which)
    assert following is not None  # noqa: S101 - RETURNING of the row added above
    return following - 1


_NEW = insert(DocumentRow)


async def add(
    connection: AsyncConnection,
    *,
    order_id: int | None,
    channel: str,
    kind: DocumentKind,
    number: str,
    year: int | None,
    counter: int | None,
    currency: str,
    total_minor: int,
    issued_on: date,
    content: dict[str, Any],
    effect_id: int | None,
    corrects_id: int | None = None,
    open_item_id: int | None = None,
) -> None:
    """Store an issued document, of an order or of an open item without one.

    At most one of a kind is live per order; the database refuses another.
    """
    await connection.execute(
        _NEW,
        {
            "order_id": order_id,
            "open_item_id": open_item_id,
            "channel": channel,
            "kind": kind.value,
            "number": number,
            "year": year,
            "counter": counter,
            "currency": currency,
            "total_minor": total_minor,
            "issued_on": issued_on,
            "content": content,
            "effect_id": effect_id,
            "corrects_id": corrects_id,
            # A credit note is never live: it takes something back, and there can be several.
            "live": kind is not DocumentKind.CREDIT_NOTE,
        },
    )


async def live(connection: AsyncConnection, order_id: int, kind: DocumentKind) -> dict[str, Any] | None:
    """Return an order's live document of a kind, if there is one."""
    return (await live_ones(connection, [order_id])).get((order_id, kind))


_LIVE = select(*DocumentRow.__table__.columns).where(among(DocumentRow.order_id, "orders"), DocumentRow.live.is_(True))


async def live_ones(
    connection: AsyncConnection, order_ids: Sequence[int]
) -> dict[tuple[int, DocumentKind], dict[str, Any]]:
    """Return the live documents of orders, by order and kind."""
    found: dict[tuple[int, DocumentKind], dict[str, Any]] = {}
    for ids in chunks(sorted(set(order_ids))):
        rows = await connection.execute(_LIVE, {"orders": ids})
        for row in rows.mappings().all():
            found[row["order_id"], DocumentKind(row["kind"])] = dict(row)
    return found


_ENDED = update(DocumentRow).where(DocumentRow.id == bindparam("document")).values(live=False)


async def end(connection: AsyncConnection, document_id: int) -> None:
    """Mark a document as taken back."""
    await connection.execute(_ENDED, {"document": document_id})


@cache
def _unprinted(*, of_orders: bool, of_items: bool) -> Select[Any]:
    columns = (DocumentRow.id, DocumentRow.channel, DocumentRow.kind, DocumentRow.number, DocumentRow.content)
    query = select(*columns).where(DocumentRow.file.is_(None)).order_by(DocumentRow.id)
    if of_items:
        query = query.where(among(DocumentRow.open_item_id, "items"))
    return query.where(among(DocumentRow.order_id, "orders")) if of_orders else query


async def without_file(
    connection: AsyncConnection, order_ids: Sequence[int] | None = None, *, item_ids: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Return the documents whose PDF was not printed yet: of some orders, of some open items, or of all."""
    query = _unprinted(of_orders=order_ids is not None, of_items=bool(item_ids))
    which = {"items": item_ids} if item_ids else {}
    if order_ids is None:
        return [dict(row) for row in (await connection.execute(query, which)).mappings().all()]
    found: list[dict[str, Any]] = []
    for some in chunks(list(order_ids)):
        rows = await connection.execute(query, {**which, "orders": some})
        found.extend(dict(row) for row in rows.mappings().all())
    return found


_PRINTED = update(DocumentRow).where(DocumentRow.id == bindparam("document")).values(file=bindparam("path"))


async def set_files(connection: AsyncConnection, files: Mapping[int, str]) -> None:
    """Remember where documents' PDFs are, by the documents' ids, relative to KVIT_HOME."""
    if files:
        await connection.execute(_PRINTED, [{"document": id_, "path": file} for id_, file in sorted(files.items())])


_OF_ORDER = (
    select(
        DocumentRow.id,
        DocumentRow.kind,
        DocumentRow.number,
        DocumentRow.issued_on,
        DocumentRow.total_minor,
        DocumentRow.currency,
        DocumentRow.live,
        DocumentRow.file,
    )
    .where(DocumentRow.order_id == bindparam("order"))
    .order_by(DocumentRow.id)
)


async def of_order(connection: AsyncConnection, order_id: int) -> list[dict[str, Any]]:
    """Return an order's documents, oldest first."""
    rows = await connection.execute(_OF_ORDER, {"order": order_id})
    return [dict(row) for row in rows.mappings().all()]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMessage:
    """A message that was sent about an order, and the effect by which."""

    order_id: int
    by: str
    template: str
    language: str
    message_id: str
    subject: str
    reference: str
    effect_id: int


async def add_messages(connection: AsyncConnection, sent: Sequence[SentMessage], *, now: datetime) -> None:
    """Store that messages were sent."""
    await add_new(connection, MessageRow, [asdict(one) | {"sent_at": now} for one in sent])


_MESSAGES = (
    select(
        MessageRow.sent_at,
        MessageRow.by,
        MessageRow.template,
        MessageRow.language,
        MessageRow.subject,
        MessageRow.reference,
    )
    .where(MessageRow.order_id == bindparam("order"))
    .order_by(MessageRow.id)
)


async def messages(connection: AsyncConnection, order_id: int) -> list[dict[str, Any]]:
    """Return the messages sent about an order, oldest first."""
    rows = await connection.execute(_MESSAGES, {"order": order_id})
    return [dict(row) for row in rows.mappings().all()]
