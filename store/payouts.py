"""Payouts of gateways and carriers: reports, which payments of ours their lines are, where lump sums arrived."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, and_, bindparam, func, insert, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.money import Money
from domain.payments import IncomingPayment, Kind, Method, Outcome, Payment
from domain.payouts import (
    EARLY_DAYS,
    KINDS,
    LATE_DAYS,
    Expected,
    LineKind,
    Movement,
    Payout,
    Unclear,
    Unidentified,
    find_payout,
    gateway,
    identify,
    in_words,
    payments_source,
)
from domain.payouts import PayoutLine as Line
from domain.rules import Policy
from store import archive, archived
from store.archived import Name
from store.payments import payment_of
from store.sql import among, chunks, insert_new, take_turns_at
from store.tables import PaymentRow, PayoutLine, PayoutRow

_LOOK_BACK_DAYS = 60
"""A movement that names a payout is told of it, though it is too late to be its lump sum."""

OVERDUE_DAYS = 10
"""A payout that has not arrived so long after its day is looked for: later than it could still be recognised."""

_SETTLED_DAYS = 90
"""The lines of payouts older than that are compared with our payments no more."""

_CURSOR_MAX = 40


# One report


@dataclass(frozen=True, slots=True)
class Stored:
    """A payout in the store: its number, whether it is new, and what differs from the one that is known by its id."""

    id: int
    new: bool
    problem: str | None = None


async def add(connection: AsyncConnection, payout: Payout, *, inbox_id: int | None, now: datetime) -> Stored:
    """Store a payout with its lines, unless (source, external id) is known; what differs from the known one is told."""
    values = {
        "source": payout.source,
        "external_id": payout.external_id,
        "inbox_id": inbox_id,
        "currency": payout.currency,
        "gross_minor": payout.gross.minor,
        "fee_minor": payout.fee.minor,
        "net_minor": payout.net.minor,
        "paid_on": payout.paid_on,
        "reference": payout.reference,
        "received_at": now,
    }
    made = await connection.scalar(insert_new(PayoutRow).values(**values).returning(PayoutRow.id))
    if made is None:
        id_, known = await find(connection, payout.source, payout.external_id)
        return Stored(id_, new=False, problem=_difference(known, payout))
    rows = [
        {
            "payout_id": made,
            "external_id": line.external_id,
            "kind": line.kind.value,
            "provider_reference": line.provider_reference,
            "order_reference": line.order_reference,
            "gross_minor": line.gross.minor,
            "fee_minor": line.fee.minor,
            "net_minor": line.net.minor,
        }
        for line in payout.lines
    ]
    for some in chunks(rows):
        await connection.execute(insert(PayoutLine), list(some))
    return Stored(made, new=True)


def _difference(known: Payout, told: Payout) -> str | None:
    """Say in what a payout is not the one that is known by its id; where a line stands in its file is of no account."""
    for name in ("gross", "fee", "net", "paid_on"):
        before, now = getattr(known, name), getattr(told, name)
        if before != now:
            return f"it is known with {name.replace('_', ' ')} {before}, and now it says {now}"
    before = {line.external_id: _money_of(line) for line in known.lines}
    now = {line.external_id: _money_of(line) for line in told.lines}
    if before == now:
        return None
    id_ = min(id_ for id_ in before.keys() | now.keys() if before.get(id_) != now.get(id_))
    words = [said or "not there" for said in (before.get(id_), now.get(id_))]
    return f"its line {id_:.60} is known as {words[0]}, and now it is {words[1]}"


def _money_of(line: Line) -> str:
    of = f" of {line.provider_reference:.60}" if line.provider_reference else ""
    return f"{line.kind}{of}, {line.gross} gross, {line.fee} fee"


async def find(connection: AsyncConnection, source: str, external_id: str) -> tuple[int, Payout]:
    """Return a payout that is known, with its number and its lines."""
    row = (
        await connection.execute(
            select(*PayoutRow.__table__.columns).where(PayoutRow.source == source, PayoutRow.external_id == external_id)
        )
    ).one()
    lines = await connection.execute(
        select(*PayoutLine.__table__.columns).where(PayoutLine.payout_id == row.id).order_by(PayoutLine.id)
    )
    return row.id, Payout(
        source=row.source,
        external_id=row.external_id,
        gross=Money(row.gross_minor, row.currency),
        fee=Money(row.fee_minor, row.currency),
        net=Money(row.net_minor, row.currency),
        paid_on=row.paid_on,
        reference=row.reference,
        lines=tuple(_line(line, row.currency) for line in lines.all()),
    )


def _line(row: Row[Any], currency: str) -> Line:
    return Line(
        external_id=row.external_id,
        kind=LineKind(row.kind),
        gross=Money(row.gross_minor, currency),
        fee=Money(row.fee_minor, currency),
        net=Money(row.net_minor, currency),
        provider_reference=row.provider_reference,
        order_reference=row.order_reference,
    )


# Which payments of ours the lines are


async def take_turns(connection: AsyncConnection, sources: Iterable[str]) -> None:
    """Let a gateway's reports and its webhooks store payments one after the other: each looks at what the other has."""
    await take_turns_at(connection, [f"payments of {source}" for source in sources])


_UNLINKED = (
    select(*PayoutLine.__table__.columns, PayoutRow.source, PayoutRow.currency)
    .join(PayoutRow, PayoutRow.id == PayoutLine.payout_id)
    .where(PayoutLine.payment_id.is_(None), PayoutLine.kind.in_([kind.value for kind in KINDS]))
    .order_by(PayoutLine.id)
)
_UNLINKED_OF_PAYOUT = _UNLINKED.where(PayoutLine.payout_id == bindparam("payout"))


async def link(connection: AsyncConnection, payout_id: int) -> dict[str, Unidentified]:
    """Find the payments that a payout's lines are; return by the line's id why the others are none of ours."""
    return await _link(connection, (await connection.execute(_UNLINKED_OF_PAYOUT, {"payout": payout_id})).all())


# A carrier names no payment: what it collected is known by its own id.
_UNLINKED_OF_PAYMENTS = _UNLINKED.where(
    PayoutLine.provider_reference.in_(
        union_all(
            *(
                select(column).where(among(PaymentRow.id, "payments"))
                for column in (PaymentRow.provider_reference, PaymentRow.external_id)
            )
        )
    )
)


async def link_new(connection: AsyncConnection, payment_ids: Sequence[int]) -> None:
    """Find the lines that payments which have come since are."""
    for some in chunks(list(payment_ids)):
        await _link(connection, (await connection.execute(_UNLINKED_OF_PAYMENTS, {"payments": some})).all())


@dataclass(frozen=True, slots=True)
class _Known:
    kind: str
    provider_reference: str | None
    movement: Movement


async def _link(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> dict[str, Unidentified]:
    left: dict[str, Unidentified] = {}
    links: list[dict[str, int]] = []
    done: set[int] = set()
    for source in sorted({row.source for row in rows}):
        mine = [row for row in rows if row.source == source]
        known = await _known(connection, payments_source(source), mine)
        of: dict[tuple[str, str], list[int]] = defaultdict(list)
        for id_, one in known.items():
            of[one.kind, one.movement.external_id].append(id_)
            if one.provider_reference and one.provider_reference != one.movement.external_id:
                of[one.kind, one.provider_reference].append(id_)
        # What agrees to the cent comes first, so that a line of another amount takes no other line's payment.
        for exact in (True, False):
            for row in [row for row in mine if row.id not in done]:
                kind = KINDS[LineKind(row.kind)].value
                ids = {*of[kind, row.external_id], *of[kind, row.provider_reference or row.external_id]}
                line = _line(row, row.currency)
                found = identify(line, [known[id_].movement for id_ in ids])
                if isinstance(found, Unidentified):
                    left[row.external_id] = found
                elif not exact or found.external_id == line.external_id or found.amount == line.gross:
                    done.add(row.id)
                    left.pop(row.external_id, None)
                    links.append({"line": row.id, "payment": found.id})
                    reported = replace(found, reported=found.reported + row.gross_minor, lines=found.lines + 1)
                    known[found.id] = replace(known[found.id], movement=reported)
    await _write(connection, links)
    return left


_LINKED = (
    update(PayoutLine)
    .where(PayoutLine.id == bindparam("line"), PayoutLine.payment_id.is_(None))
    .values(payment_id=bindparam("payment"))
)


async def _write(connection: AsyncConnection, links: Sequence[Mapping[str, int]]) -> None:
    for some in chunks(links):
        await connection.execute(_LINKED, [dict(one) for one in some])


async def _known(connection: AsyncConnection, source: str, rows: Sequence[Row[Any]]) -> dict[int, _Known]:
    """Return the movements of a source that some lines may be, by number, with what other lines say of them."""
    columns = (
        PaymentRow.id,
        PaymentRow.external_id,
        PaymentRow.provider_reference,
        PaymentRow.kind,
        PaymentRow.amount_minor,
        PaymentRow.currency,
    )
    given = {
        PaymentRow.external_id: sorted({row.external_id for row in rows}),
        PaymentRow.provider_reference: sorted({row.provider_reference for row in rows if row.provider_reference}),
    }
    names = [Name("payment", source, external_id) for external_id in given[PaymentRow.external_id]]
    names += [Name("provider", source, reference) for reference in given[PaymentRow.provider_reference]]
    await archive.bring_back(connection, names, because="a payout's report names a payment of it")
    found: dict[int, _Known] = {}
    for column, values in given.items():
        for some in chunks(values):
            known = await connection.execute(select(*columns).where(PaymentRow.source == source, column.in_(some)))
            for row in known.all():
                made = Movement(id=row.id, external_id=row.external_id, amount=Money(row.amount_minor, row.currency))
                found[row.id] = _Known(row.kind, row.provider_reference, made)
    for some in chunks(sorted(found)):
        said = await connection.execute(
            select(PayoutLine.payment_id, func.sum(PayoutLine.gross_minor).label("minor"), func.count().label("lines"))
            .where(PayoutLine.payment_id.in_(some))
            .group_by(PayoutLine.payment_id)
        )
        for row in said.all():
            one = found[row.payment_id]
            reported = replace(one.movement, reported=int(row.minor), lines=row.lines)
            found[row.payment_id] = replace(one, movement=reported)
    return found


async def attach(connection: AsyncConnection, payout_id: int, made: Mapping[str, str]) -> None:
    """Say of lines that they are the payments that were made of them: the payment's external id by the line's."""
    source = select(PayoutRow.source).where(PayoutRow.id == payout_id).scalar_subquery()
    lines = {payment: line for line, payment in made.items()}
    links: list[dict[str, int]] = []
    for some in chunks(sorted(lines)):
        rows = await connection.execute(
            select(PaymentRow.id, PaymentRow.external_id).where(
                PaymentRow.source == source, PaymentRow.external_id.in_(some)
            )
        )
        of = {lines[row.external_id]: row.id for row in rows.all()}
        named = await connection.execute(
            select(PayoutLine.id, PayoutLine.external_id).where(
                PayoutLine.payout_id == payout_id, PayoutLine.external_id.in_(list(of))
            )
        )
        links += [{"line": row.id, "payment": of[row.external_id]} for row in named.all()]
    await _write(connection, links)


_TOLD_OF = (
    select(PaymentRow.provider_reference, PaymentRow.kind, PaymentRow.currency, PaymentRow.amount_minor)
    .where(PaymentRow.source == bindparam("source"), among(PaymentRow.provider_reference, "references"))
    .where(PaymentRow.external_id.startswith("payout_line/", autoescape=True))
)
_KNOWN_IDS = select(PaymentRow.external_id).where(
    PaymentRow.source == bindparam("source"), among(PaymentRow.external_id, "ids")
)


async def not_told(connection: AsyncConnection, incoming: Sequence[IncomingPayment]) -> list[IncomingPayment]:
    """Leave out the payments that a report told of before their own source did, under an id of its own.

    Such a one has the same source, kind, amount and provider reference; each of a report's stands for one.
    """
    named = {Name("payment", one.source, one.external_id) for one in incoming}
    belongs = {Name("provider", one.source, one.provider_reference) for one in incoming if one.provider_reference}
    found = await archived.find(connection, [*named, *belongs])
    # A repeat of what is archived brings nothing back.
    if not named <= found.keys():
        again = {id_ for name, id_ in found.items() if name.kind == "provider"}
        await archive.bring_back_all(connection, again, because="money of it moved once more")
    told: dict[tuple[str, str, str, str, int], int] = defaultdict(int)
    known: set[tuple[str, str]] = set()
    for source in sorted({payment.source for payment in incoming}):
        mine = [payment for payment in incoming if payment.source == source]
        for some in chunks(sorted({payment.provider_reference for payment in mine if payment.provider_reference})):
            made = await connection.execute(_TOLD_OF, {"source": source, "references": some})
            for row in made.all():
                told[source, row.provider_reference, row.kind, row.currency, row.amount_minor] += 1
        for some in chunks(sorted({payment.external_id for payment in mine})) if told else ():
            rows = await connection.execute(_KNOWN_IDS, {"source": source, "ids": some})
            known |= {(source, external_id) for external_id in rows.scalars().all()}
    kept: list[IncomingPayment] = []
    for payment in incoming:
        amount = payment.amount
        key = (payment.source, payment.provider_reference or "", payment.kind.value, amount.currency, amount.minor)
        if told[key] and (payment.source, payment.external_id) not in known:
            told[key] -= 1
            continue
        kept.append(payment)
    return kept


# The lump sum


_EXPECTED = select(
    PayoutRow.id,
    PayoutRow.source,
    PayoutRow.external_id,
    PayoutRow.currency,
    PayoutRow.net_minor,
    PayoutRow.paid_on,
    PayoutRow.reference,
    PayoutRow.payment_id,
).order_by(PayoutRow.id)
_NEAR = _EXPECTED.where(
    or_(
        PayoutRow.paid_on.between(bindparam("first"), bindparam("last")),
        among(PayoutRow.payment_id, "payments"),
    )
)


async def near(connection: AsyncConnection, payments: Sequence[Payment]) -> list[Expected]:
    """Return the payouts that movements on a bank statement may be, and those that they were found to be before.

    Ask once matching has begun, so that a report that is just coming in is either seen or finds them waiting.
    """
    if not payments:
        return []
    days = [payment.booked_on for payment in payments]
    first, last = min(days) - timedelta(days=_LOOK_BACK_DAYS), max(days) + timedelta(days=EARLY_DAYS)
    found: dict[int, Expected] = {}
    for some in chunks([payment.id for payment in payments]):
        rows = await connection.execute(_NEAR, {"first": first, "last": last, "payments": some})
        found |= {row.id: _as_expected(row) for row in rows.all()}
    return list(found.values())


def _as_expected(row: Row[Any]) -> Expected:
    return Expected(
        id=row.id,
        source=row.source,
        external_id=row.external_id,
        net=Money(row.net_minor, row.currency),
        paid_on=row.paid_on,
        reference=row.reference,
        payment_id=row.payment_id,
    )


_ARRIVED = (
    update(PayoutRow)
    .where(
        PayoutRow.id == bindparam("payout"),
        or_(PayoutRow.payment_id.is_(None), PayoutRow.payment_id == bindparam("payment")),
    )
    .values(payment_id=bindparam("payment"))
)


async def arrived(connection: AsyncConnection, payout_id: int, payment_id: int) -> bool:
    """Say that a payout's lump sum is a movement on the bank statement; False when another one is it already."""
    taken = await connection.execute(_ARRIVED, {"payout": payout_id, "payment": payment_id})
    return taken.rowcount == 1


_RELEASED = update(PayoutRow).where(among(PayoutRow.payment_id, "payments")).values(payment_id=None)


async def release(connection: AsyncConnection, payment_ids: Sequence[int]) -> None:
    """Say that movements are no payout's lump sum after all."""
    for some in chunks(list(payment_ids)):
        await connection.execute(_RELEASED, {"payments": some})


_LEFT = (
    Outcome.UNKNOWN,
    Outcome.AMBIGUOUS,
    Outcome.DUPLICATE,
    Outcome.LATE,
    Outcome.WRONG_CURRENCY,
    Outcome.WITHIN_TOLERANCE,
    Outcome.SHORT,
    Outcome.OVER,
)
"""Outcomes that may be left to a person, and then are not decided yet."""


async def waiting(connection: AsyncConnection, payouts: Sequence[Expected]) -> dict[int, list[Payment]]:
    """Return the movements around the days of payouts of which nothing is decided, by the payout's number.

    Their money goes the same way as the payout's.
    """
    if not payouts:
        return {}
    days = [payout.paid_on for payout in payouts]
    first, last = min(days) - timedelta(days=EARLY_DAYS), max(days) + timedelta(days=LATE_DAYS)
    # By the outcome, of which there is an index: most payments of a shop are settled.
    left = and_(
        PaymentRow.outcome.in_([outcome.value for outcome in _LEFT]), PaymentRow.policy == Policy.OPERATOR.value
    )
    undecided = or_(PaymentRow.outcome.is_(None), left, PaymentRow.outcome == Outcome.OUTGOING.value)
    rows = await connection.execute(
        select(*PaymentRow.__table__.columns)
        .where(undecided, PaymentRow.method == Method.BANK_TRANSFER.value, PaymentRow.kind == Kind.PAYMENT.value)
        .where(PaymentRow.booked_on.between(first, last))
        .order_by(PaymentRow.id)
    )
    movements = [payment_of(row) for row in rows.all()]
    return {payout.id: [one for one in movements if _could_be(one, payout)] for payout in payouts}


def _could_be(movement: Payment, payout: Expected) -> bool:
    same_way = (movement.amount.minor > 0) == (payout.net.minor > 0)
    days = (movement.booked_on - payout.paid_on).days
    return same_way and movement.amount.currency == payout.net.currency and -EARLY_DAYS <= days <= LATE_DAYS


async def expected(connection: AsyncConnection, payout_id: int) -> Expected:
    """Return a payout as it is looked for on bank statements."""
    return _as_expected((await connection.execute(_EXPECTED.where(PayoutRow.id == payout_id))).one())


# What people see


async def listing(
    connection: AsyncConnection, *, id_: int | None = None, newest: int | None = None
) -> list[dict[str, Any]]:
    """Return payouts as plain rows, oldest first, with how many lines of each kind they have and when they arrived.

    id_ asks for one alone; newest is how many at most.
    """
    query = (
        select(*PayoutRow.__table__.columns, PaymentRow.booked_on.label("arrived_on"))
        .outerjoin(PaymentRow, PaymentRow.id == PayoutRow.payment_id)
        .order_by(PayoutRow.paid_on.desc(), PayoutRow.id.desc())
        .limit(newest)
    )
    if id_ is not None:
        query = query.where(PayoutRow.id == id_)
    found = [dict(row) for row in reversed((await connection.execute(query)).mappings().all())]
    counts = await _counts(connection, [row["id"] for row in found])
    return [row | {"lines": counts[row["id"]]} for row in found]


async def named(connection: AsyncConnection, *, id_: int | None = None, external_id: str | None = None) -> list[int]:
    """Return the numbers of the payouts that have a number, or a gateway's id."""
    wanted = PayoutRow.id == id_ if id_ is not None else PayoutRow.external_id == external_id
    return list((await connection.execute(select(PayoutRow.id).where(wanted).order_by(PayoutRow.id))).scalars().all())


async def _counts(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, dict[LineKind, int]]:
    found: dict[int, dict[LineKind, int]] = defaultdict(dict)
    for some in chunks(list(ids)):
        rows = await connection.execute(
            select(PayoutLine.payout_id, PayoutLine.kind, func.count().label("times"))
            .where(PayoutLine.payout_id.in_(some))
            .group_by(PayoutLine.payout_id, PayoutLine.kind)
        )
        for row in rows.all():
            found[row.payout_id][LineKind(row.kind)] = row.times
    return found


async def said(connection: AsyncConnection, payout_id: int) -> str:
    """Say what a payout comes to, without reading all of its lines."""
    row = (await connection.execute(select(*PayoutRow.__table__.columns).where(PayoutRow.id == payout_id))).one()
    sums = tuple(Money(minor, row.currency) for minor in (row.gross_minor, row.fee_minor, row.net_minor))
    counts = (await _counts(connection, [payout_id]))[payout_id]
    return in_words(row.source, row.external_id, sums, counts)


async def details(connection: AsyncConnection, payout_id: int) -> list[dict[str, Any]]:
    """Return the lines of a payout as plain rows, with the payment that each is, and what that one turned out to be."""
    rows = await connection.execute(
        select(
            *PayoutLine.__table__.columns,
            PaymentRow.outcome,
            PaymentRow.amount_minor,
            PaymentRow.currency.label("payment_currency"),
        )
        .outerjoin(PaymentRow, PaymentRow.id == PayoutLine.payment_id)
        .where(PayoutLine.payout_id == payout_id)
        .order_by(PayoutLine.id)
    )
    return [dict(row) for row in rows.mappings().all()]


class Problem(StrEnum):
    """What doesn't agree between a payout's report, the bank, and our payments."""

    NOT_ARRIVED = "not arrived"
    OTHER_AMOUNT = "other amount arrived"
    LINE_AMOUNT = "payment differs"
    LINE_UNKNOWN = "payment not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """Something about a payout that doesn't agree, in words; amount is what it is about, payment_id the movement."""

    problem: Problem
    payout_id: int
    source: str
    external_id: str
    paid_on: date
    amount: Money
    said: str
    payment_id: int | None = None


async def discrepancies(
    connection: AsyncConnection, now: datetime, payers: Mapping[str, Sequence[str]] | None = None
) -> list[Discrepancy]:
    """Return what doesn't agree, the oldest payout first: what did not arrive as reported, and what we have otherwise.

    payers are the payers by which gateways are known, by source; without them only movements that name a payout count.
    """
    found = [
        *await _not_arrived(connection, now, payers or {}),
        *await _other_amounts(connection, now),
        *await _unknown_lines(connection, now),
    ]
    return sorted(found, key=lambda one: (one.paid_on, one.payout_id, one.problem))


async def _not_arrived(
    connection: AsyncConnection, now: datetime, payers: Mapping[str, Sequence[str]]
) -> list[Discrepancy]:
    rows = await connection.execute(
        _EXPECTED.where(PayoutRow.payment_id.is_(None), PayoutRow.net_minor != 0, PayoutRow.paid_on <= now.date())
    )
    missing = [_as_expected(row) for row in rows.all()]
    since = now.date() - timedelta(days=_SETTLED_DAYS)
    near_by = await waiting(connection, [one for one in missing if one.paid_on >= since])
    found: list[Discrepancy] = []
    for one in missing:
        others = [
            (payment, decision.reason)
            for payment in near_by.get(one.id, ())
            if isinstance(decision := find_payout(payment, [one], payers), Unclear) and payment.amount != one.net
        ]
        late = (now.date() - one.paid_on).days
        if others:
            payment, reason = others[0]
            found.append(_about(one, Problem.OTHER_AMOUNT, f"payment {payment.id}: {reason}", payment.id))
        elif late >= OVERDUE_DAYS:
            said = f"{_named(one)}, {one.net}, was to arrive on {one.paid_on} and is on no statement after {late} days"
            found.append(_about(one, Problem.NOT_ARRIVED, said))
    return found


def _named(one: Expected) -> str:
    return f"payout {one.external_id} of {gateway(one.source)}"


def _about(one: Expected, problem: Problem, said: str, payment_id: int | None = None) -> Discrepancy:
    return Discrepancy(
        problem=problem,
        payout_id=one.id,
        source=one.source,
        external_id=one.external_id,
        paid_on=one.paid_on,
        amount=one.net,
        said=said,
        payment_id=payment_id,
    )


async def _other_amounts(connection: AsyncConnection, now: datetime) -> list[Discrepancy]:
    """Compare our payments with what all lines say of them; what was paid in another currency can't be."""
    since = now.date() - timedelta(days=_SETTLED_DAYS)
    recent = (
        select(PayoutLine.payment_id)
        .join(PayoutRow, PayoutRow.id == PayoutLine.payout_id)
        .where(PayoutRow.paid_on >= since, PayoutLine.payment_id.is_not(None))
    )
    reported = func.sum(PayoutLine.gross_minor)
    rows = await connection.execute(
        select(PaymentRow.id, PaymentRow.amount_minor, PaymentRow.currency, reported.label("reported"))
        .add_columns(func.max(PayoutLine.payout_id).label("payout_id"))
        .join(PayoutLine, PayoutLine.payment_id == PaymentRow.id)
        .join(PayoutRow, PayoutRow.id == PayoutLine.payout_id)
        .where(PaymentRow.id.in_(recent), PayoutRow.currency == PaymentRow.currency)
        .group_by(PaymentRow.id, PaymentRow.amount_minor, PaymentRow.currency)
        .having(reported != PaymentRow.amount_minor)
        .order_by(PaymentRow.id)
    )
    found: list[Discrepancy] = []
    for row in rows.all():
        one = await expected(connection, row.payout_id)
        told, ours = Money(int(row.reported), row.currency), Money(row.amount_minor, row.currency)
        said = f"payment {row.id} is {ours} here, and the report of {_named(one)} says {told}"
        found.append(replace(_about(one, Problem.LINE_AMOUNT, said, row.id), amount=told - ours))
    return found


async def _unknown_lines(connection: AsyncConnection, now: datetime) -> list[Discrepancy]:
    """Return the payouts with lines that are none of our payments, a day after: until then they are asked about."""
    since = now.date() - timedelta(days=_SETTLED_DAYS)
    gross = func.sum(PayoutLine.gross_minor)
    first = func.min(func.coalesce(PayoutLine.provider_reference, PayoutLine.external_id))
    rows = await connection.execute(
        select(PayoutLine.payout_id, func.count().label("lines"), gross.label("gross"), first.label("first"))
        .join(PayoutRow, PayoutRow.id == PayoutLine.payout_id)
        .where(PayoutLine.payment_id.is_(None), PayoutLine.kind.in_([kind.value for kind in KINDS]))
        .where(PayoutRow.paid_on >= since, PayoutRow.received_at <= now - timedelta(days=1))
        .group_by(PayoutLine.payout_id)
        .order_by(PayoutLine.payout_id)
    )
    found: list[Discrepancy] = []
    for row in rows.all():
        one = await expected(connection, row.payout_id)
        gross_sum = Money(int(row.gross), one.net.currency)
        which = f"{row.first:.60}" if row.lines == 1 else f"{row.first:.60} and {row.lines - 1} more"
        said = f"the report of {_named(one)} has {gross_sum} of payments that are not known here: {which}"
        found.append(replace(_about(one, Problem.LINE_UNKNOWN, said), amount=gross_sum))
    return found


def cursor_of(connector: str) -> str:
    """Return the name under which it is remembered where polling a connector's payouts stopped."""
    name = f"{connector}#payouts"
    return name if len(name) <= _CURSOR_MAX else f"#{hashlib.sha256(name.encode()).hexdigest()[: _CURSOR_MAX - 1]}"
