"""What reconciliation compares: the store's side, in pieces of bounded size, and what is old. It only reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.money import Money
from domain.orders import Status, payment_state_of
from domain.payments import Kind, Method, Outcome
from domain.reconciliation import ListedDocument, OrderFacts, Stored, StoredOrder
from domain.rules import DocumentKind
from store import archived
from store.archived import Name
from store.effects import OPEN, EffectState
from store.sql import chunks
from store.tables import (
    STANDING,
    AllocationRow,
    ConnectorState,
    CustomerRow,
    DocumentRow,
    DocumentSeries,
    EffectRow,
    InboxRow,
    OrderRow,
    PaymentRow,
    RevertRow,
    StatusHistory,
    WorkRow,
)

PIECE = 500
"""Rows in memory at once, of what may be many."""


# Payments


async def stored_ids(connection: AsyncConnection, source: str, *, since: date, before: datetime) -> set[str]:
    """Return the ids by which a source knows its payments booked on a day or later, of those received before a time."""
    rows = await connection.stream_scalars(
        select(PaymentRow.external_id).where(
            PaymentRow.source == source, PaymentRow.booked_on >= since, PaymentRow.received_at < before
        )
    )
    return {external_id async for external_id in rows}


async def stored(connection: AsyncConnection, source: str, external_ids: Collection[str]) -> dict[str, Stored]:
    """Return the payments of a source by its ids, those that are here or archived."""
    found: dict[str, Stored] = {}
    columns = (
        PaymentRow.id,
        PaymentRow.external_id,
        PaymentRow.kind,
        PaymentRow.amount_minor,
        PaymentRow.currency,
        PaymentRow.booked_on,
    )
    for some in chunks(sorted(external_ids)):
        rows = await connection.execute(
            select(*columns).where(PaymentRow.source == source, PaymentRow.external_id.in_(some))
        )
        for row in rows.all():
            found[row.external_id] = Stored(
                id=row.id,
                external_id=row.external_id,
                kind=Kind(row.kind),
                amount=Money(row.amount_minor, row.currency),
                booked_on=row.booked_on,
            )
    away = set(external_ids) - found.keys()
    for held in await archived.named(connection, [Name("payment", source, external_id) for external_id in away]):
        for row in held.rows.get(PaymentRow.__tablename__, ()):
            if row["source"] == source and row["external_id"] in away:
                found[row["external_id"]] = Stored(
                    id=row["id"],
                    external_id=row["external_id"],
                    kind=Kind(row["kind"]),
                    amount=Money(row["amount_minor"], row["currency"]),
                    booked_on=row["booked_on"],
                )
    return found


async def by_day(
    connection: AsyncConnection, *, since: date, until: date
) -> list[tuple[date, Outcome | None, str, int, int]]:
    """Return (day, outcome, currency, how many, sum in minor units) of the payments booked from one day to another."""
    of = (PaymentRow.booked_on, PaymentRow.outcome, PaymentRow.currency)
    rows = await connection.execute(
        select(*of, func.count().label("times"), func.sum(PaymentRow.amount_minor).label("minor"))
        .where(PaymentRow.booked_on >= since, PaymentRow.booked_on <= until)
        .group_by(*of)
        .order_by(*of)
    )
    return [
        (row.booked_on, Outcome(row.outcome) if row.outcome else None, row.currency, row.times, int(row.minor))
        for row in rows.all()
    ]


# Files


@dataclass(frozen=True, slots=True)
class File:
    """A statement or remittance file as it was stored."""

    id: int
    source: str
    format: str
    received_at: datetime


async def files(connection: AsyncConnection, sources: Sequence[str], *, since: datetime) -> list[File]:
    """Return the files that came since a time, the oldest first, without what is in them."""
    columns = (InboxRow.id, InboxRow.source, InboxRow.kind, InboxRow.received_at)
    rows = await connection.execute(
        select(*columns).where(InboxRow.source.in_(sources), InboxRow.received_at >= since).order_by(InboxRow.id)
    )
    return [File(row.id, row.source, row.kind, row.received_at) for row in rows.all()]


async def body(connection: AsyncConnection, inbox_id: int) -> bytes:
    """Return what is in a stored file."""
    return (await connection.execute(select(InboxRow.body).where(InboxRow.id == inbox_id))).scalar_one()


async def has_letter(connection: AsyncConnection, source: str, external_id: str) -> bool:
    """Say whether the inbox has a message of a source, worked off or not."""
    of_source = select(InboxRow.id).where(InboxRow.source == source, InboxRow.external_id == external_id)
    return await connection.scalar(of_source) is not None


# Orders


@dataclass(frozen=True, slots=True)
class Buyer:
    """By what the rules for an order are found, and the channel's own word for how the order came here."""

    group: str | None
    number: str
    taken_in_as: str | None
    order_id: int


async def orders(connection: AsyncConnection, *, since: datetime) -> AsyncGenerator[list[tuple[OrderFacts, Buyer]]]:
    """Yield, piece by piece, the orders that were placed, paid or invoiced since a time."""
    of_order = AllocationRow.order_id == OrderRow.id
    touched = or_(
        OrderRow.placed_at >= since,
        exists().where(of_order, AllocationRow.at >= since),
        exists().where(DocumentRow.order_id == OrderRow.id, DocumentRow.issued_on >= since.date()),
    )
    columns = (
        *(OrderRow.id, OrderRow.number, OrderRow.channel, OrderRow.method, OrderRow.standard_status),
        *(OrderRow.total_minor, OrderRow.currency, OrderRow.placed_at, OrderRow.delivery_method),
        OrderRow.on_delivery_minor,
        *(CustomerRow.group, CustomerRow.number.label("customer")),
    )
    last = 0
    while True:
        rows = (
            await connection.execute(
                select(*columns)
                .join(CustomerRow, CustomerRow.id == OrderRow.customer_id)
                .where(OrderRow.id > last, touched)
                .order_by(OrderRow.id)
                .limit(PIECE)
            )
        ).all()
        if not rows:
            return
        yield await _facts(connection, rows)
        last = rows[-1].id


async def _facts(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[tuple[OrderFacts, Buyer]]:
    ids = [row.id for row in rows]
    allocated = await _moves(connection, ids)
    first = await connection.execute(
        select(StatusHistory.order_id, StatusHistory.after).where(
            StatusHistory.order_id.in_(ids), StatusHistory.before.is_(None)
        )
    )
    taken_in = {row.order_id: row.after for row in first.all()}
    live = await connection.execute(
        select(DocumentRow.order_id, DocumentRow.number, DocumentRow.total_minor, DocumentRow.currency)
        .add_columns(DocumentRow.issued_on)
        .where(DocumentRow.order_id.in_(ids), DocumentRow.live.is_(True))
        .where(DocumentRow.kind == DocumentKind.INVOICE.value)
    )
    invoices = {row.order_id: row for row in live.all()}
    left_out = await _order_ids(
        connection,
        EffectRow.order_id,
        EffectRow.order_id.in_(ids),
        EffectRow.step == "invoice",
        EffectRow.state == EffectState.SKIPPED.value,
    )
    going = await _under_way(connection, ids)
    found: list[tuple[OrderFacts, Buyer]] = []
    for row in rows:
        moves = allocated.get(row.id, [])
        invoice = invoices.get(row.id)
        facts = OrderFacts(
            number=row.number,
            channel=row.channel,
            method=Method(row.method),
            status=Status(row.standard_status),
            total=Money(row.total_minor, row.currency),
            moves=tuple(
                (Kind(move.kind), Money(move.amount_minor, row.currency), Money(move.write_off_minor, row.currency))
                for move in moves
            ),
            under_way=row.id in going,
            since=max([move.at for move in moves], default=row.placed_at).date(),
            invoice=invoice.number if invoice else None,
            invoice_total=Money(invoice.total_minor, invoice.currency) if invoice else None,
            invoice_on=invoice.issued_on if invoice else None,
            no_invoice=row.id in left_out,
            delivery_method=row.delivery_method,
            on_delivery=None if row.on_delivery_minor is None else Money(row.on_delivery_minor, row.currency),
        )
        found.append((facts, Buyer(row.group, row.customer, taken_in.get(row.id), row.id)))
    return found


async def _moves(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, list[Row[Any]]]:
    """Return what settles orders now, by order: what was taken off again is not in."""
    rows = await connection.execute(
        select(AllocationRow.order_id, AllocationRow.amount_minor, AllocationRow.write_off_minor, AllocationRow.at)
        .add_columns(PaymentRow.kind)
        .join(PaymentRow, PaymentRow.id == AllocationRow.payment_id)
        .where(AllocationRow.order_id.in_(ids))
        .where(*STANDING)
        .order_by(AllocationRow.id)
    )
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows.all():
        found[row.order_id].append(row)
    return found


async def _order_ids(connection: AsyncConnection, column: Any, *conditions: ColumnElement[bool]) -> set[int]:
    return set((await connection.execute(select(column).where(*conditions))).scalars().all())


async def _under_way(connection: AsyncConnection, ids: Sequence[int]) -> set[int]:
    """Return the orders of which a step is open, or of which something is due: they are between two states."""
    is_due = WorkRow.due_at.is_not(None)
    of_payment = and_(WorkRow.subject == "payment", WorkRow.subject_id == AllocationRow.payment_id, is_due)
    return (
        await _order_ids(
            connection, EffectRow.order_id, EffectRow.order_id.in_(ids), EffectRow.state.in_([*map(str, OPEN)])
        )
        | await _order_ids(
            connection, WorkRow.subject_id, WorkRow.subject == "order", WorkRow.subject_id.in_(ids), is_due
        )
        | await _order_ids(
            connection, AllocationRow.order_id, AllocationRow.order_id.in_(ids), exists().where(of_payment)
        )
        | await _order_ids(connection, RevertRow.order_id, RevertRow.order_id.in_(ids), RevertRow.finished_at.is_(None))
    )


async def stored_orders(
    connection: AsyncConnection, names: Collection[tuple[str, str]]
) -> dict[tuple[str, str], StoredOrder]:
    """Return orders by channel and number, those that are here or archived."""
    numbers = sorted({number for _, number in names})
    found: dict[tuple[str, str], StoredOrder] = {}
    for some in chunks(numbers):
        found |= await _stored_orders(connection, OrderRow.number.in_(some))
    away = [Name("order", *name) for name in names if name not in found]
    for held in await archived.named(connection, away):
        found |= _orders_of(held)
    return {name: found[name] for name in names if name in found}


def _orders_of(held: archived.Unpacked) -> dict[tuple[str, str], StoredOrder]:
    """Return the orders that are in an archive."""
    kinds = {row["id"]: Kind(row["kind"]) for row in held.rows.get(PaymentRow.__tablename__, ())}
    moves: dict[int, list[tuple[Kind, Money, Money]]] = defaultdict(list)
    orders = held.rows.get(OrderRow.__tablename__, ())
    currency = {row["id"]: row["currency"] for row in orders}
    for row in held.rows.get(AllocationRow.__tablename__, ()):
        if row["reverses_id"] is None and not row["reversed"]:
            amounts = [Money(row[one], currency[row["order_id"]]) for one in ("amount_minor", "write_off_minor")]
            moves[row["order_id"]].append((kinds[row["payment_id"]], amounts[0], amounts[1]))
    return {
        (row["channel"], row["number"]): StoredOrder(
            channel=row["channel"],
            number=row["number"],
            total=Money(row["total_minor"], row["currency"]),
            standard=Status(row["standard_status"]),
            state=payment_state_of(Money(row["total_minor"], row["currency"]), moves[row["id"]]),
            placed_at=row["placed_at"],
        )
        for row in orders
    }


async def orders_placed(
    connection: AsyncConnection, channels: Collection[str], *, since: datetime
) -> AsyncGenerator[dict[tuple[str, str], StoredOrder]]:
    """Yield, piece by piece, the orders of channels that were placed since a time."""
    last = 0
    while True:
        ids = (
            await connection.execute(
                select(OrderRow.id)
                .where(OrderRow.id > last, OrderRow.channel.in_(sorted(channels)), OrderRow.placed_at >= since)
                .order_by(OrderRow.id)
                .limit(PIECE)
            )
        ).scalars()
        if not (piece := list(ids.all())):
            return
        yield await _stored_orders(connection, OrderRow.id.in_(piece))
        last = piece[-1]


async def _stored_orders(connection: AsyncConnection, which: ColumnElement[bool]) -> dict[tuple[str, str], StoredOrder]:
    columns = (
        OrderRow.id,
        OrderRow.channel,
        OrderRow.number,
        OrderRow.total_minor,
        OrderRow.currency,
        OrderRow.standard_status,
        OrderRow.placed_at,
    )
    rows = (await connection.execute(select(*columns).where(which))).all()
    allocated: dict[int, list[Row[Any]]] = {}
    for some in chunks([row.id for row in rows]):
        allocated |= await _moves(connection, some)
    return {
        (row.channel, row.number): StoredOrder(
            channel=row.channel,
            number=row.number,
            total=Money(row.total_minor, row.currency),
            standard=Status(row.standard_status),
            state=payment_state_of(
                Money(row.total_minor, row.currency),
                [
                    (Kind(m.kind), Money(m.amount_minor, row.currency), Money(m.write_off_minor, row.currency))
                    for m in allocated.get(row.id, [])
                ],
            ),
            placed_at=row.placed_at,
        )
        for row in rows
    }


# Documents


async def series_out_of_order(connection: AsyncConnection) -> list[tuple[str, list[int], int]]:
    """Return the series whose numbers have gaps or repeats: what it is called, its numbers, and how far it has come."""
    key = (DocumentRow.channel, DocumentRow.kind, DocumentRow.year)
    used = await connection.execute(
        select(*key, func.count().label("times"), func.max(DocumentRow.counter).label("last"))
        .add_columns(func.count(DocumentRow.counter.distinct()).label("different"))
        .where(DocumentRow.counter.is_not(None))
        .group_by(*key)
    )
    held = {(row.channel, row.kind, row.year): {row.times, row.last, row.different} for row in used.all()}
    begun = await connection.execute(select(*DocumentSeries.__table__.columns))
    ends = {(row.channel, row.kind, row.year): row.next_number - 1 for row in begun.all()}
    found: list[tuple[str, list[int], int]] = []
    away = await archived.counters(connection)
    for channel, kind, year in sorted(ends.keys() | held.keys() | away.keys()):
        end = ends.get((channel, kind, year), 0)
        if held.get((channel, kind, year), {0}) == {end}:
            continue
        of_series = (DocumentRow.channel == channel, DocumentRow.kind == kind, DocumentRow.year == year)
        rows = await connection.execute(
            select(DocumentRow.counter).where(*of_series, DocumentRow.counter.is_not(None)).order_by(DocumentRow.id)
        )
        counters = [counter for counter in rows.scalars().all() if counter is not None]
        counters = [*away.get((channel, kind, year), ()), *counters]
        if {len(counters), max(counters, default=0), len(set(counters))} == {end}:
            continue
        found.append((f"{channel}, {kind.replace('_', ' ')}s of {year}", counters, end))
    return found


@dataclass(frozen=True, slots=True)
class Issued:
    """An issued document, and where its PDF is to be."""

    kind: DocumentKind
    number: str
    file: str | None
    issued_on: date


async def documents(
    connection: AsyncConnection, *, since: date, channels: Collection[str]
) -> AsyncGenerator[list[Issued]]:
    """Yield, piece by piece, the documents of channels issued on a day or later, printed or not."""
    columns = (DocumentRow.id, DocumentRow.kind, DocumentRow.number, DocumentRow.file, DocumentRow.issued_on)
    last = 0
    while True:
        rows = (
            await connection.execute(
                select(*columns)
                .where(DocumentRow.id > last, DocumentRow.issued_on >= since)
                .where(DocumentRow.channel.in_(sorted(channels)))
                .order_by(DocumentRow.id)
                .limit(PIECE)
            )
        ).all()
        if not rows:
            return
        yield [Issued(DocumentKind(row.kind), row.number, row.file, row.issued_on) for row in rows]
        last = rows[-1].id


async def stored_documents(
    connection: AsyncConnection, channels: Collection[str], *, since: date
) -> dict[str, ListedDocument]:
    """Return the documents of channels issued on a day or later, by kind and number."""
    columns = (
        *(DocumentRow.kind, DocumentRow.number, DocumentRow.total_minor, DocumentRow.currency),
        *(DocumentRow.issued_on, DocumentRow.live),
    )
    rows = await connection.execute(
        select(*columns).where(DocumentRow.issued_on >= since, DocumentRow.channel.in_(sorted(channels)))
    )
    return {
        f"{row.kind} {row.number}": ListedDocument(
            kind=DocumentKind(row.kind),
            number=row.number,
            total=Money(row.total_minor, row.currency),
            issued_on=row.issued_on,
            # A credit note is never live, and still stands.
            cancelled=not row.live and row.kind != DocumentKind.CREDIT_NOTE,
        )
        for row in rows.all()
    }


# What is old


async def known_since(connection: AsyncConnection, payment_ids: Sequence[int]) -> dict[int, datetime]:
    """Return when payments came here, by id: what was booked long before may have come only now."""
    found: dict[int, datetime] = {}
    for some in chunks(payment_ids):
        rows = await connection.execute(select(PaymentRow.id, PaymentRow.received_at).where(PaymentRow.id.in_(some)))
        found.update({row.id: row.received_at for row in rows.all()})
    return found


@dataclass(frozen=True, slots=True)
class Unseen:
    """How many payments nobody has looked at yet since before a time, and the oldest of them."""

    count: int
    oldest: int
    since: datetime


async def unseen(connection: AsyncConnection, *, before: datetime) -> Unseen | None:
    """Return the payments that came before a time and were never matched, or None."""
    never = (PaymentRow.outcome.is_(None), PaymentRow.received_at <= before)
    count = await connection.scalar(select(func.count()).select_from(PaymentRow).where(*never)) or 0
    if not count:
        return None
    oldest = (
        await connection.execute(
            select(PaymentRow.id, PaymentRow.received_at)
            .where(*never)
            .order_by(PaymentRow.received_at, PaymentRow.id)
            .limit(1)
        )
    ).one()
    return Unseen(count, oldest.id, oldest.received_at)


async def old_steps(connection: AsyncConnection, *, before: datetime, limit: int) -> list[Row[Any]]:
    """Return the steps that are open since before a time, or that were refused before it, the oldest first."""
    is_open = and_(EffectRow.state.in_([*map(str, OPEN)]), EffectRow.created_at <= before)
    refused = and_(EffectRow.state == EffectState.REJECTED.value, EffectRow.updated_at <= before)
    rows = await connection.execute(
        select(OrderRow.number, EffectRow.step, EffectRow.state, EffectRow.created_at)
        .join(OrderRow, OrderRow.id == EffectRow.order_id)
        .where(or_(is_open, refused))
        .order_by(EffectRow.created_at, EffectRow.id)
        .limit(limit)
    )
    return list(rows.all())


@dataclass(frozen=True, slots=True)
class Awaiting:
    """How many orders of a channel wait for money since before a time, and the oldest of them."""

    count: int
    oldest: str
    since: datetime


async def awaiting(connection: AsyncConnection, channel: str, *, before: datetime) -> Awaiting | None:
    """Return the orders of a channel that were taken in before a time and still wait for money, or None."""
    settled = (
        select(func.coalesce(func.sum(AllocationRow.amount_minor + AllocationRow.write_off_minor), 0))
        .where(AllocationRow.order_id == OrderRow.id)
        .scalar_subquery()
    )
    waits = (
        OrderRow.channel == channel,
        OrderRow.standard_status.in_([Status.NEW.value, Status.AWAITING_PAYMENT.value]),
        OrderRow.method != Method.CASH_ON_DELIVERY.value,
        OrderRow.created_at <= before,
        settled < OrderRow.total_minor - func.coalesce(OrderRow.on_delivery_minor, 0),
    )
    count = await connection.scalar(select(func.count()).select_from(OrderRow).where(*waits)) or 0
    if not count:
        return None
    oldest = (
        await connection.execute(
            select(OrderRow.number, OrderRow.created_at)
            .where(*waits)
            .order_by(OrderRow.created_at, OrderRow.id)
            .limit(1)
        )
    ).one()
    return Awaiting(count, oldest.number, oldest.created_at)


async def polled(connection: AsyncConnection) -> dict[str, datetime]:
    """Return when each source was last polled and answered."""
    rows = await connection.execute(select(ConnectorState.connector, ConnectorState.polled_at))
    return {row.connector: row.polled_at for row in rows.all()}


def day_start(day: date) -> datetime:
    """Return the moment at which a day begins, in UTC."""
    return datetime.combine(day, time.min, UTC)
