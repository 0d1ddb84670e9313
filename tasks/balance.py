"""Balance: customers' money that settles no order yet, what pays orders of it, and what a person does about it.

Every top-up is an entry. One that the rules let pay waiting orders is due in a scenario of its own, so that what it
lets go is done once, in the order in which top-ups came, however many come at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect import State, task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.balance import available, covers, released, sets_free
from domain.by_hand import ByHandError
from domain.money import Money, MoneyError
from domain.orders import Order
from domain.payments import Method
from domain.rules import ChannelRules
from domain.wording import counted, listed
from store import balances, decisions, orders, rules, spending, work
from store.balances import Entry
from store.journal import Actor
from store.spending import Held
from tasks.cells import cells
from tasks.installation import Installation, installation
from tasks.named import actor_named, customer_named, plain, reason_given
from tasks.step import current_actor, run_log

SCENARIO = "balance_release"
EntryId = int
_REFERENCE_MAX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A customer and the rules that hold for him, with their version."""

    customer_id: int
    number: str
    rules: ChannelRules
    version: int


async def own_rules(connection: AsyncConnection, customer_id: int) -> Own:
    """Return a customer of the store, and the rules that hold for him."""
    channel, number, group = await orders.customer_key(connection, customer_id)
    versioned = (await rules.current(connection))[channel]
    own = versioned.rules.for_customer(group=group, customer=number)
    return Own(customer_id=customer_id, number=number, rules=own, version=versioned.version)


# Top-ups


async def top_up(
    connection: AsyncConnection,
    customer_id: int,
    amount: Money,
    *,
    method: Method | None,
    reason: str,
    actor: Actor,
    now: datetime,
    payment_id: int | None = None,
    open_item_id: int | None = None,
    reference: str | None = None,
    cause: str | None = None,
    lets_go: bool = True,
) -> EntryId:
    """Put money on a customer's balance; where the rules let it pay orders that wait, that is due at once.

    method is how it was paid, None by hand. lets_go is False for a part of an invoice that is not paid yet.
    """
    entry_id = await balances.add(
        connection,
        customer_id,
        amount,
        payment_id=payment_id,
        open_item_id=open_item_id,
        reference=reference,
        reason=reason,
        actor=actor,
        now=now,
        cause=cause,
    )
    if lets_go and sets_free((await own_rules(connection, customer_id)).rules.balance, method):
        await work.add(connection, SCENARIO, "entry", [entry_id], now=now)
    return entry_id


# Orders


async def begin_on_balance(
    connection: AsyncConnection, order: Order, own: ChannelRules, version: int, *, actor: Actor, now: datetime
) -> bool:
    """Pay a new order from its customer's balance, or let it wait for that; say whether it is paid."""
    await balances.lock(connection, order.customer.id)
    balance = await balances.balance(connection, order.customer.id, order.total.currency)
    if covers(balance, own.balance, order.to_pay_now):
        item = (await decisions.open_items(connection, [order.id]))[order.id].asked_of(order.method, order.to_pay_now)
        await spending.pay(
            connection,
            order.id,
            item,
            method=order.method,
            because="balance and credit limit cover it",
            rule_version=version,
            actor=actor,
            now=now,
        )
        return True
    if order.status != own.balance.waiting_status:
        await orders.set_status(
            connection,
            order.id,
            after=own.balance.waiting_status,
            standard=own.standard(own.balance.waiting_status),
            reason=f"{balance} on the balance, with its credit limit, doesn't cover {order.to_pay_now}",
            actor=actor,
            now=now,
        )
    return False


# Release


@dataclass(frozen=True, slots=True)
class LetGo:
    """What a top-up let go: the orders that it paid, and why it was no more of them."""

    customer: str
    orders: tuple[tuple[str, Money], ...]
    balance: Money
    said: str


@task(name="release waiting orders", retries=3, retry_delay_seconds=[1, 5, 30], cache_policy=NO_CACHE)
async def release_waiting(ids: Sequence[EntryId]) -> list[LetGo]:
    """Pay the orders that top-ups let go, each top-up once."""
    opened = await installation()
    log = run_log()
    found: list[LetGo] = []
    for id_ in sorted(ids):
        async with opened.store.write() as connection:
            one = await _release(connection, opened, id_)
            await work.finish(connection, SCENARIO, "entry", [(id_, None, one.said)], now=opened.clock())
        log.info("entry %s · customer %s · %s", id_, one.customer, one.said)
        found.append(one)
    return found


async def _release(connection: AsyncConnection, opened: Installation, entry_id: EntryId) -> LetGo:
    entry = await balances.by_id(connection, entry_id)
    assert entry is not None  # noqa: S101 - entries are never deleted
    own = await own_rules(connection, entry.customer_id)
    held = await spending.hold(connection, entry.customer_id, entry.amount.currency)
    if not await spending.mark_released(connection, entry_id, now=opened.clock()):
        return LetGo(own.number, (), held.balance, "was used to pay orders before")
    entry = await balances.by_id(connection, entry_id)  # again, as nobody can take it back any more
    if entry is None or entry.reversed:
        return LetGo(own.number, (), held.balance, "the top-up was taken back")
    if not own.rules.balance.use:
        return LetGo(own.number, (), held.balance, f"the rules of {own.rules.channel} pay no orders from the balance")
    ids = released(held.balance, held.waiting, own.rules.balance)
    because = f"released by top-up {entry_id} of {entry.amount}"
    return await _pay(connection, opened, own, held, ids, because=because, actor=current_actor(opened))


async def _pay(
    connection: AsyncConnection,
    opened: Installation,
    own: Own,
    held: Held,
    ids: Sequence[int],
    *,
    because: str,
    actor: Actor,
) -> LetGo:
    """Pay orders that a customer's balance covers, and say which, and what is left waiting."""
    paid: list[tuple[str, Money]] = []
    for id_ in ids:
        item = held.items[id_]
        await spending.pay(
            connection,
            id_,
            item,
            method=held.methods[id_],
            because=because,
            rule_version=own.version,
            actor=actor,
            now=opened.clock(),
        )
        paid.append((item.number, item.open))
    left = held.balance - sum((amount for _, amount in paid), Money.zero(held.balance.currency))
    return LetGo(own.number, tuple(paid), left, _said(own, held, paid, left))


def _said(own: Own, held: Held, paid: Sequence[tuple[str, Money]], left: Money) -> str:
    stay = len(held.waiting) - len(paid)
    if paid:
        numbers = listed([number for number, _ in paid])
        said = f"{numbers} {'are' if len(paid) > 1 else 'is'} paid from the balance; {left} is left on it"
        return said + (f", {stay} more waiting" if stay else "")
    if not held.waiting:
        return f"no order waits; {left} is on the balance"
    if held.balance.minor < 0:
        return f"{held.balance} is on the balance, below zero, so {stay} orders go on waiting"
    can = available(held.balance, own.rules.balance)
    return f"{stay} orders go on waiting: none is covered by {can}, the balance with its credit limit"


async def ended_released(found: Sequence[LetGo]) -> State[Any]:
    """Show what top-ups let go, and return the run's state in words."""
    rows = [
        {"Customer": one.customer, "Order": number, "Paid": str(amount), "Left": str(one.balance)}
        for one in found
        for number, amount in one.orders
    ]
    await acreate_table_artifact(key="released-orders", table=cells(rows), description="Orders paid from balances")
    count = sum(len(one.orders) for one in found)
    said = found[0].said if len(found) == 1 else f"{count} orders are paid from balances, by {len(found)} top-ups"
    return Completed(name="Done" if count else "Nothing to do", message=said)


# By hand


@dataclass(frozen=True, slots=True)
class Line:
    """An entry of a balance: the order that it pays or the invoice that was paid, and what was there after it."""

    entry: Entry
    order: str | None
    invoice: str | None
    after: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How a customer stands: what is on his balance, what he can pay with that, and how many orders wait for more."""

    customer_id: int
    customer: str
    channel: str
    balance: Money
    available: Money
    waiting: int
    entries: tuple[Line, ...]


def word_of(opened: Installation, author: str, because: str) -> tuple[Actor, str]:
    """Return who says something and why, fit to be written down. Raises ByHandError where no reason is given."""
    if not (said := reason_given(because)):
        raise ByHandError("say why; it stands in the history")
    return actor_named(opened, author), said


async def balance_of(opened: Installation, customer: str, *, channel: str | None) -> Balance:
    """Return how a customer stands, with every entry of his balance. Raises ByHandError."""
    async with opened.store.read() as connection:
        customer_id = await customer_named(connection, customer, channel)
        own = await own_rules(connection, customer_id)
        lines: list[Line] = []
        sums: dict[str, Money] = {}
        for entry, order, invoice in await balances.named(connection, customer_id):
            currency = entry.amount.currency
            sums[currency] = sums.get(currency, Money.zero(currency)) + entry.amount
            lines.append(Line(entry, order, invoice, sums[currency]))
        now_there = sums.get(own.rules.currency, Money.zero(own.rules.currency))
        waiting = await spending.count_waiting(connection, customer_id, own.rules.currency)
    return Balance(
        customer_id=customer_id,
        customer=own.number,
        channel=own.rules.channel,
        balance=now_there,
        available=available(now_there, own.rules.balance) if own.rules.balance.use else now_there,
        waiting=waiting,
        entries=tuple(lines),
    )


async def change_by_hand(
    opened: Installation,
    customer: str,
    amount: str,
    *,
    reference: str,
    channel: str | None,
    author: str,
    because: str,
) -> tuple[bool, str]:
    """Put money that came by hand on a balance, or take off what is negative; say whether and what was done.

    amount is text such as 450.00, in the channel's currency. reference is what the money is known by, such as a
    receipt's number: the same one of the same customer is taken once. Raises ByHandError.
    """
    actor, because = word_of(opened, author, because)
    reference = plain(reference)
    if not reference or len(reference) > _REFERENCE_MAX:
        raise ByHandError(
            f"give what the money is known by, such as a receipt's number, in 1 to {_REFERENCE_MAX} characters; it "
            "keeps the same money from being taken twice"
        )
    async with opened.store.write() as connection:
        customer_id = await customer_named(connection, customer, channel)
        own = await own_rules(connection, customer_id)
        try:
            money = Money.parse(amount.strip().lstrip("+"), own.rules.currency)
        except MoneyError as error:
            raise ByHandError(str(error)) from None
        if not money:
            raise ByHandError("an amount of nothing changes nothing")
        await balances.lock(connection, customer_id)
        known = await balances.by_reference(connection, customer_id, reference)
        if known is not None:
            if known.amount == money:
                return False, f"{money} of reference {reference} was taken before; nothing was done"
            raise ByHandError(f"reference {reference} is that of {known.amount}, taken before; give another one")
        now_there = await balances.balance(connection, customer_id, money.currency)
        can = available(now_there, own.rules.balance) if own.rules.balance.use else now_there
        if money.minor < 0 and (can + money).minor < 0:
            raise ByHandError(f"only {can} can be taken off the balance of customer {own.number}")
        await top_up(
            connection,
            customer_id,
            money,
            method=None,
            reason=f"by {actor.name}: {because}",
            reference=reference,
            actor=actor,
            now=opened.clock(),
            lets_go=money.minor > 0,
        )
    done = "put on" if money.minor > 0 else "taken off"
    return True, f"{abs(money)} is {done} the balance of customer {own.number}; {now_there + money} is on it now"


async def release_by_hand(
    opened: Installation,
    customer: str,
    *,
    most: int | None = None,
    channel: str | None,
    author: str,
    because: str,
) -> LetGo:
    """Pay orders that wait for a customer's balance, as a top-up would; what isn't covered waits on.

    most is how many, where it isn't to be what the rules say. Raises ByHandError.
    """
    actor, because = word_of(opened, author, because)
    async with opened.store.write() as connection:
        customer_id = await customer_named(connection, customer, channel)
        own = await own_rules(connection, customer_id)
        if not own.rules.balance.use:
            raise ByHandError(
                f"the rules of {own.rules.channel} don't pay orders of customer {own.number} from the balance; "
                "balance.use says so"
            )
        held = await spending.hold(connection, customer_id, own.rules.currency)
        ids = released(held.balance, held.waiting, own.rules.balance, most=most)
        return await _pay(connection, opened, own, held, ids, because=f"by {actor.name}: {because}", actor=actor)


async def statement_pdf(opened: Installation, found: Balance) -> bytes:
    """Return a customer's statement as a PDF in his language."""
    from connectors.balance_sheet import StatementLine, balance_sheet  # as with documents: seldom printed, slow to load

    async with opened.store.read() as connection:
        own = await own_rules(connection, found.customer_id)
        customer = await orders.customer(connection, found.customer_id)
    lines = [
        StatementLine(
            on=line.entry.at.date(),
            kind=_kind(line),
            number=line.order or line.invoice or "",
            amount=line.entry.amount,
            after=line.after,
        )
        for line in found.entries
        if line.entry.amount.currency == found.balance.currency
    ]
    return await asyncio.to_thread(
        balance_sheet,
        own.rules.seller,
        customer,
        lines,
        found.balance,
        language=customer.language or own.rules.language,
        made_on=opened.clock().date(),
    )


def _kind(line: Line) -> str:
    if line.entry.reverses_id is not None:
        return "back"
    return "order" if line.order else "invoice" if line.invoice else "top_up"


# In a run


@task(name="change the balance", cache_policy=NO_CACHE)
async def change_named(
    customer: str, amount: str, *, reference: str, channel: str | None, author: str, because: str
) -> str:
    """Do that for the form; return what was done, in a sentence. Raises ByHandError."""
    _, said = await change_by_hand(
        await installation(), customer, amount, reference=reference, channel=channel, author=author, because=because
    )
    return said


@task(name="let waiting orders go", cache_policy=NO_CACHE)
async def let_go_named(
    customer: str, *, most: int | None, channel: str | None, author: str, because: str
) -> list[LetGo]:
    """Do that for the form. Raises ByHandError."""
    opened = await installation()
    return [await release_by_hand(opened, customer, most=most, channel=channel, author=author, because=because)]


@task(name="list balances", cache_policy=NO_CACHE)
async def show_balances(channel: str | None) -> str:
    """Show every customer who has, or owes, anything on his balance, as a table; return how many, in a sentence."""
    opened = await installation()
    async with opened.store.read() as connection:
        found = [row for row in await balances.all_of(connection, channel=channel) if row["minor"]]
    rows = [
        {
            "Customer": row["number"],
            "Channel": row["channel"],
            "Group": row["group"] or "",
            "Balance": str(Money(row["minor"], row["currency"])),
        }
        for row in found
    ]
    await acreate_table_artifact(key="balances", table=cells(rows), description="Customers' balances")
    return counted(len(found), "customer has", "customers have") + " something on the balance, or owe it"
