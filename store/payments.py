"""Payments, what they name, and what they were allocated to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.allocation import Kept, OpenItem
from domain.matching import Match, Reference
from domain.money import Money
from domain.orders import Status
from domain.payments import IncomingPayment, Kind, Method, Outcome, Payment
from domain.rules import EvidenceKind, Policy
from domain.scenarios import scenario_of
from store.sql import add_new, chunks, insert_new, take_turns
from store.tables import (
    AllocationRow,
    OpenItemRow,
    OrderRow,
    PayerAccount,
    PaymentReference,
    PaymentRow,
    ReferenceRow,
)

AWAITING_ORDER = (Outcome.UNKNOWN, Outcome.AMBIGUOUS)
"""Outcomes that a new order can change."""


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
    connection: AsyncConnection, payments: Sequence[IncomingPayment], *, now: datetime, inbox_id: int | None = None
) -> list[tuple[int, str]]:
    """Store payments, passing over those known by (source, external id); return (id, scenario) of the new ones."""
    if len(payments) > 1:
        # Files that overlap in another order would wait for each other's rows for ever.
        for source in sorted({payment.source for payment in payments}):
            await take_turns(connection, f"payments of {source}")
    new: list[tuple[int, str]] = []
    for some in chunks(payments, 200):
        rows = await connection.execute(
            insert_new(connection.dialect, PaymentRow).returning(PaymentRow.id, PaymentRow.method, PaymentRow.kind),
            [_values(payment, inbox_id, now) for payment in some],
        )
        new.extend((row.id, scenario_of(Method(row.method), Kind(row.kind))) for row in rows.all())
    return sorted(new)


async def load(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, Payment]:
    """Return payments by id, locked against being matched twice at once."""
    found: dict[int, Payment] = {}
    for some in chunks(sorted(ids)):
        rows = await connection.execute(
            select(*PaymentRow.__table__.columns)
            .where(PaymentRow.id.in_(some))
            .order_by(PaymentRow.id)
            .with_for_update()
        )
        for row in rows.all():
            found[row.id] = Payment(
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
    return found


async def decided(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, tuple[Outcome, str]]:
    """Return (outcome, reason) of payments that were matched at least once."""
    found: dict[int, tuple[Outcome, str]] = {}
    for some in chunks(list(ids)):
        rows = await connection.execute(
            select(PaymentRow.id, PaymentRow.outcome, PaymentRow.reason).where(
                PaymentRow.id.in_(some), PaymentRow.outcome.is_not(None)
            )
        )
        found.update({row.id: (Outcome(row.outcome), row.reason or "") for row in rows.all()})
    return found


async def by_ids(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return what payments turned out to be, by id in the given order."""
    found: dict[int, dict[str, Any]] = {}
    columns = (
        PaymentRow.id,
        PaymentRow.outcome,
        PaymentRow.policy,
        PaymentRow.reason,
        PaymentRow.currency,
        PaymentRow.surplus_minor,
        PaymentRow.round,
    )
    for some in chunks(list(ids)):
        rows = await connection.execute(select(*columns).where(PaymentRow.id.in_(some)))
        found.update({row["id"]: dict(row) for row in rows.mappings().all()})
    return {id_: found[id_] for id_ in ids if id_ in found}


async def allocated(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the live allocations of payments, by payment id."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    columns = (
        AllocationRow.id,
        AllocationRow.payment_id,
        AllocationRow.order_id,
        OrderRow.number,
        AllocationRow.amount_minor,
        AllocationRow.write_off_minor,
        AllocationRow.completes,
        AllocationRow.evidence,
    )
    for some in chunks(list(ids)):
        rows = await connection.execute(
            select(*columns)
            .outerjoin(OrderRow, OrderRow.id == AllocationRow.order_id)
            .where(
                AllocationRow.payment_id.in_(some),
                AllocationRow.reverses_id.is_(None),
                AllocationRow.reversed.is_(False),
            )
            .order_by(AllocationRow.id)
        )
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


async def candidates(connection: AsyncConnection, references: Iterable[Reference]) -> dict[int, OpenItem]:
    """Return the open items that references can mean, by id, locked, with what is still open of each.

    A payer's account means the items of the one customer it is known for; an account of two customers means nothing.
    """
    await _keep_apart(connection, "ROW EXCLUSIVE")
    by_kind: dict[EvidenceKind, set[str]] = defaultdict(set)
    for reference in references:
        by_kind[reference.kind].add(reference.value)
    ids: set[int] = set()
    for kind, values in by_kind.items():
        for some in chunks(sorted(values)):
            rows = await connection.execute(
                select(ReferenceRow.open_item_id).where(ReferenceRow.kind == kind.value, ReferenceRow.value.in_(some))
            )
            ids.update(rows.scalars().all())
    accounts = await _accounts(connection, by_kind.get(EvidenceKind.PAYER_ACCOUNT, set()))
    for some in chunks(sorted(accounts)):
        rows = await connection.execute(select(OpenItemRow.id).where(OpenItemRow.customer_id.in_(some)))
        ids.update(rows.scalars().all())
    return await _items(connection, sorted(ids), accounts)


async def _accounts(connection: AsyncConnection, values: set[str]) -> dict[int, set[str]]:
    """Return the accounts that belong to exactly one customer, by customer."""
    owners: dict[str, set[int]] = defaultdict(set)
    for some in chunks(sorted(values)):
        rows = await connection.execute(
            select(PayerAccount.account, PayerAccount.customer_id).where(PayerAccount.account.in_(some))
        )
        for account, customer_id in rows.all():
            owners[account].add(customer_id)
    found: dict[int, set[str]] = defaultdict(set)
    for account, customers in owners.items():
        if len(customers) == 1:
            found[next(iter(customers))].add(account)
    return found


async def _items(connection: AsyncConnection, ids: Sequence[int], accounts: dict[int, set[str]]) -> dict[int, OpenItem]:
    found: dict[int, OpenItem] = {}
    for some in chunks(ids):
        locked = await connection.execute(
            select(*OpenItemRow.__table__.columns)
            .where(OpenItemRow.id.in_(some))
            .order_by(OpenItemRow.id)
            .with_for_update()
        )
        items = locked.all()
        relieved = await connection.execute(
            select(AllocationRow.open_item_id, func.sum(AllocationRow.amount_minor + AllocationRow.write_off_minor))
            .where(AllocationRow.open_item_id.in_(some))
            .group_by(AllocationRow.open_item_id)
        )
        paid = {item_id: int(minor) for item_id, minor in relieved.all()}
        named = await connection.execute(
            select(ReferenceRow.open_item_id, ReferenceRow.kind, ReferenceRow.value).where(
                ReferenceRow.open_item_id.in_(some)
            )
        )
        references: dict[int, set[tuple[EvidenceKind, str]]] = defaultdict(set)
        for item_id, kind, value in named.all():
            references[item_id].add((EvidenceKind(kind), value))
        orders = await connection.execute(
            select(OrderRow.id, OrderRow.number, OrderRow.standard_status).where(
                OrderRow.id.in_([item.order_id for item in items if item.order_id is not None])
            )
        )
        order_of = {row.id: row for row in orders.all()}
        for item in items:
            order = order_of.get(item.order_id)
            known = {(EvidenceKind.PAYER_ACCOUNT, account) for account in accounts.get(item.customer_id, ())}
            found[item.id] = OpenItem(
                id=item.id,
                order_id=item.order_id,
                channel=item.channel,
                number=order.number if order else f"item {item.id}",
                status=Status(order.standard_status) if order else Status.AWAITING_PAYMENT,
                amount=Money(item.amount_minor, item.currency),
                open=Money(item.amount_minor - paid.get(item.id, 0), item.currency),
                references=frozenset(references[item.id] | known),
            )
    return found


async def last_amount(connection: AsyncConnection, order_id: int) -> int | None:
    """Return what the last payment brought an order, in minor units, or None when none came."""
    return await connection.scalar(
        select(AllocationRow.amount_minor)
        .where(
            AllocationRow.order_id == order_id,
            AllocationRow.amount_minor > 0,
            AllocationRow.reverses_id.is_(None),
            AllocationRow.reversed.is_(False),
        )
        .order_by(AllocationRow.id.desc())
        .limit(1)
    )


def _shown(match: Match) -> list[Any]:
    return [
        {
            "order": candidate.item.number,
            "channel": candidate.item.channel,
            "open": str(candidate.item.open),
            "evidence": [evidence.said for evidence in candidate.evidence],
        }
        for candidate in match.candidates[:20]
    ]


async def record_match(
    connection: AsyncConnection, payment: Payment, match: Match, references: Iterable[Reference], *, now: datetime
) -> None:
    """Store what a payment turned out to be, and its allocations."""
    await connection.execute(
        update(PaymentRow)
        .where(PaymentRow.id == payment.id)
        .values(
            outcome=match.outcome.value,
            policy=match.policy.value,
            reason=match.reason,
            candidates=_shown(match),
            surplus_minor=match.surplus.minor if match.parts else 0,
            matched_at=now,
        )
    )
    evidence = {candidate.item.id: [e.said for e in candidate.evidence] for candidate in match.candidates}
    if match.parts:
        await connection.execute(
            insert(AllocationRow),
            [
                {
                    "payment_id": payment.id,
                    "open_item_id": part.item.id,
                    "order_id": part.item.order_id,
                    "amount_minor": part.amount.minor,
                    "write_off_minor": part.write_off.minor,
                    "completes": part.completes,
                    "evidence": evidence.get(part.item.id, []),
                    "reversed": False,
                    "at": now,
                }
                for part in match.parts
            ],
        )
    if match.outcome in AWAITING_ORDER:
        await add_new(
            connection,
            PaymentReference,
            [{"payment_id": payment.id, "kind": r.kind.value, "value": r.value[:200]} for r in references],
        )
    else:
        await connection.execute(delete(PaymentReference).where(PaymentReference.payment_id == payment.id))


@dataclass(frozen=True, slots=True)
class WentBack:
    """What went back of a payment so far, in minor units (negative), and the movements that tell of it."""

    minor: int
    ids: tuple[int, ...]


def _family(payments: Iterable[Payment]) -> list[tuple[str, str]]:
    return sorted({(p.source, p.provider_reference) for p in payments if p.provider_reference})


async def gone_back(connection: AsyncConnection, payments: Sequence[Payment]) -> dict[int, WentBack]:
    """Return what went back of payments before they were matched, by payment id; most have nothing."""
    moves: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    named = _family(payments)
    sources = sorted({source for source, _ in named})
    for some in chunks([reference for _, reference in named]):
        rows = await connection.execute(
            select(PaymentRow.id, PaymentRow.source, PaymentRow.provider_reference, PaymentRow.amount_minor).where(
                PaymentRow.provider_reference.in_(some),
                PaymentRow.source.in_(sources),
                PaymentRow.kind != Kind.PAYMENT.value,
            )
        )
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
    unapplied is what settled nothing. matched says that every payment was matched.
    """

    ids: tuple[int, ...]
    matched: bool
    unapplied: Money
    kept: tuple[Kept, ...]
    disputed: tuple[Kept, ...]


async def origin_of(connection: AsyncConnection, payment: Payment) -> Origin | None:
    """Return what a refund or chargeback takes back, locked, or None when that isn't known yet."""
    rows = (
        await connection.execute(
            select(PaymentRow.id, PaymentRow.kind, PaymentRow.amount_minor, PaymentRow.outcome)
            .where(PaymentRow.source == payment.source, PaymentRow.provider_reference == payment.provider_reference)
            .where(PaymentRow.currency == payment.amount.currency, PaymentRow.id != payment.id)
            .order_by(PaymentRow.id)
            .with_for_update()
        )
    ).all()
    origins = [row for row in rows if row.kind == Kind.PAYMENT]
    if not origins:
        return None
    decided = [row for row in rows if row.kind == Kind.PAYMENT or row.outcome is not None]
    kinds = {row.id: Kind(row.kind) for row in decided}
    allocated = await connection.execute(
        select(
            AllocationRow.payment_id,
            AllocationRow.open_item_id,
            AllocationRow.order_id,
            AllocationRow.amount_minor,
            OrderRow.number,
            OpenItemRow.channel,
        )
        .join(OpenItemRow, OpenItemRow.id == AllocationRow.open_item_id)
        .outerjoin(OrderRow, OrderRow.id == AllocationRow.order_id)
        .where(AllocationRow.payment_id.in_(list(kinds)))
        .order_by(AllocationRow.id)
    )
    items: dict[int, Any] = {}
    kept: dict[int, int] = defaultdict(int)
    disputed: dict[int, int] = defaultdict(int)
    for row in allocated.all():
        items.setdefault(row.open_item_id, row)
        kept[row.open_item_id] += row.amount_minor
        if kinds[row.payment_id] in (Kind.CHARGEBACK, Kind.REINSTATED):
            disputed[row.open_item_id] -= row.amount_minor
    currency = payment.amount.currency

    def shares(sums: dict[int, int]) -> tuple[Kept, ...]:
        return tuple(
            Kept(
                id_, items[id_].order_id, items[id_].number or f"item {id_}", items[id_].channel, Money(sum_, currency)
            )
            for id_, sum_ in sums.items()
            if sum_ > 0
        )

    return Origin(
        ids=tuple(row.id for row in origins),
        matched=all(row.outcome is not None for row in origins),
        unapplied=Money(sum(row.amount_minor for row in decided) - sum(kept.values()), currency),
        kept=shares(kept),
        disputed=shares(disputed),
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
    await connection.execute(
        update(PaymentRow)
        .where(PaymentRow.id == payment.id)
        .values(outcome=outcome.value, policy=policy.value, reason=reason, candidates=[], matched_at=now)
    )
    sign = -1 if payment.amount.minor < 0 else 1
    if shares:
        await connection.execute(
            insert(AllocationRow),
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


async def keep_surplus(connection: AsyncConnection, payment_ids: Sequence[int], minor: int) -> None:
    """Say how much is left, at most, of what payments brought too much, after some of it went back."""
    await connection.execute(
        update(PaymentRow)
        .where(PaymentRow.id.in_(list(payment_ids)), PaymentRow.surplus_minor > minor)
        .values(surplus_minor=max(minor, 0))
    )


async def waiting_for(
    connection: AsyncConnection, references: Iterable[tuple[EvidenceKind, str]]
) -> list[tuple[int, str]]:
    """Return the unmatched payments that name something a new order is called, as (id, scenario).

    Ask once the order is stored.
    """
    await _keep_apart(connection, "SHARE")
    named = [(PaymentReference.kind == kind.value) & (PaymentReference.value == value) for kind, value in references]
    found: dict[int, str] = {}
    for some in chunks(named, 100):
        rows = await connection.execute(
            select(PaymentRow.id, PaymentRow.method, PaymentRow.kind)
            .join(PaymentReference, PaymentReference.payment_id == PaymentRow.id)
            .where(or_(*some))
        )
        found.update({row.id: scenario_of(Method(row.method), Kind(row.kind)) for row in rows.all()})
    return sorted(found.items())


async def listing(
    connection: AsyncConnection,
    *,
    outcome: str | None = None,
    policy: str | None = None,
    order_id: int | None = None,
    payment_id: int | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Return payments with their outcome, oldest first, as plain rows."""
    query = select(*PaymentRow.__table__.columns).order_by(PaymentRow.id).limit(limit)
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


async def sums(connection: AsyncConnection) -> list[tuple[str | None, str, int, int]]:
    """Return (outcome, currency, how many, sum in minor units) over all payments."""
    rows = await connection.execute(
        select(PaymentRow.outcome, PaymentRow.currency, func.count(), func.sum(PaymentRow.amount_minor))
        .group_by(PaymentRow.outcome, PaymentRow.currency)
        .order_by(PaymentRow.outcome, PaymentRow.currency)
    )
    return [(outcome, currency, count, int(minor)) for outcome, currency, count, minor in rows.all()]
