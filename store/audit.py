"""The audit: what must always hold between the tables, each checked by a query, each breach told in words.

It only reads. A clean answer means that money, stock, documents, effects and journal agree with each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import ColumnElement, Row, Subquery, and_, case, exists, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from domain.balance import SOURCE
from domain.money import Money
from domain.payments import Kind, Method, Outcome
from domain.rules import CaseFacts, ChannelRules, DocumentKind, Moment, Policy, RulesError, Wait, Way
from domain.scenarios import message_step, subject_of
from store import archived, balances, cases, effects, journal, rules
from store.effects import EffectState
from store.payments import taken_of_payment
from store.tables import (
    STANDING,
    AllocationRow,
    BalanceEntry,
    CustomerRow,
    DocumentRow,
    DocumentSeries,
    EffectRow,
    JournalRow,
    MessageRow,
    OpenItemRow,
    OrderLineRow,
    OrderRow,
    PaymentRow,
    RevertRow,
    ShipmentRow,
    StatusHistory,
    StockItem,
    StockMove,
    WorkRow,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should never be: the invariant that is broken, where, and what was found, in words."""

    invariant: str
    subject: str
    said: str


async def audit(connection: AsyncConnection, *, now: datetime) -> list[Finding]:
    """Check every invariant and return what is broken, nothing when all is well.

    now decides which leases have ended. Give it a transaction that sees one state of the database.
    """
    found: list[Finding] = []
    for check in _CHECKS:
        found.extend(await check(connection))
    found.extend(await _unfinished_effects(connection, now))
    return found


async def _rows(connection: AsyncConnection, query: Any) -> Sequence[Row[Any]]:
    return (await connection.execute(query)).all()


# Money


async def _allocated_too_much(connection: AsyncConnection) -> list[Finding]:
    allocated = func.sum(taken_of_payment())
    amount = PaymentRow.amount_minor
    beyond = or_(
        and_(amount >= 0, or_(allocated < 0, allocated > amount)),
        and_(amount < 0, or_(allocated > 0, allocated < amount)),
    )
    rows = await _rows(
        connection,
        select(PaymentRow.id, PaymentRow.currency, amount, allocated.label("allocated"))
        .join(AllocationRow, AllocationRow.payment_id == PaymentRow.id)
        .group_by(PaymentRow.id, PaymentRow.currency, amount)
        .having(beyond)
        .order_by(PaymentRow.id),
    )
    return [
        Finding(
            "allocations within the payment",
            f"payment {row.id}",
            f"of its {Money(row.amount_minor, row.currency)}, {Money(int(row.allocated), row.currency)} is allocated",
        )
        for row in rows
    ]


async def _allocated_across_currencies(connection: AsyncConnection) -> list[Finding]:
    other = PaymentRow.currency != OpenItemRow.currency
    rows = await _rows(
        connection,
        select(PaymentRow.id, PaymentRow.currency, OpenItemRow.currency.label("other"), OrderRow.number)
        .join(AllocationRow, AllocationRow.payment_id == PaymentRow.id)
        .join(OpenItemRow, OpenItemRow.id == AllocationRow.open_item_id)
        .outerjoin(OrderRow, OrderRow.id == OpenItemRow.order_id)
        # What is converted says what it takes of the payment, and nothing else does.
        .where(other == AllocationRow.taken_minor.is_(None), AllocationRow.reverses_id.is_(None))
        .order_by(AllocationRow.id),
    )
    return [
        Finding(
            "allocations in the payment's currency",
            f"payment {row.id}",
            f"it is in {row.currency}, "
            + (
                f"but order {row.number}, to which it is allocated, is in {row.other}"
                if row.currency != row.other
                else f"as is order {row.number}, yet it is allocated to it as if it were converted"
            ),
        )
        for row in rows
    ]


async def _half_reversed(connection: AsyncConnection) -> list[Finding]:
    back = aliased(AllocationRow)
    rows = await _rows(
        connection,
        select(AllocationRow.id, AllocationRow.payment_id, AllocationRow.reversed, func.count(back.id).label("times"))
        .outerjoin(back, back.reverses_id == AllocationRow.id)
        .where(or_(AllocationRow.reversed.is_(True), back.id.is_not(None)))
        .group_by(AllocationRow.id, AllocationRow.payment_id, AllocationRow.reversed)
        .having(
            or_(
                AllocationRow.reversed.is_(False),
                func.count(back.id) != 1,
                func.sum(back.amount_minor) != -func.max(AllocationRow.amount_minor),
                func.sum(back.write_off_minor) != -func.max(AllocationRow.write_off_minor),
                func.coalesce(func.sum(back.taken_minor), 0) != -func.coalesce(func.max(AllocationRow.taken_minor), 0),
            )
        )
        .order_by(AllocationRow.id),
    )
    return [
        Finding(
            "an allocation is taken back once and whole",
            f"payment {row.payment_id}",
            f"allocation {row.id} is {'marked' if row.reversed else 'not marked'} as taken back, "
            f"and {row.times} entries take it back, not one of its very amount",
        )
        for row in rows
    ]


async def _outcome_without_allocation(connection: AsyncConnection) -> list[Finding]:
    of_payment = AllocationRow.payment_id == PaymentRow.id
    live = exists().where(of_payment, *STANDING)
    settles = or_(
        PaymentRow.policy.in_([Policy.RELEASE.value, Policy.WAIT.value]),
        # Only what it brought too much is to be sent back, or is left alone.
        and_(
            PaymentRow.policy.in_([Policy.REFUND.value, Policy.IGNORE.value]),
            PaymentRow.outcome == Outcome.OVER.value,
        ),
    )
    rows = await _rows(
        connection,
        select(PaymentRow.id, PaymentRow.outcome, PaymentRow.policy, live.label("live"))
        .where(
            or_(
                # What went back is booked at once, also where a person is to look at it.
                and_(
                    live,
                    PaymentRow.kind == Kind.PAYMENT.value,
                    or_(PaymentRow.outcome.is_(None), func.coalesce(settles, literal(False)).is_(False)),
                ),
                and_(settles, ~exists().where(of_payment)),
            )
        )
        .order_by(PaymentRow.id),
    )
    return [
        Finding(
            "a payment's outcome and its allocations agree",
            f"payment {row.id}",
            f"its outcome is {row.outcome or 'not decided'} (policy {row.policy or 'none'}), "
            + ("yet it is allocated" if row.live else "yet it was allocated to nothing"),
        )
        for row in rows
    ]


async def _credited_too_much(connection: AsyncConnection) -> list[Finding]:
    # What settles an invoice without an order is on the balance as well.
    allocated = (
        select(func.coalesce(func.sum(taken_of_payment()), 0))
        .where(AllocationRow.payment_id == PaymentRow.id, AllocationRow.order_id.is_not(None))
        .scalar_subquery()
    )
    credited = func.sum(BalanceEntry.amount_minor)
    from_balance = PaymentRow.source == SOURCE
    rows = await _rows(
        connection,
        select(PaymentRow.id, PaymentRow.currency, PaymentRow.amount_minor, allocated.label("allocated"))
        .add_columns(credited.label("credited"), func.max(BalanceEntry.currency).label("other"))
        .join(BalanceEntry, BalanceEntry.payment_id == PaymentRow.id)
        .where(*balances.LIVE, PaymentRow.kind == Kind.PAYMENT.value)
        .group_by(PaymentRow.id, PaymentRow.source, PaymentRow.currency, PaymentRow.amount_minor)
        .having(
            or_(
                PaymentRow.currency != func.max(BalanceEntry.currency),
                and_(from_balance, credited != -allocated),
                and_(~from_balance, or_(credited <= 0, allocated + credited > PaymentRow.amount_minor)),
            ),
        )
        .order_by(PaymentRow.id),
    )
    return [
        Finding(
            "what is on a balance came with its payment",
            f"payment {row.id}",
            f"of its {Money(row.amount_minor, row.currency)}, {Money(int(row.allocated), row.currency)} is allocated "
            f"and {Money(int(row.credited), row.other)} is on a balance",
        )
        for row in rows
    ]


async def _invoices_not_credited(connection: AsyncConnection) -> list[Finding]:
    """Hold what payments settle of invoices without order against what customers have of that on their balances."""
    paid = (
        select(func.coalesce(func.sum(AllocationRow.amount_minor), 0))
        .where(AllocationRow.open_item_id == OpenItemRow.id)
        .scalar_subquery()
    )
    credited = (
        select(func.coalesce(func.sum(BalanceEntry.amount_minor), 0))
        .where(BalanceEntry.open_item_id == OpenItemRow.id)
        .scalar_subquery()
    )
    rows = await _rows(
        connection,
        select(OpenItemRow.id, OpenItemRow.number, OpenItemRow.currency, paid.label("paid"))
        .add_columns(credited.label("credited"))
        .where(OpenItemRow.order_id.is_(None), paid != credited)
        .order_by(OpenItemRow.id),
    )
    return [
        Finding(
            "what paid an invoice without an order is on the balance",
            f"invoice {row.number or row.id}",
            f"{Money(int(row.paid), row.currency)} was paid for it, and {Money(int(row.credited), row.currency)} of "
            "that is on a balance",
        )
        for row in rows
    ]


async def _balance_payments_unpaired(connection: AsyncConnection) -> list[Finding]:
    """Find orders that are paid from a balance without its being less for that."""
    live = exists().where(BalanceEntry.payment_id == PaymentRow.id, BalanceEntry.amount_minor < 0, *balances.LIVE)
    allocated = exists().where(AllocationRow.payment_id == PaymentRow.id, *STANDING)
    rows = await _rows(
        connection,
        select(PaymentRow.id, allocated.label("allocated"))
        .where(PaymentRow.source == SOURCE, live != allocated)
        .order_by(PaymentRow.id),
    )
    return [
        Finding(
            "what pays an order from a balance is taken off it",
            f"payment {row.id}",
            "it settles its order, yet nothing is taken off the balance for it"
            if row.allocated
            else "it settles nothing, yet it is taken off the balance",
        )
        for row in rows
    ]


async def _half_reversed_entries(connection: AsyncConnection) -> list[Finding]:
    back = aliased(BalanceEntry)
    same = and_(
        back.amount_minor == -BalanceEntry.amount_minor,
        back.currency == BalanceEntry.currency,
        back.customer_id == BalanceEntry.customer_id,
        BalanceEntry.reverses_id.is_(None),
    )
    times, wrong = func.count(back.id), func.sum(case((same, 0), else_=1))
    rows = await _rows(
        connection,
        select(BalanceEntry.id, BalanceEntry.payment_id, BalanceEntry.reversed, times.label("times"))
        .outerjoin(back, back.reverses_id == BalanceEntry.id)
        .where(or_(BalanceEntry.reversed.is_(True), back.id.is_not(None)))
        .group_by(BalanceEntry.id, BalanceEntry.payment_id, BalanceEntry.reversed)
        .having(or_(BalanceEntry.reversed.is_(False), times != 1, wrong > 0))
        .order_by(BalanceEntry.id),
    )
    return [
        Finding(
            "an entry of a balance is taken back once and whole",
            f"payment {row.payment_id}" if row.payment_id else f"entry {row.id}",
            f"entry {row.id} is {'marked' if row.reversed else 'not marked'} as taken back, "
            f"and {row.times} entries take it back, not one of its very amount",
        )
        for row in rows
    ]


async def _outcome_without_entry(connection: AsyncConnection) -> list[Finding]:
    of_payment = BalanceEntry.payment_id == PaymentRow.id
    live = exists().where(of_payment, *balances.LIVE)
    left_to_a_person = func.coalesce(PaymentRow.policy == Policy.OPERATOR.value, literal(True))
    rows = await _rows(
        connection,
        select(PaymentRow.id, PaymentRow.outcome, PaymentRow.policy, live.label("live"))
        .where(
            or_(
                and_(live, left_to_a_person),
                and_(PaymentRow.policy == Policy.BALANCE.value, ~exists().where(of_payment)),
            )
        )
        .order_by(PaymentRow.id),
    )
    return [
        Finding(
            "a payment's outcome and its balance agree",
            f"payment {row.id}",
            f"its outcome is {row.outcome or 'not decided'} (policy {row.policy or 'none'}), "
            + ("yet it is on a balance" if row.live else "yet it was never put on a balance"),
        )
        for row in rows
    ]


# Dispatch


async def _dispatched_against_the_rules(connection: AsyncConnection) -> list[Finding]:
    """Look at what had happened when each live consignment was ordered, by the version of the rules it was made by."""
    # What was found only afterwards, such as after a crash, is judged by all that was ever paid.
    ever = (
        select(func.coalesce(func.sum(AllocationRow.amount_minor + AllocationRow.write_off_minor), 0))
        .where(
            AllocationRow.order_id == OrderRow.id, AllocationRow.amount_minor > 0, AllocationRow.reverses_id.is_(None)
        )
        .scalar_subquery()
    )
    settled = func.coalesce(ShipmentRow.settled_minor, ever)
    invoiced = exists().where(DocumentRow.order_id == OrderRow.id, DocumentRow.kind == DocumentKind.INVOICE.value)
    taken = exists().where(
        StockMove.order_id == OrderLineRow.order_id,  # by whose index it is found
        StockMove.order_line_id == OrderLineRow.id,
        StockMove.kind == "deduct",
    )
    left = exists().where(
        OrderLineRow.order_id == OrderRow.id, OrderLineRow.sku.is_not(None), OrderLineRow.quantity > 0, ~taken
    )
    rows = await _rows(
        connection,
        select(
            *(OrderRow.number, OrderRow.channel, OrderRow.method, OrderRow.total_minor, OrderRow.currency),
            *(OrderRow.due_on, OrderRow.id, OrderRow.status, OrderRow.delivery_method, OrderRow.on_delivery_minor),
            *(CustomerRow.group, CustomerRow.number.label("customer"), EffectRow.rule_version, EffectRow.cause),
            *(ShipmentRow.tracking_number, ShipmentRow.collect_minor, settled.label("settled")),
            *(invoiced.label("invoiced"), left.label("left")),
        )
        .join(OrderRow, OrderRow.id == ShipmentRow.order_id)
        .join(CustomerRow, CustomerRow.id == OrderRow.customer_id)
        .outerjoin(EffectRow, EffectRow.id == ShipmentRow.effect_id)
        .where(ShipmentRow.live.is_(True), or_(settled < OrderRow.total_minor, ~invoiced, left))
        .order_by(ShipmentRow.id),
    )
    known: dict[tuple[str, int | None], ChannelRules | None] = {}
    found: list[Finding] = []
    for row in rows:
        key = (row.channel, row.rule_version)
        if key not in known:
            known[key] = await _rules_of(connection, *key)
        channel, begun = known[key], (row.id, row.cause)
        begun_as = await cases.begun_as(connection, [begun]) if channel and channel.ask_status else {}
        found.extend(
            Finding("nothing leaves before its rules allow it", f"order {row.number}", said)
            for said in _broken_rules(row, channel, begun_as.get(begun))
        )
    return found


async def _rules_of(connection: AsyncConnection, channel: str, version: int | None) -> ChannelRules | None:
    try:
        return await rules.of_version(connection, channel, version) if version is not None else None
    except RulesError:
        return None  # written long ago; what was owed is judged without it


def _broken_rules(row: Row[Any], channel: ChannelRules | None, begun_as: str | None) -> list[str]:
    method = Method(row.method)
    left = Money(row.total_minor - int(row.settled), row.currency)
    later = Money(max(min(row.on_delivery_minor or 0, left.minor), 0), row.currency)
    missing, collect = left - later, Money(row.collect_minor, row.currency)
    waits: frozenset[Wait] = frozenset()
    if channel is not None:
        own = channel.for_customer(group=row.group, customer=row.customer)
        total = Money(row.total_minor, row.currency)
        facts = CaseFacts(method, row.delivery_method, begun_as or row.status, total)
        waits = own.scenario_by(facts).dispatch.waits_for
    consignment = f"consignment {row.tracking_number} was ordered"
    said: list[str] = []
    if missing.minor > 0:
        if Wait.PAYMENT in waits and row.due_on is None:  # on credit the goods go first
            said.append(f"{consignment} while {missing} was still to be paid, though dispatch waits for payment")
        elif collect < missing and (method is Method.CASH_ON_DELIVERY or channel is None):
            said.append(f"{consignment} while {missing} was still to be paid, but the carrier collects {collect}")
    if later and collect < later:
        said.append(f"{consignment} while {later} was to be paid on delivery, but the carrier collects {collect}")
    if Wait.INVOICE in waits and not row.invoiced:
        said.append(f"{consignment} without an invoice, though dispatch waits for it")
    if Wait.STOCK in waits and row.left:
        said.append(f"{consignment} before its goods were deducted from stock, though dispatch waits for that")
    return said


# Documents


async def _several_live_documents(connection: AsyncConnection) -> list[Finding]:
    times = func.count()
    rows = await _rows(
        connection,
        select(OrderRow.number, DocumentRow.kind, times.label("times"))
        .join(OrderRow, OrderRow.id == DocumentRow.order_id)
        .where(DocumentRow.live.is_(True))
        .group_by(OrderRow.id, OrderRow.number, DocumentRow.kind)
        .having(times > 1)
        .order_by(OrderRow.id, DocumentRow.kind),
    )
    return [
        Finding(
            "one document of a kind in force per order",
            f"order {row.number}",
            f"{row.times} documents of the kind {row.kind.replace('_', ' ')} are in force at once",
        )
        for row in rows
    ]


async def _gaps_in_numbers(connection: AsyncConnection) -> list[Finding]:
    series = (DocumentRow.channel, DocumentRow.kind, DocumentRow.year)
    used = await _rows(
        connection,
        select(*series, func.count().label("count"), func.max(DocumentRow.counter).label("last"))
        .add_columns(func.count(DocumentRow.counter.distinct()).label("different"))
        .where(DocumentRow.counter.is_not(None))
        .group_by(*series),
    )
    begun = await _rows(connection, select(*DocumentSeries.__table__.columns))
    ends = {(row.channel, row.kind, row.year): row.next_number - 1 for row in begun}
    held = {(row.channel, row.kind, row.year): {row.count, row.last, row.different} for row in used}
    away = await archived.counters(connection)
    for key in away:
        held[key] = set(_counted([*away[key], *await _counters(connection, *key)]))
    found: list[Finding] = []
    for key in sorted(ends.keys() | held.keys()):
        if held.get(key, {0}) != {ends.get(key, 0)}:
            channel, kind, year = key
            numbers = [*away.get(key, ()), *await _counters(connection, channel, kind, year)]
            said = _numbers_said(numbers, ends.get(key, 0))
            subject = f"{channel}, {kind.replace('_', ' ')}s of {year}"
            found.append(Finding("document numbers without gaps or repeats", subject, said))
    return found


def _counted(numbers: Sequence[int]) -> tuple[int, int, int]:
    return len(numbers), max(numbers), len(set(numbers))


async def _counters(connection: AsyncConnection, channel: str, kind: str, year: int) -> list[int]:
    rows = await _rows(
        connection,
        select(DocumentRow.counter).where(
            DocumentRow.channel == channel, DocumentRow.kind == kind, DocumentRow.year == year
        ),
    )
    return [row.counter for row in rows if row.counter is not None]


def _numbers_said(numbers: Sequence[int], end: int) -> str:
    used = sorted(numbers)
    last = max(end, *used) if used else end
    parts = {
        "missing": [number for number in range(1, last + 1) if number not in set(used)],
        "used twice": sorted({number for number in used if used.count(number) > 1}),
        "used though the series has not come so far": [number for number in used if number > end],
    }
    return "; ".join(f"{name}: {_some(numbers)}" for name, numbers in parts.items() if numbers)


def _some(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return ", ".join(str(number) for number in numbers[:10]) + more


# Stock


async def _lines_deducted_wrongly(connection: AsyncConnection) -> list[Finding]:
    deducted = func.sum(StockMove.quantity)
    rows = await _rows(
        connection,
        select(OrderRow.number, StockMove.sku, OrderLineRow.position, OrderLineRow.quantity, deducted.label("deducted"))
        .join(OrderLineRow, OrderLineRow.id == StockMove.order_line_id)
        .join(OrderRow, OrderRow.id == OrderLineRow.order_id)
        .where(StockMove.kind == "deduct", StockMove.live.is_(True))
        .group_by(OrderLineRow.id, OrderRow.number, StockMove.sku, OrderLineRow.position, OrderLineRow.quantity)
        .having(deducted != OrderLineRow.quantity)
        .order_by(OrderLineRow.id),
    )
    return [
        Finding(
            "goods are deducted once per line",
            f"order {row.number}",
            f"{row.quantity} × {row.sku} in line {row.position}, but {row.deducted} are deducted",
        )
        for row in rows
    ]


async def _stock_sums(connection: AsyncConnection) -> list[Finding]:
    def total(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.coalesce(func.sum(case((condition, StockMove.quantity), else_=0)), 0)

    counted, back = total(StockMove.kind.in_(["count", "carried"])), total(StockMove.kind == "restock")
    gone = total(StockMove.kind == "deduct")
    on_hand = (counted + back - gone).label("on_hand_told")
    promised = total((StockMove.kind == "reserve") & StockMove.live.is_(True)).label("promised")
    out = total((StockMove.kind == "deduct") & StockMove.live.is_(True))
    rows = await _rows(
        connection,
        select(StockItem.sku, StockItem.on_hand, StockItem.reserved, on_hand, promised)
        .outerjoin(StockMove, StockMove.sku == StockItem.sku)
        .group_by(StockItem.sku, StockItem.on_hand, StockItem.reserved)
        .having(or_(StockItem.on_hand != on_hand, StockItem.reserved != promised, gone - back != out))
        .order_by(StockItem.sku),
    )
    return [
        Finding(
            "stock equals the sum of its moves",
            f"article {row.sku}",
            f"{row.on_hand} on hand and {row.reserved} reserved, "
            f"but its moves come to {row.on_hand_told} and {row.promised}",
        )
        for row in rows
    ]


# Effects, journal, status


async def _unfinished_effects(connection: AsyncConnection, now: datetime) -> list[Finding]:
    waiting = await _rows(
        connection, select(WorkRow.subject, WorkRow.subject_id).where(WorkRow.due_at.is_not(None)).distinct()
    )
    due = {(row.subject, row.subject_id) for row in waiting}
    held = and_(EffectRow.lease_owner.is_not(None), EffectRow.lease_until > now)
    reverting = and_(
        EffectRow.reverses_id.is_not(None),
        exists().where(
            RevertRow.order_id == EffectRow.order_id,
            WorkRow.subject == "revert",
            WorkRow.subject_id == RevertRow.id,
            WorkRow.due_at.is_not(None),
        ),
    )
    rows = await _rows(
        connection,
        select(
            *(EffectRow.step, EffectRow.cause, EffectRow.state, EffectRow.reason, EffectRow.due_at),
            *(EffectRow.lease_owner, EffectRow.lease_until, OrderRow.number),
            reverting.label("reverting"),
        )
        .join(OrderRow, OrderRow.id == EffectRow.order_id)
        .where(EffectRow.state.in_(effects.OPEN), ~func.coalesce(held, literal(False)))
        .order_by(EffectRow.id),
    )
    return [
        Finding("every step that was begun goes on or waits for a person", f"order {row.number}", said)
        for row in rows
        if (said := _unfinished(row, goes_on=row.reverting or subject_of(row.cause) in due))
    ]


def _unfinished(row: Row[Any], *, goes_on: bool) -> str | None:
    """Return what is wrong with an open effect that no living worker holds, or None when it goes on by itself."""
    doubt = row.state == EffectState.IN_DOUBT
    why = f" ({row.reason})" if row.reason else ""
    if row.lease_owner is not None:
        return f"step {row.step} was begun by a worker that is gone since {row.lease_until:%Y-%m-%d %H:%M} UTC"
    if doubt and row.due_at is None and not goes_on:
        return f"step {row.step} needs a person: whether it happened is not known{why}"
    if not goes_on:
        return f"step {row.step} is not done{why}, and nothing that is due will carry it on (cause {row.cause})"
    return None


_LEAVES: dict[type[Any], tuple[str, ...]] = {
    StatusHistory: ("status", "placed status", "status back", "undo status", "undo placed status"),
    StockMove: ("stock", "reservation", "restock"),
    DocumentRow: ("invoice", "proforma", "credit note"),
    ShipmentRow: ("dispatch",),
    MessageRow: tuple(message_step(moment, by) for moment in Moment for by in get_args(Way)),
}
"""What each step leaves behind in our own database when it is done."""


async def _effects_without_their_rows(connection: AsyncConnection) -> list[Finding]:
    found: list[Finding] = []
    for table, steps in _LEAVES.items():
        left = exists().where(table.effect_id == EffectRow.id)
        rows = await _rows(
            connection,
            select(OrderRow.number, EffectRow.step, EffectRow.cause)
            .join(OrderRow, OrderRow.id == EffectRow.order_id)
            .where(EffectRow.step.in_(steps), EffectRow.state == EffectState.DONE.value, ~left)
            .order_by(EffectRow.id),
        )
        found += [
            Finding(
                "a done step has left what it does",
                f"order {row.number}",
                f"step {row.step} (cause {row.cause}) is told to be done, but left nothing in {table.__tablename__}",
            )
            for row in rows
        ]
        rows = await _rows(
            connection,
            select(OrderRow.number, EffectRow.step, EffectRow.cause, EffectRow.state)
            .join(table, table.effect_id == EffectRow.id)
            .join(OrderRow, OrderRow.id == EffectRow.order_id)
            .where(EffectRow.state != EffectState.DONE.value)
            .order_by(EffectRow.id),
        )
        found += [
            Finding(
                "a done step has left what it does",
                f"order {row.number}",
                f"step {row.step} (cause {row.cause}) is {row.state.replace('_', ' ')}, "
                f"but there is something of it in {table.__tablename__}",
            )
            for row in rows
        ]
    return found


async def _reverts_that_stopped(connection: AsyncConnection) -> list[Finding]:
    rows = await _rows(
        connection,
        select(OrderRow.number, RevertRow.author, WorkRow.note)
        .join(OrderRow, OrderRow.id == RevertRow.order_id)
        .outerjoin(WorkRow, and_(WorkRow.subject == "revert", WorkRow.subject_id == RevertRow.id))
        .where(RevertRow.finished_at.is_(None), WorkRow.due_at.is_(None))
        .order_by(RevertRow.id),
    )
    return [
        Finding(
            "every revert that was begun goes on or ends",
            f"order {row.number}",
            f"{row.author} has it taken back, and that has stopped ({row.note or 'nothing is due'}); "
            "settle the step that is in its way with `kvit resolve step`",
        )
        for row in rows
    ]


def _last(table: type[JournalRow | StatusHistory], column: Any) -> Subquery:
    return select(column, func.max(table.id).label("id")).where(column.is_not(None)).group_by(column).subquery()


async def _journal_tells_otherwise(connection: AsyncConnection) -> list[Finding]:
    last = _last(JournalRow, JournalRow.effect_id)
    told = or_(
        JournalRow.move == EffectRow.state,
        and_(JournalRow.move == "to retry", EffectRow.state == EffectState.INTENDED.value),
    )
    rows = await _rows(
        connection,
        select(OrderRow.number, EffectRow.step, EffectRow.cause, EffectRow.state, JournalRow.move)
        .join(OrderRow, OrderRow.id == EffectRow.order_id)
        .outerjoin(last, last.c.effect_id == EffectRow.id)
        .outerjoin(JournalRow, JournalRow.id == last.c.id)
        .where(or_(JournalRow.id.is_(None), ~told))
        .order_by(EffectRow.id),
    )
    return [
        Finding(
            "the journal tells every step's state",
            f"order {row.number}",
            f"step {row.step} (cause {row.cause}) is {row.state.replace('_', ' ')}, but the journal "
            + (f"says last that it is {row.move.replace('_', ' ')}" if row.move else "has nothing about it"),
        )
        for row in rows
    ]


async def _status_without_history(connection: AsyncConnection) -> list[Finding]:
    last = _last(StatusHistory, StatusHistory.order_id)
    rows = await _rows(
        connection,
        select(OrderRow.number, OrderRow.status, StatusHistory.after)
        .outerjoin(last, last.c.order_id == OrderRow.id)
        .outerjoin(StatusHistory, StatusHistory.id == last.c.id)
        .where(or_(StatusHistory.id.is_(None), StatusHistory.after != OrderRow.status))
        .order_by(OrderRow.id),
    )
    return [
        Finding(
            "an order's status is the last of its history",
            f"order {row.number}",
            f"it is {row.status}, but its history " + (f"ends with {row.after}" if row.after else "is empty"),
        )
        for row in rows
    ]


async def _journal_changed(connection: AsyncConnection) -> list[Finding]:
    broken = await journal.verify(connection)
    orders = {id_ for one in broken for kind, id_ in [_subject(one.chain)] if kind == "order"}
    rows = await _rows(connection, select(OrderRow.id, OrderRow.number).where(OrderRow.id.in_(orders)))
    numbers = {row.id: row.number for row in rows}
    return [
        Finding(
            "the journal is as it was written",
            f"order {numbers.get(id_, id_)}" if kind == "order" else one.chain.replace(":", " "),
            one.said,
        )
        for one in broken
        for kind, id_ in [_subject(one.chain)]
    ]


def _subject(chain: str) -> tuple[str, int]:
    kind, _, id_ = chain.partition(":")
    return kind, int(id_ or 0)


_CHECKS: tuple[Callable[[AsyncConnection], Awaitable[list[Finding]]], ...] = (
    _allocated_too_much,
    _allocated_across_currencies,
    _half_reversed,
    _outcome_without_allocation,
    _credited_too_much,
    _invoices_not_credited,
    _balance_payments_unpaired,
    _half_reversed_entries,
    _outcome_without_entry,
    _dispatched_against_the_rules,
    _several_live_documents,
    _gaps_in_numbers,
    _lines_deducted_wrongly,
    _stock_sums,
    _effects_without_their_rows,
    _reverts_that_stopped,
    _journal_tells_otherwise,
    _journal_changed,
    _status_without_history,
)
