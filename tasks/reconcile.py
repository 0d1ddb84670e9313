"""Reconciliation: what sources have that webhooks missed, what stays unmatched, and who has to look at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from connectors.errors import OutsideError
from connectors.roles import PaymentSource
from domain.money import Money
from domain.payments import Kind, Method, Outcome
from domain.rules import Policy
from domain.scenarios import scenario_of
from store import inbox, payments, work
from tasks.cells import cells
from tasks.installation import installation
from tasks.intake import defect, poll
from tasks.step import run_log


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


@task(name="report", cache_policy=NO_CACHE)
async def report_payments() -> int:
    """Show payments by outcome, and those that a person must look at, with the reason; return how many these are."""
    opened = await installation()
    async with opened.store.read() as connection:
        sums = await payments.sums(connection)
        queue = await payments.listing(connection, policy=Policy.OPERATOR.value)
        queue += [row for row in await payments.listing(connection, outcome=Outcome.OVER.value) if row["surplus_minor"]]
        parked = await inbox.parked(connection)
    await acreate_table_artifact(
        key="payments-by-outcome",
        table=cells(
            {
                "Outcome": (outcome or "not matched yet").replace("_", " "),
                "Currency": currency,
                "Payments": count,
                "Sum": Money(minor, currency).amount,
            }
            for outcome, currency, count, minor in sums
        ),
        description="All payments by what they turned out to be",
    )
    rows: list[dict[str, Any]] = [
        {
            "Payment": row["id"],
            "Booked": row["booked_on"].isoformat(),
            "Amount": str(Money(row["amount_minor"], row["currency"])),
            "Outcome": (row["outcome"] or "").replace("_", " "),
            "Why": row["reason"] or "",
        }
        for row in queue
    ]
    rows += [
        {
            "Payment": "—",
            "Booked": row["received_at"].date().isoformat(),
            "Amount": "—",
            "Outcome": f"{row['source']} {row['kind']}",
            "Why": row["problem"] or "",
        }
        for row in parked
    ]
    await acreate_table_artifact(
        key="needs-a-person", table=cells(rows[:2_000]), description="Payments and messages that a person must look at"
    )
    return len(rows)
