"""Decide: a person says what becomes of a payment that the rules left to one, or takes such a word back.

Money that is given to orders by hand is allocated as matching does it, and the payment falls due: its scenario finds it
allocated, and carries the orders on with the payment as the cause, each step once. What a person says is one
transaction, with who said so and why, so nothing is half-written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.allocation import Part
from domain.balance import SOURCE
from domain.by_hand import ByHandError, Wish, named_amount, share
from domain.money import Money
from domain.payments import Kind, Outcome
from domain.rules import Policy, Surplus
from domain.scenarios import cause_of, scenario_of
from domain.wording import listed
from store import balances, decisions, journal, memory, orders, payments, rules, work
from store.decisions import Standing
from store.journal import Actor
from store.rules import Versioned
from tasks.balance import top_up
from tasks.installation import Installation, installation
from tasks.match import Credit, PaymentId, surplus_goes
from tasks.named import actor_named, customer_named, plain, reason_given, refuse_archived, the_one
from tasks.step import run_log

_MAX_ID = 1 << 63


class Decision(StrEnum):
    """What a person can say of a payment."""

    TO = "to orders"
    BALANCE = "balance"
    REFUND = "refund"
    IGNORE = "ignore"
    AGAIN = "match again"
    """What was said of it is taken back: the rules decide anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """How a payment stands after a person's word; changed is False where it stood so already.

    allocations are (order number, amount, whether it settles the order), and customer is whose balance has money of it.
    """

    payment_id: PaymentId
    decision: Decision
    changed: bool
    outcome: Outcome | None
    policy: Policy | None
    allocations: tuple[tuple[str, Money, bool], ...]
    surplus: Money
    customer: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Word:
    """A person's word as it is written down: who gave it, why, and when."""

    actor: Actor
    because: str
    now: datetime

    @property
    def by(self) -> str:
        return f"{self.actor.name}: {self.because}"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a person's word makes of a payment; due says that it is to be carried on."""

    outcome: Outcome
    policy: Policy
    reason: str
    surplus: Money
    parts: tuple[Part, ...] = ()
    credit: Credit | None = None
    due: bool = False


async def decide(
    opened: Installation,
    payment_id: PaymentId,
    decision: Decision,
    *,
    to: Sequence[str] = (),
    customer: str | None = None,
    channel: str | None = None,
    author: str,
    because: str,
) -> Decided:
    """Do what a person says of a payment, once; what is settled by it is due and goes on.

    to are orders such as CZ1042 or CZ1042=450.00, customer is whose balance it goes to, and channel is needed where one
    of these numbers is used in several. Of a payment that settles orders already, the surplus is decided about. Raises
    ByHandError.
    """
    word = _Word(
        actor_named(opened, author),
        reason_given(because),
        opened.clock(),
    )
    channel = plain(channel or "") or None
    _check_use(decision, to, customer, word)
    if not 0 < payment_id < _MAX_ID:
        raise _unknown(payment_id)
    async with opened.store.read() as connection:
        seen = (await payments.by_ids(connection, [payment_id])).get(payment_id)
        if seen is None:
            raise _unknown(payment_id)
        named = await _orders_named(connection, to, seen["currency"], channel)
        owner = await customer_named(connection, customer, channel) if customer else None
    async with opened.store.write() as connection:
        standing = await decisions.standing(connection, payment_id)
        if standing is None:
            raise _unknown(payment_id)
        changed = not _stands_so(standing, decision, named, owner)
        if changed:
            if standing.row != seen:
                raise ByHandError(_moved_on(standing))
            await _do(connection, standing, decision, named, owner, word)
        decided = await _told(connection, payment_id, decision, changed=changed)
    run_log().info("payment %s · by hand · %s%s", payment_id, decision, "" if changed else ": it was so already")
    return decided


def _check_use(decision: Decision, to: Sequence[str], customer: str | None, word: _Word) -> None:
    if not word.because:
        raise ByHandError("say why, with --because")
    if decision is Decision.TO and not to:
        raise ByHandError("name the orders that it is for, such as CZ1042 or CZ1042=450.00")
    if decision is not Decision.TO and to:
        raise ByHandError("orders are named only where the payment is given to them")
    if customer and decision is not Decision.BALANCE:
        raise ByHandError("a customer is named only where the payment is kept on a balance")


def _unknown(payment_id: PaymentId) -> ByHandError:
    return ByHandError(f"payment {payment_id} is not known; `kvit payments list` shows the numbers")


def _moved_on(standing: Standing) -> str:
    now = (standing.outcome or "not matched").replace("_", " ")
    return f"payment {standing.payment.id} was decided meanwhile ({now}: {standing.row['reason']}); look at it again"


# What was named


_Orders = Mapping[int, tuple[str, Money | None]]
"""Orders by id, each with its number and the amount that it is to get."""


async def _orders_named(
    connection: AsyncConnection, texts: Sequence[str], currency: str, channel: str | None
) -> _Orders:
    found: dict[int, tuple[str, Money | None]] = {}
    for text in texts:
        number, amount = named_amount(plain(text), currency)
        same = await orders.ids_of(connection, number, channel)
        if not same:
            await refuse_archived(connection, number, channel)
        id_ = the_one(f"order {number}", same, channel)
        if id_ in found:
            raise ByHandError(f"order {number} is named twice; name it once, with all that it gets")
        found[id_] = (number, amount)
    return found


# Whether there is anything to do, and whether it can be done


def _stands_so(standing: Standing, decision: Decision, named: _Orders, owner: int | None) -> bool:
    """Say whether a payment stands already as a person says: the same word twice does nothing twice."""
    if decision is Decision.TO:
        has = {part["order_id"]: part["amount_minor"] for part in standing.parts}
        return has.keys() == named.keys() and all(
            amount is None or amount.minor == has[id_] for id_, (_, amount) in named.items()
        )
    if decision is Decision.BALANCE:
        credit = standing.credit
        if credit is None or credit.amount != standing.free:
            return False
        return owner in (None, credit.customer_id)
    if decision is Decision.AGAIN:
        return standing.outcome is None and not standing.parts
    policy = {Decision.REFUND: Policy.REFUND, Decision.IGNORE: Policy.IGNORE}[decision]
    if standing.outcome is Outcome.PAYOUT:
        return decision is Decision.IGNORE
    return standing.policy is policy and (bool(standing.parts) or standing.settled)


def _check(standing: Standing, decision: Decision) -> None:
    """Raise ByHandError for a payment of which this can't be said, whatever else was named."""
    id_, amount = standing.payment.id, standing.payment.amount
    if standing.payment.source == SOURCE:
        raise ByHandError(
            f"payment {id_} is money of the customer's own balance; `kvit revert` takes it off its order, and it is on "
            "the balance again"
        )
    if standing.parts and (decision is Decision.AGAIN or not standing.free):
        if decision is Decision.IGNORE and standing.policy is Policy.OPERATOR:
            return
        numbers = [str(part["number"]) for part in standing.parts]
        if standing.payment.kind is not Kind.PAYMENT:
            raise ByHandError(f"payment {id_} is booked to {', '.join(numbers)}; `--ignore` says that it is seen to")
        raise ByHandError(
            f"payment {id_} settles {', '.join(numbers)}; take it off first with `kvit revert {' '.join(numbers)}`"
        )
    if decision in (Decision.IGNORE, Decision.AGAIN):
        return
    instead = "`--ignore` takes it off the list"
    if amount.minor <= 0:
        said = "is of nothing" if not amount else "is money that went out"
        raise ByHandError(f"payment {id_} {said}, so there is nothing to give away; {instead}")
    if standing.outcome is Outcome.PAYOUT:
        raise ByHandError(f"payment {id_} is a gateway's payout: the payments in its report settle orders; {instead}")
    if decision is Decision.TO and standing.payment.kind is not Kind.PAYMENT:
        kind = standing.payment.kind.replace("_", " ")
        raise ByHandError(f"payment {id_} is no customer's payment but a {kind}, so it settles no order; {instead}")
    if standing.free.minor <= 0:
        raise ByHandError(f"all of payment {id_} went back already, so there is nothing to give away; {instead}")


# Doing it


async def _do(
    connection: AsyncConnection,
    standing: Standing,
    decision: Decision,
    named: _Orders,
    owner: int | None,
    word: _Word,
) -> None:
    _check(standing, decision)
    await payments.begin_matching(connection)  # before a customer is locked, as everywhere
    if decision is Decision.AGAIN:
        await _again(connection, standing, word)
        return
    versions: Mapping[str, Versioned] = {}
    if decision is Decision.TO:
        versions = await _begin(connection, standing)
        verdict = await _to_orders(connection, standing, named, versions, word)
    else:
        verdict = await _elsewhere(connection, standing, decision, owner, word)
    await _write(connection, standing, verdict, versions, word)


async def _begin(connection: AsyncConnection, standing: Standing) -> Mapping[str, Versioned]:
    """Take the locks that matching takes, in its order, so that neither waits for the other for ever."""
    if account := memory.account_of(standing.payment):
        await memory.take_turns(connection, [account])
    return await rules.current(connection)


async def _to_orders(
    connection: AsyncConnection, standing: Standing, named: _Orders, versions: Mapping[str, Versioned], word: _Word
) -> _Verdict:
    for part in standing.parts:
        if part["order_id"] in named:
            raise ByHandError(f"payment {standing.payment.id} settles {part['number']} already; name another order")
    items = await decisions.open_items(connection, list(named))
    if reverted := await decisions.being_reverted(connection, list(named)):
        number = named[min(reverted)][0]
        raise ByHandError(f"order {number} is being taken back right now; wait until that has ended")
    method = standing.payment.method
    wishes = [Wish(items[id_].asked_of(method, amount or standing.free), amount) for id_, (_, amount) in named.items()]
    limits = {
        wish.item.id: versions[wish.item.channel]
        .rules.for_customer(group=wish.item.group, customer=wish.item.customer_number)
        .tolerated(wish.item.open)
        for wish in wishes
        if wish.item.open.minor > 0
    }
    shared = share(standing.free, wishes, limits)
    missing = [part for part in shared.parts if not part.completes]
    reason = f"given to {listed([part.item.number for part in shared.parts])} by {word.by}"
    for part in missing:
        left = part.item.open - part.amount
        reason += f"; {left} is still missing of {part.item.number}" if left else ", whose goods are still to be paid"
    policy, credit = Policy.WAIT if shared.outcome is Outcome.SHORT else Policy.RELEASE, None
    if shared.surplus:
        reason += f"; {shared.surplus} is too much"
        ids = [*named, *(part["order_id"] for part in standing.parts)]
        settled = (await orders.load(connection, ids)).values()
        owing = {(order.channel, order.customer.id, order.customer.group) for order in settled}
        channels = {channel: versioned.rules for channel, versioned in versions.items()}
        said, goes, credit = await surplus_goes(connection, owing, shared.surplus, channels)
        reason += said
        policy = Policy.REFUND if goes is Surplus.REFUND else policy
    return _Verdict(shared.outcome, policy, reason, shared.surplus, shared.parts, credit, due=True)


async def _elsewhere(
    connection: AsyncConnection, standing: Standing, decision: Decision, owner: int | None, word: _Word
) -> _Verdict:
    """Keep a payment or its surplus on a balance, mark it to be sent back, or leave it alone."""
    what = f"{standing.free} too much " if standing.parts and standing.free else ""
    outcome = standing.outcome or Outcome.UNKNOWN
    surplus = standing.free if standing.parts else Money.zero(standing.free.currency)
    if decision is Decision.REFUND:
        return _Verdict(outcome, Policy.REFUND, f"{what}to be sent back, by {word.by}", surplus)
    if decision is Decision.IGNORE:
        return _Verdict(outcome, Policy.IGNORE, f"{what}left alone by {word.by}", surplus)
    customer_id = owner or await _owner(connection, standing)
    number = await orders.customer_number(connection, customer_id) or ""
    reason = f"{what}kept on the balance of customer {number} by {word.by}"
    policy = Policy.BALANCE
    if standing.parts:
        policy = Policy.RELEASE if all(part["completes"] for part in standing.parts) else Policy.WAIT
    return _Verdict(outcome, policy, reason, surplus, credit=Credit(customer_id, standing.free))


async def _owner(connection: AsyncConnection, standing: Standing) -> int:
    named = await decisions.owners_named(connection, standing)
    if len(named) == 1:
        return named.pop()
    said = "names orders of several customers" if named else "names no order of a customer"
    raise ByHandError(f"payment {standing.payment.id} {said}; say whose balance with --customer")


async def _write(
    connection: AsyncConnection,
    standing: Standing,
    verdict: _Verdict,
    versions: Mapping[str, Versioned],
    word: _Word,
) -> None:
    payment = standing.payment
    scenario = scenario_of(payment.method, payment.kind)
    await _take_off_the_balance(connection, standing, word)
    if verdict.credit:
        await top_up(
            connection,
            verdict.credit.customer_id,
            verdict.credit.amount,
            method=payment.method,
            payment_id=payment.id,
            reason=f"payment {payment.id}: {verdict.reason}",
            actor=word.actor,
            now=word.now,
            cause=cause_of("payment", payment.id, payment.round),
        )
    if verdict.parts:
        said = {part.item.id: [f"by hand, {word.actor.name}"] for part in verdict.parts}
        await payments.allocate(connection, payment.id, verdict.parts, said, now=word.now)
    await decisions.decide(
        connection,
        standing,
        outcome=verdict.outcome,
        policy=verdict.policy,
        reason=verdict.reason,
        surplus=verdict.surplus,
        now=word.now,
    )
    await _journal(connection, standing, verdict, versions, word)
    if not verdict.due:
        if not standing.parts:  # else its orders may still be on their way
            await work.finish(connection, scenario, "payment", [(payment.id, None, verdict.reason)], now=word.now)
        return
    again = {(payment.id, scenario), *await payments.undecided(connection, [part.item.id for part in verdict.parts])}
    paid_for = {part.item.customer for part in verdict.parts}
    paid_for |= await decisions.owners_named(connection, standing) if standing.parts else set()
    customer = paid_for.pop() if len(paid_for) == 1 else None
    if isinstance(customer, int):
        again.update(await payments.teach(connection, payment, customer))
    if standing.went_back:
        again.update((id_, "money_back") for id_ in standing.went_back.ids)
    for id_, of in sorted(again):
        await work.add(connection, of, "payment", [id_], now=word.now)


async def _take_off_the_balance(connection: AsyncConnection, standing: Standing, word: _Word) -> None:
    if standing.credit is not None:
        cause = cause_of("payment", standing.payment.id, standing.payment.round)
        said = f"payment {standing.payment.id}: decided anew by {word.by}"
        await balances.reverse(connection, standing.credit.id, reason=said, actor=word.actor, now=word.now, cause=cause)


async def _journal(
    connection: AsyncConnection,
    standing: Standing,
    verdict: _Verdict,
    versions: Mapping[str, Versioned],
    word: _Word,
) -> None:
    """Tell it in the history of the payment, and of each order that gets or has got money of it."""
    entry = journal.entry(
        word.actor,
        at=word.now,
        step="match",
        move=verdict.outcome.value,
        payment_id=standing.payment.id,
        cause=cause_of("payment", standing.payment.id, standing.payment.round),
        reason=verdict.reason,
        before={"outcome": standing.row["outcome"], "policy": standing.row["policy"]},
        after={"policy": verdict.policy.value, "surplus": verdict.surplus.minor},
    )
    given = {part.item.order_id: versions[part.item.channel].version for part in verdict.parts}
    told: dict[int | None, int | None] = {part["order_id"]: None for part in standing.parts} | given
    entries = [entry | {"order_id": id_, "rule_version": version} for id_, version in told.items() if id_ is not None]
    await journal.append(connection, [entry, *entries])


async def _again(connection: AsyncConnection, standing: Standing, word: _Word) -> None:
    """Take back what was said of a payment that settles nothing, and let it be matched as if it had just come."""
    payment = standing.payment
    said = f"to be matched again, by {word.by}"
    await _take_off_the_balance(connection, standing, word)
    await decisions.begin_anew(connection, standing, reason=said)
    entry = journal.entry(
        word.actor,
        at=word.now,
        step="match",
        move="again",
        payment_id=payment.id,
        cause=cause_of("payment", payment.id, payment.round + 1),
        reason=said,
        before={"outcome": standing.row["outcome"], "policy": standing.row["policy"]},
    )
    await journal.append(connection, [entry])
    await work.add(connection, scenario_of(payment.method, payment.kind), "payment", [payment.id], now=word.now)


async def _told(connection: AsyncConnection, payment_id: PaymentId, decision: Decision, *, changed: bool) -> Decided:
    row = (await payments.by_ids(connection, [payment_id]))[payment_id]
    parts = (await payments.allocated(connection, [payment_id])).get(payment_id, [])
    credit = await balances.of_payment(connection, payment_id)
    return Decided(
        payment_id=payment_id,
        decision=decision,
        changed=changed,
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        policy=Policy(row["policy"]) if row["policy"] else None,
        allocations=tuple(
            (part["number"], Money(part["amount_minor"], part["currency"]), part["completes"]) for part in parts
        ),
        surplus=Money(row["surplus_minor"], row["currency"]),
        customer=await orders.customer_number(connection, credit.customer_id) if credit else None,
        reason=row["reason"] or "",
    )


# In a run


def name_by_payment() -> str:
    """Name an operator's run by the payment that its form names: `resolve payment · 17`."""
    parameters: dict[str, Any] = flow_run.parameters or {}
    return f"{flow_run.flow_name} · {parameters.get('payment') or 'no payment'}"


@task(name="decide", cache_policy=NO_CACHE)
async def decide_named(
    payment_id: PaymentId,
    decision: Decision,
    *,
    to: Sequence[str],
    customer: str | None,
    channel: str | None,
    author: str,
    because: str,
) -> Decided:
    """Do what a person says of a payment. Raises ByHandError."""
    opened = await installation()
    return await decide(
        opened,
        payment_id,
        decision,
        to=to,
        customer=customer,
        channel=channel,
        author=author,
        because=because,
    )
