"""Waiting: what is done about an order whose money hasn't come: a reminder, a call, an end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import Rejected
from domain.holds import HoldState
from domain.money import Money
from domain.orders import CLOSED, Order, Status
from domain.payments import Method
from domain.rules import ChannelRules
from domain.scenarios import beginning_of, cause_of, has_term
from domain.waiting import extended, last_day, on_credit, reserved, reserved_for
from store import bars, holds, journal, orders, rules, stock, work
from store.journal import Actor
from tasks.called_off import CALL, called_off
from tasks.installation import Installation, installation
from tasks.status import move_to
from tasks.step import Batch, Item, Receipt, Skip, Transaction, current_actor, run_log, step, written
from tasks.stock import moved

_DAYS_MAX = 366


class ExtendError(ValueError):
    """A term can't be put off; its text says why."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a placed order begins: the scenario, its term, and when that makes other scenarios due.

    weighed says that it is on credit if that is within the customer's credit limit, which is to be looked at.
    """

    scenario: str
    reserved_until: datetime | None
    due_on: date | None
    due: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    weighed: bool = False


def beginning(
    method: Method, own: ChannelRules, due_on: date | None, *, now: datetime, beyond_limit: bool = False
) -> Beginning:
    """Return how a placed order begins.

    due_on is the day that the shop gives it, if it does; otherwise the rules' deferral counts. beyond_limit says that
    the customer gets no credit for it.
    """
    placed = own.placed.of(method)
    if not has_term(method):
        if placed.reserve_hours is None:
            return Beginning(beginning_of(method), None, due_on)
        term = reserved_for(now, hours=placed.reserve_hours)
        return Beginning(beginning_of(method), term.reserved_until, term.due_on, term.due)
    if not beyond_limit and (due_on is not None or placed.deferral_days):
        day = due_on or date.fromordinal(now.date().toordinal() + placed.deferral_days)
        term = on_credit(day, placed, grace_days=own.grace_days)
        weighed = placed.credit_limit is not None
        return Beginning(beginning_of(method, on_credit=True), None, term.due_on, term.due, weighed)
    if placed.reserve_stock:
        term = reserved(now, placed, days=own.reservation_days, grace_days=own.grace_days)
        return Beginning(beginning_of(method), term.reserved_until, None, term.due)
    return Beginning(beginning_of(method), None, None)


async def within_limit(
    connection: AsyncConnection, order: Order, own: ChannelRules, *, besides: Collection[int]
) -> bool:
    """Say whether an order is within its customer's credit limit, together with all he owes besides some orders."""
    limit = own.placed.of(order.method).credit_limit
    if limit is None:
        return True
    currency = order.total.currency
    owed = await orders.owed_on_credit(connection, order.customer.id, currency, besides=besides)
    return owed + order.total <= Money.from_decimal(limit, currency)


@task(name="take orders", cache_policy=NO_CACHE)
async def waiting_orders(ids: Sequence[int]) -> Batch:
    """Take orders whose day has come; each time that a person puts it off is another cause."""
    opened = await installation()
    async with opened.store.read() as connection:
        found = await orders.load(connection, ids)
    log = run_log()
    items: list[Item] = []
    for id_ in ids:
        if (order := found.get(id_)) is None:
            log.info("order %s · left alone: it is not in the store", id_)
        else:
            items.append(Item(id_, order.number, cause_of("order", id_, order.extended + 1)))
    return Batch(tuple(items))


def _is_paid(order: Order) -> Skip | None:
    return Skip("the order is paid") if order.to_pay_now.minor <= 0 else None


async def _not_to_end(connection: AsyncConnection, order: Order) -> Skip | None:
    """Return why an order is not ended after all: money has come for it, or is held."""
    if (paid := _is_paid(order)) is not None:
        return paid
    if order.settled:
        return Skip(f"{order.settled} of it was paid; a person decides")
    live = (HoldState.HELD, HoldState.CAPTURED)
    if any(one.hold.state in live for one in (await holds.of_orders(connection, [order.id])).get(order.id, ())):
        return Skip("money is held for it; the rules for that decide")
    return None


@step(CALL, local=True)
async def call_customer(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Leave it to a person to call a customer who hasn't paid by the last day."""
    if (paid := _is_paid(order)) is not None:
        return paid
    last = order.due_on or (last_day(order.reserved_until) if order.reserved_until else None)
    raise Rejected(
        f"{order.to_pay_now} is missing, and the last day is {last}; call the customer, then put it off with "
        f"`kvit orders extend {order.number} --days N`, or leave it with `kvit resolve step --skip`"
    )


@step("expire", local=True)
async def expire(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """End the waiting of an order whose day and grace are over, as the rules say."""
    if (paid := _is_paid(order)) is not None:
        return paid
    what = rules.placed.of(order.method).at_expiry
    if what == "ask":
        return Skip(f"the rules of {rules.channel} leave it to a person")
    ending = move_to(order, rules, Status.EXPIRED.value, "nothing was paid in time") if what == "cancel" else None

    async def write(transaction: Transaction) -> Receipt | Skip:
        # Looked at once more: its money may have come while this step was beginning.
        as_it_stands = (await orders.load(transaction.connection, [order.id]))[order.id]
        if (going_on := await _not_to_end(transaction.connection, as_it_stands)) is not None:
            return going_on
        freed = await stock.free(transaction.connection, order, now=transaction.now)
        said = f"free again: {moved(freed)}" if freed else "nothing was reserved"
        if ending is None:
            return Receipt(reference=said, after={"given_back": freed})
        ended = await written(ending, transaction)
        if not isinstance(ended, Receipt):
            return ended or Receipt(reference=said)
        return Receipt(reference=ended.reference, before=ended.before, after=ended.after | {"given_back": freed})

    return Receipt(write=write)


async def extend(
    opened: Installation, number: str, days: int, *, channel: str | None, author: str, because: str
) -> date:
    """Put an order's last day off; what was done about the old one is done with. Returns the new day.

    Raises ExtendError.
    """
    if not 1 <= days <= _DAYS_MAX:
        raise ExtendError(f"{days} days can't be meant; give from 1 to {_DAYS_MAX}")
    if not because.strip():
        raise ExtendError("say why; it stands in the order's history")
    async with opened.store.write() as connection:
        same = await orders.ids_of(connection, number.strip(), channel)
        if len(same) != 1:
            where = f" in {', '.join(one for _, one in same)}; name the channel" if same else " not known"
            raise ExtendError(f"order {number:.80} is{where}")
        await bars.lock(connection, [same[0][0]])
        (order,) = (await orders.load(connection, [same[0][0]])).values()
        if order.standard_status in CLOSED or order.to_pay_now.minor <= 0:
            how = order.status if order.standard_status in CLOSED else "paid"
            raise ExtendError(f"order {order.number} is {how}; it waits for no money")
        own = (await rules.current(connection))[order.channel].rules.for_customer(
            group=order.customer.group, customer=order.customer.number
        )
        placed = own.placed.of(order.method)
        try:
            term = extended(order.reserved_until, order.due_on, placed, days=days, grace_days=own.grace_days)
        except ValueError as error:
            raise ExtendError(f"order {order.number}: {error}") from None
        actor = Actor(name=author[:200], run=current_actor(opened).run)
        await called_off(connection, order.id, actor, because=because, now=opened.clock())
        now, again = opened.clock(), order.extended + 1
        await orders.set_term(
            connection, order.id, reserved_until=term.reserved_until, due_on=term.due_on, extended=again
        )
        due = [(scenario, order.id, max(at, now)) for scenario, at in term.due.items()]
        await work.add_all(connection, "order", due, now=now)
        day = term.due_on or last_day(term.reserved_until or opened.clock())
        entry = journal.entry(
            actor,
            at=opened.clock(),
            step="extend",
            move="done",
            order_id=order.id,
            reason=f"put off by {days} days: {because[:2_000]}",
            after={"last_day": str(day), "extended": again},
        )
        await journal.append(connection, [entry])
    return day


@task(name="extend", cache_policy=NO_CACHE)
async def extend_named(number: str, days: int, *, channel: str | None, author: str, because: str) -> str:
    """Do that for the form; return what was done, in a sentence. Raises ExtendError."""
    day = await extend(await installation(), number, days, channel=channel, author=author, because=because)
    return f"the last day of order {number} is {day} now"
