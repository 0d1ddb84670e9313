"""Money back: refunds and chargebacks, and what they undo of what was really done.

A movement names the payment that it belongs to by the gateway's reference. It is booked against what that payment
settled, and nothing else; what a channel's rules then take back is looked up where it stands: the live label, the goods
that are out, the invoice in force. So a second event about the same money finds nothing more to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import Rejected
from connectors.roles import Carrier
from domain.allocation import Kept, give_back
from domain.money import Money
from domain.orders import Order
from domain.payments import Kind, Outcome, Payment
from domain.rules import ChannelRules, DocumentKind, MoneyBack, Policy
from domain.scenarios import cause_of
from store import balances, bars, documents, journal, orders, payments, rules, stock
from store.journal import Actor
from tasks.dispatch import cancelled, cancelled_by_hand
from tasks.installation import Installation, installation
from tasks.invoice import take_back_document
from tasks.match import PaymentId, match_run_name
from tasks.status import move_to
from tasks.step import Batch, Item, Receipt, Skip, Transaction, current_actor, run_log, step
from tasks.stock import moved

_OUTCOMES = {
    Kind.REFUND: Outcome.REFUND,
    Kind.CHARGEBACK: Outcome.CHARGEBACK,
    Kind.REINSTATED: Outcome.REINSTATED,
}


@dataclass(frozen=True, slots=True)
class Returned:
    """The orders of which no money is left, and those of which some went back, or came again, and some is left."""

    gone: Batch
    part: Batch


@task(name="match", task_run_name=match_run_name, retries=3, retry_delay_seconds=[1, 5, 30], cache_policy=NO_CACHE)
async def match_money_back(ids: Sequence[PaymentId]) -> Returned:
    """Book what went back against what it had settled; return its orders."""
    opened = await installation()
    async with opened.store.write() as connection:
        found = await payments.load(connection, ids)
        before = await payments.allocated(connection, ids)
        for id_ in ids:
            if id_ in found and id_ not in before:
                await _book(connection, opened, found[id_])
        allocated = await payments.allocated(connection, ids)
        decided = await payments.decided(connection, ids)
        whole: dict[Item, bool] = {}
        for id_ in ids:
            for part in allocated.get(id_, []):
                if part["order_id"] is not None:
                    item = Item(part["order_id"], part["number"], cause_of("payment", id_, found[id_].round))
                    whole[item] = whole.get(item, False) or part["completes"]
        facts = await bars.facts(connection, [(item.order_id, item.cause) for item in whole])
    log = run_log()
    for id_ in ids:
        outcome, reason = decided.get(id_, (Outcome.UNKNOWN, "the payment is not in the store"))
        log.info("payment %s · match · %s · %s", id_, outcome.replace("_", " "), reason)
    gone = tuple(item for item in whole if whole[item] and facts[item.order_id, item.cause].back)
    return Returned(Batch(gone), Batch(tuple(item for item in whole if item not in gone)))


async def _book(connection: AsyncConnection, opened: Installation, payment: Payment) -> None:
    origin = await payments.origin_of(connection, payment) if payment.provider_reference else None
    amount = Money(abs(payment.amount.minor), payment.amount.currency)
    outcome, policy, shares = _OUTCOMES.get(payment.kind, Outcome.REFUND), Policy.OPERATOR, list[tuple[Kept, Money]]()
    came = payment.kind is Kind.REINSTATED
    free = Money.zero(amount.currency) if origin is None or came else origin.unapplied
    if origin is None or not origin.matched:
        outcome = Outcome.UNKNOWN
        reason = "the payment that it belongs to is not known yet"
    elif origin.converted and (came or amount > free):
        reason = f"the payment that it belongs to was in another currency than {', '.join(origin.converted)}; "
        reason += "decide by hand what of that it takes back" if not came else "decide by hand what is to be done"
    elif (taken := give_back(amount, free, origin.disputed if came else origin.kept)) is None:
        reason = "more came back than chargebacks had taken" if came else "more went back than the payment had brought"
    elif not taken:
        policy, reason = Policy.IGNORE, "the payment that it belongs to had settled no order with it"
    else:
        shares = taken
        reason, policy = await _judged(connection, payment, shares)
    if shares:
        await bars.lock(connection, [kept.order_id for kept, _ in shares if kept.order_id is not None])
    now, actor = opened.clock(), current_actor(opened)
    if origin is not None and not came:
        left = origin.unapplied.minor - amount.minor
        await payments.keep_surplus(connection, origin.ids, left)
        said, person = await _off_the_balance(connection, payment, origin, left, actor=actor, now=now)
        reason, policy = f"{reason}{said}", Policy.OPERATOR if person else policy
    await payments.record_returned(
        connection,
        payment,
        outcome=outcome,
        policy=policy,
        reason=reason,
        shares=shares,
        # A refund is the shop's own will; what a bank took back is owed all the same.
        forgives=payment.kind is Kind.REFUND,
        now=now,
    )
    await _off_the_invoices(connection, payment, shares, reason, actor=actor, now=now)
    touched: list[tuple[int | None, int | None]] = [(kept.order_id, -share.minor) for kept, share in shares]
    await journal.append(
        connection,
        [
            journal.entry(
                actor,
                at=now,
                step="match",
                move=outcome.value,
                order_id=order_id,
                payment_id=payment.id,
                cause=cause_of("payment", payment.id, payment.round),
                reason=reason,
                after={"policy": policy.value} | ({"moved": minor if not came else -minor} if minor else {}),
            )
            for order_id, minor in touched or [(None, None)]
        ],
    )


async def _off_the_invoices(
    connection: AsyncConnection,
    payment: Payment,
    shares: Sequence[tuple[Kept, Money]],
    reason: str,
    *,
    actor: Actor,
    now: datetime,
) -> None:
    """Book on the customers' balances what went back of, or came again to, invoices that are for no order."""
    for kept, share in shares:
        if kept.order_id is not None:
            continue
        await balances.add(
            connection,
            await payments.customer_of_item(connection, kept.item_id),
            share if payment.kind is Kind.REINSTATED else -share,
            payment_id=payment.id,
            open_item_id=kept.item_id,
            reason=f"payment {payment.id}: {reason}",
            actor=actor,
            now=now,
        )


async def _off_the_balance(
    connection: AsyncConnection, payment: Payment, origin: payments.Origin, left: int, *, actor: Actor, now: datetime
) -> tuple[str, bool]:
    """Take off balances what went back of what they were credited; say so, and whether one was used before that."""
    reason = f"payment {payment.id}: it went back ({payment.kind})"
    taken = await balances.keep(connection, origin.ids, left, reason=reason, actor=actor, now=now)
    said = "; it is taken off the customer's balance" if taken else ""
    for entry in taken:
        now_there = await balances.balance(connection, entry.customer_id, entry.amount.currency)
        if now_there.minor < 0:
            return f"{said}, which had been used: {-now_there} is missing on it", True
    return said, False


async def _judged(
    connection: AsyncConnection, payment: Payment, shares: Sequence[tuple[Kept, Money]]
) -> tuple[str, Policy]:
    """Say in words what a movement does to its orders, and whether a person is to look at it."""
    versions = await rules.current(connection)
    said: list[str] = []
    person = False
    for kept, share in shares:
        if payment.kind is Kind.REINSTATED:
            said.append(f"{share} came back to {kept.number}, as a dispute was won; decide by hand what is to be done")
            person = True
            continue
        back = "was refunded" if payment.kind is Kind.REFUND else "was taken back by the customer's bank"
        rest = kept.amount - share
        said.append(f"{share} of {kept.number} {back}" + (f"; {rest} is left of its payment" if rest else ""))
        person = person or bool(rest) or _of(versions[kept.channel].rules, payment.kind).tell_operator
    return "; ".join(said), Policy.OPERATOR if person else Policy.RELEASE


def _of(channel: ChannelRules, kind: Kind) -> MoneyBack:
    return channel.money_back.of(kind)


async def _rule(order: Order, rules_: ChannelRules) -> MoneyBack | None:
    """Return the rules for how an order's money went back, or None when it is there again."""
    opened = await installation()
    async with opened.store.read() as connection:
        back = await bars.gone_back(connection, [order.id])
    return _of(rules_, back[order.id]) if order.id in back else None


_CAME = Skip("the money has come again meanwhile")


@step("cancel dispatch", compensates=("dispatch",), system=lambda rules: rules.connectors.carrier)
async def cancel_dispatch(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
    """Cancel the carrier's label of an order whose money went back."""
    rule = await _rule(order, rules)
    if rule is None:
        return _CAME
    if not rule.cancel_dispatch:
        return Skip(f"the rules of {rules.channel} leave the label as it is")
    opened = await installation()
    async with opened.store.read() as connection:
        live = await orders.live_shipment(connection, order.id)
    if live is None:
        return Skip("no consignment is on its way")
    await opened.connector(live["carrier"], Carrier).cancel(live["tracking_number"], key)
    return cancelled(live, before={"tracking_number": live["tracking_number"]})


@cancel_dispatch.lookup
async def find_cancelled(order: Order, rules: ChannelRules, key: str) -> Receipt | None:  # noqa: ARG001 - a lookup's shape
    """Say that cancelling may be asked for again: of a cancelled consignment it changes nothing."""
    return None


@cancel_dispatch.told
async def told_cancelled(order: Order, rules: ChannelRules, key: str, reference: str) -> Receipt:  # noqa: ARG001 - as told
    """Write down that the carrier has cancelled the label."""
    return await cancelled_by_hand(order)


@step("restock", local=True, compensates=("stock", "reservation"))
async def restock_returned(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Put back the goods of an order whose money went back: what is still deducted or reserved."""
    rule = await _rule(order, rules)
    if rule is None:
        return _CAME
    if not rule.restock:
        return Skip(f"the rules of {rules.channel} leave stock as it is")

    async def write(transaction: Transaction) -> Receipt | Skip:
        returned = await stock.give_back(
            transaction.connection, order, effect_id=transaction.effect_id, now=transaction.now
        )
        if not returned:
            return Skip("no goods are out or reserved")
        return Receipt(reference=moved(returned), after={"given_back": returned})

    return Receipt(write=write)


@step("credit note", local=True, compensates=("invoice", "proforma"))
async def credit_returned(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Take back the invoice of an order whose money went back, by a credit note."""
    rule = await _rule(order, rules)
    if rule is None:
        return _CAME
    if not rule.credit_note:
        return Skip(f"the rules of {rules.channel} leave the invoice as it is")

    async def write(transaction: Transaction) -> Receipt | Skip:
        live = await documents.live(transaction.connection, order.id, DocumentKind.INVOICE)
        if live is None:
            return Skip("no invoice is in force")
        if live["counter"] is None:
            raise Rejected(f"invoice {live['number']} was issued by another system; credit it there")
        note = await take_back_document(transaction, order, rules, live)
        return Receipt(reference=note, before={"invoice": live["number"]}, after={"credit_note": note})

    return Receipt(write=write)


@step("status back", local=True, compensates=("status", "placed status"))
async def set_returned_status(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:  # noqa: ARG001 - a step's shape
    """Set the status that the rules have for an order whose money went back."""
    rule = await _rule(order, rules)
    if rule is None:
        return _CAME
    if (target := rule.status) is None:
        return Skip(f"the rules of {rules.channel} leave the status as it is")
    return move_to(order, rules, target, "the order's money went back")
