"""Reconciliation: what sources have that webhooks missed, what stays unmatched, and who has to look at it.

What is compared with what stands in tasks/comparing.py; here it is made into steps of a run, and shown in its log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from connectors.errors import OutsideError
from connectors.roles import PaymentSource
from domain.money import Money
from domain.payments import Kind, Method
from domain.reconciliation import Comparison, Difference, words
from domain.scenarios import scenario_of
from domain.weeks import by_week, first_day
from store import payments, reconciliation, work
from tasks import compare_banks, compare_gateways, compare_orders, compare_payouts, old, picture
from tasks.cells import cells
from tasks.comparing import compared_said, counts_said, cut_said, in_order, since_of
from tasks.found import ROWS
from tasks.installation import installation
from tasks.intake import defect, poll
from tasks.step import run_log
from tasks.unmatched import cut_said as queue_cut_said
from tasks.unmatched import queue_rows, table_of


@task(name="pull", cache_policy=NO_CACHE)
async def pull_sources(names: Sequence[str]) -> tuple[list[str], bool]:
    """Fetch what polled sources have since the last time; a source that fails doesn't stop the others.

    Returns what came of each source in words, and whether one failed.
    """
    opened = await installation()
    sources = opened.playing(PaymentSource)
    said: list[str] = []
    failed = False
    for name in list(names) or sources:
        try:
            opened.connector(name, PaymentSource)
            result = f"{(await poll(opened, [name]))[name]} new"
        except OutsideError as error:
            failed, result = True, f"failed: {error}"
        except Exception as error:  # noqa: BLE001 - one source that trips us must not stop the others
            kind = type(error).__name__
            failed, result = True, f"failed: {defect(f'unexpected {kind} while polling {name}', error)}"
        said.append(f"{name}: {result}")
        run_log().info("%s · %s", name, result)
    return said, failed


@task(name="match again", cache_policy=NO_CACHE)
async def match_again() -> int:
    """Make unmatched payments due, so that orders and rules that have come since can settle them."""
    opened = await installation()
    async with opened.store.write() as connection:
        waiting = [
            row
            for outcome in payments.AWAITING_ORDER
            for row in await payments.listing(connection, outcome=outcome.value)
        ]
        of: dict[str, list[int]] = {}
        for row in waiting:
            of.setdefault(scenario_of(Method(row["method"]), Kind(row["kind"])), []).append(row["id"])
        for scenario, ids in sorted(of.items()):
            await work.add(connection, scenario, "payment", ids, now=opened.clock())
    run_log().info("%s unmatched payments are tried again", len(waiting))
    return len(waiting)


# A task waits for what it is given: nothing is compared before the sources were polled.


@task(name="compare gateways", cache_policy=NO_CACHE)
async def gateways(days: int, _after: object = None) -> Comparison:
    """Compare gateways with the store; what they have and we don't is taken in."""
    opened = await installation()
    return _told(await compare_gateways.compare_gateways(opened, since_of(opened, days), take_in=True))


@task(name="compare banks", cache_policy=NO_CACHE)
async def banks(days: int, _after: object = None) -> Comparison:
    """Compare the files of banks and carriers with each other and with the store."""
    opened = await installation()
    return _told(await compare_banks.compare_banks(opened, since_of(opened, days)))


@task(name="compare payouts", cache_policy=NO_CACHE)
async def payouts(_after: object) -> Comparison:
    """Compare the reports of payouts with the bank and the store."""
    return _told(await compare_payouts.compare_payouts(await installation()))


@task(name="compare shop", cache_policy=NO_CACHE)
async def shop(days: int, _after: object = None) -> Comparison:
    """Compare orders with their payments and documents."""
    opened = await installation()
    return _told(await compare_orders.compare_orders(opened, since_of(opened, days)))


@task(name="compare accounting", cache_policy=NO_CACHE)
async def accounting(days: int, _after: object = None) -> Comparison:
    """Compare documents with their series, their files, and outside accounting."""
    opened = await installation()
    return _told(await compare_orders.compare_accounting(opened, since_of(opened, days)))


@task(name="find what is old", cache_policy=NO_CACHE)
async def what_is_old(_after: object) -> Comparison:
    """Find what has waited for too long."""
    return _told(await old.find_old(await installation()))


def _told(found: Comparison) -> Comparison:
    log = run_log()
    for said in found.said:
        log.info("%s", said)
    if found.differences:
        log.info("%s", counts_said([found]))
    return found


@task(name="show differences", cache_policy=NO_CACHE)
async def show_differences(comparisons: Sequence[Comparison]) -> tuple[str, int, bool]:
    """Show what differs and what is old, the latter in front; return how much in words, its number, and a failure."""
    found = in_order(comparisons)
    description = f"{counts_said(comparisons)}. Compared: {compared_said(comparisons)}. {cut_said(comparisons)}"
    await acreate_table_artifact(
        key="reconciliation-differences",
        table=cells(_row(difference) for difference in found[:ROWS]),
        description=str(cells([{"said": description.strip()}])[0]["said"]),
    )
    failed = any(one.failed for one in comparisons)
    return counts_said(comparisons), len(found), failed


def _row(difference: Difference) -> dict[str, str]:
    return {
        "Compared": "alarm" if difference.alarm else difference.compared.value,
        "What": words(difference.what),
        "Which": difference.subject,
        "The one says": difference.one,
        "The other says": difference.other,
        "Since": difference.since.isoformat() if difference.since else "—",
        "What to do": difference.todo,
    }


@task(name="draw", cache_policy=NO_CACHE)
async def draw_weeks() -> None:
    """Draw payments by outcome over the last weeks, with the figures as tables below."""
    opened = await installation()
    today = opened.clock().date()
    async with opened.store.read() as connection:
        rows = await reconciliation.by_day(connection, since=first_day(today), until=today)
    shown = await asyncio.to_thread(picture.markdown, by_week(rows, today), today)
    await acreate_markdown_artifact(
        key="payments-by-week", markdown=shown, description="Payments by outcome over the last twelve weeks"
    )


@task(name="report", cache_policy=NO_CACHE)
async def report_payments() -> int:
    """Show payments by outcome, and those that a person must look at, with the reason; return how many these are."""
    opened = await installation()
    async with opened.store.read() as connection:
        sums = await payments.sums(connection)
        queue = await queue_rows(connection, opened.clock())
    await acreate_table_artifact(
        key="payments-by-outcome",
        table=cells(
            {
                "Outcome": words(outcome or "not matched yet"),
                "Currency": currency,
                "Payments": count,
                "Sum": Money(minor, currency).amount,
            }
            for outcome, currency, count, minor in sums
        ),
        description="All payments by what they turned out to be",
    )
    said = f"Payments and messages that a person must look at, the first to look at in front. {queue_cut_said(queue)}"
    await acreate_table_artifact(key="needs-a-person", table=cells(table_of(queue)), description=said.strip())
    return len(queue)
