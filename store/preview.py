"""Preview: a channel's last orders and payments with what happened to them, read without a lock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Select, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from domain.allocation import OpenItem
from domain.balance import SOURCE
from domain.money import Money
from domain.orders import Status
from domain.payments import Kind, Method, Outcome, Payment
from domain.preview import BalanceMove
from domain.preview_payments import Account, PastItem, Taken
from domain.rules import EvidenceKind
from store.payments import payment_of
from store.sql import chunks
from store.tables import (
    STANDING,
    AllocationRow,
    BalanceEntry,
    CustomerRow,
    OpenItemRow,
    OrderRow,
    PayerAccount,
    PaymentRow,
    ReferenceRow,
    StatusHistory,
)

_NEWEST = 200
"""As matching does, of one customer, group, or name with an amount at most so many items are looked at."""


# Orders


async def last_orders(connection: AsyncConnection, channel: str, *, since: datetime | None, limit: int) -> list[int]:
    """Return a channel's last orders, the newest first."""
    query = select(OrderRow.id).where(OrderRow.channel == channel)
    if since is not None:
        query = query.where(OrderRow.placed_at >= since)
    rows = await connection.execute(query.order_by(OrderRow.placed_at.desc(), OrderRow.id.desc()).limit(limit))
    return list(rows.scalars().all())


async def taken_at(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, datetime]:
    """Return when orders were taken in, by id."""
    found: dict[int, datetime] = {}
    for some in chunks(order_ids):
        rows = await connection.execute(select(OrderRow.id, OrderRow.created_at).where(OrderRow.id.in_(some)))
        found.update({row.id: row.created_at for row in rows.all()})
    return found


async def statuses(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, list[tuple[datetime, str]]]:
    """Return every status that orders had, with the moment at which they came to it, by id, the oldest first."""
    found: dict[int, list[tuple[datetime, str]]] = defaultdict(list)
    for some in chunks(order_ids):
        rows = await connection.execute(
            select(StatusHistory.order_id, StatusHistory.at, StatusHistory.after)
            .where(StatusHistory.order_id.in_(some))
            .order_by(StatusHistory.id)
        )
        for row in rows.all():
            found[row.order_id].append((row.at, row.after))
    return found


@dataclass(frozen=True, slots=True)
class Came:
    """Money that was allocated to an order and is still its own."""

    at: datetime
    completes: bool
    from_balance: bool


async def came(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, list[Came]]:
    """Return what payments brought orders, by id, the oldest first."""
    found: dict[int, list[Came]] = defaultdict(list)
    for some in chunks(order_ids):
        rows = await connection.execute(
            select(AllocationRow.order_id, AllocationRow.at, AllocationRow.completes, PaymentRow.source)
            .join(PaymentRow, PaymentRow.id == AllocationRow.payment_id)
            .where(
                AllocationRow.order_id.in_(some),
                AllocationRow.amount_minor > 0,
                *STANDING,
            )
            .order_by(AllocationRow.id)
        )
        for row in rows.all():
            found[row.order_id].append(Came(row.at, row.completes, row.source == SOURCE))
    return found


async def moves(
    connection: AsyncConnection, customers: Sequence[int], order_ids: Collection[int]
) -> dict[int, list[BalanceMove]]:
    """Return what came on customers' balances or was taken off, by their ids, but for what paid some orders."""
    found: dict[int, list[BalanceMove]] = defaultdict(list)
    for some in chunks(customers):
        rows = (
            await connection.execute(
                select(
                    BalanceEntry.customer_id,
                    BalanceEntry.at,
                    BalanceEntry.amount_minor,
                    BalanceEntry.currency,
                    BalanceEntry.payment_id,
                    BalanceEntry.reverses_id,
                    BalanceEntry.reversed,
                    PaymentRow.source,
                    PaymentRow.method,
                )
                .outerjoin(PaymentRow, PaymentRow.id == BalanceEntry.payment_id)
                .where(BalanceEntry.customer_id.in_(some))
                .order_by(BalanceEntry.id)
            )
        ).all()
        spent = await _orders_of(connection, [row.payment_id for row in rows if row.source == SOURCE])
        for row in rows:
            if row.source == SOURCE and spent.get(row.payment_id) in order_ids:
                continue
            found[row.customer_id].append(
                BalanceMove(
                    at=row.at,
                    amount=Money(row.amount_minor, row.currency),
                    tops_up=row.amount_minor > 0 and row.reverses_id is None and not row.reversed,
                    method=Method(row.method) if row.method else None,
                )
            )
    return found


async def _orders_of(connection: AsyncConnection, payment_ids: Sequence[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for some in chunks(payment_ids):
        rows = await connection.execute(
            select(AllocationRow.payment_id, AllocationRow.order_id).where(
                AllocationRow.payment_id.in_(some), AllocationRow.order_id.is_not(None)
            )
        )
        found.update({row.payment_id: row.order_id for row in rows.all()})
    return found


# Payments


@dataclass(frozen=True, slots=True)
class Decided:
    """A payment, what it turned out to be and when; first is its first live allocation."""

    payment: Payment
    outcome: Outcome | None
    at: datetime | None
    first: int | None


async def accounts(connection: AsyncConnection) -> list[str]:
    """Return every account that payments arrived on, as they write it."""
    rows = await connection.execute(select(PaymentRow.account).where(PaymentRow.account.is_not(None)).distinct())
    return [account for account in rows.scalars().all() if account]


async def last_payments(
    connection: AsyncConnection,
    channel: str,
    *,
    own: Collection[str],
    others: Collection[str],
    since: date | None,
    limit: int,
) -> list[Decided]:
    """Return the last payments that concern a channel, the newest first.

    These are what arrived on its own accounts, what settles something of it, and what settles nothing and arrived on an
    account of no other channel. What money of a balance pays is none of them, nor what a person took off its order.
    """
    live = (AllocationRow.payment_id == PaymentRow.id, *STANDING)
    here = exists().where(*live, OpenItemRow.id == AllocationRow.open_item_id, OpenItemRow.channel == channel)
    nobodys = or_(PaymentRow.account.is_(None), PaymentRow.account.not_in(sorted(others)))
    first = select(func.min(AllocationRow.id)).where(*live).scalar_subquery()
    query = select(*PaymentRow.__table__.columns, first.label("first_allocation")).where(
        PaymentRow.kind == Kind.PAYMENT.value,
        PaymentRow.source != SOURCE,
        or_(
            PaymentRow.outcome.is_(None),
            PaymentRow.outcome.not_in([Outcome.PAYOUT.value, Outcome.TAKEN_BACK.value]),
        ),
        or_(here, PaymentRow.account.in_(sorted(own)), and_(nobodys, ~exists().where(*live))),
    )
    if since is not None:
        query = query.where(PaymentRow.booked_on >= since)
    rows = await connection.execute(query.order_by(PaymentRow.id.desc()).limit(limit))
    return [
        Decided(payment_of(row), Outcome(row.outcome) if row.outcome else None, row.matched_at, row.first_allocation)
        for row in rows.all()
    ]


# What payments can be for


async def known_accounts(connection: AsyncConnection, named: Collection[str]) -> dict[str, list[Account]]:
    """Return of whom accounts were ever known, by account, and which payments taught that."""
    found: dict[str, list[Account]] = defaultdict(list)
    for some in chunks(sorted(named)):
        rows = await connection.execute(
            select(PayerAccount.account, PayerAccount.customer_id, PayerAccount.payment_id).where(
                PayerAccount.account.in_(some)
            )
        )
        for row in rows.all():
            found[row.account].append(Account(customer_id=row.customer_id, payment_id=row.payment_id))
    return found


async def items(
    connection: AsyncConnection,
    names: Mapping[EvidenceKind, Collection[str]],
    owners: Collection[int],
    paying: Collection[tuple[str, str]],
) -> list[PastItem]:
    """Return all that can be meant: what is called so, and what else its customers owe, or owners of accounts.

    paying are the groups, by channel and name, in which companies pay for each other. The statuses of an item are not
    read: what they mean is said by its channel's rules.
    """
    named: set[int] = set()
    alike: set[int] = set()
    for kind, values in names.items():
        for some in chunks(sorted(values)):
            found = (await connection.execute(_called(kind, some))).scalars().all()
            (alike if kind is EvidenceKind.PAYER_NAME else named).update(found)
    customers = set(owners)
    for some in chunks(sorted(named)):
        rows = await connection.execute(select(OpenItemRow.customer_id).where(OpenItemRow.id.in_(some)).distinct())
        customers.update(rows.scalars().all())
    customers |= await _members(connection, owners, frozenset(paying))
    ids = named | alike
    for some in chunks(sorted(customers)):
        ids.update((await connection.execute(_newest_of(some))).scalars().all())
    return await _load(connection, sorted(ids))


def _called(kind: EvidenceKind, values: Sequence[str]) -> Select[Any]:
    rank = func.row_number().over(partition_by=ReferenceRow.value, order_by=ReferenceRow.open_item_id.desc())
    ranked = (
        select(ReferenceRow.open_item_id, rank.label("rank"))
        .where(ReferenceRow.kind == kind.value, ReferenceRow.value.in_(values))
        .subquery()
    )
    return select(ranked.c.open_item_id).where(ranked.c.rank <= _NEWEST)


def _newest_of(customers: Sequence[int]) -> Select[Any]:
    rank = func.row_number().over(partition_by=OpenItemRow.customer_id, order_by=OpenItemRow.id.desc())
    ranked = select(OpenItemRow.id, rank.label("rank")).where(OpenItemRow.customer_id.in_(customers)).subquery()
    return select(ranked.c.id).where(ranked.c.rank <= _NEWEST)


async def _members(
    connection: AsyncConnection, owners: Collection[int], paying: Collection[tuple[str, str]]
) -> set[int]:
    """Return the customers of the paying groups that owners of accounts are in."""
    found: set[int] = set()
    if not paying:
        return found
    member = aliased(CustomerRow)
    rank = func.row_number().over(partition_by=(CustomerRow.channel, CustomerRow.group), order_by=CustomerRow.id.desc())
    for some in chunks(sorted(owners)):
        groups = await connection.execute(
            select(member.channel, member.group).where(member.id.in_(some), member.group.is_not(None)).distinct()
        )
        for channel, group in sorted({(row.channel, row.group) for row in groups.all()} & set(paying)):
            of_group = and_(CustomerRow.channel == channel, CustomerRow.group == group)
            ranked = select(CustomerRow.id, rank.label("rank")).where(of_group).subquery()
            rows = await connection.execute(select(ranked.c.id).where(ranked.c.rank <= _NEWEST))
            found.update(rows.scalars().all())
    return found


async def _load(connection: AsyncConnection, ids: Sequence[int]) -> list[PastItem]:
    found: list[PastItem] = []
    for some in chunks(ids):
        names: dict[int, set[tuple[EvidenceKind, str]]] = defaultdict(set)
        for item_id, kind, value in (
            await connection.execute(
                select(ReferenceRow.open_item_id, ReferenceRow.kind, ReferenceRow.value).where(
                    ReferenceRow.open_item_id.in_(some)
                )
            )
        ).all():
            names[item_id].add((EvidenceKind(kind), value))
        taken: dict[int, list[Taken]] = defaultdict(list)
        for row in (
            await connection.execute(
                select(
                    AllocationRow.id,
                    AllocationRow.open_item_id,
                    (AllocationRow.amount_minor + AllocationRow.write_off_minor).label("minor"),
                    AllocationRow.at,
                    PaymentRow.method,
                )
                .join(PaymentRow, PaymentRow.id == AllocationRow.payment_id)
                .where(AllocationRow.open_item_id.in_(some))
                .order_by(AllocationRow.id)
            )
        ).all():
            one = Taken(id=row.id, minor=int(row.minor), at=row.at, method=Method(row.method))
            taken[row.open_item_id].append(one)
        rows = await connection.execute(
            select(
                *OpenItemRow.__table__.columns,
                OrderRow.number.label("order_number"),
                OrderRow.standard_status,
                OrderRow.created_at,
                OrderRow.on_delivery_minor,
                CustomerRow.number.label("customer_number"),
                CustomerRow.name,
                CustomerRow.group,
            )
            .join(CustomerRow, CustomerRow.id == OpenItemRow.customer_id)
            .outerjoin(OrderRow, OrderRow.id == OpenItemRow.order_id)
            .where(OpenItemRow.id.in_(some))
            .order_by(OpenItemRow.id)
        )
        for row in rows.all():
            closed = Status.CANCELLED if row.cancelled_at else Status.AWAITING_PAYMENT
            amount = Money(row.amount_minor, row.currency)
            item = OpenItem(
                id=row.id,
                order_id=row.order_id,
                channel=row.channel,
                number=row.order_number or row.number or f"item {row.id}",
                status=Status(row.standard_status) if row.standard_status else closed,
                amount=amount,
                open=amount,
                references=frozenset(names[row.id]),
                customer=row.customer_id,
                customer_name=row.name,
                group=row.group or None,
                customer_number=row.customer_number,
                on_delivery=None if row.on_delivery_minor is None else Money(row.on_delivery_minor, row.currency),
            )
            found.append(
                PastItem(
                    item=item,
                    made_at=row.created_at,
                    statuses=(),
                    taken=tuple(taken[row.id]),
                    customer_number=row.customer_number,
                )
            )
    return found
