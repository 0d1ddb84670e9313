"""Backfill: chosen orders are carried on again, in chunks; messages stay off unless they are asked for."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from prefect import State, flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.scenarios import SCENARIOS
from tasks.backfill import (
    BackfillError,
    Progress,
    Selection,
    begin,
    choose,
    end_chunk,
    held,
    set_aside,
    show_plan,
    show_results,
    state_of,
    take_chunk,
    write_report,
)
from tasks.backfill_rates import at_rates, check_runs, rates_of, show_rates
from tasks.ends import NEEDS_PERSON
from tasks.forms import form_field
from tasks.installation import Installation, installation
from tasks.plan_backfill import plan_totals, show_totals
from tasks.shards import chunks_of, start_others


def _name() -> str:
    """Name the run in the log; which backfill a new one is, its chunks say."""
    given = flow_run.parameters
    if given.get("resume") is not None:
        return f"backfill {given['resume']} · resumed"
    return "backfill · dry run" if given.get("dry_run") else "backfill"


@flow(name="backfill", flow_run_name=_name)
async def backfill(
    selection: Selection = form_field("Orders", "Which orders to carry on; what is empty chooses all", Selection()),
    dry_run: bool = form_field("Dry run", "Only show what would be carried on; nothing is done", default=True),
    notify: bool = form_field(
        "Send messages",
        "Customers get the messages that were not begun yet; one that an earlier run left out stays left out",
        default=False,
    ),
    author: str = form_field("Your name", "It stands in the list of backfills", ""),
    because: str = form_field("Why", "It stands in the list of backfills", ""),
    resume: int | None = form_field(
        "Go on with", "The number of a backfill that was cut short; what is above is then not looked at", None
    ),
    shards: int = form_field(
        "Runs", "How many runs share the work; all but this one go through the work pool", 1, ge=1, le=64
    ),
    rates: list[str] = form_field(
        "Rates",
        "Requests to an outside system at most, over all runs, such as stripe=5/s or cdek=30/min; a limit of the "
        "system's own still holds",
        [],
    ),
) -> State[Any]:
    """Choose → show → carry on, chunk by chunk → report."""
    opened = await installation()
    if resume is None:
        try:
            at_most = rates_of(opened, rates, runs=shards)
        except BackfillError as error:
            return Failed(name="Refused", message=str(error))
        planned = await choose(selection)
        await show_plan(planned, dry_run=dry_run, notify=notify, rates=at_most)
        if dry_run:
            await show_rates(opened, at_most, runs=shards)
            await show_totals(await plan_totals(opened, planned, notify=notify))
            return Completed(name="Dry run", message=f"{len(planned)} would be carried on; nothing was done")
        resume = await begin(selection, planned, notify=notify, author=author, because=because, rates=at_most)
        await set_aside(planned, notify=notify)
    try:
        async with held(opened, resume) as row:
            check_runs(row["rates"], runs=shards)
            await start_others(resume, shards - 1)
            await carry_on(opened, row, Progress(opened, row), runs=shards)
    except BackfillError as error:
        return Failed(name="Refused", message=str(error))
    path, totals = await write_report(opened, resume)
    state = await state_of(opened, resume, totals)
    await show_results(opened, resume, totals, str(state.message), path)
    return state


async def carry_on(
    opened: Installation, row: dict[str, Any], progress: Progress | None = None, *, runs: int = 1
) -> int:
    """Carry on one chunk after the other that no other run has, each in a run of its own; return how many.

    runs is how many share the backfill's rates.
    """
    count = 0
    if progress is not None:
        await progress.show()
    chosen = chunks_of(opened, row["id"], row["chunks"])
    async with aclosing(chosen) as chunks, at_rates(opened, row, runs=runs) as share:
        async for chunk, _ in chunks:
            await share()
            parts = await take_chunk(opened, row["id"], chunk, notify=row["notify"])
            if not parts:  # another run has ended it meanwhile
                continue
            run, parameter = SCENARIOS[parts[0].scenario]
            name = f"backfill {row['id']} · chunk {chunk} of {row['chunks']} · {run.name}"
            named = run.with_options(flow_run_name=name)
            state: State[Any] = await named(**{parameter: [part.subject_id for part in parts]}, return_state=True)
            cut_short = None if state.is_completed() or state.name == NEEDS_PERSON else str(state.message)
            await end_chunk(opened, row, parts, failed=cut_short)
            count += 1
            if progress is not None:
                await progress.show()
    return count
