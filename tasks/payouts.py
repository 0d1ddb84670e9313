"""Payouts: a report settles orders line by line, and the lump sum on the bank statement is no order's.

The report is a gateway's, or that of a carrier about what it collected on delivery.

Whichever comes first waits for the other: the report in its table, the movement among the unmatched payments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.roles import PaysOut
from domain.matching import Match
from domain.money import Money
from domain.payments import Kind, Method, Outcome, Payment
from domain.payouts import Arrived, Expected, Payout, Unclear, Unidentified, find_payout, gateway, movement
from domain.rules import Policy
from domain.scenarios import scenario_of
from store import inbox, payments, payouts, work
from tasks.cells import cells
from tasks.installation import Installation, installation

_ROWS = 500


def known_payers(opened: Installation) -> dict[str, list[str]]:
    """Return the names and accounts by which the bank knows each gateway, by the source of its payments."""
    found: dict[str, list[str]] = defaultdict(list)
    for connector in opened.playing(PaysOut).values():
        found[connector.payout_source] += connector.payout_payers
    return {source: known for source, known in found.items() if known}


# The lump sum


async def lump_sums_among(
    connection: AsyncConnection, opened: Installation, unmatched: Sequence[Payment]
) -> dict[int, Match]:
    """Return what those of some payments turned out to be that are gateways' lump sums: they never settle an order.

    The payout that one is found to be is linked with it; what is a gateway's and fits none is left to a person. Called
    while payments are matched.
    """
    movements = [one for one in unmatched if one.method is Method.BANK_TRANSFER and one.kind is Kind.PAYMENT]
    if not movements:
        return {}
    known = {one.id: one for one in await payouts.near(connection, movements)}
    payers = known_payers(opened)
    found: dict[int, Match] = {}
    for payment in movements:
        before = [one for one in known.values() if one.payment_id == payment.id]
        decision = _decide(payment, known, payers)
        if isinstance(decision, Arrived) and not await payouts.arrived(connection, decision.payout.id, payment.id):
            # Another process has just found its lump sum elsewhere.
            known = {one.id: one for one in await payouts.near(connection, movements)}
            decision = _decide(payment, known, payers)
            if isinstance(decision, Arrived) and not await payouts.arrived(connection, decision.payout.id, payment.id):
                decision = Unclear(f"payout {decision.payout.external_id} has arrived already")
        if isinstance(decision, Arrived):
            known[decision.payout.id] = replace(decision.payout, payment_id=payment.id)
        elif before:
            await payouts.release(connection, [payment.id])
            known |= {one.id: replace(one, payment_id=None) for one in before}
        if decision is not None:
            found[payment.id] = await _matched(connection, payment, decision)
    return found


def _decide(
    payment: Payment, known: Mapping[int, Expected], payers: Mapping[str, Sequence[str]]
) -> Arrived | Unclear | None:
    free = [replace(one, payment_id=None) if one.payment_id == payment.id else one for one in known.values()]
    return find_payout(payment, free, payers)


async def _matched(connection: AsyncConnection, payment: Payment, decision: Arrived | Unclear) -> Match:
    zero = Money.zero(payment.amount.currency)
    if isinstance(decision, Arrived):
        reason = await payouts.said(connection, decision.payout.id)
        return Match(outcome=Outcome.PAYOUT, policy=Policy.IGNORE, reason=reason, surplus=zero)
    outcome = Outcome.AMBIGUOUS if decision.several else Outcome.UNKNOWN
    return Match(outcome=outcome, policy=Policy.OPERATOR, reason=decision.reason, surplus=zero)


# The report


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a report: whether it was new, the payments that were made of it, and why it was not taken."""

    new: bool = False
    payment_ids: tuple[int, ...] = ()
    problem: str | None = None


async def take_payout(
    connection: AsyncConnection,
    opened: Installation,
    payout: Payout,
    *,
    inbox_id: int | None,
    asking: tuple[str, Mapping[str, bytes]] | None = None,
) -> Taken:
    """Store a payout once. Lines that are no payments of ours become such, and lump sums that came before are due.

    asking are the gateway's connector and hints by the line's id: then its API is asked about what is not known, and
    payments are made of what it answers. Without it the report itself is all that is known of them.
    """
    await payouts.take_turns(connection, [payout.source])
    now = opened.clock()
    stored = await payouts.add(connection, payout, inbox_id=inbox_id, now=now)
    if not stored.new:
        return Taken(problem=stored.problem)
    left = await payouts.link(connection, stored.id)
    made: list[tuple[int, str]] = []
    if asking is None:
        unknown = [line for line in payout.lines if left.get(line.external_id) is Unidentified.NEW]
        movements = {line.external_id: movement(payout, line) for line in unknown}
        made = await payments.add(connection, list(movements.values()), now=now, inbox_id=inbox_id)
        for payment_id, scenario in made:
            await work.add(connection, scenario, "payment", [payment_id], now=now)
        ids = {line_id: one.external_id for line_id, one in movements.items()}
        await payouts.attach(connection, stored.id, ids)
    else:
        name, hints = asking
        told = [(f"payout line/{line_id}", hint) for line_id in left if (hint := hints.get(line_id))]
        await inbox.put_all(connection, inbox.due_in_order(name, "payout line", told, now=now))
    await _wake(connection, opened, stored.id)
    return Taken(new=True, payment_ids=tuple(payment_id for payment_id, _ in made))


async def _wake(connection: AsyncConnection, opened: Installation, payout_id: int) -> None:
    """Make movements due that came before a payout's report, and that it says something about."""
    await payments.begin_to_change(connection)
    one = await payouts.expected(connection, payout_id)
    payers = known_payers(opened)
    for payment in (await payouts.waiting(connection, [one]))[one.id]:
        if find_payout(payment, [one], payers) is not None:
            scenario = scenario_of(payment.method, payment.kind)
            await work.add(connection, scenario, "payment", [payment.id], now=opened.clock())


# What people see


@task(name="payouts", cache_policy=NO_CACHE)
async def show_payouts() -> int:
    """Show the newest payouts with their fees, and what doesn't agree about them; return how many that is."""
    opened = await installation()
    async with opened.store.read() as connection:
        rows = await payouts.listing(connection, newest=_ROWS)
        problems = await payouts.discrepancies(connection, opened.clock(), known_payers(opened))
    said: dict[int, list[str]] = defaultdict(list)
    for problem in problems:
        said[problem.payout_id].append(problem.said)
    await acreate_table_artifact(
        key="payouts",
        table=cells(
            {
                "Payout": row["external_id"],
                "Gateway": gateway(row["source"]),
                "Paid out": row["paid_on"].isoformat(),
                "Currency": row["currency"],
                "Gross": Money(row["gross_minor"], row["currency"]).amount,
                "Fees": Money(row["fee_minor"], row["currency"]).amount,
                "Net": Money(row["net_minor"], row["currency"]).amount,
                "Arrived": row["arrived_on"].isoformat() if row["arrived_on"] else "not yet",
                "What doesn't agree": "; ".join(said[row["id"]]),
            }
            for row in rows
        ),
        description="Payouts of gateways and carriers: what customers paid, what was kept, what arrived at the bank",
    )
    return len(problems)
