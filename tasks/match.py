"""Match: which orders a payment settles, decided by evidence and written down with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.allocation import OpenItem, Part
from domain.matching import Match, Reader, Reference, decide, named_customer
from domain.money import Money
from domain.payments import Method, Outcome, Payment
from domain.rules import ChannelRules, EvidenceKind, Policy, Surplus
from domain.scenarios import cause_of
from store import balances, decisions, journal, orders, payments, rules, work
from tasks.balance import top_up
from tasks.installation import Installation, installation
from tasks.metrics import seen_match
from tasks.payouts import lump_sums_among
from tasks.step import Batch, Item, current_actor, run_log

PaymentId = int


@dataclass(frozen=True, slots=True)
class Matched:
    """Orders that may go on because they are paid, and orders for which a part is still missing."""

    paid: Batch
    short: Batch


def _run_name(parameters: dict[str, Any]) -> str:
    ids = parameters["ids"]
    return f"match · payment {ids[0]}" if len(ids) == 1 else f"match · {len(ids)} payments"


match_run_name: Any = _run_name  # called with the parameters, which its type doesn't say


@task(name="match", task_run_name=match_run_name, retries=3, retry_delay_seconds=[1, 5, 30], cache_policy=NO_CACHE)
async def match_payments(ids: Sequence[PaymentId]) -> Matched:
    """Find the orders that payments settle, and allocate the money; what was allocated before stays as it is."""
    opened = await installation()
    async with opened.store.write() as connection:
        found = await payments.load(connection, ids)
        before = await payments.allocated(connection, ids)
        before |= await balances.of_payments(connection, ids)
        before |= dict.fromkeys(await decisions.settled(connection, ids))
        matches = await _match(connection, opened, [found[id_] for id_ in ids if id_ in found and id_ not in before])
        allocated = await payments.allocated(connection, ids)
        decided = await payments.decided(connection, ids)
    log = run_log()
    for id_ in ids:
        outcome, reason = decided.get(id_, (Outcome.UNKNOWN, "the payment is not in the store"))
        again = "" if id_ in matches else "decided before: "
        about = {"payment": id_, "step": "match"}
        log.info("payment %s · match · %s · %s%s", id_, outcome.replace("_", " "), again, reason, extra=about)
    paid: list[Item] = []
    short: list[Item] = []
    for id_ in ids:
        for part in allocated.get(id_, []):
            if part["order_id"] is not None:
                item = Item(part["order_id"], part["number"], cause_of("payment", id_, found[id_].round))
                (paid if part["completes"] else short).append(item)
    return Matched(Batch(tuple(paid)), Batch(tuple(short)))


@seen_match
async def _match(
    connection: AsyncConnection, opened: Installation, unmatched: Sequence[Payment]
) -> dict[PaymentId, Match]:
    """Match payments one after the other: what one of them settles is no longer open for the next."""
    await payments.begin_matching(connection)
    versions = await rules.current(connection)
    channels = {channel: versioned.rules for channel, versioned in versions.items()}
    reader = Reader(channels)
    named: dict[PaymentId, tuple[Reference, ...]] = {p.id: reader.references(p) for p in unmatched}
    paying = [(channel, group) for channel, each in channels.items() for group in each.references.paying_groups]
    every = [reference for references in named.values() for reference in references]
    pool = _Pool(await payments.candidates(connection, every, paying))
    decided = await payments.decided(connection, [payment.id for payment in unmatched])
    actor, now = current_actor(opened), opened.clock()
    matches: dict[PaymentId, Match] = {}
    kept: dict[PaymentId, Credit | None] = {}
    gone = await payments.gone_back(connection, unmatched)
    lump_sums = await lump_sums_among(connection, opened, unmatched)
    for payment in unmatched:
        credit = None
        if went := gone.get(payment.id):
            match = _went_back(payment, went.minor)
            await work.add(connection, "money_back", "payment", went.ids, now=now)
        elif payment.id in lump_sums:
            match = lump_sums[payment.id]
        else:
            match = decide(payment, named[payment.id], pool.of(named[payment.id]), channels, reader)
            match, credit = await _with_the_rest(connection, payment, match, channels)
        matches[payment.id], kept[payment.id] = match, credit
        for part in match.parts:
            pool.relieve(part, payment.method)
    again = await payments.record_matches(
        connection, [payments.Decided(p, matches[p.id], named[p.id]) for p in unmatched], now=now
    )
    entries: list[dict[str, Any]] = []
    for payment in unmatched:
        match = matches[payment.id]
        cause = cause_of("payment", payment.id, payment.round)
        for owed, credited in _credits(match, kept[payment.id]):
            await top_up(
                connection,
                credited.customer_id,
                credited.amount,
                method=payment.method,
                payment_id=payment.id,
                open_item_id=owed.item.id if owed else None,
                reason=f"payment {payment.id}: {match.reason}",
                actor=actor,
                now=now,
                cause=cause,
                lets_go=owed is None or owed.completes,
            )
        if decided.get(payment.id) == (match.outcome, match.reason):
            continue  # tried again, and nothing has changed: no news for the journal
        touched = [(part.item.order_id, versions[part.item.channel].version) for part in match.parts] or [(None, None)]
        entries.extend(
            journal.entry(
                actor,
                at=now,
                step="match",
                move=match.outcome.value,
                order_id=order_id,
                payment_id=payment.id,
                cause=cause,
                reason=match.reason,
                after={"policy": match.policy.value, "surplus": match.surplus.minor},
                rule_version=rule_version,
            )
            for order_id, rule_version in touched
        )
    await journal.append(connection, entries)
    for id_, scenario in again:
        await work.add(connection, scenario, "payment", [id_], now=now)
    return matches


class _Pool:
    """The items that the payments of a batch can mean. Each payment gets those that it would get alone."""

    def __init__(self, items: Mapping[int, OpenItem]) -> None:
        self._items = dict(items)
        self._by_name: dict[tuple[EvidenceKind, str], set[int]] = defaultdict(set)
        self._by_customer: dict[int | str | None, set[int]] = defaultdict(set)
        for item in items.values():
            self._by_customer[item.customer].add(item.id)
            for name in item.references:
                self._by_name[name].add(item.id)

    def of(self, references: Iterable[Reference]) -> list[OpenItem]:
        """Return the items that references can mean, and the others of the customers who owe these, by id."""
        found: set[int] = set()
        owing: set[int | str | None] = set()
        for reference in references:
            ids = self._by_name.get((reference.kind, reference.value), ())
            found.update(ids)
            if reference.kind is not EvidenceKind.PAYER_NAME:
                owing.update(self._items[id_].customer for id_ in ids)
        found.update(*(self._by_customer[customer] for customer in owing))
        return [self._items[id_] for id_ in sorted(found)]

    def relieve(self, part: Part, method: Method) -> None:
        """Leave of an item what a part of a payment does not settle."""
        item = self._items[part.item.id]
        self._items[item.id] = item.relieved(part.amount.minor + part.write_off.minor, method)


@dataclass(frozen=True, slots=True)
class Credit:
    """What of a payment is kept on a customer's balance."""

    customer_id: int
    amount: Money


def _credits(match: Match, rest: Credit | None) -> Iterator[tuple[Part | None, Credit]]:
    """Yield what of a payment is kept on balances: what it pays of invoices without an order, and the rest."""
    for part in match.parts:
        if part.item.order_id is None and isinstance(part.item.customer, int):
            yield part, Credit(part.item.customer, part.amount)
    if rest is not None:
        yield None, rest


async def _with_the_rest(
    connection: AsyncConnection, payment: Payment, match: Match, channels: Mapping[str, ChannelRules]
) -> tuple[Match, Credit | None]:
    """Say by the rules where the money goes that settles nothing: all of a payment, or what is too much of it."""
    if match.parts:
        return await _with_the_surplus(connection, match, channels)
    if match.policy is Policy.REFUND:
        return replace(match, reason=f"{match.reason}; it is to be sent back"), None
    if match.policy is not Policy.BALANCE:
        return match, None
    customer_id = named_customer(match)
    if customer_id is None or payment.amount.minor <= 0:
        said = f"{match.reason}; whose balance it belongs to is not certain"
        return replace(match, policy=Policy.OPERATOR, reason=said), None
    said = f"{match.reason}; it is kept on the customer's balance"
    return replace(match, reason=said), Credit(customer_id, payment.amount)


async def _with_the_surplus(
    connection: AsyncConnection, match: Match, channels: Mapping[str, ChannelRules]
) -> tuple[Match, Credit | None]:
    if match.surplus.minor <= 0:
        return match, None
    owing = {(part.item.channel, part.item.customer, part.item.group) for part in match.parts}
    said, goes, credit = await surplus_goes(connection, owing, match.surplus, channels)
    policy = Policy.REFUND if goes is Surplus.REFUND else match.policy
    return replace(match, policy=policy, reason=match.reason + said), credit


async def surplus_goes(
    connection: AsyncConnection,
    owing: Collection[tuple[str, int | str | None, str | None]],
    surplus: Money,
    channels: Mapping[str, ChannelRules],
) -> tuple[str, Surplus, Credit | None]:
    """Say, also in words, where by the rules what was paid too much goes; of orders of several customers, to a person.

    owing are the channel, id and group of the customers whose orders are settled.
    """
    channel, customer_id, group = next(iter(owing))
    if len(owing) != 1 or not isinstance(customer_id, int):
        return "", Surplus.OPERATOR, None
    number = await orders.customer_number(connection, customer_id)
    goes = channels[channel].for_customer(group=group, customer=number).outcomes.surplus
    said = {Surplus.BALANCE: ", which is kept on the customer's balance", Surplus.REFUND: ", which is to be sent back"}
    return said.get(goes, ""), goes, Credit(customer_id, surplus) if goes is Surplus.BALANCE else None


def _went_back(payment: Payment, minor: int) -> Match:
    """Say what a payment is whose money, or a part of it, went back before it was matched: it settles nothing."""
    all_of_it = payment.amount.minor + minor <= 0
    said = "all of it" if all_of_it else "a part of it"
    return Match(
        outcome=Outcome.REFUND if all_of_it else Outcome.UNKNOWN,
        policy=Policy.IGNORE if all_of_it else Policy.OPERATOR,
        reason=f"{said} went back before it was matched",
        surplus=Money.zero(payment.amount.currency),
    )
