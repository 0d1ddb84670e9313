"""Archive: closed orders leave the growing tables whole, and come back whole when something late is about them.

What goes together is what money joins: an order with its payments, these with all the orders that they settled, and the
refunds of these. Either all of that is closed and goes, or all of it stays. What is archived is found by its names
(store/archived.py); whoever takes something in asks for these, and what is found comes back first, as if it had never
been away. So nothing sees half of an order, and no payment is taken for a new one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, and_, bindparam, delete, exists, func, insert, or_, select, text, update
from sqlalchemy import Table as CoreTable
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from domain.orders import CLOSED, Status
from domain.rules import EvidenceKind, Policy
from store import hands
from store.archived import LARGEST_LETTER, Name, Rows, find, pack, series, unpack
from store.effects import EffectState
from store.sql import chunks
from store.tables import (
    STANDING,
    AllocationRow,
    ArchivedName,
    ArchiveRow,
    BackfillItem,
    DocumentRow,
    EffectRow,
    ExportRow,
    HoldRow,
    InboxRow,
    JournalRow,
    MessageRow,
    OpenItemRow,
    OrderLineRow,
    OrderRow,
    PayerAccount,
    PaymentReference,
    PaymentRow,
    PayoutRow,
    ReferenceRow,
    RevertRow,
    ShipmentRow,
    StatusHistory,
    StockMove,
    Table,
    WorkRow,
)

TOGETHER_MAX = 200
"""Orders that are archived as one, at most; what joins more of them stays."""
_WAITING = frozenset({Status.NEW, Status.AWAITING_PAYMENT, Status.ON_HOLD})
_ENDED = frozenset({EffectState.DONE.value, EffectState.SKIPPED.value})
_MOMENTS = frozenset(
    "at created_at updated_at received_at matched_at handled_at sent_at finished_at placed_at exported_at".split()
)
"""Columns that say when something happened, unlike those that say when it is to."""
_OF_ORDER: tuple[type[Table], ...] = (
    *(OrderLineRow, StatusHistory, OpenItemRow, EffectRow, RevertRow, StockMove, DocumentRow, MessageRow, HoldRow),
    *(ShipmentRow, ExportRow, BackfillItem),
)
_UNNUMBERED = frozenset({ReferenceRow.__tablename__, PaymentReference.__tablename__})
"""Nothing points at these rows, and they are deleted otherwise, too: brought back, they get new ids."""
MOVED = frozenset(
    table.__tablename__
    for table in (
        *_OF_ORDER,
        *(OrderRow, ReferenceRow, PaymentRow, PaymentReference, AllocationRow, WorkRow, JournalRow, InboxRow),
    )
)
"""Tables whose rows go with an order. What points at these is to be among them, or keeps its order from going."""
_PARENTS_FIRST = tuple(table for table in Table.metadata.sorted_tables if table.name in MOVED)
_LOCK = (
    # Whoever asks for names holds up an archiving until he has ended, and waits for one that is under way.
    text("SET LOCAL lock_timeout = '3s'"),
    text("LOCK TABLE archived_names IN ACCESS EXCLUSIVE MODE"),
    text("SET LOCAL lock_timeout = DEFAULT"),
)


@dataclass(eq=False, slots=True)
class _Cluster:
    """What money joins: orders and payments, with every row of theirs; kept says why it stays."""

    orders: set[int] = field(default_factory=set[int])
    payments: set[int] = field(default_factory=set[int])
    rows: Rows = field(default_factory=dict[str, list[dict[str, Any]]])
    taught: dict[int, int] = field(default_factory=dict[int, int])
    kept: str | None = None

    def keep(self, why: str) -> None:
        self.kept = self.kept or why

    def of(self, table: type[Table]) -> list[dict[str, Any]]:
        return self.rows.get(table.__tablename__, [])

    @property
    def last_at(self) -> datetime:
        """When something happened to it last."""
        return max(
            row[name] for rows in self.rows.values() for row in rows for name in _MOMENTS & row.keys() if row[name]
        )


@dataclass(frozen=True, slots=True)
class Moved:
    """What a piece of an archiving came to: orders and rows that went, the orders that stay by why, and how far it is.

    last is the id of the last of the orders that were looked at, None when there was none any more.
    """

    orders: int
    rows: int
    kept: Counter[str]
    looked_at: int
    last: int | None


async def next_orders(connection: AsyncConnection, *, before: datetime, after: int, limit: int) -> list[int]:
    """Return the next orders that were placed before a time, by id."""
    rows = await connection.execute(
        select(OrderRow.id).where(OrderRow.id > after, OrderRow.placed_at < before).order_by(OrderRow.id).limit(limit)
    )
    return list(rows.scalars().all())


async def _next_ignored(connection: AsyncConnection, *, before: datetime, after: int, limit: int) -> list[int]:
    """Return the next payments that nothing is done with, that settle nothing and wait for no order, by id."""
    rows = await connection.execute(
        select(PaymentRow.id)
        .where(
            PaymentRow.id > after,
            PaymentRow.received_at < before,
            PaymentRow.policy == Policy.IGNORE.value,
            ~exists().where(AllocationRow.payment_id == PaymentRow.id),
            ~exists().where(PaymentReference.payment_id == PaymentRow.id),
        )
        .order_by(PaymentRow.id)
        .limit(limit)
    )
    return list(rows.scalars().all())


async def _next_letters(
    connection: AsyncConnection, *, before: datetime, after: int, limit: int
) -> list[dict[str, Any]]:
    """Return the next messages that were handled and that nothing here came of, but for the newest."""
    rows = await connection.execute(
        select(*InboxRow.__table__.columns)
        .where(
            InboxRow.id > after,
            InboxRow.handled_at < before,
            InboxRow.due_at.is_(None),
            func.length(InboxRow.body) <= LARGEST_LETTER,
            InboxRow.id != select(func.max(InboxRow.id)).scalar_subquery(),
            ~exists().where(PaymentRow.inbox_id == InboxRow.id),
            ~exists().where(PayoutRow.inbox_id == InboxRow.id),
        )
        .order_by(InboxRow.id)
        .limit(limit)
    )
    return [dict(row) for row in rows.mappings().all()]


async def how_many(connection: AsyncConnection, *, before: datetime) -> int:
    """Return how many orders were placed before a time."""
    query = select(func.count()).select_from(OrderRow).where(OrderRow.placed_at < before)
    return await connection.scalar(query) or 0


class What(StrEnum):
    """What is archived: orders with all that goes together with them, then what belongs to no order."""

    ORDERS = "orders"
    IGNORED = "payments that nothing is done with"
    LETTERS = "messages"


async def judge(
    connection: AsyncConnection, what: What, *, before: datetime, after: int, limit: int, now: datetime
) -> Moved:
    """Look at the next pieces as `take` does, and move nothing."""
    if what is What.LETTERS:
        return _moved_letters(await _next_letters(connection, before=before, after=after, limit=limit))
    ids, clusters = await _next(connection, what, before=before, after=after, limit=limit)
    await _weigh(connection, clusters, before=before, now=now)
    # What goes together with an earlier one was looked at with that.
    return _moved([one for one in clusters if _first(one, what) > after], ids, what, after=after)


async def take(
    connection: AsyncConnection, what: What, *, before: datetime, after: int, limit: int, now: datetime
) -> Moved:
    """Archive what is closed of the next pieces, with all that goes together with them, in this transaction.

    An order goes when nothing has happened to it since `before`, nothing is due or open, all its money is settled and
    nothing else needs it. now is when that is.
    """
    if connection.dialect.name == "postgresql":
        for statement in _LOCK:
            await connection.execute(statement)
    if what is What.LETTERS:
        letters = await _next_letters(connection, before=before, after=after, limit=limit)
        if letters:
            cluster = _Cluster(rows={InboxRow.__tablename__: letters})
            await _store(connection, cluster, now=now)
            await _delete(connection, [cluster])
        return _moved_letters(letters)
    ids, clusters = await _next(connection, what, before=before, after=after, limit=limit)
    # What is looked at once it is locked stays as it is seen.
    await _lock(connection, [one for one in clusters if not one.kept])
    await _weigh(connection, clusters, before=before, now=now)
    going = [one for one in clusters if not one.kept]
    for cluster in going:
        await _store(connection, cluster, now=now)
    await _carry_stock(connection, _stock_of(going), at=now)
    for some in chunks(sorted(row for one in going for row in one.taught)):
        await connection.execute(update(PayerAccount).where(PayerAccount.id.in_(some)).values(payment_id=None))
    await _delete(connection, going)
    return _moved(clusters, ids, what, after=after)


async def _next(
    connection: AsyncConnection, what: What, *, before: datetime, after: int, limit: int
) -> tuple[list[int], list[_Cluster]]:
    """Return the next orders or payments, and what goes together with these."""
    if what is What.ORDERS:
        ids = await next_orders(connection, before=before, after=after, limit=limit)
        return ids, await _joined(connection, {("order", id_) for id_ in ids})
    ids = await _next_ignored(connection, before=before, after=after, limit=limit)
    return ids, await _joined(connection, {("payment", id_) for id_ in ids})


async def _delete(connection: AsyncConnection, clusters: Sequence[_Cluster]) -> None:
    for table in reversed(_PARENTS_FIRST):
        # The newest first: what takes another row back points at an older one.
        gone = sorted((row["id"] for one in clusters for row in one.rows.get(table.name, ())), reverse=True)
        for some in chunks(gone):
            await connection.execute(table.delete().where(table.c.id.in_(some)))


def _first(cluster: _Cluster, what: What) -> int:
    return min(cluster.orders if what is What.ORDERS else cluster.payments)


def _moved_letters(letters: Sequence[Mapping[str, Any]]) -> Moved:
    last = letters[-1]["id"] if letters else None
    return Moved(orders=0, rows=len(letters), kept=Counter(), looked_at=0, last=last)


def _moved(clusters: Sequence[_Cluster], ids: Sequence[int], what: What, *, after: int) -> Moved:
    going = [one for one in clusters if not one.kept]
    kept: Counter[str] = Counter()
    for one in clusters:
        if one.kept and one.orders and _first(one, what) > after:
            kept[one.kept] += len(one.orders)
    return Moved(
        orders=sum(len(one.orders) for one in going),
        rows=sum(len(rows) for one in going for rows in one.rows.values()),
        kept=kept,
        looked_at=len(ids) if what is What.ORDERS else 0,
        last=ids[-1] if ids else None,
    )


# What goes together


_Node = tuple[str, int]
"""An order or a payment, by its id."""


async def _weigh(connection: AsyncConnection, clusters: Sequence[_Cluster], *, before: datetime, now: datetime) -> None:
    """Give clusters all that is theirs, and say of those that stay why."""
    open_ = [one for one in clusters if not one.kept]
    if not open_:
        return
    await _collect(connection, open_)
    for cluster in open_:
        _judge(cluster, before=before, now=now)
    await _keep_what_taught(connection, [one for one in open_ if not one.kept])
    await _keep_newest(connection, open_)
    await _keep_needed(connection, [one for one in open_ if not one.kept])


async def _joined(connection: AsyncConnection, nodes: Collection[_Node]) -> list[_Cluster]:
    of: dict[_Node, _Cluster] = {}

    def place(node: _Node) -> _Cluster:
        if node not in of:
            of[node] = _Cluster()
            (of[node].orders if node[0] == "order" else of[node].payments).add(node[1])
        return of[node]

    def join(one: _Node, other: _Node) -> None:
        large, small = place(one), place(other)
        if large is small:
            return
        if len(large.orders) + len(large.payments) < len(small.orders) + len(small.payments):
            large, small = small, large
        large.orders |= small.orders
        large.payments |= small.payments
        of.update({("order", id_): large for id_ in small.orders})
        of.update({("payment", id_): large for id_ in small.payments})

    new = set(nodes)
    asked: set[_Node] = set()
    for node in sorted(new):
        place(node)
    while new:
        asked |= new
        found: list[tuple[_Node, _Node]] = []
        for kind, column in (("order", OpenItemRow.order_id), ("payment", AllocationRow.payment_id)):
            for ids in chunks(sorted(id_ for of_kind, id_ in new if of_kind == kind)):
                rows = await connection.execute(
                    select(AllocationRow.payment_id, OpenItemRow.order_id)
                    .join(OpenItemRow, OpenItemRow.id == AllocationRow.open_item_id)
                    .where(column.in_(ids), OpenItemRow.order_id.is_not(None))
                    .distinct()
                )
                found += [(("payment", row.payment_id), ("order", row.order_id)) for row in rows.all()]
        one, other = aliased(PaymentRow), aliased(PaymentRow)
        for ids in chunks(sorted(id_ for of_kind, id_ in new if of_kind == "payment")):
            rows = await connection.execute(
                select(one.id, other.id.label("other"))
                .join(other, and_(other.provider_reference == one.provider_reference, other.source == one.source))
                .where(one.id.in_(ids), other.id != one.id)
            )
            found += [(("payment", row.id), ("payment", row.other)) for row in rows.all()]
        new = {node for pair in found for node in pair} - asked
        for pair in found:
            join(*pair)
        # What joins very many is not followed to its end.
        new = {node for node in new if len(place(node).orders) <= TOGETHER_MAX}
    clusters = list(dict.fromkeys(of.values()))
    for cluster in clusters:
        if len(cluster.orders) > TOGETHER_MAX:
            cluster.keep("settled together with very many others")
    return clusters


async def _fetch(
    connection: AsyncConnection, table: type[Table], column: Any, ids: Iterable[Any], *also: Any
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for some in chunks(sorted(set(ids))):
        query = select(*table.__table__.columns).where(column.in_(some), *also)
        found += [dict(row) for row in (await connection.execute(query)).mappings().all()]
    return found


async def _collect(connection: AsyncConnection, clusters: Sequence[_Cluster]) -> None:
    """Give each cluster every row of its own."""
    of_order = {id_: one for one in clusters for id_ in one.orders}
    of_payment = {id_: one for one in clusters for id_ in one.payments}

    def give(table: type[Table], cluster: _Cluster, row: dict[str, Any]) -> None:
        cluster.rows.setdefault(table.__tablename__, []).append(row)

    for row in await _fetch(connection, OrderRow, OrderRow.id, of_order):
        give(OrderRow, of_order[row["id"]], row)
    for table in _OF_ORDER:
        column = table.__table__.c["order_id"]
        for row in await _fetch(connection, table, column, of_order):
            give(table, of_order[row["order_id"]], row)
    for row in await _fetch(connection, PaymentRow, PaymentRow.id, of_payment):
        give(PaymentRow, of_payment[row["id"]], row)
    for table, column in ((AllocationRow, AllocationRow.payment_id), (PaymentReference, PaymentReference.payment_id)):
        for row in await _fetch(connection, table, column, of_payment):
            give(table, of_payment[row["payment_id"]], row)
    of_item = {row["id"]: one for one in clusters for row in one.of(OpenItemRow)}
    for row in await _fetch(connection, ReferenceRow, ReferenceRow.open_item_id, of_item):
        give(ReferenceRow, of_item[row["open_item_id"]], row)
    chains = {f"order:{id_}": one for id_, one in of_order.items()}
    chains |= {f"payment:{id_}": one for id_, one in of_payment.items()}
    for row in await _fetch(connection, JournalRow, JournalRow.chain, chains):
        give(JournalRow, chains[row["chain"]], row)
    subjects = {
        "order": of_order,
        "payment": of_payment,
        "revert": {row["id"]: one for one in clusters for row in one.of(RevertRow)},
        "hold": {row["id"]: one for one in clusters for row in one.of(HoldRow)},
        "status": {row["id"]: one for one in clusters for row in one.of(StatusHistory)},
        hands.SUBJECT: {row["id"]: one for one in clusters for row in one.of(JournalRow) if row["move"] == hands.ASKED},
    }
    for subject, of in subjects.items():
        for row in await _fetch(connection, WorkRow, WorkRow.subject_id, of, WorkRow.subject == subject):
            give(WorkRow, of[row["subject_id"]], row)
    await _collect_letters(connection, clusters)


async def _collect_letters(connection: AsyncConnection, clusters: Sequence[_Cluster]) -> None:
    """Give clusters the messages that told of their payments and of no others."""
    of_letter = {row["inbox_id"]: one for one in clusters for row in one.of(PaymentRow) if row["inbox_id"] is not None}
    others: set[int] = set()
    for some in chunks(sorted(of_letter)):
        rows = await connection.execute(select(PaymentRow.id, PaymentRow.inbox_id).where(PaymentRow.inbox_id.in_(some)))
        others |= {row.inbox_id for row in rows.all() if row.id not in of_letter[row.inbox_id].payments}
    mine = of_letter.keys() - others
    packed = (InboxRow.handled_at.is_not(None), func.length(InboxRow.body) <= LARGEST_LETTER)
    for row in await _fetch(connection, InboxRow, InboxRow.id, mine, *packed):
        of_letter[row["id"]].rows.setdefault(InboxRow.__tablename__, []).append(row)


# What may go


def _judge(cluster: _Cluster, *, before: datetime, now: datetime) -> None:
    """Say why a cluster stays, if its own rows tell."""
    if any(row["standard_status"] in _WAITING for row in cluster.of(OrderRow)):
        cluster.keep("waits for its money")
    if any(row["held_out"] for row in cluster.of(OrderRow)):
        cluster.keep("held out of automation")
    if any(row["outcome"] is None or row["policy"] == Policy.OPERATOR for row in cluster.of(PaymentRow)):
        cluster.keep("a payment of it waits for a person")
    if cluster.of(PaymentReference):
        cluster.keep("a payment of it waits for an order")
    if any(row["state"] not in _ENDED for row in cluster.of(EffectRow)):
        cluster.keep("a step of it has not ended")
    if any(row["due_at"] or (row["lease_until"] and row["lease_until"] > now) for row in cluster.of(WorkRow)):
        cluster.keep("something is due")
    if any(row["finished_at"] is None for row in cluster.of(RevertRow)):
        cluster.keep("it is being taken back")
    if any(row["state"] == "held" for row in cluster.of(HoldRow)):
        cluster.keep("money is held for it")
    if any(row["result"] is None for row in cluster.of(BackfillItem)):
        cluster.keep("a backfill carries it on")
    if any(row["kind"] == "reserve" and row["live"] for row in cluster.of(StockMove)):
        cluster.keep("goods are reserved for it")
    if any(row["file"] is None for row in cluster.of(DocumentRow)):
        cluster.keep("a document of it is not printed")
    if not _settled(cluster):
        cluster.keep("its money is not settled")
    if cluster.last_at >= before:
        cluster.keep("something happened to it since")


def _settled(cluster: _Cluster) -> bool:
    """Say whether nothing is open of the orders, and all of the payments is allocated or went back."""
    status = {row["id"]: row["standard_status"] for row in cluster.of(OrderRow)}
    came: dict[int, int] = defaultdict(int)
    relieved: dict[int, int] = defaultdict(int)
    left: dict[int, int] = {row["id"]: row["amount_minor"] for row in cluster.of(PaymentRow)}
    for row in cluster.of(AllocationRow):
        came[row["open_item_id"]] += row["amount_minor"]
        relieved[row["open_item_id"]] += row["amount_minor"] + row["write_off_minor"]
        taken = row["amount_minor"] if row["taken_minor"] is None else row["taken_minor"]
        left[row["payment_id"]] -= taken
    for item in cluster.of(OpenItemRow):
        nothing_kept = status[item["order_id"]] in CLOSED and came[item["id"]] == 0
        if relieved[item["id"]] != item["amount_minor"] and not nothing_kept:
            return False
    every: dict[str, int] = defaultdict(int)
    wanted: dict[str, int] = defaultdict(int)
    for row in cluster.of(PaymentRow):
        every[row["currency"]] += left[row["id"]]
        # Of the others it was said that nothing is done with what is left.
        wanted[row["currency"]] += left[row["id"]] if row["policy"] != Policy.IGNORE else 0
    return not any(every.values()) or not any(wanted.values())


async def _keep_what_taught(connection: AsyncConnection, clusters: Sequence[_Cluster]) -> None:
    """Note which payers' accounts were learnt from payments; keep those that have taught what counts no more."""
    of_payment = {id_: one for one in clusters for id_ in one.payments}
    counts = exists().where(
        AllocationRow.payment_id == PayerAccount.payment_id,
        *STANDING,
        OpenItemRow.id == AllocationRow.open_item_id,
        OpenItemRow.customer_id == PayerAccount.customer_id,
    )
    for some in chunks(sorted(of_payment)):
        rows = await connection.execute(
            select(PayerAccount.id, PayerAccount.payment_id, counts.label("counts")).where(
                PayerAccount.payment_id.in_(some)
            )
        )
        for row in rows.all():
            cluster = of_payment[row.payment_id]
            if row.counts:
                cluster.taught[row.id] = row.payment_id
            else:
                # Archived, it would seem to be the shop's own word for whose account that is.
                cluster.keep("a payer's account was learnt from it in error")


async def _keep_newest(connection: AsyncConnection, clusters: Sequence[_Cluster]) -> None:
    """Keep what has the newest row of a table: SQLite would give its number to the next one."""
    for table in _PARENTS_FIRST:
        if table.name in _UNNUMBERED:
            continue
        newest = await connection.scalar(select(func.max(table.c.id)))
        for cluster in clusters:
            if any(row["id"] == newest for row in cluster.rows.get(table.name, ())):
                cluster.keep("the newest of its kind")


def _pointing() -> list[tuple[Column[Any], CoreTable]]:
    """Return every foreign key at a table that is moved, with that table."""
    return [
        (column, key.column.table)
        for table in Table.metadata.sorted_tables
        for column in table.columns
        for key in column.foreign_keys
        if key.column.table.name in MOVED and table.name != PayerAccount.__tablename__
    ]


async def _keep_needed(connection: AsyncConnection, clusters: Sequence[_Cluster]) -> None:
    """Keep what something else points at: a balance, an invoice, a payout, another order's history."""
    for column, parent in _pointing():
        of_row = {row["id"]: one for one in clusters for row in one.rows.get(parent.name, ())}
        child = column.table
        mine = {id(one): {row["id"] for row in one.rows.get(child.name, ())} for one in clusters}
        for some in chunks(sorted(of_row)):
            rows = await connection.execute(select(child.c.id, column.label("at")).where(column.in_(some)))
            for row in rows.all():
                if row.id not in mine[id(of_row[row.at])]:
                    of_row[row.at].keep(f"needed by {child.name.replace('_', ' ')}")


async def _lock(connection: AsyncConnection, clusters: Sequence[_Cluster]) -> None:
    """Lock the orders and payments of clusters, and keep those that somebody else is at."""
    for table, name in ((OrderRow, "orders"), (PaymentRow, "payments")):
        of_row: dict[int, _Cluster] = {id_: one for one in clusters for id_ in getattr(one, name)}
        free: set[int] = set()
        for some in chunks(sorted(of_row)):
            query = select(table.id).where(table.id.in_(some)).order_by(table.id).with_for_update(skip_locked=True)
            free.update((await connection.execute(query)).scalars().all())
        for id_ in of_row.keys() - free:
            of_row[id_].keep("somebody is at it")


# There and back


def _names(cluster: _Cluster) -> set[Name]:
    """Return by what a cluster is found, and the numbers of its documents."""
    names = {Name("order", row["channel"], row["number"]) for row in cluster.of(OrderRow)}
    names |= {Name("shop id", row["channel"], row["external_id"]) for row in cluster.of(OrderRow) if row["external_id"]}
    for row in cluster.of(PaymentRow):
        names.add(Name("payment", row["source"], row["external_id"]))
        if row["provider_reference"]:
            names.add(Name("provider", row["source"], row["provider_reference"]))
    names |= {Name("hold", row["source"], row["reference"]) for row in cluster.of(HoldRow)}
    names |= {Name("tracking", row["carrier"], row["tracking_number"]) for row in cluster.of(ShipmentRow)}
    names |= {
        Name("named", row["kind"], row["value"])
        for row in cluster.of(ReferenceRow)
        if row["kind"] != EvidenceKind.PAYER_NAME
    }
    names |= {Name("letter", row["source"], row["external_id"]) for row in cluster.of(InboxRow)}
    for row in cluster.of(DocumentRow):
        names.add(Name("document", row["channel"], row["number"]))
        if row["counter"] is not None:
            names.add(Name("counter", series(row["channel"], row["kind"], row["year"]), str(row["counter"])))
    return names


def _stock_of(clusters: Iterable[_Cluster]) -> dict[str, int]:
    """Return what moves of stock put back, less what they took, by article."""
    found: dict[str, int] = defaultdict(int)
    for cluster in clusters:
        for row in cluster.of(StockMove):
            found[row["sku"]] += {"restock": row["quantity"], "deduct": -row["quantity"]}.get(row["kind"], 0)
    return {sku: quantity for sku, quantity in found.items() if quantity}


async def _carry_stock(connection: AsyncConnection, moved: Mapping[str, int], *, at: datetime) -> None:
    """Carry forward what moves of stock came to that leave: one row of an article stands for all of them."""
    table = Table.metadata.tables[StockMove.__tablename__]
    carried: dict[str, int] = {}
    for skus in chunks(sorted(moved)):
        rows = await connection.execute(
            select(table.c.sku, func.min(table.c.id).label("id"))
            .where(table.c.kind == "carried", table.c.sku.in_(skus))
            .group_by(table.c.sku)
        )
        carried.update({row.sku: row.id for row in rows.all()})
    more = [{"_id": id_, "_moved": moved[sku]} for sku, id_ in sorted(carried.items())]
    if more:
        changed = table.update().where(table.c.id == bindparam("_id"))
        await connection.execute(changed.values(quantity=table.c.quantity + bindparam("_moved")), more)
    await _add_carried(connection, {sku: quantity for sku, quantity in moved.items() if sku not in carried}, at=at)


async def _add_carried(connection: AsyncConnection, moved: Mapping[str, int], *, at: datetime) -> None:
    rows = [
        {"sku": sku, "kind": "carried", "quantity": quantity, "live": False, "at": at}
        for sku, quantity in sorted(moved.items())
    ]
    if rows:
        await connection.execute(insert(StockMove), rows)


async def _store(connection: AsyncConnection, cluster: _Cluster, *, now: datetime) -> None:
    packed = pack(cluster.rows, stock=_stock_of([cluster]), taught=cluster.taught)
    archive_id = await connection.scalar(
        insert(ArchiveRow)
        .values(
            orders=len(cluster.orders),
            rows=sum(len(rows) for rows in cluster.rows.values()),
            last_at=cluster.last_at,
            archived_at=now,
            checksum=packed.checksum,
            body=packed.body,
            returned=False,
        )
        .returning(ArchiveRow.id)
    )
    await connection.execute(
        insert(ArchivedName), [{"archive_id": archive_id, **name._asdict()} for name in sorted(_names(cluster))]
    )


async def bring_back(connection: AsyncConnection, names: Iterable[Name], *, because: str) -> int:
    """Bring back what some names are of, so that it is as if it had never been away; return how many orders that is.

    Ask for it in the transaction that takes something in, before what is here is looked at. Raises ArchiveError.
    """
    found = await find(connection, names)
    return await bring_back_all(connection, set(found.values()), because=because)


async def bring_back_all(connection: AsyncConnection, archive_ids: Collection[int], *, because: str) -> int:
    """Bring back archives by number; one that came back meanwhile is passed over. Raises ArchiveError."""
    orders = 0
    for archive_id in sorted(archive_ids):
        row = (
            await connection.execute(
                select(*ArchiveRow.__table__.columns)
                .where(ArchiveRow.id == archive_id, ArchiveRow.returned.is_(False))
                .with_for_update()
            )
        ).one_or_none()
        if row is None:
            continue
        held = unpack(row.body, row.checksum)
        await _find_letters(connection, held.rows)
        for table in _PARENTS_FIRST:
            rows = sorted(held.rows.get(table.name, ()), key=lambda one: one["id"])
            if table.name in _UNNUMBERED:
                rows = [{name: value for name, value in one.items() if name != "id"} for one in rows]
            if rows:
                await connection.execute(insert(table), rows)
        # Whoever takes something in may change no move of stock, so this is one more.
        await _add_carried(connection, {sku: -moved for sku, moved in held.stock.items()}, at=row.archived_at)
        for account_id, payment_id in held.taught.items():
            await connection.execute(
                update(PayerAccount)
                .where(PayerAccount.id == account_id, PayerAccount.payment_id.is_(None))
                .values(payment_id=payment_id)
            )
        await connection.execute(delete(ArchivedName).where(ArchivedName.archive_id == archive_id))
        await connection.execute(
            update(ArchiveRow).where(ArchiveRow.id == archive_id).values(returned=True, returned_because=because)
        )
        orders += row.orders
    return orders


async def _find_letters(connection: AsyncConnection, rows: Rows) -> None:
    """Let payments point at the messages that are there: one may have come once more, another was archived since."""
    wanted = {row["inbox_id"] for row in rows.get(PaymentRow.__tablename__, ()) if row["inbox_id"] is not None}
    own = rows.get(InboxRow.__tablename__, [])
    same = or_(*(and_(InboxRow.source == row["source"], InboxRow.external_id == row["external_id"]) for row in own))
    query = select(InboxRow.id, InboxRow.source, InboxRow.external_id)
    known = [*(await connection.execute(query.where(InboxRow.id.in_(wanted)))).all()] if wanted else []
    again = [*(await connection.execute(query.where(same))).all()] if own else []
    now_at = {row.id: row.id for row in known} | {row["id"]: row["id"] for row in own}
    key_of = {(row["source"], row["external_id"]): row["id"] for row in own}
    for row in again:
        now_at[key_of[row.source, row.external_id]] = row.id
    came_again = {key_of[row.source, row.external_id] for row in again}
    rows[InboxRow.__tablename__] = [row for row in own if row["id"] not in came_again]
    for row in rows.get(PaymentRow.__tablename__, ()):
        row["inbox_id"] = now_at.get(row["inbox_id"])
