"""Payments, what they name, and what they were allocated to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from domain.allocation import Kept, OpenItem, Part
from domain.matching import WHO, Match, Reference
from domain.money import Money
from domain.orders import CLOSED, Status
from domain.payments import IncomingPayment, Kind, Method, Outcome, Payment
from domain.rules import EvidenceKind, Policy
from domain.scenarios import cause_of, scenario_of
from store import archive, balances, memory
from store.archived import ArchiveError, Name, find
from store.orders import collected
from store.sql import add_new, add_new_returning, among, chunks, take_turns
from store.tables import (
    STANDING,
    AllocationRow,
    BalanceEntry,
    CustomerRow,
    OpenItemRow,
    OrderRow,
    PaymentReference,
    PaymentRow,
    ReferenceRow,
)

AWAITING_ORDER = (Outcome.UNKNOWN, Outcome.AMBIGUOUS)
"""Outcomes that a new order can change."""
AWAITING_RULES = (*AWAITING_ORDER, Outcome.WRONG_CURRENCY)
"""Outcomes that other rules can change."""
Group = tuple[str, str]
"""A group of customers: its channel, and its name there."""

_NEWEST = 200
"""At most so many open items of one customer, of one group, or of one name and amount are weighed, the newest ones."""
_LOOKED_THROUGH = 5_000
"""Among so many of a customer's newest items the open ones are looked for."""
_WAITS, _BETWEEN = "waits", "open_item"
"""Beside what it names, an unmatched payment has a row that says so, and one for each item that it could be for."""


def _values(payment: IncomingPayment, inbox_id: int | None, now: datetime) -> dict[str, Any]:
    values = asdict(payment)
    del values["amount"]
    return values | {
        "method": payment.method.value,
        "kind": payment.kind.value,
        "round": 1,
        "currency": payment.amount.currency,
        "amount_minor": payment.amount.minor,
        "surplus_minor": 0,
        "inbox_id": inbox_id,
        "received_at": now,
    }


async def add(
    connection: AsyncConnection,
    payments: Sequence[IncomingPayment],
    *,
    now: datetime,
    inbox_id: int | None = None,
    told_in: Mapping[int, int] | None = None,
) -> list[tuple[int, str]]:
    """Store payments, passing over those known by (source, external id); return (id, scenario) of the new ones.

    inbox_id is the message that told of them; told_in gives each one's, by the id() of the payment, if there are many.

    What is archived is known as well; and where a new one belongs to an archived payment, such as its refund, that is
    brought back.
    """
    payments = await _not_archived(connection, payments)
    if len(payments) > 1:
        # Files that overlap in another order would wait for each other's rows for ever.
        for source in sorted({payment.source for payment in payments}):
            await take_turns(connection, f"payments of {source}")
    new: list[tuple[int, str]] = []
    for some in chunks(payments, 200):
        values = [_values(payment, (told_in or {}).get(id(payment), inbox_id), now) for payment in some]
        rows = await add_new_returning(
            connection, PaymentRow, values, PaymentRow.id, PaymentRow.method, PaymentRow.kind
        )
        new.extend((row.id, scenario_of(Method(row.method), Kind(row.kind))) for row in rows)
    return sorted(new)


async def _not_archived(connection: AsyncConnection, incoming: Sequence[IncomingPayment]) -> Sequence[IncomingPayment]:
    named = {Name("payment", one.source, one.external_id): one for one in incoming}
    belongs = {Name("provider", one.source, one.provider_reference) for one in incoming if one.provider_reference}
    found = await find(connection, [*named, *belongs])
    if not found:
        return incoming
    new = [one for one in incoming if Name("payment", one.source, one.external_id) not in found]
    late = {Name("provider", one.source, one.provider_reference or "") for one in new} & found.keys()
    await archive.bring_back_all(connection, {found[name] for name in late}, because="money of it moved once more")
    return new


def payment_of(row: Row[Any]) -> Payment:
    """Return the payment of a row that has all its columns."""
    return Payment(
        id=row.id,
        source=row.source,
        external_id=row.external_id,
        method=Method(row.method),
        amount=Money(row.amount_minor, row.currency),
        booked_on=row.booked_on,
        value_date=row.value_date,
        account=row.account,
        provider_reference=row.provider_reference,
        end_to_end_id=row.end_to_end_id,
        variable_symbol=row.variable_symbol,
        rf=row.rf,
        order_reference=row.order_reference,
        tracking_number=row.tracking_number,
        payer_name=row.payer_name,
        payer_account=row.payer_account,
        text=row.text,
        kind=Kind(row.kind),
        round=row.round,
    )


_LOCKED = (
    select(*PaymentRow.__table__.columns)
    .where(among(PaymentRow.id, "payments"))
    .order_by(PaymentRow.id)
    .with_for_update()
)


async def load(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, Payment]:
    """Return payments by id, locked against being matched twice at once."""
    found: dict[int, Payment] = {}
    for some in chunks(sorted(ids)):
        rows = await connection.execute(_LOCKED, {"payments": some})
        for row in rows.all():
            found[row.id] = payment_of(row)
    return found


_OUTCOMES = select(PaymentRow.id, PaymentRow.outcome, PaymentRow.reason).where(
    among(PaymentRow.id, "payments"), PaymentRow.outcome.is_not(None)
)


async def decided(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, tuple[Outcome, str]]:
    """Return (outcome, reason) of payments that were matched at least once."""
    found: dict[int, tuple[Outcome, str]] = {}
    for some in chunks(list(ids)):
        rows = await connection.execute(_OUTCOMES, {"payments": some})
        found.update({row.id: (Outcome(row.outcome), row.reason or "") for row in rows.all()})
    return found


def taken_of_payment() -> ColumnElement[int]:
    """Return what an allocation takes of its payment, in the payment's currency."""
    return func.coalesce(AllocationRow.taken_minor, AllocationRow.amount_minor)


def _surplus_left() -> ColumnElement[int]:
    """Return how much of a payment's surplus nobody has decided about: it is on no balance and not to be sent back."""
    credited = (
        select(func.coalesce(func.sum(BalanceEntry.amount_minor), 0))
        .where(
            BalanceEntry.payment_id == PaymentRow.id,
            BalanceEntry.open_item_id.is_(None),
            BalanceEntry.amount_minor > 0,
            *balances.LIVE,
        )
        .scalar_subquery()
    )
    decided = PaymentRow.policy.in_([Policy.BALANCE.value, Policy.REFUND.value, Policy.IGNORE.value])
    none_left = or_(decided, PaymentRow.surplus_minor <= credited)
    return case((none_left, 0), else_=PaymentRow.surplus_minor - credited).label("surplus_left_minor")


_SURPLUS_LEFT = _surplus_left()
_DECISIONS = select(
    PaymentRow.id,
    PaymentRow.outcome,
    PaymentRow.policy,
    PaymentRow.reason,
    PaymentRow.currency,
    PaymentRow.surplus_minor,
    _SURPLUS_LEFT,
    PaymentRow.round,
).where(among(PaymentRow.id, "payments"))


async def by_ids(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return what payments turned out to be, by id in the given order; surplus_left_minor is for a person to decide."""
    found: dict[int, dict[str, Any]] = {}
    for some in chunks(list(ids)):
        rows = await connection.execute(_DECISIONS, {"payments": some})
        found.update({row["id"]: dict(row) for row in rows.mappings().all()})
    return {id_: found[id_] for id_ in ids if id_ in found}


_ALLOCATIONS = (
    select(
        AllocationRow.id,
        AllocationRow.payment_id,
        AllocationRow.order_id,
        func.coalesce(OrderRow.number, OpenItemRow.number).label("number"),
        OpenItemRow.currency,
        AllocationRow.amount_minor,
        AllocationRow.write_off_minor,
        AllocationRow.taken_minor,
        AllocationRow.completes,
        AllocationRow.evidence,
    )
    .join(OpenItemRow, OpenItemRow.id == AllocationRow.open_item_id)
    .outerjoin(OrderRow, OrderRow.id == AllocationRow.order_id)
    .where(among(AllocationRow.payment_id, "payments"), *STANDING)
    .order_by(AllocationRow.id)
)


async def allocated(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the live allocations of payments, by payment id.

    Amounts are in the item's currency; taken_minor is in the payment's, and empty where the two are the same.
    """
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for some in chunks(list(ids)):
        rows = await connection.execute(_ALLOCATIONS, {"payments": some})
        for row in rows.mappings().all():
            found[row["payment_id"]].append(dict(row))
    return dict(found)


_LOCK = {
    "ROW EXCLUSIVE": text("LOCK TABLE payment_references IN ROW EXCLUSIVE MODE"),
    "SHARE": text("LOCK TABLE payment_references IN SHARE MODE"),
}


async def _keep_apart(connection: AsyncConnection, mode: Literal["ROW EXCLUSIVE", "SHARE"]) -> None:
    """Let a matching and an order's intake not run side by side, though several of a kind may.

    Neither sees what the other has not committed yet, so a payment and its order would miss each other for good.
    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(_LOCK[mode])


async def begin_matching(connection: AsyncConnection) -> None:
    """Keep orders, accounts and rules from changing unseen while payments are matched; ask before they are read."""
    await _keep_apart(connection, "ROW EXCLUSIVE")


async def begin_to_change(connection: AsyncConnection) -> None:
    """Let the matchings that are under way end first, before what unmatched payments wait for is looked for."""
    await _keep_apart(connection, "SHARE")


_NAMED = select(ReferenceRow.open_item_id).where(
    ReferenceRow.kind == bindparam("kind"), among(ReferenceRow.value, "values")
)


async def candidates(
    connection: AsyncConnection, references: Iterable[Reference], paying: Collection[Group] = ()
) -> dict[int, OpenItem]:
    """Return the items that references can mean, by id, locked, with what is still open of each.

    These are the items that share a reference, whatever their state; and of the customers who owe them, and of the one
    customer whom a payer's account is known for, the open items, with those of that customer's group if it is one of
    the paying ones.
    """
    await begin_matching(connection)
    by_kind: dict[EvidenceKind, set[str]] = defaultdict(set)
    for reference in references:
        by_kind[reference.kind].add(reference.value)
    accounts = by_kind.pop(EvidenceKind.PAYER_ACCOUNT, set()) | by_kind.pop(EvidenceKind.GROUP_ACCOUNT, set())
    await memory.take_turns(connection, accounts)
    told = [Name("named", kind.value, value) for kind, values in by_kind.items() for value in values]
    for id_ in sorted(set((await find(connection, told)).values())):
        # The audit tells of one that is damaged; it must not hold up the other payments of a batch.
        with suppress(ArchiveError):
            await archive.bring_back_all(connection, [id_], because="a payment names it")
    alike = await _alike(connection, by_kind.pop(EvidenceKind.PAYER_NAME, set()))
    named: set[int] = set()
    for kind, values in by_kind.items():
        for some in chunks(sorted(values)):
            rows = await connection.execute(_NAMED, {"kind": kind.value, "values": some})
            named.update(rows.scalars().all())
    owners = await memory.owners(connection, accounts)
    owing = set(owners.values()) | await _customers_of(connection, named)
    open_, crowded = await _newest_open(connection, owing)
    groups = await _groups(connection, owners, frozenset(paying))
    for group in groups:
        of_group, many = await _open_of_group(connection, group)
        open_ |= of_group
        crowded |= many
    return await _items(connection, sorted(named | alike | open_), owners, groups, crowded)


_ALIKE = (
    select(ReferenceRow.open_item_id)
    .where(ReferenceRow.kind == EvidenceKind.PAYER_NAME.value, ReferenceRow.value == bindparam("value"))
    .order_by(ReferenceRow.open_item_id.desc())
    .limit(_NEWEST)
)


async def _alike(connection: AsyncConnection, values: Collection[str]) -> set[int]:
    """Return the newest items that a payer's name and amount fit; unlike a reference, these can be shared by many."""
    found: set[int] = set()
    for value in sorted(values):
        rows = await connection.execute(_ALIKE, {"value": value})
        found.update(rows.scalars().all())
    return found


_DEBTORS = select(OpenItemRow.customer_id).where(among(OpenItemRow.id, "items")).distinct()


async def _customers_of(connection: AsyncConnection, item_ids: Collection[int]) -> set[int]:
    found: set[int] = set()
    for some in chunks(sorted(item_ids)):
        rows = await connection.execute(_DEBTORS, {"items": some})
        found.update(rows.scalars().all())
    return found


def _open_of_customers() -> Select[Any]:
    newer = aliased(OpenItemRow)
    oldest_looked_at = (
        select(newer.id)
        .where(newer.customer_id == CustomerRow.id)
        .order_by(newer.id.desc())
        .limit(1)
        .offset(_LOOKED_THROUGH - 1)
        .scalar_subquery()
    )
    relieved = (
        select(func.coalesce(func.sum(AllocationRow.amount_minor + AllocationRow.write_off_minor), 0))
        .where(AllocationRow.open_item_id == OpenItemRow.id)
        .scalar_subquery()
    )
    closed = exists().where(
        OrderRow.id == OpenItemRow.order_id, OrderRow.standard_status.in_([status.value for status in CLOSED])
    )
    return (
        select(CustomerRow.id, OpenItemRow.id.label("item_id"), oldest_looked_at.label("oldest"))
        .join(OpenItemRow, OpenItemRow.customer_id == CustomerRow.id)
        .where(
            among(CustomerRow.id, "customers"),
            OpenItemRow.id >= func.coalesce(oldest_looked_at, 0),
            OpenItemRow.amount_minor > relieved,
            OpenItemRow.cancelled_at.is_(None),
            ~closed,
        )
        .order_by(CustomerRow.id, OpenItemRow.id.desc())
    )


_OPEN = _open_of_customers()


async def _newest_open(connection: AsyncConnection, customers: Collection[int]) -> tuple[set[int], set[int]]:
    """Return each customer's newest open items, and the customers who may have more of them than these."""
    found: dict[int, list[int]] = defaultdict(list)
    crowded: set[int] = set()
    for some in chunks(sorted(customers)):
        rows = await connection.execute(_OPEN, {"customers": some})
        for row in rows.all():
            if row.oldest is not None or len(found[row.id]) == _NEWEST:
                crowded.add(row.id)
            if len(found[row.id]) < _NEWEST:
                found[row.id].append(row.item_id)
    return {id_ for items in found.values() for id_ in items}, crowded


_IN_A_GROUP = select(CustomerRow.id, CustomerRow.channel, CustomerRow.group).where(
    among(CustomerRow.id, "customers"), CustomerRow.group.is_not(None), CustomerRow.group != ""
)


async def _groups(
    connection: AsyncConnection, owners: Mapping[str, int], paying: Collection[Group]
) -> dict[Group, dict[str, int]]:
    """Return the paying groups that the owners of accounts belong to, with these accounts and their owners."""
    found: dict[Group, dict[str, int]] = defaultdict(dict)
    for some in chunks(sorted(set(owners.values())) if paying else []):
        rows = await connection.execute(_IN_A_GROUP, {"customers": some})
        for row in rows.all():
            if (row.channel, row.group) not in paying:
                continue
            found[row.channel, row.group] |= {account: id_ for account, id_ in owners.items() if id_ == row.id}
    return dict(sorted(found.items()))


_MEMBERS = (
    select(CustomerRow.id)
    .where(CustomerRow.channel == bindparam("channel"), CustomerRow.group == bindparam("group"))
    .order_by(CustomerRow.id.desc())
    .limit(_NEWEST + 1)
)


async def _open_of_group(connection: AsyncConnection, group: Group) -> tuple[set[int], set[int]]:
    """Return the newest open items of a group, and those of its customers for whom these may not be all."""
    channel, name = group
    members = await connection.execute(_MEMBERS, {"channel": channel, "group": name})
    ids = members.scalars().all()
    open_, crowded = await _newest_open(connection, ids)
    if crowded or len(ids) > _NEWEST or len(open_) > _NEWEST:
        return set(sorted(open_, reverse=True)[:_NEWEST]), set(ids)
    return open_, set()


def _of_invoice(item: Row[Any]) -> Status:
    """Return what the status of an invoice without an order comes to."""
    return Status.AWAITING_PAYMENT if item.cancelled_at is None else Status.CANCELLED


_ITEMS = (
    select(*OpenItemRow.__table__.columns)
    .where(among(OpenItemRow.id, "items"))
    .order_by(OpenItemRow.id)
    .with_for_update()
)
_RELIEVED = (
    select(AllocationRow.open_item_id, func.sum(AllocationRow.amount_minor + AllocationRow.write_off_minor))
    .where(among(AllocationRow.open_item_id, "items"))
    .group_by(AllocationRow.open_item_id)
)
_NAMES = select(ReferenceRow.open_item_id, ReferenceRow.kind, ReferenceRow.value).where(
    among(ReferenceRow.open_item_id, "items")
)
_ORDERS = select(OrderRow.id, OrderRow.number, OrderRow.standard_status, OrderRow.on_delivery_minor).where(
    among(OrderRow.id, "orders")
)
_CUSTOMERS = select(CustomerRow.id, CustomerRow.number, CustomerRow.name, CustomerRow.group).where(
    among(CustomerRow.id, "customers")
)


async def _items(
    connection: AsyncConnection,
    ids: Sequence[int],
    owners: Mapping[str, int],
    groups: Mapping[Group, Mapping[str, int]],
    crowded: Collection[int],
) -> dict[int, OpenItem]:
    accounts: dict[int, set[tuple[EvidenceKind, str]]] = defaultdict(set)
    for account, customer_id in owners.items():
        accounts[customer_id].add((EvidenceKind.PAYER_ACCOUNT, account))
    found: dict[int, OpenItem] = {}
    for some in chunks(ids):
        items = (await connection.execute(_ITEMS, {"items": some})).all()
        relieved = await connection.execute(_RELIEVED, {"items": some})
        paid = {item_id: int(minor) for item_id, minor in relieved.all()}
        named = await connection.execute(_NAMES, {"items": some})
        references: dict[int, set[tuple[EvidenceKind, str]]] = defaultdict(set)
        for item_id, kind, value in named.all():
            references[item_id].add((EvidenceKind(kind), value))
        order_ids = [item.order_id for item in items if item.order_id is not None]
        orders = await connection.execute(_ORDERS, {"orders": order_ids})
        order_of = {row.id: row for row in orders.all()}
        later = [row.id for row in order_of.values() if row.on_delivery_minor is not None]
        brought = await collected(connection, later) if later else {}
        customers = await connection.execute(_CUSTOMERS, {"customers": {item.customer_id for item in items}})
        customer_of = {row.id: row for row in customers.all()}
        for item in items:
            order, customer = order_of.get(item.order_id), customer_of[item.customer_id]
            of_group = {
                (EvidenceKind.GROUP_ACCOUNT, account)
                for account, id_ in groups.get((item.channel, customer.group), {}).items()
                if id_ != customer.id
            }
            found[item.id] = OpenItem(
                id=item.id,
                order_id=item.order_id,
                channel=item.channel,
                number=order.number if order else item.number or f"item {item.id}",
                status=Status(order.standard_status) if order else _of_invoice(item),
                amount=Money(item.amount_minor, item.currency),
                open=Money(item.amount_minor - paid.get(item.id, 0), item.currency),
                references=frozenset(references[item.id] | accounts.get(customer.id, set()) | of_group),
                customer=customer.id,
                customer_name=customer.name,
                group=customer.group or None,
                customer_number=customer.number,
                on_delivery=Money(order.on_delivery_minor, item.currency)
                if order and order.on_delivery_minor is not None
                else None,
                collected=Money(brought[order.id], item.currency) if order and order.id in brought else None,
                crowded=customer.id in crowded,
            )
    return found


_DEBTOR = select(OpenItemRow.customer_id).where(OpenItemRow.id == bindparam("item"))


async def customer_of_item(connection: AsyncConnection, item_id: int) -> int:
    """Return whose an open item is."""
    return (await connection.execute(_DEBTOR, {"item": item_id})).scalar_one()


async def incomes(connection: AsyncConnection, order_id: int) -> list[dict[str, Any]]:
    """Return what payments brought an order, or took from it, in its currency, the oldest first.

    Each has reference, amount, booked_on, method and provider_reference; what was taken off it again is not there.
    """
    return (await incomes_of_all(connection, [order_id]))[order_id]


_INCOMES = (
    select(
        PaymentRow.id,
        PaymentRow.booked_on,
        PaymentRow.method,
        PaymentRow.provider_reference,
        PaymentRow.round,
        OpenItemRow.currency,
        AllocationRow.order_id,
        AllocationRow.amount_minor,
    )
    .join(PaymentRow, PaymentRow.id == AllocationRow.payment_id)
    .join(OpenItemRow, OpenItemRow.id == AllocationRow.open_item_id)
    .where(among(AllocationRow.order_id, "orders"), *STANDING)
    .order_by(AllocationRow.id)
)


async def incomes_of_all(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Return what payments brought each of some orders, as `incomes` does for one."""
    found: dict[int, list[dict[str, Any]]] = {id_: [] for id_ in order_ids}
    for ids in chunks(sorted(found)):
        rows = await connection.execute(_INCOMES, {"orders": ids})
        for row in rows.all():
            income = {
                "reference": cause_of("payment", row.id, row.round),
                "amount": Money(row.amount_minor, row.currency),
                "booked_on": row.booked_on,
                "method": Method(row.method),
                "provider_reference": row.provider_reference,
            }
            found[row.order_id].append(income)
    return found


_AT_GATEWAYS = (
    select(PaymentRow.id, PaymentRow.source, PaymentRow.provider_reference)
    .join(AllocationRow, AllocationRow.payment_id == PaymentRow.id)
    .where(
        AllocationRow.order_id == bindparam("order"),
        *STANDING,
        PaymentRow.kind == Kind.PAYMENT.value,
        PaymentRow.provider_reference.is_not(None),
    )
    .distinct()
    .order_by(PaymentRow.id)
)
_SHARED = select(AllocationRow.payment_id).where(
    among(AllocationRow.payment_id, "payments"),
    AllocationRow.order_id.is_distinct_from(bindparam("order")),
    *STANDING,
)


async def gateways_of(connection: AsyncConnection, order_id: int) -> list[tuple[str, str, bool]]:
    """Return the payments of an order that a gateway has a reference of: source, reference, whether it is alone.

    One that settles other orders too is not alone. The oldest come first; what was taken off the order is not there.
    """
    rows = (await connection.execute(_AT_GATEWAYS, {"order": order_id})).all()
    others = await connection.execute(_SHARED, {"payments": [row.id for row in rows], "order": order_id})
    shared = set(others.scalars())
    return [(row.source, row.provider_reference, row.id not in shared) for row in rows]


_AMOUNTS = (
    select(AllocationRow.order_id, AllocationRow.amount_minor)
    .where(among(AllocationRow.order_id, "orders"), AllocationRow.amount_minor > 0, *STANDING)
    .order_by(AllocationRow.id)
)


async def last_amounts(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, int]:
    """Return what the last payment brought each order, in minor units; one to which none came is not in it."""
    found: dict[int, int] = {}
    for ids in chunks(sorted(set(order_ids))):
        rows = await connection.execute(_AMOUNTS, {"orders": ids})
        found.update({row.order_id: row.amount_minor for row in rows.all() if row.order_id is not None})
    return found


def _shown(match: Match) -> list[Any]:
    return [
        {
            "order": candidate.item.number,
            "channel": candidate.item.channel,
            "open": str(candidate.item.open),
            "evidence": [evidence.said for evidence in candidate.evidence],
            # Else only who paid speaks for it.
            "named": any(evidence.kind not in WHO for evidence in candidate.evidence),
        }
        for candidate in match.candidates[:20]
    ]


def _allocated(
    payment_id: int, parts: Sequence[Part], evidence: Mapping[int, list[str]], now: datetime
) -> list[dict[str, Any]]:
    return [
        {
            "payment_id": payment_id,
            "open_item_id": part.item.id,
            "order_id": part.item.order_id,
            "amount_minor": part.amount.minor,
            "write_off_minor": part.write_off.minor,
            "taken_minor": part.taken.minor if part.taken else None,
            "completes": part.completes,
            "evidence": evidence[part.item.id],
            "reversed": False,
            "at": now,
        }
        for part in parts
    ]


_NEW_ALLOCATION = insert(AllocationRow)


async def allocate(
    connection: AsyncConnection,
    payment_id: int,
    parts: Sequence[Part],
    evidence: Mapping[int, list[str]],
    *,
    now: datetime,
) -> None:
    """Give a payment's money to items; evidence says by the item's id why."""
    if parts:
        await connection.execute(_NEW_ALLOCATION, _allocated(payment_id, parts, evidence, now))


@dataclass(frozen=True, slots=True)
class Decided:
    """What a payment turned out to be, with what it names."""

    payment: Payment
    match: Match
    references: Sequence[Reference] = ()

    @property
    def waits(self) -> bool:
        """Whether it is to be matched again when an order or a rule appears."""
        return self.match.outcome in AWAITING_RULES and self.match.policy in (Policy.OPERATOR, Policy.IGNORE)

    @property
    def said(self) -> dict[int, list[str]]:
        """Why items get of its money, by their ids; what no evidence names was taken for its amount, as is reasoned."""
        found = {part.item.id: [self.match.reason] for part in self.match.parts}
        return found | {one.item.id: [e.said for e in one.evidence] for one in self.match.candidates if one.evidence}


_REFERENCES = delete(PaymentReference).where(among(PaymentReference.payment_id, "payments"))


async def record_matches(
    connection: AsyncConnection, decided: Sequence[Decided], *, now: datetime
) -> list[tuple[int, str]]:
    """Store what payments turned out to be, their allocations, and what they teach, in the order of the decisions.

    Return the payments that wait for what is known now, as (id, scenario): it is worth while to match them again. One
    of those decided here is among them where a later one of them tells what it was decided without.
    """
    places = {one.payment.id: place for place, one in enumerate(decided)}
    news = [(place, (_BETWEEN, str(part.item.id))) for place, one in enumerate(decided) for part in one.match.parts]
    # Before anything is allocated: what a payment taught that was taken off, and is given something again, is new.
    news += [(places[id_], name) for id_, name in await _teach_all(connection, decided)]
    await _record_outcomes(connection, decided, now)
    if rows := [row for one in decided for row in _allocated(one.payment.id, one.match.parts, one.said, now)]:
        await connection.execute(_NEW_ALLOCATION, rows)
    for some in chunks(sorted(places)):
        await connection.execute(_REFERENCES, {"payments": some})
    waiting = [row for one in decided if one.waits for row in _waiting_rows(one.payment, one.match, one.references)]
    await add_new(connection, PaymentReference, waiting)
    found = await _waiting_by_name(connection, {name for _, name in news})
    return sorted({one for place, name in news for one in found.get(name, ()) if places.get(one[0], -1) < place})


_MATCHED = (
    update(PaymentRow)
    .where(PaymentRow.id == bindparam("_id"))
    .values(
        outcome=bindparam("_outcome"),
        policy=bindparam("_policy"),
        reason=bindparam("_reason"),
        candidates=bindparam("_candidates"),
        surplus_minor=bindparam("_surplus_minor"),
        matched_at=bindparam("_matched_at"),
    )
)


async def _record_outcomes(connection: AsyncConnection, decided: Sequence[Decided], now: datetime) -> None:
    rows = [
        {
            "_id": one.payment.id,
            "_outcome": one.match.outcome.value,
            "_policy": one.match.policy.value,
            "_reason": one.match.reason,
            "_candidates": _shown(one.match),
            "_surplus_minor": one.match.surplus.minor if one.match.parts else 0,
            "_matched_at": now,
        }
        for one in decided
    ]
    if rows:
        await connection.execute(_MATCHED, rows)


async def _teach_all(connection: AsyncConnection, decided: Sequence[Decided]) -> list[tuple[int, tuple[str, str]]]:
    """Learn from payments whose accounts are which customers'; return by what those wait that want to know it.

    With each goes the id of the payment that taught it.
    """
    learnt: set[tuple[str, int]] = set()
    news: list[tuple[int, tuple[str, str]]] = []
    for one in decided:
        account, customer_id = memory.account_of(one.payment), _taught(one.match)
        if account is None or customer_id is None or (account, customer_id) in learnt:
            continue
        learnt.add((account, customer_id))
        if await memory.teach(connection, account, customer_id, one.payment.id):
            news += [(one.payment.id, name) for name in _names_of(account)]
    return news


def _waiting_rows(payment: Payment, match: Match, references: Iterable[Reference]) -> list[dict[str, Any]]:
    """Return by what an unmatched payment is found again: what it names and could be for, or only that it waits."""
    rows = [(_WAITS, "")]
    if match.outcome in AWAITING_ORDER:
        rows += [(reference.kind.value, reference.value[:200]) for reference in references]
        rows += [(_BETWEEN, str(candidate.item.id)) for candidate in match.candidates[:_NEWEST]]
    return [{"payment_id": payment.id, "kind": kind, "value": value} for kind, value in dict.fromkeys(rows)]


def _taught(match: Match) -> int | None:
    """Return the customer whose account a match teaches: all of it is his, and who paid was not what named it."""
    if match.outcome not in (Outcome.EXACT, Outcome.WITHIN_TOLERANCE):
        return None
    named = {
        candidate.item.id
        for candidate in match.candidates
        if any(evidence.sure and evidence.kind not in WHO for evidence in candidate.evidence)
    }
    customers = {part.item.customer for part in match.parts}
    customer = customers.pop() if len(customers) == 1 else None
    return customer if isinstance(customer, int) and all(part.item.id in named for part in match.parts) else None


async def teach(connection: AsyncConnection, payment: Payment, customer_id: int) -> list[tuple[int, str]]:
    """Learn from a payment that settles something of a customer that he pays from its account.

    Return the payments that wait for the owner of this account, as (id, scenario); none when nothing new was learnt.
    """
    account = memory.account_of(payment)
    if account is None or not await memory.teach(connection, account, customer_id, payment.id):
        return []
    return [found for found in await _waiting(connection, _names_of(account)) if found[0] != payment.id]


def _names_of(account: str) -> list[tuple[str, str]]:
    """Return by what payments wait that want to know whose account it is."""
    return [(kind.value, account) for kind in (EvidenceKind.PAYER_ACCOUNT, EvidenceKind.GROUP_ACCOUNT)]


async def waits_no_more(connection: AsyncConnection, payment_id: int) -> None:
    """Let a payment be found no more by what it names: it was decided, by the rules or by a person."""
    await connection.execute(_REFERENCES, {"payments": [payment_id]})


async def undecided(connection: AsyncConnection, open_item_ids: Iterable[int]) -> list[tuple[int, str]]:
    """Return the unmatched payments that could be for items, as (id, scenario).

    Ask when the state of these has changed, such as when one was settled: then a payment may be for the other alone.
    """
    return await _waiting(connection, [(_BETWEEN, str(id_)) for id_ in open_item_ids])


@dataclass(frozen=True, slots=True)
class WentBack:
    """What went back of a payment so far, in minor units (negative), and the movements that tell of it."""

    minor: int
    ids: tuple[int, ...]


def _family(payments: Iterable[Payment]) -> list[tuple[str, str]]:
    return sorted({(p.source, p.provider_reference) for p in payments if p.provider_reference})


_MOVES = select(PaymentRow.id, PaymentRow.source, PaymentRow.provider_reference, PaymentRow.amount_minor).where(
    among(PaymentRow.provider_reference, "references"),
    among(PaymentRow.source, "sources"),
    PaymentRow.kind != Kind.PAYMENT.value,
)


async def gone_back(connection: AsyncConnection, payments: Sequence[Payment]) -> dict[int, WentBack]:
    """Return what went back of payments before they were matched, by payment id; most have nothing."""
    moves: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    named = _family(payments)
    sources = sorted({source for source, _ in named})
    for some in chunks([reference for _, reference in named]):
        rows = await connection.execute(_MOVES, {"references": some, "sources": sources})
        for row in rows.all():
            moves[row.source, row.provider_reference].append((row.id, row.amount_minor))
    found: dict[int, WentBack] = {}
    for payment in payments:
        mine = moves.get((payment.source, payment.provider_reference or ""), [])
        minor = sum(amount for _, amount in mine)
        if minor < 0:
            found[payment.id] = WentBack(minor, tuple(id_ for id_, _ in mine))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a movement of money belongs to: the payments of the same provider reference, and where their money is.

    kept is what each item still has of it, and disputed what chargebacks took from each, in the order of allocation;
    unapplied is what settled nothing, also where it is on a customer's balance. matched says that every payment was
    matched. converted names the items that it settles in another currency: what these have is in neither of the two.
    """

    ids: tuple[int, ...]
    matched: bool
    unapplied: Money
    kept: tuple[Kept, ...]
    disputed: tuple[Kept, ...]
    converted: tuple[str, ...] = ()


_FAMILY = (
    select(PaymentRow.id, PaymentRow.kind, PaymentRow.amount_minor, PaymentRow.outcome)
    .where(PaymentRow.source == bindparam("source"), PaymentRow.provider_reference == bindparam("reference"))
    .where(PaymentRow.currency == bindparam("currency"), PaymentRow.id != bindparam("payment"))
    .order_by(PaymentRow.id)
    .with_for_update()
)
_TAKEN = (
    select(
        AllocationRow.payment_id,
        AllocationRow.open_item_id,
        AllocationRow.order_id,
        taken_of_payment().label("taken"),
        OrderRow.number,
        OpenItemRow.number.label("invoice"),
        OpenItemRow.channel,
        OpenItemRow.currency,
    )
    .join(OpenItemRow, OpenItemRow.id == AllocationRow.open_item_id)
    .outerjoin(OrderRow, OrderRow.id == AllocationRow.order_id)
    .where(among(AllocationRow.payment_id, "payments"))
    .order_by(AllocationRow.id)
)


async def origin_of(connection: AsyncConnection, payment: Payment) -> Origin | None:
    """Return what a refund or chargeback takes back, locked, or None when that isn't known yet."""
    asked = {
        "source": payment.source,
        "reference": payment.provider_reference,
        "currency": payment.amount.currency,
        "payment": payment.id,
    }
    rows = (await connection.execute(_FAMILY, asked)).all()
    origins = [row for row in rows if row.kind == Kind.PAYMENT]
    if not origins:
        return None
    decided = [row for row in rows if row.kind == Kind.PAYMENT or row.outcome is not None]
    kinds = {row.id: Kind(row.kind) for row in decided}
    allocated = await connection.execute(_TAKEN, {"payments": list(kinds)})
    items: dict[int, Any] = {}
    kept: dict[int, int] = defaultdict(int)
    disputed: dict[int, int] = defaultdict(int)
    for row in allocated.all():
        items.setdefault(row.open_item_id, row)
        kept[row.open_item_id] += row.taken
        if kinds[row.payment_id] in (Kind.CHARGEBACK, Kind.REINSTATED):
            disputed[row.open_item_id] -= row.taken
    currency = payment.amount.currency

    def name(id_: int) -> str:
        return items[id_].number or items[id_].invoice or f"item {id_}"

    def shares(sums: dict[int, int]) -> tuple[Kept, ...]:
        return tuple(
            Kept(id_, items[id_].order_id, name(id_), items[id_].channel, Money(sum_, currency))
            for id_, sum_ in sums.items()
            if sum_ > 0 and items[id_].currency == currency
        )

    return Origin(
        ids=tuple(row.id for row in origins),
        matched=all(row.outcome is not None for row in origins),
        unapplied=Money(sum(row.amount_minor for row in decided) - sum(kept.values()), currency),
        kept=shares(kept),
        disputed=shares(disputed),
        converted=tuple(name(id_) for id_, sum_ in kept.items() if sum_ > 0 and items[id_].currency != currency),
    )


_RETURNED = (
    update(PaymentRow)
    .where(PaymentRow.id == bindparam("_id"))
    .values(
        outcome=bindparam("_outcome"),
        policy=bindparam("_policy"),
        reason=bindparam("_reason"),
        candidates=[],
        matched_at=bindparam("_matched_at"),
    )
)


async def record_returned(
    connection: AsyncConnection,
    payment: Payment,
    *,
    outcome: Outcome,
    policy: Policy,
    reason: str,
    shares: Sequence[tuple[Kept, Money]] = (),
    forgives: bool = False,
    now: datetime,
) -> None:
    """Store what a refund, a chargeback or a won dispute came to, and where from or to it moved money.

    forgives says that what went back is not owed again. The shares' sign is the payment's.
    """
    told = {
        "_id": payment.id,
        "_outcome": outcome.value,
        "_policy": policy.value,
        "_reason": reason,
        "_matched_at": now,
    }
    await connection.execute(_RETURNED, told)
    sign = -1 if payment.amount.minor < 0 else 1
    if shares:
        await connection.execute(
            _NEW_ALLOCATION,
            [
                {
                    "payment_id": payment.id,
                    "open_item_id": kept.item_id,
                    "order_id": kept.order_id,
                    "amount_minor": sign * share.minor,
                    "write_off_minor": share.minor if forgives else 0,
                    "completes": share == kept.amount and sign < 0,
                    "evidence": ["the gateway's reference"],
                    "reversed": False,
                    "at": now,
                }
                for kept, share in shares
            ],
        )


_SURPLUS = (
    update(PaymentRow)
    .where(among(PaymentRow.id, "payments"), PaymentRow.surplus_minor > bindparam("most"))
    .values(surplus_minor=bindparam("left"))
)


async def keep_surplus(connection: AsyncConnection, payment_ids: Sequence[int], minor: int) -> None:
    """Say how much is left, at most, of what payments brought too much, after some of it went back."""
    await connection.execute(_SURPLUS, {"payments": payment_ids, "most": minor, "left": max(minor, 0)})


async def waiting_for(
    connection: AsyncConnection, references: Iterable[tuple[EvidenceKind, str]]
) -> list[tuple[int, str]]:
    """Return the unmatched payments that name something a new order is called, as (id, scenario).

    Ask once the order is stored.
    """
    await begin_to_change(connection)
    return await _waiting(connection, [(kind.value, value) for kind, value in references])


_CALLED = (
    select(OpenItemRow.customer_id, ReferenceRow.kind, ReferenceRow.value)
    .outerjoin(ReferenceRow, ReferenceRow.open_item_id == OpenItemRow.id)
    .where(among(OpenItemRow.order_id, "orders"))
)


async def waiting_for_orders(connection: AsyncConnection, order_ids: Sequence[int]) -> list[tuple[int, str]]:
    """Return the unmatched payments that one of these new orders may be what they are for, as (id, scenario).

    They name something that it is called, or come from an account of its customer or of his group. Ask once the orders
    are stored.
    """
    await begin_to_change(connection)
    named: set[tuple[str, str]] = set()
    customers: set[int] = set()
    for some in chunks(order_ids):
        rows = await connection.execute(_CALLED, {"orders": some})
        for row in rows.all():
            customers.add(row.customer_id)
            if row.kind is not None:
                named.add((row.kind, row.value))
    for accounts in (await memory.seen_with(connection, customers)).values():
        named.update((EvidenceKind.PAYER_ACCOUNT.value, account) for account in accounts)
    in_groups = await memory.seen_in_groups(connection, customers, members=_NEWEST)
    named.update((EvidenceKind.GROUP_ACCOUNT.value, account) for account in in_groups)
    return await _waiting(connection, named)


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A payment that waits for an order or for other rules, with the account that it arrived on."""

    id: int
    scenario: str
    account: str | None


_UNMATCHED = (
    select(PaymentRow.id, PaymentRow.method, PaymentRow.kind, PaymentRow.account)
    .join(PaymentReference, PaymentReference.payment_id == PaymentRow.id)
    .where(PaymentReference.kind == _WAITS, PaymentReference.value == "")
    .order_by(PaymentRow.id)
)


async def unmatched(connection: AsyncConnection) -> list[Unmatched]:
    """Return every payment that waits for an order or for other rules; none that a person has decided about."""
    rows = await connection.execute(_UNMATCHED)
    return [Unmatched(row.id, scenario_of(Method(row.method), Kind(row.kind)), row.account) for row in rows.all()]


async def _waiting(connection: AsyncConnection, named: Iterable[tuple[str, str]]) -> list[tuple[int, str]]:
    found = await _waiting_by_name(connection, set(named))
    return sorted({one for those in found.values() for one in those})


@cache
def _waiting_for_kinds(*kinds: str) -> Select[Any]:
    """Return the statement that finds what waits for names of these kinds; each kind's are the parameter so called."""
    of_kinds = ((PaymentReference.kind == kind) & among(PaymentReference.value, kind) for kind in kinds)
    return (
        select(
            PaymentReference.kind.label("named"),
            PaymentReference.value,
            PaymentRow.id,
            PaymentRow.method,
            PaymentRow.kind,
        )
        .join(PaymentReference, PaymentReference.payment_id == PaymentRow.id)
        .where(or_(*of_kinds))
    )


async def _waiting_by_name(
    connection: AsyncConnection, named: Collection[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[int, str]]]:
    """Return the unmatched payments that wait for what has one of these names, (kind, value), as (id, scenario)."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for some in chunks(sorted(named)):
        values: dict[str, list[str]] = defaultdict(list)
        for kind, value in some:
            values[kind].append(value)
        rows = await connection.execute(_waiting_for_kinds(*values), values)
        for row in rows.all():
            found[row.named, row.value].append((row.id, scenario_of(Method(row.method), Kind(row.kind))))
    return found


async def to_send_back(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Return what is marked to go back to its payer and has not gone, oldest first: id, amount_minor, currency, reason.

    It is the whole payment, or where it settles something, its surplus.
    """
    moved = aliased(PaymentRow)
    gone = (
        select(func.coalesce(func.sum(moved.amount_minor), 0))
        .where(
            moved.provider_reference == PaymentRow.provider_reference,
            moved.source == PaymentRow.source,
            moved.kind.in_([Kind.REFUND.value, Kind.CHARGEBACK.value, Kind.REINSTATED.value]),
        )
        .scalar_subquery()
    )
    settles = exists().where(AllocationRow.payment_id == PaymentRow.id, *STANDING)
    # A refund has taken off the surplus already what of it went back.
    left = case((settles, PaymentRow.surplus_minor), else_=PaymentRow.amount_minor + gone)
    rows = await connection.execute(
        select(PaymentRow.id, left.label("amount_minor"), PaymentRow.currency, PaymentRow.reason)
        .where(PaymentRow.policy == Policy.REFUND.value, left > 0)
        .order_by(PaymentRow.id)
    )
    return [dict(row) | {"amount_minor": int(row["amount_minor"])} for row in rows.mappings().all()]


async def listing(
    connection: AsyncConnection,
    *,
    outcome: str | None = None,
    policy: str | None = None,
    order_id: int | None = None,
    payment_id: int | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Return payments with their outcome, oldest first, as plain rows; surplus_left_minor is for a person to decide."""
    query = select(*PaymentRow.__table__.columns, _SURPLUS_LEFT).order_by(PaymentRow.id).limit(limit)
    if outcome == "new":
        query = query.where(PaymentRow.outcome.is_(None))
    elif outcome:
        query = query.where(PaymentRow.outcome == outcome)
    if policy:
        query = query.where(PaymentRow.policy == policy)
    if payment_id is not None:
        query = query.where(PaymentRow.id == payment_id)
    if order_id is not None:
        query = query.where(
            PaymentRow.id.in_(select(AllocationRow.payment_id).where(AllocationRow.order_id == order_id))
        )
    return [dict(row) for row in (await connection.execute(query)).mappings().all()]


_SUMS = (
    select(PaymentRow.outcome, PaymentRow.currency, func.count(), func.sum(PaymentRow.amount_minor))
    .group_by(PaymentRow.outcome, PaymentRow.currency)
    .order_by(PaymentRow.outcome, PaymentRow.currency)
)


async def sums(connection: AsyncConnection) -> list[tuple[str | None, str, int, int]]:
    """Return (outcome, currency, how many, sum in minor units) over all payments."""
    rows = await connection.execute(_SUMS)
    return [(outcome, currency, count, int(minor)) for outcome, currency, count, minor in rows.all()]
