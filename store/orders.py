"""Orders, their customers and open items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.changes import StatusChange
from domain.money import Money
from domain.orders import CLOSED, Address, Customer, Order, OrderLine, Status
from domain.payments import Method
from domain.references import payer_reference
from domain.rules import EvidenceKind
from store import archive, memory
from store.archived import Name, find
from store.journal import Actor
from store.sql import add_new, add_new_returning, among, chunks, take_turns_at
from store.tables import (
    AllocationRow,
    CustomerRow,
    OpenItemRow,
    OrderLineRow,
    OrderRow,
    PaymentRow,
    ReferenceRow,
    ShipmentRow,
    StatusHistory,
)

_Key = tuple[str, str]
"""What an order or a customer is known by: its channel, and its number there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLine:
    """A line of an order to be stored."""

    sku: str | None
    title: str
    quantity: int
    unit_price: Money
    vat_rate: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrder:
    """An order to be stored, with its customer; references are in normal form."""

    channel: str
    number: str
    method: Method
    status: str
    standard_status: Status
    total: Money
    variable_symbol: str | None
    rf: str | None
    delivery_method: str | None
    delivery_address: Address
    placed_at: datetime
    customer_number: str
    customer_name: str
    email: str | None
    phone: str | None
    language: str | None
    group: str | None
    tax_id: str | None
    address: Address
    accounts: tuple[str, ...]
    lines: tuple[NewLine, ...]
    references: frozenset[tuple[EvidenceKind, str]]
    external_id: str | None = None
    due_on: date | None = None
    on_delivery: Money | None = None
    reserved_until: datetime | None = None


async def add(connection: AsyncConnection, order: NewOrder, *, now: datetime, actor: Actor) -> int | None:
    """Store an order with its customer, lines, open item and references; return its id, or None if it is known."""
    return (await add_all(connection, [order], now=now, actor=actor))[0]


async def add_all(
    connection: AsyncConnection, new: Sequence[NewOrder], *, now: datetime, actor: Actor
) -> list[int | None]:
    """Store orders as `add` does one after the other; return by their places the id of each, or None if it is known.

    The first of several that have one channel and number is new, the others are known. Who stores more than one lets
    others that do so wait (`take_turns`).
    """
    named: dict[_Key, NewOrder] = {}
    for order in new:
        named.setdefault((order.channel, order.number), order)
    known = await _known(connection, named)
    unknown = {key: order for key, order in named.items() if key not in known}
    customers = await _customers(connection, list(unknown.values()))
    rows = await add_new_returning(
        connection,
        OrderRow,
        [_order_row(order, customers[order.channel, order.customer_number], now) for order in unknown.values()],
        *(OrderRow.id, OrderRow.channel, OrderRow.number),
    )
    ids = {(row.channel, row.number): row.id for row in rows}  # another process has stored any other since
    added = [
        (ids[key], order, customers[key[0], order.customer_number]) for key, order in unknown.items() if key in ids
    ]
    await _add_parts(connection, added, now=now, actor=actor)
    return [ids.pop((order.channel, order.number), None) for order in new]


async def take_turns(connection: AsyncConnection, channels: Sequence[str]) -> None:
    """Let those who store several orders at once, each of one of these channels, do it one after the other.

    Sets that overlap in another order would wait for each other's customers and orders for ever. Ask before all else.
    """
    if len(channels) > 1:
        await take_turns_at(connection, [f"orders of {channel}" for channel in channels])


_KNOWN = select(OrderRow.number).where(OrderRow.channel == bindparam("shop"), among(OrderRow.number, "numbers"))


async def _known(connection: AsyncConnection, keys: Iterable[_Key]) -> set[_Key]:
    """Return those that there are, after bringing back what of them was archived."""
    numbers = _by_channel(keys)
    found: set[_Key] = set()
    for channel, all_ in numbers.items():
        for some in chunks(all_):
            rows = await connection.execute(_KNOWN, {"shop": channel, "numbers": some})
            found.update((channel, number) for number in rows.scalars().all())
    names = [Name("order", channel, number) for channel, all_ in numbers.items() for number in all_]
    archived = await find(connection, [name for name in names if (name.scope, name.value) not in found])
    for archive_id in sorted(set(archived.values())):
        if await archive.bring_back_all(connection, [archive_id], because="it came once more"):
            found.update((name.scope, name.value) for name, of in archived.items() if of == archive_id)
    return found


def _by_channel(keys: Iterable[_Key]) -> dict[str, list[str]]:
    numbers: dict[str, list[str]] = defaultdict(list)
    for channel, number in keys:
        numbers[channel].append(number)
    return numbers


def _order_row(order: NewOrder, customer_id: int, now: datetime) -> dict[str, Any]:
    return {
        "channel": order.channel,
        "number": order.number,
        "customer_id": customer_id,
        "method": order.method.value,
        "status": order.status,
        "standard_status": order.standard_status.value,
        "currency": order.total.currency,
        "total_minor": order.total.minor,
        "variable_symbol": order.variable_symbol,
        "rf": order.rf,
        "delivery_method": order.delivery_method,
        "delivery_address": asdict(order.delivery_address),
        "placed_at": order.placed_at,
        "external_id": order.external_id,
        "due_on": order.due_on,
        "reserved_until": order.reserved_until,
        "extended": 0,
        "on_delivery_minor": order.on_delivery.minor if order.on_delivery else None,
        "created_at": now,
    }


async def _add_parts(
    connection: AsyncConnection, added: Sequence[tuple[int, NewOrder, int]], *, now: datetime, actor: Actor
) -> None:
    """Store what belongs to new orders, each given with its id and its customer's."""
    if not added:
        return
    lines = [row for order_id, order, _ in added for row in _line_rows(order_id, order.lines)]
    await connection.execute(insert(OrderLineRow), lines)
    rows = await connection.execute(
        insert(OpenItemRow).returning(OpenItemRow.id, OpenItemRow.order_id),
        [
            {
                "order_id": order_id,
                "customer_id": customer_id,
                "channel": order.channel,
                "currency": order.total.currency,
                "amount_minor": order.total.minor,
            }
            for order_id, order, customer_id in added
        ],
    )
    items = {row.order_id: row.id for row in rows.all()}
    references = [
        row
        for order_id, order, _ in added
        for row in _reference_rows(items[order_id], order.references | _payer(order))
    ]
    await add_new(connection, ReferenceRow, references)
    history = [
        {"order_id": order_id, "after": order.status, "reason": "order taken in", "actor": actor.name, "at": now}
        for order_id, order, _ in added
    ]
    await connection.execute(insert(StatusHistory), history)


async def revise(connection: AsyncConnection, order_id: int, order: NewOrder) -> None:
    """Change an order's lines, total and delivery, and with them what is open of it.

    Moves of stock point at lines, so none is deleted: one that the order has no longer keeps a quantity of zero.
    """
    await connection.execute(
        update(OrderRow)
        .where(OrderRow.id == order_id)
        .values(
            total_minor=order.total.minor,
            on_delivery_minor=order.on_delivery.minor if order.on_delivery else None,
            delivery_method=order.delivery_method,
            delivery_address=asdict(order.delivery_address),
        )
    )
    known = list(
        (
            await connection.execute(
                select(OrderLineRow.id).where(OrderLineRow.order_id == order_id).order_by(OrderLineRow.position)
            )
        ).scalars()
    )
    for line_id, line in zip(known, order.lines, strict=False):
        await connection.execute(
            update(OrderLineRow)
            .where(OrderLineRow.id == line_id)
            .values(
                sku=line.sku,
                title=line.title,
                quantity=line.quantity,
                unit_price_minor=line.unit_price.minor,
                vat_rate=str(line.vat_rate),
            )
        )
    if added := _line_rows(order_id, order.lines)[len(known) :]:
        await connection.execute(insert(OrderLineRow), added)
    for line_id in known[len(order.lines) :]:
        await connection.execute(update(OrderLineRow).where(OrderLineRow.id == line_id).values(quantity=0))
    item_id = await connection.scalar(
        update(OpenItemRow)
        .where(OpenItemRow.order_id == order_id)
        .values(amount_minor=order.total.minor)
        .returning(OpenItemRow.id)
    )
    assert item_id is not None  # noqa: S101 - every order has one
    await connection.execute(
        delete(ReferenceRow).where(
            ReferenceRow.open_item_id == item_id, ReferenceRow.kind == EvidenceKind.PAYER_NAME.value
        )
    )
    await add_references(connection, item_id, _payer(order))


def _line_rows(order_id: int, lines: Sequence[NewLine]) -> list[dict[str, Any]]:
    return [
        {
            "order_id": order_id,
            "position": position,
            "sku": line.sku,
            "title": line.title,
            "quantity": line.quantity,
            "unit_price_minor": line.unit_price.minor,
            "vat_rate": str(line.vat_rate),
        }
        for position, line in enumerate(lines, start=1)
    ]


def _payer(order: NewOrder) -> set[tuple[EvidenceKind, str]]:
    """Return what confirms that a payment is an order's: whose it is, with its whole amount or that of its goods."""
    amounts = [order.total, order.total - order.on_delivery] if order.on_delivery else [order.total]
    references = [payer_reference(order.customer_name, amount) for amount in amounts]
    return {(EvidenceKind.PAYER_NAME, reference) for reference in references if reference}


async def _customers(connection: AsyncConnection, new: Sequence[NewOrder]) -> dict[_Key, int]:
    """Store the customers of orders, or bring them up to date by the last order of each; return their ids."""
    details = {(order.channel, order.customer_number): _details(order) for order in new}
    ids = await _customer_ids(connection, details)
    known = list(ids)
    added = await add_new_returning(
        connection,
        CustomerRow,
        [{"channel": key[0], "number": key[1], **told} for key, told in details.items() if key not in ids],
        *(CustomerRow.id, CustomerRow.channel, CustomerRow.number),
    )
    ids.update({(row.channel, row.number): row.id for row in added})
    if missing := [key for key in details if key not in ids]:  # another process has stored them since
        ids.update(await _customer_ids(connection, missing))
        known += missing
    if known:
        await connection.execute(
            update(CustomerRow)
            .where(CustomerRow.id == bindparam("_id"))
            .values(
                name=bindparam("_name"),
                email=bindparam("_email"),
                phone=bindparam("_phone"),
                language=bindparam("_language"),
                group=bindparam("_group"),
                tax_id=bindparam("_tax_id"),
                address=bindparam("_address"),
            ),
            [
                {"_id": ids[key], **{f"_{name}": value for name, value in details[key].items()}}
                for key in sorted(known, key=ids.__getitem__)
            ],
        )
    told: dict[int, set[str]] = defaultdict(set)
    for order in new:
        told[ids[order.channel, order.customer_number]].update(order.accounts)
    await memory.tell(connection, told)
    return ids


_CUSTOMER_IDS = select(CustomerRow.number, CustomerRow.id).where(
    CustomerRow.channel == bindparam("shop"), among(CustomerRow.number, "numbers")
)


async def _customer_ids(connection: AsyncConnection, keys: Iterable[_Key]) -> dict[_Key, int]:
    found: dict[_Key, int] = {}
    for channel, numbers in _by_channel(keys).items():
        for some in chunks(numbers):
            rows = await connection.execute(_CUSTOMER_IDS, {"shop": channel, "numbers": some})
            found.update({(channel, row.number): row.id for row in rows.all()})
    return found


def _details(order: NewOrder) -> dict[str, Any]:
    return {
        "name": order.customer_name,
        "email": order.email,
        "phone": order.phone,
        "language": order.language,
        "group": order.group,
        "tax_id": order.tax_id,
        "address": asdict(order.address),
    }


async def customer_number(connection: AsyncConnection, customer_id: int) -> str | None:
    """Return the channel's own number of a customer."""
    return await connection.scalar(select(CustomerRow.number).where(CustomerRow.id == customer_id))


_CUSTOMER_KEY = select(CustomerRow.channel, CustomerRow.number, CustomerRow.group).where(
    CustomerRow.id == bindparam("customer")
)


async def customer_key(connection: AsyncConnection, customer_id: int) -> tuple[str, str, str | None]:
    """Return the channel, number and group of a customer that there is."""
    row = (await connection.execute(_CUSTOMER_KEY, {"customer": customer_id})).one()
    return row.channel, row.number, row.group


_CUSTOMER = select(*CustomerRow.__table__.columns).where(CustomerRow.id == bindparam("customer"))


async def customer(connection: AsyncConnection, customer_id: int) -> Customer:
    """Return a customer that there is."""
    row = (await connection.execute(_CUSTOMER, {"customer": customer_id})).one()
    return Customer(
        id=row.id,
        number=row.number,
        name=row.name,
        email=row.email,
        phone=row.phone,
        language=row.language,
        group=row.group,
        tax_id=row.tax_id,
        address=Address(**row.address),
    )


async def add_references(
    connection: AsyncConnection, open_item_id: int, references: Iterable[tuple[EvidenceKind, str]]
) -> None:
    """Let payments find an open item by more names; names it has already are passed over."""
    await add_new(connection, ReferenceRow, _reference_rows(open_item_id, references))


def _reference_rows(open_item_id: int, references: Iterable[tuple[EvidenceKind, str]]) -> list[dict[str, Any]]:
    return [{"open_item_id": open_item_id, "kind": kind.value, "value": value} for kind, value in sorted(references)]


async def add_order_reference(connection: AsyncConnection, order_id: int, kind: EvidenceKind, value: str) -> None:
    """Let payments find an order by one more name."""
    item_id = await connection.scalar(select(OpenItemRow.id).where(OpenItemRow.order_id == order_id))
    if item_id is not None:
        await add_references(connection, item_id, [(kind, value)])


_CAME = func.sum(AllocationRow.amount_minor)
_WRITTEN_OFF = func.sum(AllocationRow.write_off_minor)
_SETTLED = (
    select(AllocationRow.order_id, (_CAME + _WRITTEN_OFF).label("minor"))
    .where(among(AllocationRow.order_id, "orders"))
    .group_by(AllocationRow.order_id)
)


async def settled(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, int]:
    """Return what each order was relieved of so far by payments and write-offs, in minor units."""
    found: dict[int, int] = {}
    for ids in chunks(list(order_ids)):
        rows = await connection.execute(_SETTLED, {"orders": ids})
        found.update({row.order_id: int(row.minor) for row in rows.all()})
    return found


_COLLECTED = (
    select(AllocationRow.order_id, func.sum(AllocationRow.amount_minor + AllocationRow.write_off_minor))
    .join(PaymentRow, PaymentRow.id == AllocationRow.payment_id)
    .where(among(AllocationRow.order_id, "orders"), PaymentRow.method == Method.CASH_ON_DELIVERY.value)
    .group_by(AllocationRow.order_id)
)


async def collected(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, int]:
    """Return what each order was relieved of so far by what carriers collected, in minor units.

    Ask it only of orders whose delivery alone is paid when it comes.
    """
    found: dict[int, int] = {}
    for ids in chunks(list(order_ids)):
        rows = await connection.execute(_COLLECTED, {"orders": ids})
        found.update({order_id: int(minor) for order_id, minor in rows.all()})
    return found


_LINES = (
    select(*OrderLineRow.__table__.columns)
    .where(among(OrderLineRow.order_id, "orders"), OrderLineRow.quantity > 0)
    .order_by(OrderLineRow.order_id, OrderLineRow.position)
)


async def _lines(
    connection: AsyncConnection, ids: Sequence[int], currencies: dict[int, str]
) -> dict[int, list[OrderLine]]:
    found: dict[int, list[OrderLine]] = {order_id: [] for order_id in ids}
    rows = await connection.execute(_LINES, {"orders": ids})
    for row in rows.all():
        found[row.order_id].append(
            OrderLine(
                id=row.id,
                sku=row.sku,
                title=row.title,
                quantity=row.quantity,
                unit_price=Money(row.unit_price_minor, currencies[row.order_id]),
                vat_rate=Decimal(row.vat_rate),
            )
        )
    return found


_ALLOCATED = AllocationRow.order_id == OrderRow.id
_WITH_CUSTOMER = (
    select(
        *OrderRow.__table__.columns,
        select(_CAME).where(_ALLOCATED).scalar_subquery().label("came"),
        select(_WRITTEN_OFF).where(_ALLOCATED).scalar_subquery().label("written_off"),
        *(column.label(f"buyer_{column.name}") for column in CustomerRow.__table__.columns),
    )
    .join(CustomerRow, CustomerRow.id == OrderRow.customer_id)
    .where(among(OrderRow.id, "orders"))
)


async def load(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, Order]:
    """Return orders as the steps see them, by id."""
    found: dict[int, Order] = {}
    for ids in chunks(list(order_ids)):
        rows = (await connection.execute(_WITH_CUSTOMER, {"orders": ids})).all()
        lines = await _lines(connection, ids, {row.id: row.currency for row in rows})
        later = [row.id for row in rows if row.on_delivery_minor is not None]
        brought = await collected(connection, later) if later else {}
        for row in rows:
            off = int(row.written_off or 0)
            found[row.id] = Order(
                id=row.id,
                channel=row.channel,
                number=row.number,
                status=row.status,
                standard_status=Status(row.standard_status),
                method=Method(row.method),
                total=Money(row.total_minor, row.currency),
                settled=Money(int(row.came or 0) + off, row.currency),
                written_off=Money(off, row.currency),
                placed_at=row.placed_at,
                customer=Customer(
                    id=row.customer_id,
                    number=row.buyer_number,
                    name=row.buyer_name,
                    email=row.buyer_email,
                    phone=row.buyer_phone,
                    language=row.buyer_language,
                    group=row.buyer_group,
                    tax_id=row.buyer_tax_id,
                    address=Address(**row.buyer_address),
                ),
                lines=tuple(lines[row.id]),
                delivery_method=row.delivery_method,
                delivery_address=Address(**row.delivery_address),
                variable_symbol=row.variable_symbol,
                rf=row.rf,
                external_id=row.external_id,
                due_on=row.due_on,
                reserved_until=row.reserved_until,
                extended=row.extended,
                on_delivery=None if row.on_delivery_minor is None else Money(row.on_delivery_minor, row.currency),
                collected=Money(brought[row.id], row.currency) if row.id in brought else None,
            )
    return found


async def set_status(
    connection: AsyncConnection,
    order_id: int,
    *,
    after: str,
    standard: Status,
    reason: str,
    actor: Actor,
    now: datetime,
    effect_id: int | None = None,
) -> int:
    """Change an order's status and write its history; return the id of its row there."""
    before, _ = await lock_status(connection, order_id)
    await connection.execute(
        update(OrderRow).where(OrderRow.id == order_id).values(status=after, standard_status=standard.value)
    )
    history_id = await connection.scalar(
        insert(StatusHistory)
        .values(
            order_id=order_id, before=before, after=after, reason=reason, actor=actor.name, effect_id=effect_id, at=now
        )
        .returning(StatusHistory.id)
    )
    assert history_id is not None  # noqa: S101 - RETURNING of one inserted row
    return history_id


class NewStatus(NamedTuple):
    """A status that an order gets, and the effect by which."""

    order_id: int
    before: str
    after: str
    standard: Status
    reason: str
    effect_id: int


# Whoever adds a row that points at an order is not held up, and so never waits for who waits for it.
_STATUSES = (
    select(OrderRow.id, OrderRow.status, OrderRow.standard_status)
    .where(among(OrderRow.id, "orders"))
    .order_by(OrderRow.id)
    .with_for_update(key_share=True)
)


async def lock_statuses(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, tuple[str, Status]]:
    """Lock orders for a change of their statuses, and return what each has now and what that means."""
    found: dict[int, tuple[str, Status]] = {}
    for ids in chunks(sorted(set(order_ids))):
        rows = await connection.execute(_STATUSES, {"orders": ids})
        found.update({row.id: (row.status, Status(row.standard_status)) for row in rows.all()})
    return found


_NEW_STATUS = (
    update(OrderRow)
    .where(OrderRow.id == bindparam("_id"))
    .values(status=bindparam("_status"), standard_status=bindparam("_standard"))
)


async def set_statuses(
    connection: AsyncConnection, changes: Sequence[NewStatus], *, actor: Actor, now: datetime
) -> None:
    """Change the statuses of orders that `lock_statuses` locked, and write their histories."""
    if not changes:
        return
    await connection.execute(
        _NEW_STATUS,
        [{"_id": one.order_id, "_status": one.after, "_standard": one.standard.value} for one in changes],
    )
    await connection.execute(
        insert(StatusHistory),
        [
            {
                "order_id": one.order_id,
                "before": one.before,
                "after": one.after,
                "reason": one.reason,
                "actor": actor.name,
                "effect_id": one.effect_id,
                "at": now,
            }
            for one in changes
        ],
    )


async def lock_status(connection: AsyncConnection, order_id: int) -> tuple[str, Status]:
    """Lock an order for a change of its status, and return the one it has now and what that means."""
    return (await lock_statuses(connection, [order_id]))[order_id]


async def ids_of(connection: AsyncConnection, number: str, channel: str | None = None) -> list[tuple[int, str]]:
    """Return the (id, channel) of every order with a number; several channels may use the same one."""
    query = select(OrderRow.id, OrderRow.channel).where(OrderRow.number == number).order_by(OrderRow.id)
    if channel:
        query = query.where(OrderRow.channel == channel)
    return [(row.id, row.channel) for row in (await connection.execute(query)).all()]


def chosen(
    *,
    channel: str | None = None,
    status: str | None = None,
    method: str | None = None,
    placed_from: datetime | None = None,
    placed_to: datetime | None = None,
) -> list[ColumnElement[bool]]:
    """Return the conditions that choose orders; placed_to itself is not in, what is None chooses all."""
    conditions: list[ColumnElement[bool]] = []
    if channel:
        conditions.append(OrderRow.channel == channel)
    if status:
        conditions.append((OrderRow.status == status) | (OrderRow.standard_status == status))
    if method:
        conditions.append(OrderRow.method == method)
    if placed_from:
        conditions.append(OrderRow.placed_at >= placed_from)
    if placed_to:
        conditions.append(OrderRow.placed_at < placed_to)
    return conditions


async def listing(
    connection: AsyncConnection,
    *,
    channel: str | None = None,
    status: str | None = None,
    method: str | None = None,
    placed_from: datetime | None = None,
    placed_to: datetime | None = None,
    held_out: bool = False,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Return orders chosen by their properties, oldest first, as plain rows.

    held_out chooses those alone that a person holds out of automation.
    """
    conditions = chosen(channel=channel, status=status, method=method, placed_from=placed_from, placed_to=placed_to)
    if held_out:
        conditions.append(OrderRow.held_out.is_not(None))
    columns = (
        OrderRow.id,
        OrderRow.number,
        OrderRow.channel,
        OrderRow.method,
        OrderRow.status,
        OrderRow.standard_status,
        OrderRow.currency,
        OrderRow.total_minor,
        OrderRow.placed_at,
        OrderRow.held_out,
    )
    rows = await connection.execute(
        select(*columns).where(*conditions).order_by(OrderRow.placed_at, OrderRow.id).limit(limit)
    )
    return [dict(row) for row in rows.mappings().all()]


async def status_history(connection: AsyncConnection, order_id: int) -> list[dict[str, Any]]:
    """Return every status an order had, oldest first."""
    columns = (
        StatusHistory.at,
        StatusHistory.before,
        StatusHistory.after,
        StatusHistory.reason,
        StatusHistory.actor,
    )
    rows = await connection.execute(
        select(*columns).where(StatusHistory.order_id == order_id).order_by(StatusHistory.id)
    )
    return [dict(row) for row in rows.mappings().all()]


async def set_term(
    connection: AsyncConnection, order_id: int, *, reserved_until: datetime | None, due_on: date | None, extended: int
) -> None:
    """Say until when an order waits for its money, or by when one on credit is to be paid."""
    await connection.execute(
        update(OrderRow)
        .where(OrderRow.id == order_id)
        .values(reserved_until=reserved_until, due_on=due_on, extended=extended)
    )


async def owed_on_credit(
    connection: AsyncConnection, customer_id: int, currency: str, *, besides: Collection[int] = ()
) -> Money:
    """Return what a customer owes in all by orders whose goods went before their money, besides some of them."""
    rows = await connection.execute(
        select(OrderRow.id, OrderRow.total_minor).where(
            OrderRow.customer_id == customer_id,
            OrderRow.currency == currency,
            OrderRow.due_on.is_not(None),
            OrderRow.standard_status.not_in(sorted(CLOSED)),
        )
    )
    totals = {row.id: row.total_minor for row in rows.all() if row.id not in besides}
    paid = await settled(connection, list(totals))
    return Money(sum(max(total - paid.get(id_, 0), 0) for id_, total in totals.items()), currency)


_CUSTOMER_OF = select(OrderRow.customer_id).where(OrderRow.id == bindparam("order"))


async def customer_of(connection: AsyncConnection, order_id: int) -> int:
    """Return the id of an order's customer."""
    return (await connection.execute(_CUSTOMER_OF, {"order": order_id})).scalar_one()


_CHANNELS = select(OrderRow.id, OrderRow.channel).where(among(OrderRow.id, "orders"))


async def channels(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, str]:
    """Return the channels of orders, by id."""
    found: dict[int, str] = {}
    for some in chunks(list(order_ids)):
        rows = await connection.execute(_CHANNELS, {"orders": some})
        found.update({row.id: row.channel for row in rows.all()})
    return found


_OF_HISTORY = (
    select(StatusHistory.id, OrderRow.id.label("order_id"), OrderRow.number)
    .join(OrderRow, OrderRow.id == StatusHistory.order_id)
    .where(among(StatusHistory.id, "rows"))
)


async def of_history(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, tuple[int, str]]:
    """Return the orders that rows of the history of statuses are of, as (id, number), by the row's id."""
    found: dict[int, tuple[int, str]] = {}
    for some in chunks(list(ids)):
        rows = await connection.execute(_OF_HISTORY, {"rows": some})
        found.update({row.id: (row.order_id, row.number) for row in rows.all()})
    return found


async def last_history_id(connection: AsyncConnection, order_id: int) -> int | None:
    """Return the id of the newest row in an order's history of statuses."""
    return await connection.scalar(select(func.max(StatusHistory.id)).where(StatusHistory.order_id == order_id))


async def of_change(
    connection: AsyncConnection, change: StatusChange, channels: Sequence[str], *, carrier: str | None
) -> list[int]:
    """Return the ids of the orders of some channels that a change of status elsewhere is about, mostly one.

    carrier is given where a carrier tells it: then the consignment counts, live or not. What is archived comes back.
    """
    if found := await _of_change(connection, change, channels, carrier=carrier):
        return found
    names = [Name("shop id", channel, change.external_id) for channel in channels if change.external_id]
    names += [Name("order", channel, change.number) for channel in channels if change.number]
    if change.tracking_number and carrier:
        names = [Name("tracking", carrier, change.tracking_number)]
    if not await archive.bring_back(connection, names, because="its status changed elsewhere"):
        return []
    return await _of_change(connection, change, channels, carrier=carrier)


async def _of_change(
    connection: AsyncConnection, change: StatusChange, channels: Sequence[str], *, carrier: str | None
) -> list[int]:
    if not channels:
        return []
    in_them = OrderRow.channel.in_(channels)
    if change.tracking_number and carrier:
        shipped = (
            select(OrderRow.id)
            .join(ShipmentRow, ShipmentRow.order_id == OrderRow.id)
            .where(in_them, ShipmentRow.carrier == carrier, ShipmentRow.tracking_number == change.tracking_number)
        )
        return sorted(set((await connection.execute(shipped)).scalars().all()))
    query = select(OrderRow.id).where(in_them).order_by(OrderRow.id)
    if change.external_id and (
        found := list((await connection.execute(query.where(OrderRow.external_id == change.external_id))).scalars())
    ):
        return found
    if change.number:
        return list((await connection.execute(query.where(OrderRow.number == change.number))).scalars())
    return []


async def add_shipment(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """Store a consignment that a carrier has taken on."""
    await connection.execute(insert(ShipmentRow).values(**values))


async def live_shipment(connection: AsyncConnection, order_id: int) -> dict[str, Any] | None:
    """Return an order's consignment that was not cancelled, if it has one."""
    return (await live_shipments(connection, [order_id])).get(order_id)


_LIVE_SHIPMENTS = select(
    ShipmentRow.id,
    ShipmentRow.order_id,
    ShipmentRow.carrier,
    ShipmentRow.tracking_number,
    ShipmentRow.currency,
    ShipmentRow.collect_minor,
    ShipmentRow.label,
    ShipmentRow.created_at,
).where(among(ShipmentRow.order_id, "orders"), ShipmentRow.live.is_(True))


async def live_shipments(connection: AsyncConnection, order_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return by order its consignment that was not cancelled, of those that have one."""
    found: dict[int, dict[str, Any]] = {}
    for ids in chunks(sorted(set(order_ids))):
        rows = await connection.execute(_LIVE_SHIPMENTS, {"orders": ids})
        for row in rows.mappings().all():
            shipment = dict(row)
            found[shipment.pop("order_id")] = shipment
    return found


async def cancel_shipment(connection: AsyncConnection, shipment_id: int) -> None:
    """Mark a consignment cancelled."""
    await connection.execute(update(ShipmentRow).where(ShipmentRow.id == shipment_id).values(live=False))
