"""Match: which orders a payment settles, decided by evidence and written down with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.allocation import OpenItem
from domain.matching import Match, Reference, reconcile, references_of
from domain.money import Money
from domain.payments import Outcome, Payment
from domain.rules import Policy
from domain.scenarios import cause_of
from store import journal, payments, rules, work
from tasks.installation import Installation, installation
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
        matches = await _match(connection, opened, [found[id_] for id_ in ids if id_ in found and id_ not in before])
        allocated = await payments.allocated(connection, ids)
        decided = await payments.decided(connection, ids)
    log = run_log()
    for id_ in ids:
        outcome, reason = decided.get(id_, (Outcome.UNKNOWN, "the payment is not in the store"))
        again = "" if id_ in matches else "decided before: "
        log.info("payment %s · match · %s · %s%s", id_, outcome.replace("_", " "), again, reason)
    paid: list[Item] = []
    short: list[Item] = []
    for id_ in ids:
        for part in allocated.get(id_, []):
            if part["order_id"] is not None:
                item = Item(part["order_id"], part["number"], cause_of("payment", id_, found[id_].round))
                (paid if part["completes"] else short).append(item)
    return Matched(Batch(tuple(paid)), Batch(tuple(short)))


async def _match(
    connection: AsyncConnection, opened: Installation, unmatched: Sequence[Payment]
) -> dict[PaymentId, Match]:
    """Match payments one after the other: what one of them settles is no longer open for the next."""
    versions = await rules.current(connection)
    channels = {channel: versioned.rules for channel, versioned in versions.items()}
    named: dict[PaymentId, tuple[Reference, ...]] = {p.id: references_of(p, channels) for p in unmatched}
    items = await payments.candidates(connection, [ref for refs in named.values() for ref in refs])
    decided = await payments.decided(connection, [payment.id for payment in unmatched])
    actor, now = current_actor(opened), opened.clock()
    matches: dict[PaymentId, Match] = {}
    entries: list[dict[str, Any]] = []
    gone = await payments.gone_back(connection, unmatched)
    for payment in unmatched:
        if went := gone.get(payment.id):
            match = _went_back(payment, went.minor)
            await work.add(connection, "money_back", "payment", went.ids, now=now)
        else:
            match = reconcile(payment, items.values(), channels)
        matches[payment.id] = match
        await payments.record_match(connection, payment, match, named[payment.id], now=now)
        for part in match.parts:
            items[part.item.id] = _relieved(items[part.item.id], part.amount.minor + part.write_off.minor)
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
                cause=cause_of("payment", payment.id, payment.round),
                reason=match.reason,
                after={"policy": match.policy.value, "surplus": match.surplus.minor},
                rule_version=rule_version,
            )
            for order_id, rule_version in touched
        )
    await journal.append(connection, entries)
    return matches


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


def _relieved(item: OpenItem, minor: int) -> OpenItem:
    return replace(item, open=replace(item.open, minor=item.open.minor - minor))
