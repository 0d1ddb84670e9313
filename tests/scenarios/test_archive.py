"""What makes a log and a store stay small: the archive's form, and Prefect's own pruning as `kvit up` sets it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from prefect import State, get_client
from prefect.exceptions import ObjectNotFound
from prefect.server.database import provide_database_interface
from prefect.server.services.db_vacuum import vacuum_old_flow_runs
from prefect.settings import PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD as RETENTION
from prefect.settings import Settings, temporary_settings
from prefect.states import Completed
from shop_builders import Clock, buy, carry_on_all, pay
from sqlalchemy import update

from connectors.errors import Misconfigured
from deployments.prefect_server import log_kept
from flows.archive import archive
from flows.reconcile import reconcile
from store import orders
from tasks.installation import Installation


async def run(**parameters: Any) -> State[Any]:
    """Run the archive's form, and return the state in which its run ended."""
    return cast("State[Any]", await cast("Any", archive)(**parameters, return_state=True))


async def test_the_form_plans_first_and_then_archives(opened: Installation, clock: Clock) -> None:
    for number in ("CZ5001", "CZ5002"):
        await buy(opened, number, placed_at=clock.now.isoformat())
        await pay(opened, number)
        await carry_on_all(opened)
        clock.forward(days=400)

    planned = await run(older_than_days=730)
    assert planned.name == "Plan"
    assert len(await here(opened)) == 2
    done = await run(older_than_days=730, plan_only=False)
    assert str(done.message).startswith("1 of 1 orders archived, ")
    assert planned.message == str(done.message).replace("archived", "would be archived")
    assert await here(opened) == ["CZ5002"]


async def here(opened: Installation) -> list[str]:
    """Return the numbers of the orders that are not archived."""
    async with opened.store.read() as connection:
        return [row["number"] for row in await orders.listing(connection)]


async def ended(before: timedelta) -> UUID:
    """Leave a run in the log that ended some time ago, and return its id."""
    async with get_client() as client:
        made = await client.create_flow_run(reconcile, state=Completed())
    database = provide_database_interface()
    async with database.session_context(begin_transaction=True) as session:
        run = database.FlowRun
        when = datetime.now(UTC) - before
        await session.execute(update(run).where(run.id == made.id).values(end_time=when))
    return made.id


async def test_prefect_deletes_the_runs_that_are_older_than_kvit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in log_kept({"keep_log_days": 30}).items():
        monkeypatch.setenv(name, value)
    kept = Settings().server
    assert kept.services.db_vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert kept.events.retention_period == timedelta(days=2)
    old, young = await ended(timedelta(days=31)), await ended(timedelta(days=29))
    with temporary_settings({RETENTION: kept.services.db_vacuum.retention_period}):
        await vacuum_old_flow_runs(db=provide_database_interface())
    async with get_client() as client:
        with pytest.raises(ObjectNotFound):
            await client.read_flow_run(old)
        assert (await client.read_flow_run(young)).id == young


@pytest.mark.parametrize("days", [0, -1, "30", True, 10_000])
def test_a_number_of_days_that_is_none_is_refused(days: object) -> None:
    with pytest.raises(Misconfigured, match="keep_log_days: it must be a number of days from 1 to 3660"):
        log_kept({"keep_log_days": days})
