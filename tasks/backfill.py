"""Backfill: payments and orders chosen by hand are carried on again, in chunks; what is done already stays done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from prefect import get_run_logger, task
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from pydantic import BaseModel, ConfigDict, Field

from domain.payments import Method
from store import work
from store.work import Due
from tasks.cells import cells
from tasks.installation import installation

CHUNK = 200
_FALLS_DUE = timedelta(minutes=10)


class Selection(BaseModel):
    """Which orders a backfill is for; what is left empty chooses all."""

    model_config = ConfigDict(extra="forbid")

    channel: Annotated[str | None, Field(title="Channel", description="Such as cz; empty: all channels")] = None
    status: Annotated[
        str | None, Field(title="Status", description="A standard status or one of the channel's own")
    ] = None
    scenario: Annotated[Method | None, Field(title="Scenario", description="Payment method of the orders")] = None
    placed_from: Annotated[date | None, Field(title="Placed from", description="First day, UTC")] = None
    placed_to: Annotated[date | None, Field(title="Placed to", description="Last day, UTC")] = None
    numbers: Annotated[list[str], Field(title="Orders", description="Order numbers; empty: all that fit the rest")] = (
        Field(default_factory=list[str], max_length=100_000)
    )

    def bounds(self) -> tuple[datetime | None, datetime | None]:
        """Return the moment at which the chosen days begin, and the one at which they are over."""
        first = datetime.combine(self.placed_from, time.min, UTC) if self.placed_from else None
        if self.placed_to is None or self.placed_to == date.max:
            return first, None
        return first, datetime.combine(self.placed_to, time.min, UTC) + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Planned:
    """A subject that a backfill would carry on: how far it is, and what is still to do."""

    due: Due
    number: str
    finished: bool


@task(name="choose", cache_policy=NO_CACHE)
async def choose(selection: Selection) -> list[Planned]:
    """Find the work of the chosen orders: their own, and that of the payments allocated to them."""
    opened = await installation()
    placed_from, placed_to = selection.bounds()
    async with opened.store.read() as connection:
        rows = await work.of_orders(
            connection,
            channel=selection.channel,
            status=selection.status,
            method=selection.scenario.value if selection.scenario else None,
            placed_from=placed_from,
            placed_to=placed_to,
            numbers=selection.numbers,
        )
    planned = [Planned(due, number, finished) for due, number, finished in rows]
    counts = Counter(item.due.scenario for item in planned)
    get_run_logger().info("chosen: %s", ", ".join(f"{n} × {s}" for s, n in counts.items()) or "nothing")
    return planned


async def show_plan(planned: Sequence[Planned], *, dry_run: bool, notify: bool) -> None:
    """Show what a backfill would do, as a table in the run."""
    await acreate_table_artifact(
        key="backfill-plan",
        table=cells(
            {
                "Order": item.number,
                "Scenario": item.due.scenario.replace("_", " "),
                "Now": "all steps ended before" if item.finished else "steps are open",
                "Would": "look at every step again; what is done stays done",
            }
            for item in planned[:2_000]
        ),
        description=("Dry run: nothing was done. " if dry_run else "")
        + f"{len(planned)} to carry on; messages to customers are {'on' if notify else 'off'}",
    )


async def set_aside(planned: Sequence[Planned], *, notify: bool) -> None:
    """Take chosen work into this run, silently unless messages were asked for; should the run die, it falls due."""
    opened = await installation()
    context = FlowRunContext.get()
    run = context.flow_run.name if context and context.flow_run else "by hand"
    async with opened.store.write() as connection:
        await work.hold_for(
            connection,
            [item.due.id for item in planned],
            until=opened.clock() + _FALLS_DUE,
            quiet=not notify,
            note=f"backfill {run}",
        )


def by_scenario(planned: Sequence[Planned]) -> list[tuple[str, list[int]]]:
    """Cut work into chunks of one scenario each, payments and orders by their numbers in Kvit.

    What was placed comes before what was paid: a payment may need what its order's beginning did.
    """
    chunks: list[tuple[str, list[int]]] = []
    scenarios = {(item.due.subject, item.due.scenario) for item in planned}
    for _, scenario in sorted(scenarios, key=lambda one: (one[0] != "order", one[1])):
        ids = [item.due.subject_id for item in planned if item.due.scenario == scenario]
        chunks += [(scenario, ids[start : start + CHUNK]) for start in range(0, len(ids), CHUNK)]
    return chunks


async def show_results(results: Sequence[dict[str, str]]) -> None:
    """Show what became of each chunk, as a table in the run."""
    await acreate_table_artifact(key="backfill-report", table=cells(results), description="What the backfill did")


class Progress:
    """A progress bar in the run's artifacts."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._artifact: Any = None

    async def show(self, done: int) -> None:
        """Say how much is done."""
        percent = 100 * done / self._total
        if self._artifact is None:
            said = f"{self._total} to carry on"
            self._artifact = await acreate_progress_artifact(progress=percent, key="backfill", description=said)
        else:
            await aupdate_progress_artifact(artifact_id=self._artifact, progress=percent)
